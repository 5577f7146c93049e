"""What each runtime gives on this CPU: plain speed, v(n), c, the host's share, peak memory.

    python -m benchmarks.runtime_speed --threads 2

Two models: the built-in one, and a Llama with random weights of 16 layers and width 1024. Plain
decoding under every runtime and transformers' `generate` decode the same prompts, paired and
interleaved. v(n) and c come from whole rounds of the decoding loop. Speculation is measured where
there is a profile, because acceptance says nothing with random weights; its speedup is shown next
to that of the speedup law (`benchmarks.speedup_law`) from the rounds that ran, c and v.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

import skipopt
from benchmarks.peak_memory import peak_of
from benchmarks.result_files import write_results
from benchmarks.runtime_report import lines
from benchmarks.speedup_law import (
    RelativeCosts,
    RoundCounts,
    alpha_of,
    speedup_if_independent,
    speedup_of_rounds,
)
from benchmarks.time_shares import decoding_seconds
from benchmarks.workloads import continuation, workload_of
from skipopt.cost_model.costs import Costs
from skipopt.masks import SkipMask
from skipopt.measurement.cost_measurement import measure_costs
from skipopt.measurement.metrics import samples_of, speedup, tokens_per_second
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import HF_GENERATE, PLAIN, HFRunner, SkipoptRunner
from skipopt.measurement.timing import Runner, Sample, Timer, device_clock
from skipopt.measurement.workload import Workload
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.profile.model_identity import model_facts
from skipopt.prompts import load_prompts
from skipopt.runtime.setup import RUNTIMES

EAGER, AUTO, INDUCTOR = "eager", "auto", "inductor"
PLAIN_SPEC, LAYER_SKIP = MethodSpec(PLAIN), MethodSpec("layer-skip")
MAX_VERIFIED = 16  # tokens of the longest verification that is measured
RANDOM_PROMPT_TOKENS = 128


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    models = [measure(make_subject(name, given), given) for name in given.models.split(",")]
    record = {"command": command(given), "models": models}
    write_results(given.output, record, list(lines(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="builtin,random", help="of builtin, random, a folder")
    parser.add_argument("--profile", type=Path, default=Path("builtin"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring costs")
    parser.add_argument("--layers", type=int, default=16, help="of the random model")
    parser.add_argument("--width", type=int, default=1024, help="of the random model")
    parser.add_argument("--output", type=Path, default=Path("results/runtime-speed"))
    return parser.parse_args()


def command(given: argparse.Namespace) -> str:
    names = ("models", "threads", "prompts", "tokens", "repeats", "seconds", "layers", "width")
    options = " ".join(f"--{name} {getattr(given, name)}" for name in names)
    return f"python -m benchmarks.runtime_speed {options} --profile {given.profile}"


# --- what is measured -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subject:
    """One model under every runtime; weights are shared, prepacked copies are not.

    Attributes:
        profile: of a search; None if there is no speculation to measure.
        masks: by name, whose draft cost is shown.
    """

    name: str
    targets: dict[str, Target]
    load: Workload
    profile: Profile | None
    masks: dict[str, SkipMask]

    @property
    def fully_measured(self) -> dict[str, Target]:
        """All but `inductor`, which takes minutes to compile every shape."""
        return {name: each for name, each in self.targets.items() if name != INDUCTOR}


def make_subject(name: str, given: argparse.Namespace) -> Subject:
    if name == "random":
        return random_subject(given)
    first = skipopt.load(name, device="cpu", runtime=EAGER)
    profile = Profile.load(given.profile)
    profile.check_model(first)
    load = workload_of(first, load_prompts().held_out[: given.prompts], given.tokens)
    masks = {"the profile's sublayers": profile.skip_mask, **usual_masks(first.depth)}
    targets = under_every_runtime(first.model, first.tokenizer)
    return Subject(name, targets, load, profile, masks)


def random_subject(given: argparse.Namespace) -> Subject:
    model = random_llama(given.layers, given.width)
    targets = under_every_runtime(model, None)
    prompts = random_prompts(given.prompts, model.config.vocab_size)
    load = uncut_workload(targets[EAGER], prompts, given.tokens)
    return Subject("random", targets, load, None, usual_masks(targets[EAGER].depth))


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
    return [[rng.randrange(vocabulary) for _ in range(RANDOM_PROMPT_TOKENS)] for _ in range(count)]


def uncut_workload(target: Target, prompts: Sequence[Sequence[int]], tokens: int) -> Workload:
    """With repetition left in, because the cost of a step does not depend on the text."""
    texts = tuple(tuple(continuation(target, prompt, tokens)) for prompt in prompts)
    given = tuple(tuple(prompt) for prompt in prompts)
    return Workload(given, texts, len(given), 0, 0)


def usual_masks(depth: int) -> dict[str, SkipMask]:
    every, second = range(depth), range(1, depth, 2)
    return {
        "every second layer": SkipMask.of(depth, second, second),
        "every attention": SkipMask.of(depth, every, ()),
        "every MLP": SkipMask.of(depth, (), every),
    }


# --- measuring --------------------------------------------------------------------------------


def measure(subject: Subject, given: argparse.Namespace) -> dict[str, Any]:
    """The record of one model."""
    context = sorted(subject.load.prompts, key=len)[len(subject.load.prompts) // 2]
    plain = plain_rows(subject, given.repeats)
    costs = {
        name: measure_costs(target, context, MAX_VERIFIED, given.seconds)
        for name, target in subject.fully_measured.items()
    }
    record = {
        "environment": environment_of(subject.targets[AUTO]),
        "model": model_facts(subject.targets[AUTO]),
        "workload": subject.load.to_json(),
        "plain": plain,
        "costs": {name: costs_json(each, subject.masks) for name, each in costs.items()},
        "time": {name: shares(each, subject) for name, each in subject.fully_measured.items()},
    }
    if subject.profile is not None:
        record["speculation"] = speculation(subject, subject.profile, costs[AUTO], given.repeats)
        record["memory"] = memory_rows(subject, given)
    return record


def shares(target: Target, subject: Subject) -> dict[str, dict[str, float]]:
    """Shares of the decoding time by method."""
    methods = [PLAIN_SPEC] + ([LAYER_SKIP] if subject.profile is not None else [])
    return {
        str(method): decoding_seconds(target, method, subject.profile, subject.load)[0].shares()
        for method in methods
    }


def timed(runners: Sequence[Runner], load: Workload, repeats: int) -> list[Sample]:
    timer = Timer(runners, load.prompts, load.lengths, device_clock(torch.device("cpu")))
    timer.warm_up()
    timer.run(repeats)
    return timer.samples


def plain_rows(subject: Subject, repeats: int) -> list[dict[str, Any]]:
    """A row for `generate` and one for each runtime."""
    peer = HFRunner(subject.targets[EAGER], HF_GENERATE, ({},), may_fail=False)
    own = [
        SkipoptRunner(target, PLAIN_SPEC, name=name) for name, target in subject.targets.items()
    ]
    samples = timed([peer, *own], subject.load, repeats)
    return [
        plain_row(samples, name, subject.targets.get(name))
        for name in (HF_GENERATE, *subject.targets)
    ]


def plain_row(samples: Sequence[Sample], name: str, target: Target | None) -> dict[str, Any]:
    return {
        "name": name,
        "ran": None if target is None else target.runtime.name,
        "prepacked_bytes": 0 if target is None else target.runtime.kernels.extra_bytes,
        "tokens_per_second": tokens_per_second(samples_of(samples, name)),
        "vs_generate": speedup(samples, name, HF_GENERATE).to_json(),
        "vs_eager": speedup(samples, name, EAGER).to_json(),
    }


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


def speculation(subject: Subject, profile: Profile, costs: Costs, repeats: int) -> dict[str, Any]:
    """Speedup of the profile's mask under the fastest runtime, measured and by the law."""
    target, settings = subject.targets[AUTO], profile.draft_settings[0]
    pair = [SkipoptRunner(target, PLAIN_SPEC), SkipoptRunner(target, LAYER_SKIP, profile)]
    measured = speedup(timed(pair, subject.load, repeats), LAYER_SKIP.name, PLAIN)
    _, rounds = decoding_seconds(target, LAYER_SKIP, profile, subject.load)
    step = costs.draft_step(settings.mask, settings.tau) / costs.plain
    relative = RelativeCosts(step, tuple(seconds / costs.plain for seconds in costs.verify))
    return {
        "mask": str(settings.mask),
        "gamma": settings.gamma,
        "tau": settings.tau,
        "draft_cost": step,
        "verify_cost": relative.verify[settings.gamma],
        "drafted_per_round": sum(r.drafted for r in rounds) / len(rounds),
        "tokens_per_round": sum(r.emitted for r in rounds) / len(rounds),
        "measured": measured.to_json(),
        **laws(rounds, settings.gamma, relative),
    }


def laws(rounds: Sequence[RoundCounts], gamma: int, costs: RelativeCosts) -> dict[str, Any]:
    """α, and the speedups by both forms of the law."""
    alpha = alpha_of(rounds)
    independent = None if alpha is None else speedup_if_independent(alpha, gamma, costs)
    return {
        "alpha": alpha,
        "law_of_rounds": speedup_of_rounds(rounds, costs),
        "law_if_independent": independent,
    }


def memory_rows(subject: Subject, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Peaks of `skipopt run` in new processes, plainly and with the profile's mask."""
    rows = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "prompt.txt"
        file.write_text(load_prompts().held_out[0].text or "")
        common = ["run", subject.name, "--prompt-file", str(file), "--threads", str(given.threads)]
        common += ["--max-new-tokens", str(given.tokens), "-q", "--no-progress"]
        for runtime in subject.fully_measured:
            asked = [*common, "--runtime", runtime]
            plain = peak_of([*asked, "--method", PLAIN])
            profile = ["--profile", str(given.profile), "--method", str(LAYER_SKIP)]
            drafting = peak_of([*asked, *profile])
            rows.append(
                {
                    "runtime": runtime,
                    "plain": plain.to_json(),
                    "profile": drafting.to_json(),
                    "ratio_without_copies": drafting.without_copies / plain.without_copies,
                }
            )
    return rows


if __name__ == "__main__":
    main()
