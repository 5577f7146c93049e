"""What one candidate has computed of the scored drafts by some layer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class SharedRows(NamedTuple):
    """What a layer computed that later layers read: keys and values of the draft rows.

    Attributes:
        layer: the layer whose cache they lie in.
        parts: # (S, heads, M·J, D) each
    """

    layer: int
    parts: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CandidateState:
    """A candidate's values before a layer.

    Attributes:
        hidden: the hidden states; some models have several streams.  # (…, S, M·J, H)
        shared: what earlier layers computed for later ones, by the name under which they find it.
    """

    hidden: Tensor
    shared: Mapping[Hashable, SharedRows] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Memory of the hidden states."""
        return self.hidden.numel() * self.hidden.element_size()

    def rows(self, valid: Tensor) -> Tensor:
        """The hidden states of some rows.  # (S, M·J) bool -> (…, rows, H)"""
        return self.hidden[..., valid.to(self.hidden.device), :]
