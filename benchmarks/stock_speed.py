"""Speed of a stock model: steps in plain steps, and texts beside other engines, interleaved.

    python -m benchmarks.stock_speed MODEL --peer-python peers/bin/python \\
        --gguf F32=model-F32.gguf --gguf Q8_0=model-Q8_0.gguf --output results/stock-speed

Texts are answers to chat prompts in which nothing can be copied. Every engine decodes every prompt
once in each repeat, one after another, in an order that rotates. Peers run in processes of their
own, which wait while others decode.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import skipopt
from benchmarks.result_files import page_head, write_results
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import HFRunner, SkipoptRunner
from skipopt.measurement.timing import device_clock, run_order
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.engine import Engine
from skipopt.stats import Interval, ratio_interval

PROMPTS = (
    "Write a persuasive e-mail to convince a friend to volunteer at a local library.",
    "Explain how photosynthesis works to a ten year old.",
    "List five advantages of electric cars and one disadvantage.",
    "Describe a walk through a forest after the rain.",
    "What should I think about before I adopt a dog?",
    "Tell a short story about a clockmaker who loses her hearing.",
)
ROWS = (1, 2, 3, 4, 5, 6, 8)
PLAIN, GENERATE = "plain", "hf-generate"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One text of one engine: decoding seconds a token, and peak or held memory in bytes.

    Attributes:
        tokens: the text, of skipopt's own methods.
    """

    seconds_per_token: float
    bytes: float
    tokens: tuple[int, ...] = ()


Decode = Callable[[Sequence[int]], Decoded]


def own(target: Target, spec: str, gamma: int, tokens: int) -> Decode:
    """A method of skipopt, with drafts of γ tokens and no mask."""
    clock = device_clock(target.device)
    profile = Profile.build(target, SkipMask.empty(target.depth), gamma=gamma, tau=0.0)
    runner = SkipoptRunner(target, parse_method(spec), profile)

    def decode(ids: Sequence[int]) -> Decoded:
        found = runner.decode(ids, tokens, clock)
        memory = target.memory
        held = memory.weights + memory.extra
        return Decoded(found.seconds_per_token, held, tuple(found.tokens))

    return decode


def hugging_face(target: Target, tokens: int) -> Decode:
    """`generate` of transformers."""
    clock = device_clock(target.device)
    runner = HFRunner(target, "hf-generate", ({},))
    return lambda ids: Decoded(
        runner.decode(ids, tokens, clock).seconds_per_token, target.memory.weights
    )


def llama_cpp(python: Path, file: Path, threads: int, tokens: int) -> Decode:
    """llama.cpp in a process of its own."""
    script = Path(__file__).with_name("peers") / "llama_cpp.py"
    process = subprocess.Popen(
        [python, script, file, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout
    while answers.readline().strip() != "ready":
        if process.poll() is not None:
            raise SystemExit(f"{python} {script} ended with status {process.returncode}")

    def decode(ids: Sequence[int]) -> Decoded:
        requests.write(json.dumps({"ids": list(ids), "max_new_tokens": tokens}) + "\n")
        requests.flush()
        while not (line := answers.readline()).startswith("{"):
            pass
        found = json.loads(line)
        return Decoded(found["seconds"] / found["tokens"], found["bytes"])

    return decode


def measure(
    engines: Mapping[str, Decode], prompts: Sequence[Sequence[int]], repeats: int
) -> dict[str, list[list[Decoded]]]:
    """All texts of each engine: for each prompt, its repeats. One text of each warms up."""
    names = list(engines)
    found: dict[str, list[list[Decoded]]] = {name: [[] for _ in prompts] for name in names}
    for decode in engines.values():
        decode(prompts[0])
    for repeat in range(repeats):
        for number, ids in enumerate(prompts):
            for i in run_order(len(names), number, repeat):
                found[names[i]][number].append(engines[names[i]](ids))
    return found


def speedup(texts: Sequence[Sequence[Decoded]], base: Sequence[Sequence[Decoded]]) -> Interval:
    """How many times as fast as `base`."""
    return ratio_interval(
        [
            [
                math.log(b.seconds_per_token / a.seconds_per_token)
                for a, b in zip(one, two, strict=True)
            ]
            for one, two in zip(texts, base, strict=True)
        ]
    )


def same_texts(
    texts: Sequence[Sequence[Decoded]], plain: Sequence[Sequence[Decoded]]
) -> bool | None:
    """Whether all texts are those of plain decoding; None for other engines' texts."""
    if not texts[0][0].tokens:
        return None
    pairs = zip(texts, plain, strict=True)
    return all(text.tokens == two[0].tokens for one, two in pairs for text in one)


def step_seconds(target: Target, context: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of steps: of 1 … 8 rows, and of one row with int8 and int4 weights, interleaved."""
    engine = Engine(target, context + 64)
    engine.prefill([5 + i % 50 for i in range(context)])
    steps: dict[str, Callable[[], Any]] = {
        f"v({rows})": lambda rows=rows: engine.step(list(range(7, 7 + rows)))  # type: ignore[misc]
        for rows in ROWS
    }
    mask = SkipMask.empty(target.depth)
    for bits in (8, 4):
        if target.runtime.quantized.unsupported_reason(bits) is None:
            steps[f"int{bits} draft"] = draft_step(engine, mask, DraftConfig(weight_bits=bits))
    steps["draft of nothing skipped"] = draft_step(engine, mask, UNCHANGED)
    found: dict[str, list[float]] = {name: [] for name in steps}
    with target.runtime.capture_immediately():
        for name, seconds in interleaved(engine, steps, context, repeats):
            found[name].append(seconds)
    return found


def draft_step(engine: Engine, mask: SkipMask, config: DraftConfig) -> Callable[[], Any]:
    def step() -> None:
        with engine.draft_mode(mask, config):
            engine.greedy_step([7])

    return step


def interleaved(
    engine: Engine, steps: Mapping[str, Callable[[], Any]], context: int, repeats: int
) -> Iterator[tuple[str, float]]:
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            for again in range(4):
                began = time.perf_counter()
                step()
                seconds = time.perf_counter() - began
                engine.rewind(context)
                if repeat and again:  # the first one finds its weights evicted by other steps
                    yield name, seconds


def bandwidth(threads: int) -> float:
    """Bytes per second that `tensor.sum()` reads."""
    values, best = torch.ones(1 << 26), math.inf
    for _ in range(8):
        began = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - began)
    return values.numel() * 4 / best


def chat_ids(target: Target, prompt: str) -> list[int]:
    """Token ids of a prompt, through the chat template if there is one."""
    if getattr(target.tokenizer, "chat_template", None) is None:
        return list(target.tokenizer(prompt)["input_ids"])
    messages = [{"role": "user", "content": prompt}]
    text = target.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return list(target.tokenizer(text, add_special_tokens=False)["input_ids"])


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head(f"{record['model']}: steps and texts", record)
    limit = record["bandwidth"]
    yield f"- `tensor.sum()` in the same process reads {limit / 1e9:.1f} GB/s"
    yield ""
    yield "| step | ms | in plain steps | GB/s of its weights | of the limit |"
    yield "|---|--:|--:|--:|--:|"
    plain = record["steps"]["v(1)"]["seconds"]
    for name, step in record["steps"].items():
        rate = step["bytes"] / step["seconds"]
        yield (
            f"| {name} | {step['seconds'] * 1e3:.2f} | {step['seconds'] / plain:.2f} "
            f"| {rate / 1e9:.1f} | {rate / limit:.2f} |"
        )
    yield ""
    yield (
        "| engine | tokens/s | × plain | × generate | × llama.cpp F32 | memory, MB "
        "| text of plain decoding |"
    )
    yield "|---|--:|--:|--:|--:|--:|---|"
    for name, row in record["engines"].items():
        ratios = (_interval(row[key]) for key in ("vs_plain", "vs_generate", "vs_llama_cpp"))
        same = {None: "–", True: "all", False: "not all"}[row["same_texts"]]
        rate, memory = f"{row['rate']:.1f}", f"{row['bytes'] / 1e6:.0f}"
        yield f"| {name} | {rate} | {' | '.join(ratios)} | {memory} | {same} |"


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "–"
    return f"{found['median']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--gamma", type=int, default=4)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--gguf", action="append", default=[], help="NAME=FILE; F32 is compared")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def engines_of(target: Target, given: argparse.Namespace) -> dict[str, Decode]:
    """The engines that are compared, by name."""
    found: dict[str, Decode] = {GENERATE: hugging_face(target, given.tokens)}
    for spec in (PLAIN, "layer-skip:quant=int8", "layer-skip:quant=int4"):
        found[spec] = own(target, spec, given.gamma, given.tokens)
    for each in given.gguf:
        name, file = each.split("=", 1)
        found[f"llama.cpp {name}"] = llama_cpp(
            given.peer_python, Path(file), given.threads, given.tokens
        )
    return found


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model, device="cpu", runtime=given.runtime, on_notice=print)
    target = replace(target, eos_ids=frozenset())  # all decode the same number of tokens
    prompts = [chat_ids(target, prompt) for prompt in PROMPTS]
    steps = step_seconds(target, 150, 10)
    texts = measure(engines_of(target, given), prompts, given.repeats)
    memory = target.memory
    step_bytes = {"int8 draft": memory.weights / 4, "int4 draft": memory.weights * 5 / 32}
    peer = texts.get("llama.cpp F32")
    record = {
        "model": given.model,
        "command": "python -m benchmarks.stock_speed "
        f"MODEL --threads {given.threads} --tokens {given.tokens} --repeats {given.repeats} "
        f"--gamma {given.gamma} --runtime {given.runtime}",
        "environment": environment_of(target),
        "bandwidth": bandwidth(given.threads),
        "prompts": PROMPTS,
        "steps": {
            name: {"seconds": median(each), "bytes": step_bytes.get(name, memory.weights)}
            for name, each in steps.items()
        },
        "engines": {
            name: {
                "rate": 1 / median(d.seconds_per_token for one in found for d in one),
                "vs_plain": speedup(found, texts[PLAIN]).to_json(),
                "vs_generate": speedup(found, texts[GENERATE]).to_json(),
                "vs_llama_cpp": speedup(found, peer).to_json() if peer else None,
                "same_texts": same_texts(found, texts[PLAIN]),
                "bytes": max(d.bytes for one in found for d in one),
                "seconds_per_token": [[d.seconds_per_token for d in one] for one in found],
            }
            for name, found in texts.items()
        },
    }
    write_results(given.output, record, list(report(record)))


if __name__ == "__main__":
    main()
