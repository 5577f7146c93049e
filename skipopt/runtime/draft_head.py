"""The output projection over part of the vocabulary, for drafts.

Native kernels read the chosen rows of the model's own weights where they are. Other runtimes, and
quantized drafts, read a copy of these rows. What a head reads is written in place when another
vocabulary of the same size is used, so captured steps stay valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from skipopt.kernels.native import NativeKernels
from skipopt.kernels.native_linear import linear_rows
from skipopt.kernels.plain_linear import is_plain_linear, linear_of_rows
from skipopt.kernels.quantized_kernels import LinearFunction
from skipopt.kernels.quantized_linear import QuantizedLinearCache
from skipopt.models.device_map import input_device
from skipopt.models.patch import Patch

if TYPE_CHECKING:
    from skipopt.draft_vocabulary import DraftVocabulary

PROBE_TOKENS = 4
PROBE_ROWS = 7
# Largest difference between logits of some rows and the same of all, as a share of the largest.
TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-3, 5e-2
NATIVE_TYPES = (torch.float32, torch.bfloat16)
# What a model raises whose forward cannot work on logits of part of the vocabulary.
SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)


class RowCopy(NamedTuple):
    """A product with a copy of some rows of a layer, and the tensors that it reads."""

    forward: LinearFunction
    tensors: tuple[Tensor, ...]


CopyRows = Callable[[Tensor], RowCopy]


class DraftHead:
    """An output projection over N rows.

    Args:
        projection: the model's own.
        vocabulary: the first to use; every other one has as many tokens.
        width: number of logits of the model.
        copy_rows: makes a copy of rows; None where the native kernels read the model's own.

    Attributes:
        ids: of the tokens, ascending.  # (N,) int64
        forward: replaces the projection's own.  # (…, d) -> (…, N)
    """

    def __init__(
        self,
        projection: nn.Linear,
        vocabulary: DraftVocabulary,
        width: int,
        copy_rows: CopyRows | None,
    ) -> None:
        self._projection = projection
        self._width = width
        self._copy_rows = copy_rows
        self._vocabulary = vocabulary
        self.ids = _tensor(vocabulary, projection)
        self._copy = None if copy_rows is None else copy_rows(self.ids)
        self.forward: LinearFunction = self._native if self._copy is None else self._copy.forward

    def _native(self, input: Tensor) -> Tensor:
        layer = self._projection
        product: Tensor = linear_rows(input, layer.weight, self.ids, layer.bias)
        return product

    @property
    def extra_bytes(self) -> int:
        """Memory of the copy."""
        tensors = () if self._copy is None else self._copy.tensors
        return sum(each.numel() * each.element_size() for each in tensors)

    @torch.inference_mode()
    def use(self, vocabulary: DraftVocabulary) -> None:
        """Work on these tokens from now on."""
        if vocabulary == self._vocabulary:
            return
        self.ids.copy_(_tensor(vocabulary, self._projection))
        if self._copy is not None and self._copy_rows is not None:
            fresh = self._copy_rows(self.ids)
            for old, new in zip(self._copy.tensors, fresh.tensors, strict=True):
                old.copy_(new)
        self._vocabulary = vocabulary

    def spread(self, logits: Tensor) -> Tensor:
        """Logits of these tokens as logits of all, −∞ for the others.  # (n, N) -> (n, V)"""
        size = (len(logits), self._width)
        whole = torch.full(size, -math.inf, dtype=logits.dtype, device=logits.device)
        return whole.index_copy(-1, self.ids, logits)


class DraftHeads:
    """The draft heads of one model, made when they are first asked for.

    They are for the model as it is: `Runtime.refresh` clears them when it has changed.

    Args:
        quantized: its quantized layers, whose kernels quantized heads use.
        native: the native kernels, if the model's steps run on them.
    """

    def __init__(
        self, model: Any, quantized: QuantizedLinearCache, native: NativeKernels | None
    ) -> None:
        self._model = model
        self._quantized = quantized
        self.native = native
        self._heads: dict[tuple[int, int | None], DraftHead] = {}
        self._probed: tuple[int, str | None] | None = None

    @property
    def extra_bytes(self) -> int:
        """Memory of all copies made so far."""
        return sum(head.extra_bytes for head in self._heads.values())

    def bytes_of(self, size: int, bits: int | None) -> int:
        """Memory of the copy that drafts with this size of vocabulary and these weights read."""
        head = self._heads.get((size, bits))
        return 0 if head is None else head.extra_bytes

    def clear(self) -> None:
        """Drop all heads and what is known of the model; both are made again when asked for."""
        self._heads.clear()
        self._probed = None

    @property
    def width(self) -> int:
        """Number of logits of the model; 0 if it has no draft heads."""
        return self._probe()[0]

    @property
    def unsupported_reason(self) -> str | None:
        """Why this model's output projection cannot be computed in part; None if it can."""
        return self._probe()[1]

    @torch.inference_mode()
    def head(self, vocabulary: DraftVocabulary, bits: int | None) -> DraftHead:
        """The head for vocabularies of this size.

        Args:
            bits: of its weights; None for the model's own.
        """
        key = len(vocabulary), bits
        if key not in self._heads:
            self._heads[key] = self._make(vocabulary, bits)
        return self._heads[key]

    def _make(self, vocabulary: DraftVocabulary, bits: int | None) -> DraftHead:
        layer: nn.Linear = self._model.get_output_embeddings()
        copy_rows = self._quantized_rows(layer, vocabulary, bits)
        if copy_rows is None and not self._reads_in_place(layer):
            copy_rows = _float_rows(layer)
        return DraftHead(layer, vocabulary, self.width, copy_rows)

    def _reads_in_place(self, layer: nn.Linear) -> bool:
        """Whether the native kernels can read listed rows of the layer."""
        bias_type = torch.float32 if layer.bias is None else layer.bias.dtype
        readable = layer.weight.dtype in NATIVE_TYPES and layer.weight.is_contiguous()
        return self.native is not None and readable and bias_type == torch.float32

    def _quantized_rows(
        self, layer: nn.Linear, vocabulary: DraftVocabulary, bits: int | None
    ) -> CopyRows | None:
        """None where the head reads the model's own precision."""
        if bits is None:
            return None
        kernel = self._quantized.kernel_of_rows(layer, _tensor(vocabulary, layer), bits)
        if kernel is None:
            return None

        def copy_rows(ids: Tensor) -> RowCopy:
            copy = kernel(linear_of_rows(layer, ids))
            return RowCopy(copy.forward or copy.many_rows, copy.tensors)

        return copy_rows

    def _probe(self) -> tuple[int, str | None]:
        if self._probed is None:
            self._probed = _probe(self._model)
        return self._probed


def _float_rows(layer: nn.Linear) -> CopyRows:
    def copy_rows(ids: Tensor) -> RowCopy:
        part = linear_of_rows(layer, ids)
        tensors = (part.weight,) if part.bias is None else (part.weight, part.bias)
        return RowCopy(lambda input: linear(input, part.weight, part.bias), tensors)

    return copy_rows


@torch.inference_mode()
def _probe(model: Any) -> tuple[int, str | None]:
    """The number of logits, and why they cannot be computed in part.

    The model runs twice on a few tokens, the second time with some rows of its output projection.
    """
    layer = model.get_output_embeddings()
    if layer is None or not is_plain_linear(layer):
        return 0, "its output projection is not a linear layer with its weights in memory"
    tokens = torch.arange(PROBE_TOKENS, device=input_device(model))[None]
    tokens %= model.get_input_embeddings().weight.shape[0]
    whole: Tensor = model(input_ids=tokens, use_cache=False).logits[0]
    width = min(whole.shape[-1], layer.out_features)
    numbers = sorted({(width - 1) * i // (PROBE_ROWS - 1) for i in range(PROBE_ROWS)})
    rows = torch.tensor(numbers, device=layer.weight.device)
    copy = _float_rows(layer)(rows)
    try:
        with Patch([(layer, copy.forward)]):
            part: Tensor = model(input_ids=tokens, use_cache=False).logits[0]
    except SHAPE_ERRORS:
        part = whole[:, :0]
    expected = whole[:, rows.to(whole.device)]
    if part.shape != expected.shape or not _close(part, expected):
        return 0, "its logits cannot be computed for some tokens alone"
    return whole.shape[-1], None


def _close(found: Tensor, expected: Tensor) -> bool:
    exact = expected.dtype.itemsize >= 4
    tolerance = TOLERANCE if exact else LOW_PRECISION_TOLERANCE
    error = (found - expected).float().abs().max()
    return bool(error <= tolerance * expected.float().abs().max() + 1e-6)


def _tensor(vocabulary: DraftVocabulary, layer: nn.Linear) -> Tensor:
    return torch.from_numpy(vocabulary.ids).to(layer.weight.device)
