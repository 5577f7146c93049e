"""What each runtime is worth on this CPU: plain decoding, v(n) and c, the host's share, memory.

    python -m benchmarks.runtime_speed --threads 2 --output results/runtime-speed

The built-in model, and a Llama of random weights, 16 layers of width 1024. Plain decoding under
every runtime and transformers' `generate` decode the same prompts, paired and interleaved. v(n)
and c come from `pricing.measure_prices`: whole rounds of the decoding loop, split. Speculation is
looked at where there is a profile: random weights accept nothing that would mean anything. Its
measured speedup stands beside what the law gives (`law.py`) from the rounds that it ran, c and v.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import skipopt
from benchmarks.peak_memory import peak_of
from benchmarks.speedup_law import (
    Drafted,
    RelativeCosts,
    Spent,
    alpha_of,
    speedup_if_independent,
    speedup_of_rounds,
    total,
)
from skipopt.bench.cost_measurement import measure_costs
from skipopt.bench.metrics import samples_of, speedup, tokens_per_second
from skipopt.bench.provenance import as_texts, environment_of
from skipopt.bench.runners import GREEDY, HF_GENERATE, PLAIN, HFRunner, SkipoptRunner
from skipopt.bench.timing import Clock, Runner, Timer, device_clock
from skipopt.bench.workload import Workload, make_workload
from skipopt.cost_model.costs import Costs
from skipopt.decoding.api import generate, make_decoding
from skipopt.decoding.loop import check_request, decode
from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.profile.profile import model_facts
from skipopt.prompts import load_prompts
from skipopt.rounds import Round
from skipopt.runtime.engine import Engine
from skipopt.runtime.runtime import RUNTIMES

EAGER, AUTO, COMPILED = "eager", "auto", "inductor"
SKIP = MethodSpec("layer-skip")
LONGEST = 16  # tokens of the longest verification that is priced
RANDOM_CONTEXT = 128  # tokens of a random model's prompts


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    found = [measure(subject(name, given), given) for name in given.models.split(",")]
    record = {"command": command(given), "models": found}
    given.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    text = "\n".join(lines(record)) + "\n"
    given.output.with_suffix(".md").write_text(text)
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="builtin,random", help="of builtin, random, a folder")
    parser.add_argument("--profile", type=Path, default=Path("configs/builtin.yaml"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="to price each runtime")
    parser.add_argument("--layers", type=int, default=16, help="of the random model")
    parser.add_argument("--width", type=int, default=1024, help="of the random model")
    parser.add_argument("--output", type=Path, default=Path("results/runtime-speed"))
    return parser.parse_args()


def command(given: argparse.Namespace) -> str:
    names = ("models", "threads", "prompts", "tokens", "repeats", "seconds", "layers", "width")
    options = " ".join(f"--{name} {getattr(given, name)}" for name in names)
    return f"python -m benchmarks.runtime_speed {options} --profile {given.profile}"


# What is measured


@dataclass(frozen=True)
class Subject:
    """One model under every runtime: the weights are shared, packed copies are each one's own.

    Attributes:
        profile: of a search; None: no speculation.
    """

    name: str
    targets: dict[str, Target]
    load: Workload
    profile: Profile | None
    masks: dict[str, SkipMask] = field(default_factory=dict)

    @property
    def in_full(self) -> dict[str, Target]:
        """Of `inductor`, plain decoding alone is timed: compiling every shape takes minutes."""
        return {name: each for name, each in self.targets.items() if name != COMPILED}


def subject(name: str, given: argparse.Namespace) -> Subject:
    if name == "random":
        model = random_llama(given.layers, given.width)
        targets = under_every_runtime(model, None)
        prompts = random_prompts(given.prompts, model.config.vocab_size)
        load = uncut(targets[EAGER], prompts, given.tokens)
        return Subject(name, targets, load, None, usual_masks(targets[EAGER].depth))
    first = skipopt.load(name, device="cpu", runtime=EAGER)
    targets = under_every_runtime(first.model, first.tokenizer)
    texts = load_prompts().held_out[: given.prompts]
    prompts = [list(first.tokenizer(text.text)["input_ids"]) for text in texts]
    load = make_workload(prompts, partial(continuation, first, given.tokens))
    profile = Profile.load(given.profile)
    profile.check_model(first.architecture, first.depth, first.fingerprint)
    masks = {"the profile's sublayers": profile.skip_mask, **usual_masks(first.depth)}
    return Subject(name, targets, load, profile, masks)


def under_every_runtime(model: Any, tokenizer: Any) -> dict[str, Target]:
    return {name: skipopt.load((model, tokenizer), runtime=name) for name in RUNTIMES}


def random_llama(layers: int, width: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=width * 43 // 16,  # 2752 at 1024
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).float().eval()


def random_prompts(count: int, vocabulary: int) -> list[list[int]]:
    rng = Random(0)
    return [[rng.randrange(vocabulary) for _ in range(RANDOM_CONTEXT)] for _ in range(count)]


def uncut(target: Target, prompts: Sequence[Sequence[int]], tokens: int) -> Workload:
    """Loops are left in: what a step costs does not depend on what it says."""
    texts = [continuation(target, tokens, prompt) for prompt in prompts]
    given = tuple(tuple(prompt) for prompt in prompts)
    return Workload(given, tuple(map(tuple, texts)), len(given), 0, 0)


def continuation(target: Target, tokens: int, prompt: Sequence[int]) -> list[int]:
    return [token.id for token in generate(target, prompt, max_new_tokens=tokens)]


def usual_masks(depth: int) -> dict[str, SkipMask]:
    every, second = range(depth), range(1, depth, 2)
    return {
        "every second layer": SkipMask.of(depth, second, second),
        "every attention": SkipMask.of(depth, every, ()),
        "every MLP": SkipMask.of(depth, (), every),
    }


# Measuring


def measure(subject: Subject, given: argparse.Namespace) -> dict[str, Any]:
    context = sorted(subject.load.prompts, key=len)[len(subject.load.prompts) // 2]
    plain = race_plain(subject, given.repeats)
    costs = {
        name: measure_costs(target, context, LONGEST, given.seconds)
        for name, target in subject.in_full.items()
    }
    found = {
        "environment": environment_of(subject.targets[AUTO]),
        "model": model_facts(subject.targets[AUTO]),
        "workload": subject.load.to_json(),
        "plain": plain,
        "costs": {name: costs_json(price, subject.masks) for name, price in costs.items()},
        "time": {
            name: {
                str(method): account(target, method, subject).spent.shares()
                for method in methods_of(subject)
            }
            for name, target in subject.in_full.items()
        },
    }
    if subject.profile is not None:
        found["speculation"] = speculation(subject, costs[AUTO], given.repeats)
        found["memory"] = memory(subject, given)
    return found


def methods_of(subject: Subject) -> list[MethodSpec]:
    return [MethodSpec(PLAIN)] + ([SKIP] if subject.profile is not None else [])


@dataclass(frozen=True)
class Named:
    """A contender under a name of its own: several runtimes have methods of one name."""

    name: str
    own: SkipoptRunner
    may_fail: bool = False
    guarantee: Any = "same tokens"
    settings: dict[str, Any] = field(default_factory=dict)

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        self.own.warm_up(prompt, max_new_tokens, clock)

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Any:
        return self.own.decode(prompt, max_new_tokens, clock)


def timed(contenders: Sequence[Runner], load: Workload, repeats: int) -> Timer:
    timer = Timer(contenders, load.prompts, load.lengths, device_clock(torch.device("cpu")))
    timer.warm_up()
    for _ in range(repeats):
        timer.run(1)
    return timer


def race_plain(subject: Subject, repeats: int) -> list[dict[str, Any]]:
    """A row for each runtime, and one for `generate`."""
    peer = HFRunner(subject.targets[EAGER], HF_GENERATE, ({},), may_fail=False)
    own = [
        Named(n, SkipoptRunner(target, MethodSpec(PLAIN))) for n, target in subject.targets.items()
    ]
    samples = timed([peer, *own], subject.load, repeats).samples
    rows = []
    for name in (HF_GENERATE, *subject.targets):
        target = subject.targets.get(name)
        rows.append(
            {
                "name": name,
                "ran": None if target is None else target.runtime.name,
                "packed_bytes": 0 if target is None else target.runtime.kernels.extra_bytes,
                "tokens_per_second": tokens_per_second(samples_of(samples, name)),
                "vs_generate": speedup(samples, name, HF_GENERATE).to_json(),
                "vs_eager": speedup(samples, name, EAGER).to_json(),
            }
        )
    return rows


def costs_json(costs: Costs, masks: dict[str, SkipMask]) -> dict[str, Any]:
    return {
        "plain_seconds": costs.plain,
        "context": costs.context,
        "verify": [seconds / costs.plain for seconds in costs.verify],
        "draft": {
            name: {"mask": str(mask), "cost": costs.draft_step(mask) / costs.plain}
            for name, mask in masks.items()
        },
    }


class ClockedEngine(Engine):
    """Adds up the time of its forwards; that of the prefill is taken off by who reads it."""

    seconds = 0.0

    def _forward(self, *arguments: Any) -> Tensor:
        began = time.perf_counter()
        logits = super()._forward(*arguments)
        self.seconds += time.perf_counter() - began
        return logits


class ClockedDrafter(Drafter):
    """Hands every call on; tells when decoding began, and forwards while drafting."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self.wants_hidden, self.max_extra_rows = drafter.wants_hidden, drafter.max_extra_rows
        self.began: float | None = None
        self.forwards = 0.0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        assert isinstance(state.engine, ClockedEngine)
        if self.began is None:
            self.began, state.engine.seconds = time.perf_counter(), 0.0
        before = state.engine.seconds
        tree = self._drafter.propose(state, limit)
        self.forwards += state.engine.seconds - before
        return tree

    def observe(self, outcome: RoundOutcome) -> None:
        self._drafter.observe(outcome)


@dataclass(frozen=True)
class Account:
    spent: Spent
    rounds: tuple[Drafted, ...]


def account(target: Target, method: MethodSpec, subject: Subject) -> Account:
    """Where time goes, and what rounds came to; each text is decoded once before, untimed."""
    spent: list[Spent] = []
    rounds: list[Round] = []
    for prompt, length in zip(subject.load.prompts, subject.load.lengths, strict=True):
        run: Callable[[], tuple[Spent, list[Round]]] = partial(
            decode_clocked, target, method, subject.profile, prompt, length
        )
        run()
        times, done = run()
        spent.append(times)
        rounds += done
    facts = tuple(Drafted(len(r.drafted), r.accepted, len(r.emitted)) for r in rounds)
    return Account(total(spent), facts)


def decode_clocked(
    target: Target, method: MethodSpec, profile: Profile | None, prompt: Sequence[int], length: int
) -> tuple[Spent, list[Round]]:
    limits = check_request(target, prompt, length)
    way = make_decoding(target, method, profile, GREEDY)
    drafter = ClockedDrafter(way.drafter)
    most = min(limits.context_limit, len(prompt) + limits.max_new_tokens)
    engine = ClockedEngine(target, most + drafter.max_extra_rows)
    with target.runtime.capture_immediately():
        rounds = list(decode(engine, prompt, drafter, GREEDY, limits, way.verifier))
    assert drafter.began is not None
    whole = time.perf_counter() - drafter.began
    return Spent(whole, drafter.forwards, engine.seconds - drafter.forwards), rounds


def speculation(subject: Subject, costs: Costs, repeats: int) -> dict[str, Any]:
    """Measured under the fastest runtime, beside the law."""
    target, profile = subject.targets[AUTO], subject.profile
    assert profile is not None
    way = profile.drafting
    pair = [SkipoptRunner(target, MethodSpec(PLAIN)), SkipoptRunner(target, SKIP, profile)]
    measured = speedup(timed(pair, subject.load, repeats).samples, SKIP.name, PLAIN)
    rounds = account(target, SKIP, subject).rounds
    step = costs.draft_step(profile.skip_mask, way.tau) / costs.plain
    relative = RelativeCosts(step, tuple(seconds / costs.plain for seconds in costs.verify))
    alpha = alpha_of(rounds)
    independent = None if alpha is None else speedup_if_independent(alpha, way.gamma, relative)
    return {
        "mask": str(profile.skip_mask),
        "gamma": way.gamma,
        "tau": way.tau,
        "alpha": alpha,
        "draft_cost": step,
        "verify_cost": relative.verify[way.gamma],
        "drafted_per_round": sum(r.drafted for r in rounds) / len(rounds),
        "tokens_per_round": sum(r.emitted for r in rounds) / len(rounds),
        "measured": measured.to_json(),
        "law_of_rounds": speedup_of_rounds(rounds, relative),
        "law_if_independent": independent,
    }


def memory(subject: Subject, given: argparse.Namespace) -> list[dict[str, Any]]:
    """`skipopt run` in processes of their own, plainly and with the profile's mask."""
    assert subject.profile is not None
    prompt = load_prompts().held_out[0].text
    rows = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "prompt.txt"
        file.write_text(prompt)
        common = ["run", subject.name, "--prompt-file", str(file), "--threads", str(given.threads)]
        common += ["--max-new-tokens", str(given.tokens), "-q", "--no-progress"]
        for runtime in subject.in_full:
            asked = [*common, "--runtime", runtime]
            plain = peak_of([*asked, "--method", PLAIN])
            drafting = peak_of([*asked, "--profile", str(given.profile), "--method", str(SKIP)])
            rows.append(
                {
                    "runtime": runtime,
                    "plain": plain.to_json(),
                    "profile": drafting.to_json(),
                    "ratio_without_copies": drafting.own / plain.own,
                }
            )
    return rows


# Telling


def lines(record: dict[str, Any]) -> Iterator[str]:
    yield "# What each runtime is worth\n"
    yield f"`{record['command']}`\n"
    yield "Ratios are medians of paired, interleaved decodings with 95 % bootstrap intervals over"
    yield "prompts. v(n) and c: whole rounds timed and split (`pricing.measure_prices`)."
    for found in record["models"]:
        yield from model_lines(found)


def model_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"\n## {found['model']['id']}\n"
    for key, value in as_texts(found["environment"]).items():
        if key != "runtime":
            yield f"- {key}: {value}"
    yield f"- texts: {found['workload']['timed']}"
    yield from plain_lines(found["plain"])
    yield from cost_lines(found["costs"])
    yield from time_lines(found["time"])
    if "speculation" in found:
        yield from speculation_lines(found["speculation"])
        yield from memory_lines(found["memory"])


def plain_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "\n### Plain decoding\n"
    yield "| runtime | ran | tokens/s | vs generate | vs eager | packed copies |"
    yield "|---|---|--:|--:|--:|--:|"
    for row in rows:
        yield (
            f"| {row['name']} | {row['ran'] or '–'} | {row['tokens_per_second']:.1f} "
            f"| {interval(row['vs_generate'])} | {interval(row['vs_eager'])} "
            f"| {megabytes(row['packed_bytes'])} |"
        )


def cost_lines(costs: dict[str, Any]) -> Iterator[str]:
    first = next(iter(costs.values()))
    yield f"\n### Relative to a plain step of the same runtime, {first['context']} tokens before\n"
    yield "| | " + " | ".join(costs) + " |"
    yield "|---|" + "--:|" * len(costs)
    plain = (f"{1e3 * each['plain_seconds']:.2f} ms" for each in costs.values())
    yield "| a plain step | " + " | ".join(plain) + " |"
    for n in range(1, len(first["verify"]) + 1):
        yield (
            f"| v({n}) | " + " | ".join(f"{c['verify'][n - 1]:.2f}" for c in costs.values()) + " |"
        )
    for name in first["draft"]:
        cells = (f"{each['draft'][name]['cost']:.3f}" for each in costs.values())
        yield f"| c skipping {name} | " + " | ".join(cells) + " |"


def time_lines(time: dict[str, Any]) -> Iterator[str]:
    yield "\n### Where the time of decoding goes\n"
    yield "| runtime, method | draft forwards | target forwards | host: neither |"
    yield "|---|--:|--:|--:|"
    for runtime, methods in time.items():
        for method, shares in methods.items():
            cells = " | ".join(f"{share:.1%}" for share in shares.values())
            yield f"| {runtime}, {method} | {cells} |"


def speculation_lines(found: dict[str, Any]) -> Iterator[str]:
    yield "\n### Measured speedup and the law\n"
    yield f"Mask `{found['mask']}`, γ = {found['gamma']}, τ = {found['tau']}, runtime auto.\n"
    independent = found["law_if_independent"]
    rows = {
        "α of one drafted token": number(found["alpha"]),
        "c": number(found["draft_cost"]),
        "v(γ + 1)": number(found["verify_cost"]),
        "drafted per round": number(found["drafted_per_round"]),
        "tokens per round": number(found["tokens_per_round"]),
        "law, from the rounds as they were: E[tokens] / E[drafted·c + v(drafted + 1)]": number(
            found["law_of_rounds"]
        ),
        "law, if every draft were γ long and every token accepted alike": number(independent),
        "measured, against plain decoding": interval(found["measured"]),
    }
    yield "| | |\n|---|--:|"
    for name, value in rows.items():
        yield f"| {name} | {value} |"


def memory_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "\n### Peak memory of `skipopt run`\n"
    yield "Each in a process of its own, which chooses by a race of its own what to pack.\n"
    head = ("runtime", "plain", "copies of weights", "with the mask", "copies of weights")
    yield f"| {' | '.join(head)} | ratio without copies |"
    yield "|---|--:|--:|--:|--:|--:|"
    for row in rows:
        cells = [
            megabytes(row[way][part])
            for way in ("plain", "profile")
            for part in ("resident", "copies")
        ]
        yield f"| {row['runtime']} | {' | '.join(cells)} | {row['ratio_without_copies']:.3f} |"


def interval(found: dict[str, float]) -> str:
    return f"{found['median']:.2f}× ({found['low']:.2f}–{found['high']:.2f})"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count else "–"


if __name__ == "__main__":
    main()
