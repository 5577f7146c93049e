"""How often drafted tokens are right, by the margin of the draft model's choice.

    python -m benchmarks.draft_margins NAME=MODEL … --output results/draft-margins

Greedy drafts of the calibration prompts, all weights quantized. The margin is the largest logit
less the second. What `DraftPrior` expects is taken from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import skipopt
from benchmarks.result_files import log, page_head, shown_path, write_results
from benchmarks.workloads import encode
from skipopt.decoding.loop import decode
from skipopt.decoding.request import check_request
from skipopt.draft_config import DraftConfig
from skipopt.drafting.base import RoundOutcome
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.environment import environment_record
from skipopt.models.target import Target
from skipopt.online.acceptance import MarginAcceptance, draft_prior
from skipopt.prompts import load_prompts
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions

BORDERS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 4.0, inf)
GAMMA = 12


@dataclass(frozen=True, slots=True)
class Drafted:
    """A drafted token after right ones.

    Attributes:
        margin: of the draft model.
        right: the model emitted it.
        second: the model emitted the draft model's second choice.
    """

    margin: float
    right: bool
    second: bool


class RecordingDrafter(LayerSkipDrafter):
    """Keeps what became of the tokens that it drafted."""

    def __init__(self, target: Target, config: DraftConfig) -> None:
        super().__init__(target, gamma=GAMMA, draft_config=config)
        self.names_runners_up = True
        self.seen: list[Drafted] = []

    def observe(self, outcome: RoundOutcome) -> None:
        draft = outcome.draft
        columns = (draft.tokens, draft.margins, draft.runners_up, outcome.emitted)
        for token, margin, second, emitted in zip(*columns, strict=False):
            self.seen.append(Drafted(margin, token == emitted, second == emitted))
            if token != emitted:
                return


def drafted(
    target: Target, prompts: Sequence[Sequence[int]], bits: int, tokens: int
) -> list[Drafted]:
    """The drafted tokens of all texts, up to the first wrong one of each round."""
    drafter = RecordingDrafter(target, DraftConfig.parse(f"int{bits}"))
    with target.runtime.break_even.drafting_at_once():
        for prompt in prompts:
            engine = Engine(target, len(prompt) + tokens + GAMMA + 1)
            limits = check_request(target, prompt, tokens)
            for _ in decode(engine, prompt, drafter, SamplingOptions(), limits):
                pass
    return drafter.seen


def rows(seen: Sequence[Drafted], bits: int) -> Iterator[dict[str, Any]]:
    """A row for each range of margins, and one for all."""
    prior = MarginAcceptance(draft_prior(bits))
    for low, high in (*pairwise(BORDERS), (0.0, inf)):
        inside = [each for each in seen if low <= each.margin < high]
        if inside:
            yield {
                "from": low,
                "to": high if high < inf else None,
                "tokens": len(inside),
                "right": sum(each.right for each in inside),
                "second": sum(each.second for each in inside),
                "expected": fmean(prior.rate(each.margin) for each in inside),
            }


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head("How often drafted tokens are right, by their margin", record)
    for name, by_bits in record["models"].items():
        for bits, found in by_bits.items():
            yield from ("", f"**{name}, int{bits}**", "")
            yield "| margin | tokens | right | by the prior | second choice right, of the wrong |"
            yield "|---|--:|--:|--:|--:|"
            for row in found:
                ends = f"{row['from']:g}" + (
                    " and more" if row["to"] is None else f"–{row['to']:g}"
                )
                count, right = row["tokens"], row["right"]
                shares = (f"{right / count:.3f}", f"{row['expected']:.3f}")
                cells = (ends, str(count), *shares, f"{row['second']} of {count - right}")
                yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--output", type=Path, default=Path("results/draft-margins"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    models = {}
    for each in given.models:
        name, model = each.split("=")
        target = skipopt.load(model, dtype="float32", device="cpu", on_notice=log)
        prompts = encode(target, load_prompts(model_id=target.model_id).calibration)
        models[name] = {
            bits: list(rows(drafted(target, prompts, bits, given.tokens), bits)) for bits in (8, 4)
        }
    shown = " ".join(f"{each.split('=')[0]}=MODEL" for each in given.models)
    command = f"python -m benchmarks.draft_margins {shown} --tokens {given.tokens}"
    command += f" --output {shown_path(given.output)}"
    environment = environment_record("cpu", "float32", "auto", given.threads)
    record = {"command": command, "environment": environment, "models": models}
    write_results(given.output, record, list(report(record)))


if __name__ == "__main__":
    main()
