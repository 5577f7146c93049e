"""Bytes of what a gated delta network (Qwen3-Next) keeps of a text, by arithmetic.

While drafts are read, the states of the recurrent layers exist twice: those that the drafts
change, and the copy from which verification goes on (see `skipopt.runtime.state_checkpoint`).
Keys and values are not copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RECURRENCE_BYTES = 4  # of a value: transformers keeps recurrences in float32


@dataclass(frozen=True, slots=True)
class StateMemory:
    """Bytes for one text.

    Attributes:
        convolutions, recurrences: of the states of all layers, once.
        keys_and_values: of one token in all layers of full attention.
    """

    convolutions: int
    recurrences: int
    keys_and_values: int

    @classmethod
    def of(cls, config: Any, value_bytes: int) -> StateMemory:
        """Those of a config of the type `qwen3_next`.

        Args:
            value_bytes: of one value of the model's type; 2 for bfloat16.
        """
        recurrent = sum(kind == "linear_attention" for kind in config.layer_types)
        keys = config.linear_num_key_heads * config.linear_key_head_dim
        values = config.linear_num_value_heads * config.linear_value_head_dim
        inputs = (2 * keys + values) * config.linear_conv_kernel_dim
        pair = 2 * config.num_key_value_heads * config.head_dim
        return cls(
            recurrent * inputs * value_bytes,
            recurrent * config.linear_key_head_dim * values * RECURRENCE_BYTES,
            (config.num_hidden_layers - recurrent) * pair * value_bytes,
        )

    @property
    def copy(self) -> int:
        """What a draft needs besides the states themselves: one copy of them."""
        return self.convolutions + self.recurrences

    @property
    def tokens(self) -> int:
        """The keys and values of so many tokens take as much as the copy, rounded down."""
        return self.copy // self.keys_and_values


def section() -> str:
    """What the page of models says of the memory of states."""
    from transformers import Qwen3NextConfig

    found = StateMemory.of(Qwen3NextConfig(), 2)
    return f"""## Memory of states

While drafts are read, the states of recurrent layers and convolutions exist twice: those that the
drafts change, and the copy from which verification goes on. It is one copy whatever γ is, and it
does not grow with the text. By arithmetic, for the config of Qwen3-Next-80B-A3B in bfloat16
(`python -m tools.state_memory`; a test compares the arithmetic with what a tiny model allocates):

| what | bytes |
|---|--:|
| copy of the convolutions' states | {found.convolutions:,} |
| copy of the recurrences' states, float32 | {found.recurrences:,} |
| both: what a draft takes | {found.copy:,} |
| keys and values of one token | {found.keys_and_values:,} |

The copy takes as much as the keys and values of {found.tokens:,} tokens.
"""


if __name__ == "__main__":
    print(section())
