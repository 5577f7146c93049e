"""What makes a draft cheaper beside the sublayers it skips: coarser weights, and a shorter view.

    int8    window=256    int4+window=128    none

A value, with how it is written. Knows nothing of search, of models, or of how a lever works.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipopt.errors import UsageError

BITS = (8, 4)
HINT = "write them like int8, window=256 or int8+window=256; none for none"


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """What is pulled while drafting; false where nothing is. Verification knows neither.

    Attributes:
        bits: of the weights a draft reads, 8 or 4; None = the model's own.
        window: a draft sees so many of the latest positions, its own included, and the first few
            of the text; None = all.

    Raises:
        UsageError: a value out of range.
    """

    bits: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in (None, *BITS):
            raise UsageError(f"weights of {self.bits} bits are not to be had", hint=HINT)
        if self.window is not None and self.window < 1:
            raise UsageError(f"window must be 1 or more, not {self.window}", hint=HINT)

    def __bool__(self) -> bool:
        return self != UNCHANGED

    def __str__(self) -> str:
        parts = [] if self.bits is None else [f"int{self.bits}"]
        if self.window is not None:
            parts.append(f"window={self.window}")
        return "+".join(parts) or "none"

    @classmethod
    def parse(cls, text: str) -> DraftConfig:
        """What `str` writes, in any order.

        Raises:
            UsageError: no such lever, one of them twice, or a value out of range.
        """
        if text == "none":
            return UNCHANGED
        given: dict[str, int] = {}
        for part in text.split("+"):
            key, value = _read(part)
            if key in given:
                raise UsageError(f"{text!r} names {key} twice", hint=HINT)
            given[key] = value
        return cls(**given)


UNCHANGED = DraftConfig()


def _read(part: str) -> tuple[str, int]:
    """The field that `part` sets, and its value."""
    for bits in BITS:
        if part == f"int{bits}":
            return "bits", bits
    name, _, value = part.partition("=")
    if name != "window" or not value.isdecimal():
        raise UsageError(f"there is no lever {part!r}", hint=HINT)
    return "window", int(value)
