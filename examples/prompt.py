"""Read records from a comma separated file."""

import csv
import os


class RecordReader:
    """Iterate over the records of a file, skipping empty lines."""

    def __init__(self, path, encoding="utf-8"):
        self.path = path
        self.encoding = encoding
        self._file = None

    def open(self):
        if self._file is not None:
            raise ValueError("file is already open")
        self._file = open(self.path, encoding=self.encoding)
        return self

    def close(self):
