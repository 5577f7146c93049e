"""Compares what a captured step returns with what the model's modules do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skipopt.runtime.tracing import CannotCaptureError

# Largest error of a replay, as a share of the largest output. Rows that are rounded to 8 bits may
# be rounded the other way by the smallest difference, which later layers enlarge; of drafts that
# do this, only logits are compared.
TOLERANCE, QUANTIZED_TOLERANCE = 1e-3, 0.5
LOW_PRECISION_TOLERANCE = 5e-2  # bfloat16 and float16 keep eight and eleven bits of each result
NATIVE_CHECK_ROWS = 2  # rows whose replay is compared: a native step runs any number alike

Replay = Callable[..., Sequence[Tensor]]


def first_rows_of_modules(call: Replay, given: Sequence[Tensor]) -> Sequence[Tensor]:
    """What the model's modules return for the first rows."""
    return call(*(each[:NATIVE_CHECK_ROWS] for each in given))


def check_replay(call: Replay, replay: Replay, given: Sequence[Tensor], quantized: bool) -> None:
    """Compare the replay with the model's modules on other tokens than it was captured with.

    What this leaves in the cache is overwritten by the step that follows.

    Raises:
        CannotCaptureError: they differ.
    """
    inputs, *rest = given
    other = inputs.flip(-1) if inputs.is_floating_point() else torch.ones_like(inputs)
    compare(call(other, *rest), replay(other, *rest), quantized)


def compare(wanted: Sequence[Tensor], made: Sequence[Tensor], quantized: bool = False) -> None:
    """Compare what a replay returned with what the model's modules did.

    Raises:
        CannotCaptureError: they differ.
    """
    low = wanted[0].dtype in (torch.bfloat16, torch.float16)
    tolerance = LOW_PRECISION_TOLERANCE if low else TOLERANCE
    tolerance = QUANTIZED_TOLERANCE if quantized else tolerance
    if quantized:
        wanted, made = wanted[:1], made[:1]
    logits = _finite(wanted[0])
    for expected, found in zip(map(_finite, wanted), map(_finite, made), strict=True):
        if not expected.is_floating_point():  # tokens: another one may be as likely
            expected, found = (logits.gather(-1, each[:, None]) for each in (expected, found))
        error = (expected - found).abs().max()
        # One number of a row is made of its logits, and errs as they do.
        scale = (logits if expected.ndim == 1 else expected).abs().max()
        if not error <= tolerance * scale + 1e-6:
            raise CannotCaptureError(f"a replay differs from the model by {float(error):.2g}")


def _finite(x: Tensor) -> Tensor:
    """With 0 in place of −∞, the logit of a token that a draft does not choose."""
    return x.masked_fill(x == -math.inf, 0) if x.is_floating_point() else x
