"""Compiles a section of a recorded step with `torch.compile`.

On a GPU small steps gain by launching fewer kernels. On a CPU, compiled as here (without freezing,
since weights are arguments of a section), inductor does not pack weights and is slower than
TorchScript with prepacked ones. Compiling takes seconds for each shape of step.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_unflatten

from skipopt.runtime.torchscript import Function, StepSection
from skipopt.runtime.tracing import Operation, Value


def compile_section(section: StepSection, given: Sequence[Tensor]) -> Function:
    """The section as one compiled function for tensors of these shapes.

    Raises:
        RuntimeError: no compiler is installed, or it cannot compile this.
    """
    function: Function = torch.compile(_graph_module(section), dynamic=False, fullgraph=True)
    function(*given)  # compiles now, not in the first step
    return function


def _graph_module(section: StepSection) -> fx.GraphModule:
    graph = fx.Graph()
    nodes = {number: graph.placeholder(f"argument{number}") for number in range(section.arguments)}
    for operation in section.operations:
        _add(graph, operation, nodes)
    graph.output(tuple(nodes[number] for number in section.returns))
    return fx.GraphModule({}, graph)


def _add(graph: fx.Graph, operation: Operation, nodes: dict[int, fx.Node]) -> None:
    flat: list[Any] = [nodes[x.number] if isinstance(x, Value) else x for x in operation.arguments]
    args, kwargs = tree_unflatten(flat, operation.tree_spec)
    node = graph.call_function(operation.function, tuple(args), dict(kwargs))
    several = len(operation.function._schema.returns) > 1 or len(operation.results) > 1
    for index, number in enumerate(operation.results):
        if number is not None:
            nodes[number] = graph.call_function(getitem, (node, index)) if several else node
