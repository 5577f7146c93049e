"""Arguments that transformers' `generate` keeps from a decoding loop given by `custom_generate`.

As of transformers 5.23, `generate` puts the prompt into a `streamer` and passes the streamer on to
its own loops only; and it drops `tokenizer`, so that it then cannot make the criterion of
`stop_strings`. Both are found in the frames of the call.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from inspect import Signature
from types import FrameType
from typing import Any

MODULE = "transformers.generation.utils"


def find_streamer() -> Any:
    """The streamer of the `generate` call that is running; None if it has none."""
    frame = _frame_of("generate")
    return None if frame is None else frame.f_locals.get("streamer")


class SignatureWithTokenizer:
    """The `__signature__` of a decoding loop; when `generate` reads it, `tokenizer` is put back.

    Args:
        function: the loop's `__call__`, which must have a parameter `tokenizer`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        whole = inspect.signature(function)
        self._signature = whole.replace(parameters=list(whole.parameters.values())[1:])

    def __get__(self, instance: object, owner: type) -> Signature:
        if instance is None:  # of the class: then the signature is that of its constructor
            raise AttributeError("__signature__")
        _put_tokenizer_back()
        return self._signature


def _put_tokenizer_back() -> None:
    """Give `generate` its own argument again.

    It takes `tokenizer` out of its arguments, then keeps only what the signature names.
    """
    frame = _frame_of("_extract_generation_mode_kwargs")
    if frame is None:
        return
    taken, arguments = (frame.f_locals.get(key) for key in ("generation_mode_kwargs", "kwargs"))
    if isinstance(taken, dict) and isinstance(arguments, dict) and "tokenizer" in taken:
        arguments.setdefault("tokenizer", taken["tokenizer"])


def _frame_of(function: str) -> FrameType | None:
    """The innermost running call of this function of transformers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_globals.get("__name__") == MODULE:
            return frame
        frame = frame.f_back
    return None
