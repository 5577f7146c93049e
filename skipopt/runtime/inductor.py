"""Compiles recorded steps with `torch.compile`, one section at a time.

The layers of a decoder do the same operations with other weights, so weights are arguments and a
layer is compiled once. On a GPU small steps gain by launching fewer kernels. On a CPU inductor
does not pack weights that are arguments. Compiling takes seconds for each shape of step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.split_module import split_module

from skipopt.runtime.fx_graph import step_graph
from skipopt.runtime.tracing import Recording

Function = Callable[..., Sequence[Tensor]]
CompileSection = Callable[[fx.GraphModule, Sequence[Tensor]], Function]


def compile_section(section: fx.GraphModule, given: Sequence[Tensor]) -> Function:
    """The section as one compiled function for tensors of these shapes.

    Raises:
        RuntimeError: no compiler is installed, or it cannot compile this.
    """
    function: Function = torch.compile(section, dynamic=False, fullgraph=True)
    function(*given)  # compiles now, not in the first step
    return function


class SectionCompiler:
    """Compiles recordings, sections that are alike once.

    Attributes:
        num_compiled: sections compiled so far.
    """

    def __init__(self, compile_section: CompileSection = compile_section) -> None:
        self._compile_section = compile_section
        self._functions: dict[Any, Function] = {}

    @property
    def num_compiled(self) -> int:
        """Sections compiled so far."""
        return len(self._functions)

    def compile(self, recording: Recording, inputs: Sequence[Tensor]) -> Function:
        """What was recorded, for other inputs of the same shapes. Runs it once."""
        graph = step_graph(recording)
        split = split_module(
            graph.module,
            graph.module,
            lambda node: node.meta["section"],
            keep_original_order=True,
            tuple_return=True,
        )
        _Compiling(split, self._function).run(*inputs, *graph.constants)
        return graph.bound(split.forward)

    def _function(self, section: fx.GraphModule, given: Sequence[Tensor]) -> Function:
        key = _operations(section), tuple((x.shape, x.stride(), x.dtype) for x in given)
        if key not in self._functions:
            self._functions[key] = self._compile_section(section, given)
        return self._functions[key]


class _Compiled(torch.nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        # Not the function itself: a module would be registered as a part.
        self.forward = lambda *given: function(*given)


class _Compiling(fx.Interpreter):
    """Replaces the sections of a step by compiled ones while it runs."""

    def __init__(
        self,
        step: fx.GraphModule,
        compiled: Callable[[fx.GraphModule, Sequence[Tensor]], Function],
    ) -> None:
        super().__init__(step)
        self.extra_traceback = False  # would be part of the reason why a step is eager
        self._step = step
        self._function = compiled

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        section = self._step.get_submodule(target)
        assert isinstance(section, fx.GraphModule)
        function = self._function(section, args)
        setattr(self._step, target, _Compiled(function))
        return function(*args)


def _operations(section: fx.GraphModule) -> tuple[str, ...]:
    """Equal for sections that do the same: what each node does, nodes named by their place."""
    names: dict[fx.Node, str] = {}
    found: list[str] = []
    for node in section.graph.nodes:
        # The object itself, which another section may hold under the same name.
        held = id(getattr(section, node.target)) if node.op == "get_attr" else None
        target = "" if node.op == "placeholder" else node.target
        arguments = fx.node.map_arg((node.args, node.kwargs), lambda x: _Name(names[x]))
        found.append(f"{node.op} {target} {held} {arguments}")
        names[node] = f"%{len(names)}"
    return tuple(found)


class _Name(str):
    """Written without quotes, so that no argument that is a text equals it."""

    def __repr__(self) -> str:
        return str(self)
