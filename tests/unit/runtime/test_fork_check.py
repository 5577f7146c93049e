"""A fork of a process that used several threads is refused instead of waiting forever."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import pytest
import torch
from support.tiny import tiny_target

from skipopt.decoding.api import generate
from skipopt.errors import SkipoptError


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_a_fork_is_refused_until_it_uses_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    target = tiny_target(runtime="auto")

    def text() -> list[int]:
        return [token.id for token in generate(target, [5, 9, 3], max_new_tokens=8)]

    def child(reply: Connection) -> None:
        with pytest.raises(SkipoptError, match="fork of one that used 2 threads"):
            text()
        torch.set_num_threads(1)
        reply.send(text())

    try:
        expected = text()
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(sender,))
        process.start()
        answered = receiver.poll(60)
        process.kill()
        process.join()
        assert answered, "the fork hangs"
        assert receiver.recv() == expected == text()
    finally:
        torch.set_num_threads(before)
