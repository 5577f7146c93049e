"""Trains, searches and measures on a GPU, in one call of at most ten minutes.

    python -m benchmarks.gpu --output results/gpu
    python -m benchmarks.gpu --parts shapes --seconds 300 --output results/gpu
    python -m benchmarks.gpu --toy --seconds 20 --output /tmp/gpu     # on a CPU: does it run?

Parts, in this order, each with a share of the time:

- train: a Llama of 0.3 billion parameters on the Python source of this machine, with sublayer
  dropout, into `--work`; or `--checkpoint` gives a model;
- search: a profile for it by `skipopt.search`, on prompts from the training files;
- methods: all methods on held-out prompts, paired and interleaved, against plain decoding under
  the fastest runtime, with a check that the text is the same;
- shapes: the shapes of Llama-3.1-8B and Qwen3-8B with random weights: speed against the copy
  bandwidth of the device, draft costs against bytes kept, verification of 1 … 16 tokens, the
  host's share.

Results are saved after each step in `gpu.json` and `gpu.md`; a later call with other parts adds
to them. The page says which part lacks a package or a runtime.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from benchmarks.gpu_parts.record import Record
    from benchmarks.gpu_parts.session import Session


class Part(NamedTuple):
    """`weight`: share of the time; `needs`: packages that must be installed besides torch."""

    place: str
    weight: float
    needs: tuple[str, ...]


MODELS = ("transformers", "tokenizers", "safetensors", "numpy", "scipy")
PROFILES = (*MODELS, "pydantic", "yaml")
PARTS = {
    "train": Part("benchmarks.gpu_parts.training:train", 0.3, MODELS),
    "search": Part("benchmarks.gpu_parts.searching:search", 0.15, PROFILES),
    "methods": Part("benchmarks.gpu_parts.methods:methods", 0.35, PROFILES),
    "shapes": Part("benchmarks.gpu_parts.shapes:shapes", 0.2, MODELS),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 1 if a part failed or could not run, 2 for wrong arguments."""
    given = parse(arguments)
    if find_spec("torch") is None:
        return complain("torch is not installed", "pip install torch")
    from skipopt.errors import SkipoptError

    try:
        device = choose_device(given.toy)
        record = new_record(given, device, arguments)
        session = new_session(given, device)
        return run_parts(session, record, given.parts, given.seconds)
    except SkipoptError as error:
        return complain(str(error), error.hint)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = list(PARTS)
    parser.add_argument("--parts", type=parts_of, default=every, help=f"of {','.join(every)}")
    parser.add_argument("--seconds", type=float, default=540.0, help="for all parts together")
    parser.add_argument("--checkpoint", type=Path, help="a model folder, instead of training")
    parser.add_argument("--work", type=Path, default=Path("gpu-work"), help="keeps the model")
    parser.add_argument("--output", type=Path, default=Path("results/gpu"), help="a folder")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, also without a GPU")
    given = parser.parse_args(arguments)
    if given.seconds <= 0:
        parser.error(f"--seconds must be above 0, not {given.seconds:g}")
    if given.checkpoint is not None and not given.checkpoint.is_dir():
        parser.error(f"--checkpoint: there is no folder {str(given.checkpoint)!r}")
    return given


def parts_of(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"unknown part {name!r}: use {','.join(PARTS)}")
    return [name for name in PARTS if name in names]


def choose_device(toy: bool) -> torch.device:
    """The GPU; a toy run may use the CPU.

    Raises:
        UsageError: there is no GPU.
    """
    import torch

    from skipopt.errors import UsageError

    if torch.cuda.is_available():
        return torch.device("cuda")
    if toy:
        return torch.device("cpu")
    raise UsageError("there is no CUDA device here", hint="--toy runs tiny sizes on a CPU")


def new_record(
    given: argparse.Namespace, device: torch.device, arguments: Sequence[str] | None
) -> Record:
    import torch

    from benchmarks.gpu_parts.devices import device_facts
    from benchmarks.gpu_parts.record import Record
    from skipopt.environment import environment_record

    given.output.mkdir(parents=True, exist_ok=True)
    environment = environment_record(
        str(device), "bfloat16", "as each row says", torch.get_num_threads()
    )
    environment |= {**device_facts(device), "toy": given.toy}
    words = sys.argv[1:] if arguments is None else arguments
    return Record(
        given.output, environment, shlex.join(["python", "-m", "benchmarks.gpu", *words])
    )


def new_session(given: argparse.Namespace, device: torch.device) -> Session:
    from benchmarks.gpu_parts.session import FULL, TOY, Session

    given.work.mkdir(parents=True, exist_ok=True)
    sizes = TOY if given.toy else FULL
    return Session(device, sizes, given.work, given.checkpoint, say=tell)


def run_parts(session: Session, record: Record, names: Sequence[str], seconds: float) -> int:
    """Run each part; time that one does not use goes to the others."""
    from benchmarks.gpu_parts.session import share

    end = time.monotonic() + seconds
    weights = {name: PARTS[name].weight for name in names}
    done = []
    for name in names:
        now = time.monotonic()
        session.until = now + share(weights, name, end - now)
        tell(f"{name}: {session.left():.0f} s")
        done.append(run_part(session, record, name))
    return 0 if all(done) else 1


def run_part(session: Session, record: Record, name: str) -> bool:
    """Save whatever the part yields; False if it failed or could not run."""
    from benchmarks.gpu_parts.devices import free_memory
    from benchmarks.gpu_parts.session import NotRun
    from benchmarks.gpu_parts.targets import in_one_line

    part = PARTS[name]
    if missing := [package for package in part.needs if find_spec(package) is None]:
        record.put(name, "not run", reason=f"not installed: {', '.join(missing)}")
        tell(f"{name} cannot run; not installed: {', '.join(missing)}")
        return False
    free_memory(session.device)
    began, found = time.monotonic(), None
    module, function = part.place.split(":")
    try:
        for found in getattr(import_module(module), function)(session):
            record.put(name, "running", time.monotonic() - began, found)
    except NotRun as why:
        if name not in record.parts:  # results of an earlier call stay valid
            record.put(name, "not run", reason=str(why))
        return True
    except Exception as error:
        traceback.print_exc()
        took = time.monotonic() - began
        record.put(name, "failed", took, found, reason=in_one_line(error))
        return False
    record.put(name, "done", time.monotonic() - began, found)
    return True


def complain(what: str, hint: str | None) -> int:
    tell(f"gpu.py: {what}" + (f"\nhint: {hint}" if hint else ""))
    return 2


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
