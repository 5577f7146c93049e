"""Drafts that choose from part of the vocabulary: step time, acceptance and speed of texts.

    python -m benchmarks.draft_vocabulary MODEL --name NAME --output results/draft-vocabulary

int8 drafts from all tokens are compared with int8 drafts from the N most frequent ones. Each
vocabulary is made from the built-in calibration prompts and the model's answers to them, as a
search makes it; held-out prompts are decoded. Every method decodes every prompt once in each
repeat, in an order that rotates. The results of further models are added to the same files.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import skipopt
from benchmarks.result_files import environment_lines, write_results
from benchmarks.stock_speed import draft_step, interleaved
from skipopt.decoding.api import generate
from skipopt.detokenizer import encode_prompts
from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import SkipoptRunner
from skipopt.measurement.timing import Decoding, device_clock, run_order
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.prompts import load_prompts
from skipopt.rounds import Statistics
from skipopt.runtime.draft_mode import draftable_tokens, with_vocabulary
from skipopt.runtime.engine import Engine
from skipopt.stats import ratio_interval

SIZES = (8192, 16384, 32768, 65536)
PLAIN, INT8 = "plain", "int8"


@dataclass(frozen=True, slots=True)
class Method:
    """A way to decode: plainly without a draft config, else with drafts under the empty mask."""

    name: str
    config: DraftConfig | None = None


def methods(target: Target, texts: Sequence[Sequence[int]]) -> list[Method]:
    """Plain decoding, int8 drafts, and int8 drafts with each size of vocabulary that fits."""
    int8 = DraftConfig(weight_bits=8)
    sizes = [size for size in SIZES if size < draftable_tokens(target)]
    made = [with_vocabulary(target, replace(int8, vocab_size=size), texts) for size in sizes]
    return [Method(PLAIN), Method(INT8, int8), *(Method(str(c), c) for c in made)]


def answers(target: Target, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """The prompts with what the model says to them; int8 drafts change no text and save time."""
    method = "layer-skip:gamma=4:quant=int8"
    return [
        [*ids, *(t.id for t in generate(target, ids, method=method, max_new_tokens=tokens))]
        for ids in prompts
    ]


def runner_of(target: Target, method: Method, gamma: int) -> SkipoptRunner:
    """What decodes with a method."""
    if method.config is None:
        return SkipoptRunner(target, parse_method(PLAIN))
    mask = SkipMask.empty(target.depth)
    profile = Profile.build(target, mask, gamma=gamma, tau=0.0, draft_config=method.config)
    return SkipoptRunner(target, parse_method("layer-skip"), profile)


def step_seconds(
    target: Target, tried: Sequence[Method], context: int, repeats: int
) -> dict[str, float]:
    """Median seconds of a plain step and of a draft step of each method, interleaved."""
    engine = Engine(target, context + 64)
    engine.prefill([5 + i % 50 for i in range(context)])
    mask = SkipMask.empty(target.depth)
    steps: dict[str, Callable[[], Any]] = {
        method.name: partial(engine.greedy_step, [7])
        if method.config is None
        else draft_step(engine, mask, method.config)
        for method in tried
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    with target.runtime.capture_immediately():
        for name, seconds in interleaved(engine, steps, context, repeats):
            found[name].append(seconds)
    return {name: median(each) for name, each in found.items()}


def decode_all(
    runners: Sequence[SkipoptRunner],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    repeats: int,
) -> list[list[list[Decoding]]]:
    """Texts by runner, prompt and repeat. One text of each runner warms up."""
    clock = device_clock(runners[0].target.device)
    found: list[list[list[Decoding]]] = [[[] for _ in prompts] for _ in runners]
    for runner in runners:
        runner.decode(prompts[0], tokens, clock)
    for repeat in range(repeats):
        for number, ids in enumerate(prompts):
            for i in run_order(len(runners), number, repeat):
                found[i][number].append(runners[i].decode(ids, tokens, clock))
    return found


COLUMNS = (
    "draft", "step, ms", "in plain steps", "tokens in the vocabulary", "accepted",
    "tokens a target forward", "× plain", "× int8", "texts of plain decoding",
)  # fmt: skip


def times_as_fast(
    texts: Sequence[Sequence[Decoding]], others: Sequence[Sequence[Decoding]]
) -> dict[str, float]:
    """The ratio of tokens per second to that of another method, over prompts."""
    logs = [
        [
            math.log(b.seconds_per_token / a.seconds_per_token)
            for a, b in zip(one, two, strict=True)
        ]
        for one, two in zip(texts, others, strict=True)
    ]
    return ratio_interval(logs).to_json()


def row(
    texts: Sequence[Sequence[Decoding]],
    plain: Sequence[Sequence[Decoding]],
    int8: Sequence[Sequence[Decoding]],
) -> dict[str, Any]:
    """What the table says of a method."""
    statistics = Statistics.of([each for one in texts for each in one[0].rounds])
    return {
        "vs_plain": times_as_fast(texts, plain),
        "vs_int8": times_as_fast(texts, int8),
        "tokens_per_second": 1 / median(each.seconds_per_token for one in texts for each in one),
        "acceptance_rate": statistics.acceptance_rate,
        "mean_acceptance_length": statistics.mean_acceptance_length,
        "same_texts": [[each.tokens for each in one] for one in texts]
        == [[each.tokens for each in one] for one in plain],
    }


def coverage(config: DraftConfig | None, texts: Sequence[Sequence[Decoding]]) -> float | None:
    """Share of the texts' tokens that are in the vocabulary; None without one."""
    if config is None or config.vocabulary is None:
        return None
    ids = set(config.vocabulary.ids.tolist())
    tokens = [token for one in texts for token in one[0].tokens]
    return sum(token in ids for token in tokens) / len(tokens)


def report(models: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield "# Drafts that choose from part of the vocabulary"
    for name, record in models.items():
        yield from ["", f"## {name}", "", f"`{record['command']}`", ""]
        yield from environment_lines(record["environment"])
        yield (
            f"- model: {record['model_tokens']} tokens; the output projection is "
            f"{record['head_share']:.0%} of the weights that a step reads"
        )
        yield (
            f"- texts: {record['tokens']} tokens (an end of text is passed over) after each of "
            f"{record['prompts']} held-out general prompts, in the chat template if the model has "
            f"one, greedy; repeats: {record['repeats']}"
        )
        yield (
            f"- drafts: no skipped sublayer, γ = {record['gamma']}, τ = 0; vocabularies from "
            f"{record['calibration_tokens']} tokens of {record['calibration_prompts']} "
            "calibration prompts and the model's answers"
        )
        yield from ["", "| " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * 7 + "|---|"]
        plain = record["methods"][PLAIN]["step"]
        for method, found in record["methods"].items():
            cells = [method, f"{found['step'] * 1e3:.2f}", f"{found['step'] / plain:.2f}"]
            cells += [_share(found["coverage"]), _share(found["acceptance_rate"])]
            cells += [f"{found['mean_acceptance_length']:.2f}"]
            cells += [_ratio(found["vs_plain"]), _ratio(found["vs_int8"])]
            cells += ["all" if found["same_texts"] else "not all"]
            yield "| " + " | ".join(cells) + " |"


def _ratio(interval: Mapping[str, float]) -> str:
    return "{median:.2f} ({low:.2f}–{high:.2f})".format(**interval)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def head_share(target: Target) -> float:
    """Bytes of the output projection, as a share of the weights that a plain step reads."""
    head: Tensor = target.model.get_output_embeddings().weight
    embedding: Tensor = target.model.get_input_embeddings().weight
    apart = 0 if embedding is head else embedding.nbytes
    return head.nbytes / (target.memory.weights - apart)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--name", help="of the model on the page; by default MODEL")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--calibration-prompts", type=int, default=24)
    parser.add_argument("--calibration-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--gamma", type=int, default=4)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that the page says of a model."""
    target = skipopt.load(given.model, device="cpu", on_notice=print)
    target = replace(target, eos_ids=frozenset())  # all decode the same number of tokens
    prompts = load_prompts(model_id=given.model)
    asked = encode_prompts(target.tokenizer, prompts.calibration[: given.calibration_prompts])
    known = answers(target, asked, given.calibration_tokens)
    tried = methods(target, known)
    steps = step_seconds(target, tried, 150, 8)
    held_out = encode_prompts(target.tokenizer, prompts.held_out[: given.prompts])
    runners = [runner_of(target, method, given.gamma) for method in tried]
    texts = decode_all(runners, held_out, given.tokens, given.repeats)
    return {
        "environment": environment_of(target),
        "model_tokens": draftable_tokens(target),
        "head_share": head_share(target),
        "prompts": len(held_out),
        "calibration_prompts": len(asked),
        "calibration_tokens": sum(map(len, known)),
        "tokens": given.tokens,
        "repeats": given.repeats,
        "gamma": given.gamma,
        "methods": {
            method.name: {
                "step": steps[method.name],
                "coverage": coverage(method.config, found),
                **row(found, *texts[:2]),
            }
            for method, found in zip(tried, texts, strict=True)
        },
    }


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    name = given.name or given.model
    options = f"--name {name} --threads {given.threads} --prompts {given.prompts}"
    options += f" --tokens {given.tokens} --calibration-prompts {given.calibration_prompts}"
    options += f" --calibration-tokens {given.calibration_tokens} --repeats {given.repeats}"
    options += f" --gamma {given.gamma}"
    command = f"python -m benchmarks.draft_vocabulary MODEL {options}"
    measured = {"command": command, **measure(given)}
    file = given.output.with_name(f"{given.output.name}.json")
    models = json.loads(file.read_text()) if file.exists() else {}
    models[name] = measured
    write_results(given.output, models, list(report(models)))


if __name__ == "__main__":
    main()
