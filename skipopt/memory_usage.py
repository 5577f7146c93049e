"""How much memory a loaded model takes: its weights, copies of them, and the kept KV cache."""

from __future__ import annotations

from dataclasses import dataclass

LABELS = {
    "weights": "weights",
    "prepacked_weights": "prepacked copies",
    "fused_weights": "fused copies",
    "quantized_weights": "quantized copies",
    "draft_vocabulary": "draft vocabulary",
    "cache": "KV cache",
    "scratch": "scratch memory",
}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes held for one model; buffers and caches of single texts do not count.

    Attributes:
        weights: the model's own weights and saved buffers.
        prepacked_weights: copies in the layout that the CPU's matrix product prefers.
        fused_weights: copies in which captured steps read several linear layers as one.
        quantized_weights: int8 or int4 copies that drafts read.
        draft_vocabulary: copies of rows of the output projection that drafts read.
        cache: keys and values of captured steps, kept from text to text.
        scratch: what native steps compute in, kept too.
    """

    weights: int
    prepacked_weights: int = 0
    fused_weights: int = 0
    quantized_weights: int = 0
    draft_vocabulary: int = 0
    cache: int = 0
    scratch: int = 0

    @property
    def extra(self) -> int:
        """Everything but the model's own weights."""
        copies = self.prepacked_weights + self.fused_weights + self.quantized_weights
        return copies + self.draft_vocabulary + self.cache + self.scratch

    def __str__(self) -> str:
        """`weights 44.2 MB + prepacked copies 38.0 MB + KV cache 6.3 MB`; zeros are left out."""
        sizes = {label: getattr(self, field) for field, label in LABELS.items()}
        return " + ".join(
            f"{label} {size / 1e6:.1f} MB"
            for label, size in sizes.items()
            if size or label == "weights"
        )
