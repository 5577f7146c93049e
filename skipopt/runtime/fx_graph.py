"""Recorded steps as fx graphs, which run as the Python code that fx generates.

Starting an operator takes longer than computing it where few rows are run, and torch's Python
functions start faster than the operators of the same name; so the graph calls those where it can.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import graph_module

from skipopt.runtime.tracing import Operation, Recording, Value

_ATEN = torch.ops.aten
# They take the arguments of the operator's schema.
PYTHON_FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    _ATEN.add.Tensor: torch.add,
    _ATEN.cat.default: torch.cat,
    _ATEN.expand.default: Tensor.expand,
    _ATEN.index_copy_.default: Tensor.index_copy_,
    _ATEN.linear.default: torch.nn.functional.linear,
    _ATEN.matmul.default: torch.matmul,
    _ATEN.mean.dim: torch.mean,
    _ATEN.mul.Scalar: torch.mul,
    _ATEN.mul.Tensor: torch.mul,
    _ATEN.neg.default: torch.neg,
    _ATEN.pow.Tensor_Scalar: torch.pow,
    _ATEN.reshape.default: torch.reshape,
    _ATEN.rsqrt.default: torch.rsqrt,
    _ATEN.split_with_sizes.default: torch.split_with_sizes,
    _ATEN.sub.Tensor: torch.sub,
    _ATEN.tanh.default: torch.tanh,
    _ATEN.transpose.int: torch.transpose,
    _ATEN.unsqueeze.default: torch.unsqueeze,
    _ATEN.view.default: Tensor.view,
}


@dataclass(frozen=True, slots=True, eq=False)
class StepGraph:
    """A recorded step. The graph's inputs are those of the step, then the constants.

    Attributes:
        module: each node's `meta` holds the `section` that it belongs to, and its `sizes`.
    """

    module: fx.GraphModule
    constants: tuple[Tensor, ...]

    def bound(self, function: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
        """A function like the graph, with its constants given."""
        constants = self.constants
        return lambda *inputs: function(*inputs, *constants)


def step_graph(recording: Recording) -> StepGraph:
    """The recording as a graph, without operations that return their argument as it is."""
    builder = _Builder(recording)
    for section, operations in enumerate(recording.sections):
        for operation in operations:
            if not _returns_argument(operation):
                builder.add(operation, section)
    return StepGraph(builder.finish(), tuple(recording.constants.values()))


def program(recording: Recording) -> Callable[..., Sequence[Tensor]]:
    """What was recorded, for other inputs of the same shapes."""
    graph = step_graph(recording)
    _forget_source(graph.module)
    for node in graph.module.graph.nodes:
        _call_python_function(node)
    graph.module.recompile()
    _forget_source(graph.module)
    return graph.bound(graph.module.forward)


def _forget_source(module: fx.GraphModule) -> None:
    """Drop the Python source of a graph, which fx keeps for tracebacks as long as it runs."""
    forward: Any = module.forward
    name = forward.__code__.co_filename
    linecache.cache.pop(name, None)
    kept: dict[str, str] = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
    kept.pop(name, None)


class _Builder:
    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._root = torch.nn.Module()
        self._graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        for number in (*recording.inputs, *recording.constants):
            name = f"given_{number}" if number >= 0 else f"fused_{-number}"
            self._nodes[number] = self._graph.placeholder(name)

    def add(self, operation: Operation, section: int) -> None:
        args, kwargs = operation.with_arguments(self._argument)
        node = self._graph.call_function(operation.function, args, kwargs)
        node.meta["section"] = section
        returns = operation.function._schema.returns
        several = len(operation.results) > 1 or len(returns) > 1 or "[]" in str(returns[0].type)
        for index, number in enumerate(operation.results):
            # The result of an operation in place is its argument, which has a node.
            if number is not None and number not in self._nodes:
                self._nodes[number] = self._item(node, index) if several else node
                if number in self._recording.layouts:
                    self._nodes[number].meta["sizes"] = self._recording.layouts[number][0]

    def finish(self) -> fx.GraphModule:
        self._graph.output(tuple(self._nodes[number] for number in self._recording.outputs))
        return fx.GraphModule(self._root, self._graph)

    def _argument(self, x: Any) -> Any:
        """A node, a value that generated code can hold, or an attribute of the module."""
        if isinstance(x, Value):
            return self._nodes[x.number]
        if not isinstance(x, torch.ScriptObject):
            return x
        name = f"object_{id(x)}"  # packed weights of a quantized product
        setattr(self._root, name, x)
        return self._graph.get_attr(name)

    def _item(self, node: fx.Node, index: int) -> fx.Node:
        item = self._graph.call_function(getitem, (node, index))
        item.meta["section"] = node.meta["section"]
        return item


def _returns_argument(operation: Operation) -> bool:
    """Whether it does nothing, such as `to` with the type that a tensor has."""
    if operation.function._schema.is_mutable or len(operation.results) != 1:
        return False
    return operation.results[0] in operation.values


def _call_python_function(node: fx.Node) -> None:
    if node.target is _ATEN.slice.Tensor and len(node.args) == 4 and "sizes" in node.meta:
        tensor, dim, start, _ = node.args
        if isinstance(dim, int) and isinstance(start, int) and start >= 0:
            node.target = torch.narrow
            node.args = (tensor, dim, start, node.meta["sizes"][dim])
    elif node.op == "call_function":
        node.target = PYTHON_FUNCTIONS.get(node.target, node.target)
