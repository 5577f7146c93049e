"""One call captured as a CUDA graph: its kernels are launched again in one go.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # runs before the capture, in which kernels are chosen and workspaces allocated


class CudaGraph:
    """Call it with tensors of the captured shapes; returns what the call returns, anew.

    Args:
        call: reads and writes tensors at fixed places only, and never waits for the GPU.
        given: its inputs; copied, and overwritten by those of each replay.
        pool: memory shared with graphs that never run at the same time.

    Raises:
        RuntimeError: the call does what a graph cannot hold.
    """

    def __init__(
        self, call: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], pool: Any
    ) -> None:
        self._inputs = [tensor.clone() for tensor in given]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                call(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            # Held on to, so that no other graph of the pool writes there.
            self._outputs = list(call(*self._inputs))

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        for own, new in zip(self._inputs, inputs, strict=True):
            own.copy_(new, non_blocking=True)
        self._graph.replay()
        # The next replay writes where these lie.
        return [output.clone() for output in self._outputs]
