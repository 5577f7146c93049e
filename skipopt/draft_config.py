"""What makes a draft cheaper in addition to its skip mask: quantized weights, a shorter attention.

int8    window=256    int4+window=128    none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skipopt.errors import UsageError

Quant = Literal["int8", "int4"]
QUANTS: tuple[Quant, ...] = ("int8", "int4")
HINT = "write it like int8, window=256 or int8+window=256; none for none"


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """How a draft reads weights and cache; false where it does both as the target does.

    It holds while drafting only: verification runs the full model in its own precision.

    Attributes:
        weight_bits: 8 or 4, the width of the weights that a draft reads; None = the model's own.
        attention_window: a draft attends to this many of the latest positions, its own included,
            and to the first few of the text; None = to all.

    Raises:
        UsageError: a value out of range.
    """

    weight_bits: int | None = None
    attention_window: int | None = None

    def __post_init__(self) -> None:
        if self.weight_bits not in (None, 8, 4):
            raise UsageError(f"unsupported weight width: {self.weight_bits} bits", hint=HINT)
        if self.attention_window is not None and self.attention_window < 1:
            raise UsageError(f"window must be 1 or more, not {self.attention_window}", hint=HINT)

    def __bool__(self) -> bool:
        return self != UNCHANGED

    def __str__(self) -> str:
        parts: list[str] = [self.quant] if self.quant else []
        if self.attention_window is not None:
            parts.append(f"window={self.attention_window}")
        return "+".join(parts) or "none"

    @property
    def quant(self) -> Quant | None:
        """`int8`, `int4`, or None: the value of the option `quant`."""
        return next((name for name in QUANTS if _bits(name) == self.weight_bits), None)

    @property
    def options(self) -> dict[str, str]:
        """The same as options of a method: `quant` and `window`, each only where it is set."""
        given = {"quant": self.quant, "window": self.attention_window}
        return {key: str(value) for key, value in given.items() if value is not None}

    @classmethod
    def of(cls, quant: Quant | None, window: int | None) -> DraftConfig:
        """From the values of the options `quant` and `window`."""
        return cls(None if quant is None else _bits(quant), window)

    @classmethod
    def parse(cls, text: str) -> DraftConfig:
        """Read what `str` writes, in any order.

        Raises:
            UsageError: an unknown part, the same part twice, or a value out of range.
        """
        if text == "none":
            return UNCHANGED
        quant: Quant | None = None
        window: int | None = None
        for part in text.split("+"):
            name, _, value = part.partition("=")
            found = next((each for each in QUANTS if each == part), None)
            if found is None and not (name == "window" and value.isdecimal()):
                raise UsageError(f"unknown draft setting {part!r}", hint=HINT)
            if (quant if found else window) is not None:
                raise UsageError(f"{text!r} sets {'quant' if found else name} twice", hint=HINT)
            if found:
                quant = found
            else:
                window = int(value)
        return cls.of(quant, window)


UNCHANGED = DraftConfig()


def _bits(quant: Quant) -> int:
    return int(quant.removeprefix("int"))
