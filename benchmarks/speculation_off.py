"""Does a search say "off" where speculation does not pay, and how soon?

    python -m benchmarks.speculation_off --threads 2 > results/speculation-off.md

Models of the built-in one's shape with random weights: small ones, whose greedy text repeats one
token, and large ones, whose text is noise that no draft foresees. And the built-in model itself
when nothing but a few sublayers may be skipped, so that a draft costs more than it gives; copying
from the context may still pay there, and then that is what the search says.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import skipopt
from benchmarks.result_files import environment_lines
from skipopt.bench.provenance import environment_of
from skipopt.models.loading import builtin_folder
from skipopt.models.target import Target
from skipopt.profile import Profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
        found = search()
        took = time.perf_counter() - began
        trials = found.search.trials if found.search else 0
        print(
            f"| {name} | {took:.0f} | {trials} | {found.enabled} | {found.drafting.method} "
            f"| {found.reason or '–'} |"
        )


def searches(builtin: Target) -> Iterator[tuple[str, Callable[[], Profile]]]:
    for scale in (0.02, 0.2):
        target = random_model(builtin, scale)
        yield f"random weights, standard deviation {scale}", lambda t=target: skipopt.search(t)
    most = list(range(3, builtin.depth))
    yield "built-in, layers 3 to 23 kept", lambda: skipopt.search(builtin, keep_layers=most)


def random_model(builtin: Target, scale: float) -> Target:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(builtin_folder())
    config.initializer_range = scale
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return skipopt.load((model, builtin.tokenizer))


if __name__ == "__main__":
    main()
