"""How captured steps can run on a CPU: seconds to capture a step, and seconds of a step.

    python -m benchmarks.backends --model builtin --output results/backends

The results of further models are added to the same files.

Steps of one engine, recorded once for each backend and number of rows, run interleaved in an order
that rotates. All but `eager` and `native` run the same recording with the same prepacked weights;
inductor and AOTInductor the model's own weights, as arguments, without freezing. The sections of a
step that are alike (its layers) are compiled once, except for the fx graph, which is not compiled.
"""

# Without `from __future__ import annotations`: torch.jit.script cannot read string annotations.

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, fx

import skipopt
from benchmarks.result_files import environment_lines, write_results
from benchmarks.runtime_speed import random_llama
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.timing import run_order
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.fx_graph import program
from skipopt.runtime.inductor import CompileSection, Function, SectionCompiler, compile_section
from skipopt.runtime.linear_fusion import LinearFuser
from skipopt.runtime.tracing import record
from skipopt.stats import ratio_interval

EAGER, NATIVE = "eager", "native"
CONTEXT = 150
WARM_UP_RUNS = 2  # in which TorchScript specializes on shapes
Call = Callable[..., Sequence[Tensor]]
Backend = Callable[[Call, Sequence[Tensor]], Call]


# --- backends ---------------------------------------------------------------------------------


def torchscript(section: fx.GraphModule, given: Sequence[Tensor]) -> Function:
    for node in section.graph.nodes:
        if node.target is torch.ops.mkldnn._linear_pointwise.default:
            node.target = _scripted_product
    section.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: Function = torch.jit.trace(section, tuple(given), check_trace=False)
    for _ in range(WARM_UP_RUNS):
        traced(*given)
    return traced


def packed_product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return product


def _scripted_product(input: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> Any:
    """By scripted code, because the tracer cannot record an empty list."""
    return torch.jit.script(packed_product)(input, weight, bias)


def aot_inductor(section: fx.GraphModule, given: Sequence[Tensor]) -> Function:
    with TemporaryDirectory() as folder, torch.no_grad():
        # Tensors of inference mode cannot be exported.
        example = tuple(torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) for x in given)
        for made, x in zip(example, given, strict=True):
            made.copy_(x)
        exported = torch.export.export(section, example, strict=False)
        path = Path(folder) / "section.pt2"
        file = torch._inductor.aoti_compile_and_package(exported, package_path=str(path))
        loaded: Function = torch._inductor.aoti_load_package(file)
    return loaded


def by_section(compile: CompileSection, target: Target, fused: LinearFuser | None) -> Backend:
    compiler = SectionCompiler(compile)
    blocks = [layer.block.module for layer in target.layers]

    def backend(call: Call, given: Sequence[Tensor]) -> Call:
        recording, _ = record(call, given, blocks)
        return compiler.compile(fused.fuse(recording) if fused else recording, given)

    return backend


def fx_graph(fused: LinearFuser | None) -> Backend:
    def backend(call: Call, given: Sequence[Tensor]) -> Call:
        recording, _ = record(call, given)
        return program(fused.fuse(recording) if fused else recording)

    return backend


# --- measuring --------------------------------------------------------------------------------


class Steps:
    """Steps of one model over a cache that holds `CONTEXT` tokens."""

    def __init__(self, model: Any, runtime: str) -> None:
        self.target = skipopt.load(model, device="cpu", runtime=runtime)
        self._engine = Engine(self.target, CONTEXT + 64)
        self._engine.prefill([5 + i % 50 for i in range(CONTEXT)])

    def call(self, rows: int) -> None:
        """One step of the engine, as in decoding."""
        self._engine.step(list(range(7, 7 + rows)))
        self._engine.rewind(CONTEXT)

    def captured_with(self, backend: Backend, rows: int) -> tuple[float, Callable[[], None]]:
        """Seconds of capturing the step with a backend, and the step."""
        steps = self._engine.step_cache
        assert steps is not None
        steps._replays.clear()
        steps._program = backend  # type: ignore[method-assign, assignment]
        pool = self.target.runtime.step_caches
        before = pool.capture_seconds
        self.call(rows)
        if pool.unsupported_reason:
            raise SystemExit(f"cannot be captured: {pool.unsupported_reason}")
        replays = dict(steps._replays)

        def step() -> None:
            steps._replays = replays
            self.call(rows)

        return pool.capture_seconds - before, step


def backends(captured: Steps, plain: Steps, chosen: Sequence[str]) -> dict[str, Any]:
    """For each name: the steps that it runs, and the backend."""
    fused = LinearFuser(captured.target.runtime.kernels.unpacked_weights)
    own = plain.target
    found = {
        "fx graph": (captured, fx_graph(fused)),
        "fx graph unfused": (captured, fx_graph(None)),
        "TorchScript": (captured, by_section(torchscript, captured.target, fused)),
        "inductor": (plain, by_section(compile_section, own, None)),
        "AOTInductor": (plain, by_section(aot_inductor, own, None)),
    }
    return {name: found[name] for name in found if name in chosen}


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The record of one model."""
    model: Any = name
    if name == "random":
        model = (random_llama(16, 1024), None)
    captured, plain = (Steps(model, runtime) for runtime in ("captured", "inductor"))
    eager, native = Steps(model, EAGER), Steps(model, NATIVE)
    chosen = backends(captured, plain, given.backends.split(","))
    rows_of = [int(rows) for rows in given.rows.split(",")]
    found: dict[str, Any] = {"environment": environment_of(captured.target), "rows": {}}
    with native.target.runtime.capture_immediately():
        for rows in rows_of:
            steps: dict[str, Callable[[], None]] = {
                EAGER: lambda rows=rows: eager.call(rows),  # type: ignore[misc]
                NATIVE: lambda rows=rows: native.call(rows),  # type: ignore[misc]
            }
            captures = {NATIVE: _first(native, rows)}
            for label, (own, backend) in chosen.items():
                captures[label], steps[label] = own.captured_with(backend, rows)
            found["rows"][rows] = table(interleaved(steps, given.repeats), captures)
    return found


def _first(native: Steps, rows: int) -> float:
    pool = native.target.runtime.step_caches
    before = pool.capture_seconds
    native.call(rows)
    return pool.capture_seconds - before


def interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    names = list(steps)
    found: dict[str, list[float]] = {name: [] for name in names}
    for step in steps.values():
        step()
    for repeat in range(repeats):
        for i in run_order(len(names), 0, repeat):
            began = time.perf_counter()
            steps[names[i]]()
            found[names[i]].append(time.perf_counter() - began)
    return found


def table(seconds: dict[str, list[float]], captures: dict[str, float]) -> dict[str, Any]:
    """For each backend: median seconds, how many times as fast as eager, seconds to capture."""
    base = seconds[EAGER]
    return {
        name: {
            "seconds": median(each),
            "vs_eager": ratio_interval(
                [[math.log(b / a)] for a, b in zip(each, base, strict=True)]
            ).to_json(),
            "capture": captures.get(name),
        }
        for name, each in seconds.items()
    }


def report(models: dict[str, Any]) -> list[str]:
    found = ["# Backends of captured steps on a CPU"]
    for name, model in models.items():
        found += ["", f"## {name}", "", f"`{model['command']}`", ""]
        found += environment_lines(model["environment"])
        for rows, measured in model["rows"].items():
            found += ["", f"Steps with {rows} rows, over {CONTEXT} tokens:", ""]
            found += ["| backend | ms | × eager | capture, s |", "|---|--:|--:|--:|"]
            for label, row in measured.items():
                ratio = "{median:.2f} ({low:.2f}–{high:.2f})".format(**row["vs_eager"])
                capture = "" if row["capture"] is None else f"{row['capture']:.2f}"
                found.append(f"| {label} | {1e3 * row['seconds']:.2f} | {ratio} | {capture} |")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="builtin", help="builtin, random or a folder")
    parser.add_argument("--rows", default="1,4,8")
    parser.add_argument(
        "--backends", default="fx graph,fx graph unfused,TorchScript,inductor,AOTInductor"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=Path, default=Path("results/backends"))
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    name = "MODEL" if Path(given.model).is_dir() else given.model
    command = f"--model {name} --rows {given.rows} --backends '{given.backends}'"
    measured = {
        "command": f"python -m benchmarks.backends {command} --threads {given.threads} "
        f"--repeats {given.repeats}",
        **measure(given.model, given),
    }
    file = given.output.with_name(f"{given.output.name}.json")
    models = json.loads(file.read_text()) if file.exists() else {}
    models[Path(given.model).name] = measured
    write_results(given.output, models, report(models))


if __name__ == "__main__":
    main()
