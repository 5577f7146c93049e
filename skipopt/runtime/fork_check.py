"""Refuses to decode in a forked process where torch would wait forever."""

from __future__ import annotations

import os

import torch

from skipopt.errors import SkipoptError


class ForkCheck:
    """Knows in which process torch used several threads.

    A fork has none of the threads of torch's pool (OpenMP), and its first operation on several
    threads waits for them without end.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._threads = torch.get_num_threads()

    def check(self) -> None:
        """Call it before torch is used.

        Raises:
            SkipoptError: another process, of which this one is a fork, used several threads, and
                so would this one.
        """
        threads = torch.get_num_threads()
        if os.getpid() == self._process:
            self._threads = max(self._threads, threads)
        elif min(self._threads, threads) > 1:
            raise SkipoptError(
                f"this process is a fork of one that used {self._threads} threads of torch, "
                "without which torch would wait forever",
                hint="call torch.set_num_threads(1) in the fork, or start the process with "
                'multiprocessing.get_context("spawn")',
            )
