"""A section of a recording compiled by `torch.compile`: operations fused into a few kernels.

Fewer kernels to begin is what a small step on a GPU gains by; on a CPU, with no packed weights, it
is slower than TorchScript. Compiling takes seconds for each shape of step, so this is for who asks
for it. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_unflatten

from skipopt.runtime.torchscript import Function, Section
from skipopt.runtime.tracing import Operation, Value


def compiled(section: Section, given: Sequence[Tensor]) -> Function:
    """The section as one compiled function; `given` says for which shapes.

    Raises:
        RuntimeError: there is no compiler here, or it cannot do this.
    """
    function: Function = torch.compile(_module(section), dynamic=False, fullgraph=True)
    function(*given)  # compiled now, and not in the first step
    return function


def _module(section: Section) -> fx.GraphModule:
    graph = fx.Graph()
    values = {number: graph.placeholder(f"given{number}") for number in range(section.arguments)}
    for operation in section.operations:
        _add(graph, operation, values)
    graph.output(tuple(values[number] for number in section.returns))
    return fx.GraphModule({}, graph)


def _add(graph: fx.Graph, operation: Operation, values: dict[int, fx.Node]) -> None:
    flat: list[Any] = [
        values[x.number] if isinstance(x, Value) else x for x in operation.arguments
    ]
    args, kwargs = tree_unflatten(flat, operation.form)
    node = graph.call_function(operation.function, tuple(args), dict(kwargs))
    several = len(operation.function._schema.returns) > 1 or len(operation.results) > 1
    for place, number in enumerate(operation.results):
        if number is not None:
            values[number] = graph.call_function(getitem, (node, place)) if several else node
