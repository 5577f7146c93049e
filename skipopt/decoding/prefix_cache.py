"""Keeps the keys and values of a text for the next one, as far as both begin alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from skipopt.rounds import Round

if TYPE_CHECKING:
    from skipopt.decoding.request import Limits
    from skipopt.models.target import Target
    from skipopt.runtime.engine import Engine

MIN_CAPACITY = 1024  # tokens, within the context


class PrefixCache:
    """The KV cache of the latest text of one model. One text at a time may use it.

    It doubles when a text does not fit; that text is then read whole. So is every text of a model
    whose rotary embeddings change their frequencies with the length, and one after the model was
    changed.

    Attributes:
        tokens: the latest text, its prompt included. All but the last one are in the cache.
        num_cached: tokens of the latest prompt that were in the cache already.
        engine: what runs the model over the cache; None before the first text.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.num_cached = 0
        self.engine: Engine | None = None
        self._generation = 0  # of the model that the cache was filled by

    def engine_for(
        self, target: Target, prompt: Sequence[int], limits: Limits, max_extra_rows: int
    ) -> Engine:
        """An engine whose cache holds what the prompt and the latest text have in common.

        Args:
            max_extra_rows: see `new_engine`.
        """
        longest = min(limits.context_limit, len(prompt) + limits.max_new_tokens)
        engine = self._usable(target, longest + max_extra_rows)
        if engine is None:
            roomy = min(limits.context_limit, max(MIN_CAPACITY, 2 * longest))
            engine = self._renew(target, roomy + max_extra_rows)
        self.num_cached = _common(self.tokens[:-1], prompt[:-1])
        if engine.rope_borders.next(0) is not None:
            self.num_cached = 0
        self.tokens = list(prompt[: self.num_cached + 1])
        engine.rewind(self.num_cached)
        return engine

    def followed(self, rounds: Iterator[Round], prompt: Sequence[int]) -> Iterator[Round]:
        """The rounds; their tokens are noted as those of the cache."""
        tokens = list(prompt)
        try:
            for each in rounds:
                tokens += each.emitted
                self.tokens = tokens
                yield each
        except GeneratorExit:
            raise
        except BaseException:
            self.clear()  # what a failed step has left is not known
            raise

    def clear(self) -> None:
        """Forget the latest text; the memory is kept."""
        self.tokens = []

    def _usable(self, target: Target, capacity: int) -> Engine | None:
        """The engine, unless it is too small or of another model."""
        with target.runtime.lock:
            target.runtime.refresh()
        engine = self.engine
        if engine is None or engine.target.runtime is not target.runtime:
            return None
        changed = self._generation != target.runtime.step_caches.generation
        return None if changed or engine.cache.capacity < capacity else engine

    def _renew(self, target: Target, capacity: int) -> Engine:
        from skipopt.runtime.engine import Engine

        self.clear()
        self.engine = None  # its memory is given back first
        self.engine = Engine(target, capacity)
        self._generation = target.runtime.step_caches.generation
        return self.engine


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    differs = (i for i, (one, other) in pairs if one != other)
    return next(differs, min(len(first), len(second)))
