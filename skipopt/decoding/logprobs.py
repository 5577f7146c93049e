"""Log-probabilities of a text's tokens under the target, before temperature and its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.verification.target_rows import TargetRows

LEAST = -9999.0  # in place of −∞, which JSON lacks; as in OpenAI's API


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token and its log-probability."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of a token of the text, and the likeliest ones in its place."""

    token: int
    logprob: float
    top: tuple[Logprob, ...] = ()


class LogprobRecorder:
    """Takes in the log-probability of each emitted token (`recorder` of `stream_generate`).

    They are those of the model itself: penalties, logits processors, temperature and what limits
    sampling come after.

    Args:
        top: for each token also so many of the likeliest ones.

    Attributes:
        tokens: of the text, those of a stop string and after it in the same round included.

    Raises:
        UsageError: `top` is negative.
    """

    def __init__(self, top: int = 0) -> None:
        if top < 0:
            raise UsageError(f"top must be 0 or more, not {top}")
        self.top = top
        self.tokens: list[TokenLogprobs] = []

    def add(self, rows: TargetRows, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Take in the rows that the tokens of one round were chosen from."""
        for node, token in zip((-1, *path), emitted, strict=False):
            self.tokens.append(self._read(rows.raw(node + 1), token))

    def _read(self, logits: Tensor, token: int) -> TokenLogprobs:
        logprobs = logits.float().log_softmax(-1)
        values, ids = logprobs.topk(min(self.top, len(logprobs)))
        likeliest = zip(ids.tolist(), values.clamp(min=LEAST).tolist(), strict=True)
        chosen = max(float(logprobs[token]), LEAST)
        return TokenLogprobs(token, chosen, tuple(Logprob(*each) for each in likeliest))


def logprobs_json(found: Sequence[TokenLogprobs], tokenizer: Any) -> list[dict[str, Any]]:
    """`logprobs` of `run --json`."""
    return [
        _json(each.token, each.logprob, tokenizer)
        | {"top_logprobs": [_json(t.token, t.logprob, tokenizer) for t in each.top]}
        for each in found
    ]


def _json(token: int, logprob: float, tokenizer: Any) -> dict[str, Any]:
    return {"token": token, "text": tokenizer.decode([token]), "logprob": logprob}
