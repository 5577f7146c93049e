"""Whether a search says "off" where speculation does not pay, and how soon.

    python -m benchmarks.speculation_off --threads 2 > results/speculation-off.md

Two models of the built-in one's shape have random weights: with small weights greedy text repeats
one token; with large weights it is noise that no draft predicts. The third case is the built-in
model with only a few sublayers that may be skipped, so that a draft costs more than it gains;
copies may still pay there, and then the search selects it. The last is the built-in model
where no quantized kernel is fast enough: masks may still pay.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import skipopt
from benchmarks.result_files import environment_lines
from skipopt.kernels import quantized_linear
from skipopt.measurement.provenance import environment_of
from skipopt.models.loading import builtin_folder
from skipopt.models.target import Target
from skipopt.profile import Profile

SCALES = (0.02, 0.2)  # standard deviations of random weights
FIRST_KEPT_LAYER = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    builtin = skipopt.load("builtin")
    print('# When a search says "off"\n')
    print(f"`python -m benchmarks.speculation_off --threads {given.threads}`\n")
    print(*environment_lines(environment_of(builtin)), sep="\n")
    print("\n| model | seconds | trials | enabled | method | reason |\n|---|---|---|---|---|---|")
    for name, search in searches(builtin):
        began = time.perf_counter()
        profile = search()
        print_row(name, profile, time.perf_counter() - began)


def searches(builtin: Target) -> Iterator[tuple[str, Callable[[], Profile]]]:
    """Names and searches of all cases."""
    for scale in SCALES:
        target = random_model(builtin, scale)
        yield f"random weights, standard deviation {scale}", partial(skipopt.search, target)
    kept = list(range(FIRST_KEPT_LAYER, builtin.depth))
    yield (
        f"built-in, layers {kept[0]} to {kept[-1]} kept",
        partial(skipopt.search, builtin, keep_layers=kept),
    )

    yield "built-in, no quantized kernel is fast", search_without_quantized_kernels


def search_without_quantized_kernels() -> Profile:
    with patch.object(quantized_linear, "MIN_GAIN", 0.0):
        return skipopt.search(skipopt.load("builtin"))


def random_model(builtin: Target, scale: float) -> Target:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(builtin_folder())
    config.initializer_range = scale
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return skipopt.load((model, builtin.tokenizer))


def print_row(name: str, profile: Profile, seconds: float) -> None:
    trials = profile.search.trials if profile.search else 0
    print(
        f"| {name} | {seconds:.0f} | {trials} | {profile.enabled} | {profile.drafting.method} "
        f"| {profile.reason or '–'} |"
    )


if __name__ == "__main__":
    main()
