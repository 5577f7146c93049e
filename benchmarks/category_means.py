"""Geometric means over categories of what `skipopt bench` measured.

    python -m benchmarks.category_means results/copies-gemma.json

The best choice is the faster single method of each category, as if it were known beforehand; its
mean is told as a multiple of the best single method's, and so is that of `cascade`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import geometric_mean

Speedups = Mapping[str, float]  # by category


def read(path: Path) -> dict[str, Speedups]:
    """The median speedups of each method that has them."""
    methods = json.loads(path.read_text(encoding="utf-8"))["methods"]
    return {
        each["name"]: {name: found["median"] for name, found in categories.items()}
        for each in methods
        if (categories := each.get("speedup_by_category"))
    }


def report(methods: Mapping[str, Speedups]) -> list[str]:
    """One line for each method without a memory, and one for the choice by category."""
    own = {name: each for name, each in methods.items() if "memory" not in name}
    means = {name: geometric_mean(each.values()) for name, each in own.items()}
    singles = [name for name in own if not name.startswith("cascade")]
    best = max(means[name] for name in singles)
    chosen = [max(own[name][key] for name in singles) for key in own[singles[0]]]
    means["the best single one of each category"] = geometric_mean(chosen)
    return [f"{name}: {mean:.2f}, {mean / best:.3f} of the best" for name, mean in means.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="results of `skipopt bench`")
    for path in parser.parse_args().files:
        print(path, *report(read(path)), sep="\n  ")


if __name__ == "__main__":
    main()
