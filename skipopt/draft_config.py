"""What makes a draft cheaper in addition to its skip mask.

int8    window=256    int4+head=int8    int4+int8_layers=0-29+window=128    int8+vocab=8192
    experts=1    none
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from skipopt.draft_vocabulary import DraftVocabulary
from skipopt.errors import UsageError

Quant = Literal["int8", "int4"]
QUANTS: tuple[Quant, ...] = ("int8", "int4")
HINT = (
    "write it like int8, int4+head=int8, int4+int8_layers=0-29, vocab=8192, window=256, experts=1 "
    "or int8+window=256; none for none"
)


@dataclass(frozen=True, slots=True)
class WeightBits:
    """How many bits of each weight a draft reads; None = the model's own weights.

    Attributes:
        body: of the decoder layers.
        head: of the output projection.
        int8_layers: decoder layers with 8 bits instead of `body`; ascending.
    """

    body: int | None
    head: int | None
    int8_layers: tuple[int, ...] = ()

    def of_layer(self, index: int) -> int | None:
        """Of a decoder layer."""
        return 8 if index in self.int8_layers else self.body


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """How a draft reads weights and cache; false where it does both as the target does.

    It holds while drafting only: verification runs the full model in its own precision.

    Attributes:
        weight_bits: 8 or 4, the width of the weights that a draft reads; None = the model's own.
        attention_window: a draft attends to this many of the latest positions, its own included,
            and to the first few of the text; None = to all.
        head_bits: 8 or 4, the width of the output projection's weights; None = `weight_bits`.
        int8_layers: decoder layers that are read with 8 bits although `weight_bits` is 4.
        vocab_size: a draft chooses its tokens from this many; None = from all.
        vocabulary: these tokens; None where they are still to be chosen, by the prompt.
        experts: of a mixture of experts, a draft runs this many of the routed ones for a token,
            and the shared one where there is one; None = as many as the model.

    Raises:
        UsageError: a value out of range, or `int8_layers` without 4 bits for the other layers.
    """

    weight_bits: int | None = None
    attention_window: int | None = None
    head_bits: int | None = None
    int8_layers: tuple[int, ...] = ()
    vocab_size: int | None = None
    vocabulary: DraftVocabulary | None = None
    experts: int | None = None

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, self.head_bits):
            if bits not in (None, 8, 4):
                raise UsageError(f"unsupported weight width: {bits} bits", hint=HINT)
        for name, value in (("window", self.attention_window), ("vocab", self.vocab_size)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be 1 or more, not {value}", hint=HINT)
        if self.experts is not None and self.experts < 0:
            raise UsageError(f"experts must be 0 or more, not {self.experts}", hint=HINT)
        if self.int8_layers and self.weight_bits != 4:
            raise UsageError("int8_layers needs int4 for the other layers", hint=HINT)
        if min(self.int8_layers, default=0) < 0:
            raise UsageError("int8_layers are numbers from 0 up", hint=HINT)
        if self.vocabulary is not None and len(self.vocabulary) != self.vocab_size:
            raise UsageError(
                f"a draft vocabulary of {len(self.vocabulary)} tokens for vocab={self.vocab_size}"
            )
        object.__setattr__(self, "int8_layers", tuple(sorted(set(self.int8_layers))))

    def __bool__(self) -> bool:
        return self != UNCHANGED

    def __str__(self) -> str:
        parts = [
            value if key == "quant" else f"{key}={value}" for key, value in self.options.items()
        ]
        return "+".join(parts) or "none"

    @property
    def weights(self) -> WeightBits | None:
        """The bits of each weight; None if all are the model's own."""
        if self.weight_bits is None and self.head_bits is None:
            return None
        return WeightBits(self.weight_bits, self.head_bits or self.weight_bits, self.int8_layers)

    @property
    def quant(self) -> Quant | None:
        """`int8`, `int4`, or None: the value of the option `quant`."""
        return _quant(self.weight_bits)

    @property
    def head(self) -> Quant | None:
        """The same for the output projection; None where it is as `quant`."""
        return _quant(self.head_bits)

    @property
    def values(self) -> dict[str, str | int | tuple[int, ...] | None]:
        """The arguments of `of` but `vocabulary`, by name: also the options of a method."""
        return {
            "quant": self.quant,
            "head": self.head,
            "int8_layers": self.int8_layers,
            "vocab": self.vocab_size,
            "window": self.attention_window,
            "experts": self.experts,
        }

    @property
    def options(self) -> dict[str, str]:
        """The same as a user writes options of a method, each only where it is set."""
        given = {key: value for key, value in self.values.items() if value not in (None, ())}
        return {key: _text(value) for key, value in given.items()}

    @property
    def parts(self) -> list[DraftConfig]:
        """Each setting alone, as far as it can stand alone: `int8_layers` come with `quant`."""
        layers = self.int8_layers
        alone = (
            DraftConfig(self.weight_bits),
            DraftConfig(head_bits=self.head_bits),
            DraftConfig(self.weight_bits, int8_layers=layers) if layers else UNCHANGED,
            DraftConfig(vocab_size=self.vocab_size),
            DraftConfig(attention_window=self.attention_window),
            DraftConfig(experts=self.experts),
        )
        return list(dict.fromkeys(part for part in alone if part))

    def without(self, part: DraftConfig) -> DraftConfig:
        """Without one of `parts`."""
        if part.int8_layers:
            return replace(self, int8_layers=())
        if part.weight_bits:
            return replace(self, weight_bits=None, int8_layers=())
        if part.head_bits:
            return replace(self, head_bits=None)
        if part.vocab_size:
            return replace(self, vocab_size=None, vocabulary=None)
        if part.attention_window:
            return replace(self, attention_window=None)
        return replace(self, experts=None)

    def replaced_by(self, options: Collection[str]) -> DraftConfig:
        """What options of these names leave of it; `quant` replaces everything about weights."""
        config = self
        if "quant" in options:
            config = replace(config, weight_bits=None, head_bits=None, int8_layers=())
        if "head" in options:
            config = replace(config, head_bits=None)
        if "int8_layers" in options:
            config = replace(config, int8_layers=())
        if "vocab" in options:
            config = replace(config, vocab_size=None, vocabulary=None)
        if "window" in options:
            config = replace(config, attention_window=None)
        return replace(config, experts=None) if "experts" in options else config

    @classmethod
    def of(
        cls,
        quant: Quant | None = None,
        window: int | None = None,
        head: Quant | None = None,
        int8_layers: tuple[int, ...] = (),
        vocab: int | None = None,
        vocabulary: DraftVocabulary | None = None,
        experts: int | None = None,
    ) -> DraftConfig:
        """From the values of the options of these names.

        Args:
            vocabulary: used if it has `vocab` tokens.
        """
        fits = vocabulary is not None and len(vocabulary) == vocab
        tokens = vocabulary if fits else None
        return cls(_bits(quant), window, _bits(head), int8_layers, vocab, tokens, experts)

    @classmethod
    def parse(cls, text: str) -> DraftConfig:
        """Read what `str` writes, in any order; which tokens a vocabulary has is not written.

        Raises:
            UsageError: an unknown part, the same part twice, or a value out of range.
        """
        if text == "none":
            return UNCHANGED
        found: dict[str, str] = {}
        for part in text.split("+"):
            name, equals, value = part.partition("=")
            if part in QUANTS:
                name, value = "quant", part
            if name in found:
                raise UsageError(f"{text!r} sets {name} twice", hint=HINT)
            if not (part in QUANTS or (equals and _is_value(name, value))):
                raise UsageError(f"unknown draft setting {part!r}", hint=HINT)
            found[name] = value
        return cls(
            _bits(found.get("quant")),
            _number(found.get("window")),
            _bits(found.get("head")),
            tuple(map(int, found["int8_layers"].split("-"))) if "int8_layers" in found else (),
            _number(found.get("vocab")),
            experts=_number(found.get("experts")),
        )


UNCHANGED = DraftConfig()


def _is_value(name: str, value: str) -> bool:
    if name == "head":
        return value in QUANTS
    if name == "int8_layers":
        return all(each.isdecimal() for each in value.split("-"))
    return name in ("window", "vocab", "experts") and value.isdecimal()


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _text(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _quant(bits: int | None) -> Quant | None:
    return next((name for name in QUANTS if _bits(name) == bits), None)


def _bits(quant: str | None) -> int | None:
    return None if quant is None else int(quant.removeprefix("int"))
