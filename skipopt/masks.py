"""Skip masks: which of a model's 2L sublayers the draft leaves out.

Bits are in the order of execution: attention of layer 0, MLP of layer 0, attention of layer 1, …
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import comb
from random import Random
from typing import Literal

from skipopt.errors import MaskError

SublayerKind = Literal["attention", "mlp"]
KINDS: tuple[SublayerKind, SublayerKind] = ("attention", "mlp")


def sublayer_name(index: int) -> str:
    """`attn.07`, `mlp.07`: the name of a bit in studies and plots."""
    return f"{'mlp' if index % 2 else 'attn'}.{index // 2:02d}"


@dataclass(frozen=True, slots=True)
class SkipMask:
    """The skip mask z over 2L sublayers; 1 = skipped.

    Attributes:
        layers: L, the number of decoder layers.
        skipped: positions of the skipped sublayers, 2·layer for attention, 2·layer + 1 for MLP.

    Raises:
        MaskError: a position outside 0 … 2L−1.
    """

    layers: int
    skipped: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for position in self.skipped:
            if not 0 <= position < 2 * self.layers:
                kind = KINDS[position % 2]
                raise MaskError(
                    f"{kind} layer {position // 2} is out of range: the model has "
                    f"{self.layers} layers, numbered 0 to {self.layers - 1}"
                )

    @classmethod
    def empty(cls, layers: int) -> SkipMask:
        """The mask that skips nothing."""
        return cls(layers)

    @classmethod
    def of(cls, layers: int, attention: Iterable[int] = (), mlp: Iterable[int] = ()) -> SkipMask:
        """The mask that skips these layers' attention and MLP sublayers."""
        positions = [2 * i for i in attention] + [2 * i + 1 for i in mlp]
        return cls(layers, frozenset(positions))

    @classmethod
    def from_bits(cls, bits: Sequence[int | bool]) -> SkipMask:
        """The mask with these `bits`, of length 2L.

        Raises:
            MaskError: an odd number of bits.
        """
        if len(bits) % 2:
            raise MaskError(f"a mask has two bits per layer, but {len(bits)} bits were given")
        return cls(len(bits) // 2, frozenset(i for i, bit in enumerate(bits) if bit))

    @classmethod
    def parse(cls, text: str, layers: int) -> SkipMask:
        """Read what `str(mask)` writes, e.g. `attn 3,5-7 mlp 4`; `none` is the empty mask.

        Raises:
            MaskError: another text, or a layer out of range.
        """
        if text.strip() == "none":
            return cls(layers)
        found = re.fullmatch(r"\s*(?:attn\s+([\d,\s-]+?))?\s*(?:mlp\s+([\d,\s-]+?))?\s*", text)
        if found is None or not any(found.groups()):
            raise MaskError(
                f"cannot read the mask {text!r}", hint="write it like 'attn 3,5-7 mlp 4'"
            )
        attention, mlp = (_parse_ranges(part, text) for part in found.groups())
        return cls.of(layers, attention, mlp)

    @property
    def attention(self) -> tuple[int, ...]:
        """Layers whose attention is skipped, ascending."""
        return tuple(sorted(i // 2 for i in self.skipped if i % 2 == 0))

    @property
    def mlp(self) -> tuple[int, ...]:
        """Layers whose MLP is skipped, ascending."""
        return tuple(sorted(i // 2 for i in self.skipped if i % 2 == 1))

    @property
    def bits(self) -> tuple[int, ...]:
        """z itself, length 2L."""
        return tuple(int(i in self.skipped) for i in range(2 * self.layers))

    @property
    def ratio(self) -> float:
        """Skip ratio: skipped / 2L."""
        return len(self.skipped) / (2 * self.layers)

    def flip(self, *positions: int) -> SkipMask:
        """The mask with these bits inverted."""
        return SkipMask(self.layers, self.skipped.symmetric_difference(positions))

    def __str__(self) -> str:
        parts = [("attn", self.attention), ("mlp", self.mlp)]
        return " ".join(f"{n} {_format_ranges(v)}" for n, v in parts if v) or "none"


@dataclass(frozen=True, slots=True)
class MaskSpace:
    """The masks that a search may propose.

    Attributes:
        layers: L.
        frozen: positions that are never skipped.
        skip_count: the number of skipped sublayers, if fixed (as in SWIFT); None = any.
        free: positions that may be skipped.

    Raises:
        MaskError: no mask satisfies the constraints.
    """

    layers: int
    frozen: frozenset[int] = frozenset()
    skip_count: int | None = None
    free: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        free = tuple(i for i in range(2 * self.layers) if i not in self.frozen)
        object.__setattr__(self, "free", free)
        if self.skip_count is not None and not 0 <= self.skip_count <= len(free):
            raise MaskError(
                f"cannot skip {self.skip_count} sublayers: only {len(free)} may be skipped",
                hint="lower --skip-ratio, or keep fewer layers",
            )

    def __contains__(self, mask: SkipMask) -> bool:
        fits = mask.layers == self.layers and not mask.skipped & self.frozen
        return fits and self.skip_count in (None, len(mask.skipped))

    def size(self) -> int:
        """Number of masks in the space."""
        n = len(self.free)
        return 2**n if self.skip_count is None else comb(n, self.skip_count)

    def mask(self, skipped: Iterable[int]) -> SkipMask:
        """The mask that skips these positions."""
        return SkipMask(self.layers, frozenset(skipped))

    def random(self, rng: Random) -> SkipMask:
        """A random mask: first how many sublayers to skip (unless fixed), then which."""
        count = self.skip_count
        if count is None:
            count = rng.randint(0, len(self.free))
        return self.mask(rng.sample(self.free, count))

    def neighbors(self, mask: SkipMask) -> Iterator[SkipMask]:
        """Masks one step away: one flip, or one swap where the count is fixed."""
        if self.skip_count is None:
            yield from (mask.flip(i) for i in self.free)
            return
        inside = [i for i in self.free if i in mask.skipped]
        outside = [i for i in self.free if i not in mask.skipped]
        yield from (mask.flip(i, j) for i in inside for j in outside)


def _parse_ranges(text: str | None, whole: str) -> list[int]:
    numbers: list[int] = []
    for part in filter(None, re.split(r"[,\s]+", text or "")):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise MaskError(
                f"cannot read {part!r} in the mask {whole!r}",
                hint="write layers like '3,5-7'",
            )
        first = int(found[1])
        numbers.extend(range(first, int(found[2] or first) + 1))
    return numbers


def _format_ranges(numbers: Sequence[int]) -> str:
    """`3,5-7`: ascending numbers, runs of three or more joined."""
    parts: list[str] = []
    start = 0
    while start < len(numbers):
        end = start
        while end + 1 < len(numbers) and numbers[end + 1] == numbers[end] + 1:
            end += 1
        run = numbers[start : end + 1]
        parts.extend([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))
        start = end + 1
    return ",".join(parts)
