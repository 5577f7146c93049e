"""`skipopt env`: versions, hardware, and what is missing on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipopt.cli.command import command
from skipopt.cli.output import Output
from skipopt.errors import SkipoptError
from skipopt.exit_codes import ExitCode

if TYPE_CHECKING:
    from skipopt.reporting.lines import LabeledLines

REQUIRED = ("torch", "transformers", "tokenizers", "numpy", "scipy", "optuna", "pydantic", "typer")
OPTIONAL = {
    "scikit-learn": "--sampler bayes, --sampler swift and --tune-online need it",
    "scikit-optimize": "--sampler bayes needs it",
    "accelerate": "models spread over several devices, and GGUF files, need it",
    "gguf": "GGUF files need it",
}
PROBLEMS = "problems"
REINSTALL = "skipopt needs it: reinstall skipopt"
VARIABLES = (
    "HF_HUB_OFFLINE",
    "HF_HOME",
    "HF_ENDPOINT",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NO_COLOR",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is missing or broken.

    Attributes:
        what: what is wrong.
        why: what fails because of it.
    """

    what: str
    why: str


@command
def env(*, terminal: Output) -> int:
    """Show versions and hardware for bug reports, and what would fail and why."""
    facts = machine_facts()
    terminal.result(facts, facts_table(facts))
    return ExitCode.OK


def machine_facts() -> dict[str, Any]:
    """Versions, processor, GPUs and environment variables; no secrets."""
    from skipopt.environment import environment_record, package_version

    hardware, problems = hardware_facts()
    threads = hardware.get("threads")
    record = environment_record("cpu", "float32", "eager", threads or 1)
    native, native_problems = native_facts() if threads else (None, [])
    keys = ("skipopt", "commit", "dirty", "python", "platform")
    packages = {name: package_version(name) for name in (*REQUIRED, *OPTIONAL)}
    return {
        **{key: record[key] for key in keys},
        "packages": packages,
        "cpu": {"name": record["device"], "cores": os.cpu_count(), "threads": threads},
        "gpus": hardware["gpus"],
        "native_kernels": native,
        "builtin_model": has_builtin_model(),
        "variables": relevant_variables(),
        PROBLEMS: [
            asdict(p)
            for p in (
                *problems,
                *native_problems,
                *package_problems(packages),
                *missing_model(),
            )
        ],
    }


def hardware_facts() -> tuple[dict[str, Any], list[Problem]]:
    """The GPUs and number of threads that torch reports, and problems with torch."""
    try:
        import torch
    except Exception as error:  # a broken installation may raise anything
        problem = Problem(f"torch does not load: {error}", "no model can be run")
        return {"gpus": [], "threads": None}, [problem]
    gpus = []
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory
        gpus.append({"name": torch.cuda.get_device_name(index), "gib": round(memory / 2**30, 1)})
    facts = {"gpus": gpus, "threads": torch.get_num_threads()}
    if gpus or torch.backends.mps.is_available():
        return facts, []
    return facts, [Problem("no GPU that torch can use", "models run on the CPU")]


def native_facts() -> tuple[dict[str, Any] | None, list[Problem]]:
    """The instruction set of the native kernels and the bytes per second that they read.

    Without them, why they are not used.
    """
    from skipopt.kernels.native import bytes_per_second, native_kernels

    try:
        kernels = native_kernels()
    except SkipoptError as error:
        return None, [Problem(str(error), error.hint or REINSTALL)]
    if kernels is None:
        why = "models run slower on this CPU: install a C++ compiler and reinstall skipopt"
        return None, [Problem("the native kernels are not installed", why)]
    facts = {
        "instruction_set": kernels.instruction_set,
        "gb_per_second": round(bytes_per_second(kernels) / 1e9, 1),
    }
    return facts, []


def package_problems(packages: dict[str, str | None]) -> list[Problem]:
    """One problem for each package that is not installed."""
    missing = [name for name, version in packages.items() if version is None]
    return [Problem(f"{name} is not installed", OPTIONAL.get(name, REINSTALL)) for name in missing]


def has_builtin_model() -> bool:
    """Whether the built-in model is installed; source checkouts may lack it."""
    from skipopt.models.loading import builtin_folder

    return (Path(builtin_folder()) / "config.json").is_file()


def missing_model() -> list[Problem]:
    """A problem if the built-in model is not installed."""
    if has_builtin_model():
        return []
    return [Problem("the built-in model is not installed", "commands need a MODEL argument")]


def relevant_variables() -> dict[str, str]:
    """The environment variables that are set and that affect skipopt."""
    names = [*VARIABLES, *sorted(name for name in os.environ if name.startswith("SKIPOPT_"))]
    return {name: _without_password(os.environ[name]) for name in names if name in os.environ}


def _without_password(value: str) -> str:
    """The value; of a URL without user and password."""
    return re.sub(r"(?<=://)[^/\s]*@", "", value)


def facts_table(facts: dict[str, Any]) -> LabeledLines:
    """The facts for the terminal."""
    from skipopt.reporting.lines import labeled

    lines = [
        (name.replace("_", " "), _words(value))
        for name, value in facts.items()
        if name != PROBLEMS
    ]
    lines += [("missing", f"{each['what']}: {each['why']}") for each in facts[PROBLEMS]]
    return labeled(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} {_words(v)}" for key, v in value.items()) or "none set"
    if isinstance(value, list):
        return "\n".join(_words(v).replace("\n", ", ") for v in value) or "none"
    if value is None:
        return "–"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
