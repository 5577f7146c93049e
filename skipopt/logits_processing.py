"""Logits processors of transformers, applied to the rows of a draft tree.

A row of logits is processed with the ids that come before its token: the text so far, then the
drafted tokens that lead to it. The target's rows are processed only as verification reaches them.
So every processor is called as plain decoding calls it: with one text, once for each new token, in
order. Processors that remember earlier calls therefore stay exact. Logits of drafts go through
those processors only of which it is known that they remember nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.one_thread import one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# (ids before the token, its scores) -> scores  # (1, T) int64, (1, V) float32 -> (1, V)
Processor = Callable[[Any, Any], Any]

TRANSFORMERS = "transformers.generation.logits_process"
# Of transformers; they read the scores only, so many rows can be processed at once.
SCORES_ONLY = frozenset(
    {
        "EpsilonLogitsWarper", "EtaLogitsWarper", "InfNanRemoveLogitsProcessor",
        "LogitNormalization", "MinPLogitsWarper", "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper", "TopHLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper",
        "TypicalLogitsWarper",
    }
)  # fmt: skip
# Of transformers; they read ids and scores and remember nothing that changes a later result.
IDS_AND_SCORES = frozenset(
    {
        "EncoderNoRepeatNGramLogitsProcessor", "EncoderRepetitionPenaltyLogitsProcessor",
        "ExponentialDecayLengthPenalty", "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor", "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor", "NoBadWordsLogitsProcessor",
        "NoRepeatNGramLogitsProcessor", "RepetitionPenaltyLogitsProcessor",
        "SequenceBiasLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor",
        "WatermarkLogitsProcessor",
    }
)  # fmt: skip
# They run a model, or expect several sequences for each text.
UNSUPPORTED = frozenset(
    {
        "ClassifierFreeGuidanceLogitsProcessor", "DiaClassifierFreeGuidanceLogitsProcessor",
        "DiaEOSChannelFilterLogitsProcessor", "DiaEOSDelayPatternLogitsProcessor",
        "UnbatchedClassifierFreeGuidanceLogitsProcessor", "WhisperNoSpeechDetection",
    }
)  # fmt: skip


class AfterPadding:
    """A processor that sees padding before the text, as in a batch of `generate`.

    Args:
        padding: ids to the left of the prompt.
    """

    def __init__(self, inner: Processor, padding: Sequence[int]) -> None:
        self.inner = inner
        self._padding = tuple(padding)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        padded: Tensor = self.inner(torch.cat([ids.new_tensor([self._padding]), ids], 1), scores)
        return padded


class LogitsProcessing:
    """The processors of one text.

    Args:
        processors: called in this order with the ids before a token, (1, T), and its scores,
            (1, V) float32. Those of transformers, or any function of the two.

    Attributes:
        reads_ids: whether a row can be processed only once the tokens before it are known.
        changes_drafts: whether logits of drafts are processed too.

    Raises:
        UsageError: something that cannot be called so.
    """

    def __init__(self, processors: Iterable[Processor] = ()) -> None:
        self._all = tuple(processors)
        for each in self._all:
            _check(each)
        self._known = tuple(each for each in self._all if _kind(each) is not None)
        self.reads_ids = any(_kind(each) != SCORES_ONLY for each in self._all)
        self.changes_drafts = bool(self._known)
        self._ids: Tensor | None = None  # of the text so far

    def __bool__(self) -> bool:
        return bool(self._all)

    @one_thread()
    def target_rows(self, logits: Tensor) -> Tensor:
        """Rows of the target, for processors that do not read ids.  # (n, V) -> (n, V)"""
        return _scored(self._all, logits)

    @one_thread()
    def target_row(self, logits: Tensor, tokens: Sequence[int], branch: Sequence[int]) -> Tensor:
        """The row after `tokens` and `branch`. Call it once for each new token.  # (V,) -> (V,)

        Args:
            tokens: prompt and text so far.
            branch: drafted tokens after them.
        """
        with _ordinary_tensors():
            return _applied(self._all, self._before(tokens, branch, logits), logits)

    @one_thread()
    def draft_rows(
        self, logits: Tensor, tokens: Sequence[int], branches: Sequence[Sequence[int]]
    ) -> Tensor:
        """Rows of a draft model, each after `tokens` and its branch.  # (n, V) -> (n, V)

        A row of which nothing would be left stays as it is.
        """
        return self._drafted(
            logits, lambda row: self._before(tokens, branches[row], logits), len(branches)
        )

    @one_thread()
    def past_rows(self, logits: Tensor, tokens: Sequence[int], first: int) -> Tensor:
        """Rows of a draft model inside the text, after its first `first`, … tokens.  # (n, V)"""
        return self._drafted(
            logits, lambda row: self._before(tokens, (), logits)[:, : first + row], len(logits)
        )

    def _drafted(self, logits: Tensor, before: Callable[[int], Tensor], count: int) -> Tensor:
        if not self._known or not count:
            return logits
        import torch

        if all(_kind(each) == SCORES_ONLY for each in self._known):
            processed = _scored(self._known, logits)
        else:
            with _ordinary_tensors():
                rows = [_applied(self._known, before(i), logits[i]) for i in range(count)]
                processed = torch.stack(rows)
        empty = processed.amax(-1, keepdim=True) == float("-inf")
        return torch.where(empty, logits.to(processed.dtype), processed)

    def _before(self, tokens: Sequence[int], branch: Sequence[int], like: Tensor) -> Tensor:
        """The ids before a row; those of the text are kept from call to call.  # (1, T)"""
        import torch

        known = 0 if self._ids is None else len(self._ids)
        if self._ids is None or known != len(tokens):
            more = torch.tensor(tokens[known:], dtype=torch.long, device=like.device)
            self._ids = more if self._ids is None else torch.cat([self._ids, more])
        if not branch:
            return self._ids[None]
        return torch.cat([self._ids, self._ids.new_tensor(list(branch))])[None]


def _scored(processors: Iterable[Processor], logits: Tensor) -> Tensor:
    with _ordinary_tensors():
        scores = logits.float()
        for each in processors:
            scores = each(None, scores)
    return scores


def _applied(processors: Iterable[Processor], ids: Tensor, logits: Tensor) -> Tensor:
    """# (1, T), (V,) -> (V,)"""
    import torch

    # A copy, because a processor may change what it is given.
    scores = logits[None].to(torch.float32, copy=True)
    for each in processors:
        scores = each(ids, scores)
    return scores[0]


@contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """As in `generate`: no gradients, and tensors that may be changed in place."""
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield


def _kind(processor: Processor) -> frozenset[str] | None:
    """The set of known processors that it belongs to; None if it is not known."""
    if isinstance(processor, AfterPadding):
        return None if _kind(processor.inner) is None else IDS_AND_SCORES
    made = type(processor)
    if made.__module__ != TRANSFORMERS:
        return None
    return next((kind for kind in (SCORES_ONLY, IDS_AND_SCORES) if made.__name__ in kind), None)


def _check(processor: Processor) -> None:
    """Refuse what cannot be called with the ids and scores of one text."""
    name = type(processor).__name__
    if unsupported := UNSUPPORTED & {each.__name__ for each in type(processor).__mro__}:
        raise UsageError(
            f"the logits processor {min(unsupported)} is not supported",
            hint="it needs more than the ids and scores of one text; decode without it",
        )
    if not callable(processor):
        raise UsageError(
            f"a logits processor must be callable, not {name}", hint="give a list of processors"
        )
    try:
        parameters = inspect.signature(processor).parameters.values()
    except ValueError:  # written in C
        return
    more = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ][2:]
    if more:
        raise UsageError(
            f"the logits processor {name} needs {', '.join(more)} besides ids and scores",
            hint="a logits processor is called with ids and scores",
        )
