"""What a model takes in memory: its weights, copies of them, and the cache kept beside them.

A value, with how it is told. Knows nothing of models, or of what makes the copies.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes; buffers of a moment and the caches of single texts are not in it.

    Attributes:
        weights: the model's own.
        packed: copies that linear layers on a CPU read instead.
        joined: copies that captured steps read, where several products became one.
        coarser: quantised copies that drafts read.
        cache: keys and values of captured steps, kept from text to text.
    """

    weights: int
    packed: int = 0
    joined: int = 0
    coarser: int = 0
    cache: int = 0

    @property
    def beside(self) -> int:
        """All but the model's own weights."""
        return self.packed + self.joined + self.coarser + self.cache

    def __str__(self) -> str:
        """`44.2 MB of weights, and beside them 38.0 MB packed, 6.3 MB of cache`."""
        names = {"packed": "packed", "joined": "joined", "coarser": "coarser", "cache": "of cache"}
        sizes = ((getattr(self, key), name) for key, name in names.items())
        parts = ", ".join(f"{_megabytes(size)} {name}" for size, name in sizes if size)
        own = f"{_megabytes(self.weights)} of weights"
        return f"{own}, and beside them {parts}" if parts else own


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
