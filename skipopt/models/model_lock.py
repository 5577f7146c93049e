"""The lock of a model, so that threads run it one after another."""

from __future__ import annotations

from threading import RLock
from typing import Any

NAME = "_skipopt_lock"  # in the model's `__dict__`


class ModelLock:
    """`with lock:` waits until no other thread runs the model. One thread may enter repeatedly.

    Masks and runtimes replace methods of a model's modules while they run it, and native steps
    share memory, so two threads would change each other's texts.
    """

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[ModelLock], tuple[()]]:
        """A copied or saved model has a lock of its own."""
        return ModelLock, ()


def model_lock(model: Any) -> ModelLock:
    """The model's lock, shared by all targets that are made of it."""
    lock: ModelLock = model.__dict__.setdefault(NAME, ModelLock())
    return lock
