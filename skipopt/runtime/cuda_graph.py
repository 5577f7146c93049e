"""A call captured as a CUDA graph, whose kernels are launched again at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP_RUNS = 3  # before the capture: they choose kernels and allocate workspaces


class CudaGraph:
    """Takes tensors of the captured shapes, and returns copies of the call's results.

    Args:
        call: reads and writes tensors at fixed addresses only, and never waits for the GPU.
        given: its inputs; copied, and overwritten by those of each replay.
        pool: memory shared with graphs that never run at the same time.

    Raises:
        RuntimeError: the call does something that a graph cannot hold.
    """

    def __init__(
        self, call: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], pool: Any
    ) -> None:
        self._inputs = [tensor.clone() for tensor in given]
        _warm_up(call, self._inputs)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            # Kept alive, so that no other graph of the pool writes to their memory.
            self._outputs = list(call(*self._inputs))

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        for own, new in zip(self._inputs, inputs, strict=True):
            own.copy_(new, non_blocking=True)
        self._graph.replay()
        # The next replay overwrites the outputs.
        return [output.clone() for output in self._outputs]


def _warm_up(call: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> None:
    """Run on a side stream, as `torch.cuda.graph` asks for."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_RUNS):
            call(*inputs)
    torch.cuda.current_stream().wait_stream(side)
