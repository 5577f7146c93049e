"""A memory of earlier texts: plain continuations of the calibration prompts, for `bench --memory`.

python -m benchmarks.remember_texts MODEL --output texts.memory
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import skipopt
from benchmarks.result_files import log
from benchmarks.workloads import continuation, encode
from skipopt.draft_memory.memory import DraftMemory
from skipopt.prompts import load_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy texts")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model, on_notice=log)
    memory = DraftMemory()
    memory.check_target(target)
    for prompt in encode(target, load_prompts(model_id=target.model_id).calibration):
        new = continuation(target, prompt, given.tokens, given.temperature)
        memory.add([*prompt, *new])
    memory.save(given.output)
    log(f"{memory} in {given.output}")


if __name__ == "__main__":
    main()
