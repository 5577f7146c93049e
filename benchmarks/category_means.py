"""Geometric means over categories of what `skipopt bench` measured.

    python -m benchmarks.category_means results/copies-gemma.json …

The best choice is the faster single method of each category, as if it were known beforehand; its
mean is told as a multiple of the best single method's, and so is that of `cascade`.

Then ratios of two methods on the same prompts: their geometric means over all of them, and in each
category, with 95 % bootstrap intervals over prompts; and what the fastest single method of each
text would gain. The last line is of the prompts of all files, each with the best single method of
its file.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp, log
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np
from scipy.stats import bootstrap

Speedups = Mapping[str, float]  # by category
Rates = Mapping[int, float]  # tokens per second of decoding, by prompt
PAIRS = (("suffix", "prompt-lookup"), ("cascade", "suffix"), ("cascade", "layer-skip"))


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


def read_rates(path: Path) -> tuple[dict[str, Rates], Sequence[str | None]]:
    """The rates of each method that was timed, and the category of each prompt."""
    record = json.loads(path.read_text(encoding="utf-8"))
    rates = {each["name"]: _rates(each["samples"]) for each in record["methods"]}
    return rates, record["prompts"].get("category_of", ())


def _rates(samples: Sequence[Mapping[str, Any]]) -> Rates:
    found = defaultdict(list)
    for each in samples:
        if each["timed_tokens"]:
            found[each["prompt"]].append(each["timed_tokens"] / each["decode_seconds"])
    return {prompt: geometric_mean(rates) for prompt, rates in found.items()}


def ratio(first: Rates, second: Rates, prompts: Iterable[int]) -> str:
    """The geometric mean of the ratios of these prompts, with an interval over several."""
    logs = [log(first[i] / second[i]) for i in prompts if i in first and i in second]
    if len(logs) < 2:
        return " ".join(f"{exp(each):.2f}" for each in logs) or "–"
    rng = np.random.default_rng(0)
    found = bootstrap((logs,), np.mean, method="percentile", rng=rng).confidence_interval
    return f"{exp(fmean(logs)):.2f} ({exp(found.low):.2f}–{exp(found.high):.2f})"


def paired(rates: Mapping[str, Rates], categories: Sequence[str | None]) -> Iterator[str]:
    """For each pair of methods, one line over all prompts and one for each category."""
    for name, other in _pairs(list(rates)):
        yield f"{name} / {other}: {ratio(rates[name], rates[other], rates[name])}"
        for category in dict.fromkeys(categories):
            own = [i for i, each in enumerate(categories) if each == category]
            yield f"  {category}: {ratio(rates[name], rates[other], own)}"


def _pairs(methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    for first, second in PAIRS:
        other = next((each for each in methods if each.startswith(second)), None)
        if other is not None:
            yield from ((each, other) for each in methods if each.startswith(first))


def best_single(rates: Mapping[str, Rates]) -> tuple[Rates, Rates]:
    """The rates of the best method but `cascade`, and of the best one for each text."""
    singles = [
        own
        for name, own in rates.items()
        if own and "cascade" not in name and "memory" not in name
    ]
    prompts = set.intersection(*(set(own) for own in singles))
    best = max(singles, key=lambda own: geometric_mean(own[i] for i in prompts))
    return best, {i: max(own[i] for own in singles) for i in prompts}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="results of `skipopt bench`")
    cascade: dict[int, float] = {}
    best: dict[int, float] = {}
    for path in parser.parse_args().files:
        rates, categories = read_rates(path)
        print(path, *report(read(path)), *paired(rates, categories), sep="\n  ")
        single, chosen = best_single(rates)
        print("  the best single one of each text:", ratio(chosen, single, chosen))
        union = next(own for name, own in rates.items() if name.startswith("cascade"))
        shift = len(best)
        best |= {shift + place: single[i] for place, i in enumerate(single)}
        cascade |= {shift + place: union[i] for place, i in enumerate(single) if i in union}
    print("cascade / the best single one, all files:", ratio(cascade, best, best))


if __name__ == "__main__":
    main()
