"""Compiles the kernels in `native/` into `skipopt/kernels/libskipopt.so`.

hatchling runs this for wheels and for editable installs. In a checkout, after a change of the
sources:

    python hatch_build.py

The compiler is $CXX, or the first of c++, g++ and clang++. Without one, or where it fails,
skipopt is installed without the library, and products run on torch's own kernels.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, where hatchling need not be installed
    BuildHookInterface = object  # type: ignore[assignment,misc]

ROOT = Path(__file__).resolve().parent
LIBRARY = Path("skipopt/kernels/libskipopt.so")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-pthread", "-Wno-psabi"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
# Nothing is needed but the C library, and the C++ library inside is not seen from outside: torch
# brings another.
LINUX_LINK_FLAGS = (
    *("-static-libstdc++", "-static-libgcc", "-s"),
    *("-Wl,--exclude-libs,ALL", "-Wl,-Bsymbolic"),
)
# Flags for each instruction set that a processor is asked for when the library is loaded. Each
# includes those before it, and they are linked in this order: of a function of the C++ library
# that several have compiled, the linker keeps the first, which must run everywhere.
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "x86_64": ("-march=x86-64",),
        "avx2": ("-march=x86-64-v3",),
        "avx512": ("-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512"),
    },
    "aarch64": {
        "neon": ("-march=armv8-a",),
        "dotprod": ("-march=armv8.2-a+dotprod",),
    },
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # other names of the same
PARALLEL = 2  # compilers at a time


class BuildFailed(Exception):
    """Why there is no library."""


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    """Adds the library to wheels, which are then for one platform and any Python 3."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        try:
            build(root)
        except BuildFailed as failure:
            self.app.display_warning(warning_of(failure))
            return
        build_data["artifacts"].append(f"/{LIBRARY.as_posix()}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"


def build(root: Path = ROOT) -> bool:
    """Compile the library unless it is newer than its sources; whether that was necessary.

    Raises:
        BuildFailed: there is no compiler, or it reports an error.
    """
    library, sources = root / LIBRARY, sorted((root / "native").iterdir())
    newest = max(each.stat().st_mtime for each in (*sources, Path(__file__)))
    if library.exists() and library.stat().st_mtime > newest:
        return False
    compiler = find_compiler()
    with tempfile.TemporaryDirectory() as folder:
        commands = compile_commands(compiler, root / "native", Path(folder))
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(run_compiler, commands))
        made = Path(folder, LIBRARY.name)
        link = () if sys.platform == "darwin" else LINUX_LINK_FLAGS
        objects = [command[-1] for command in commands]
        run_compiler([*compiler, "-shared", "-pthread", *link, *objects, "-o", str(made)])
        # Moved into place in one step: a process that has loaded the old one keeps it.
        beside = library.with_suffix(f".{os.getpid()}")
        shutil.copy(made, beside)
        beside.replace(library)
    return True


def find_compiler() -> list[str]:
    """The command of a C++ compiler, with what $CXX adds to it.

    Raises:
        BuildFailed: none was found.
    """
    if sys.platform == "win32":
        raise BuildFailed("the kernels are not built on Windows")
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    names = shlex.join(chosen) if chosen else ", ".join(COMPILERS)
    raise BuildFailed(f"no C++ compiler found ({names})")


def compile_commands(compiler: list[str], sources: Path, folder: Path) -> list[list[str]]:
    """In the order of linking; the object file is the last word of each."""
    machine = platform.machine().lower()
    variants = INSTRUCTION_SETS.get(MACHINES.get(machine, machine), {"generic": ()})
    files: dict[str, tuple[Path, tuple[str, ...]]] = {"api": (sources / "api.cpp", ())}
    files.update({name: (sources / "kernels.cpp", each) for name, each in variants.items()})
    start = [*compiler, *FLAGS, "-c"]
    return [
        [*start, *flags, f"-DSKIPOPT_ISA={name}", str(source), "-o", str(folder / f"{name}.o")]
        for name, (source, flags) in files.items()
    ]


def run_compiler(command: list[str]) -> None:
    """Run one command.

    Raises:
        BuildFailed: with the first error that it prints.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no message"]
        raise BuildFailed(f"{command[0]} failed: {errors[0].strip()}")


def platform_tag() -> str:
    """Of this machine, as wheels name it."""
    from packaging.tags import platform_tags  # one of hatchling's dependencies

    return next(tag for tag in platform_tags() if "many" not in tag and "musl" not in tag)


def warning_of(failure: BuildFailed) -> str:
    return f"skipopt is built without its compiled kernels, decoding is slower: {failure}"


def main() -> int:
    try:
        print(f"{LIBRARY}: {'built' if build() else 'up to date'}")
    except BuildFailed as failure:
        print(warning_of(failure), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
