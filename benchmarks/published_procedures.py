"""Searches for a skip mask as published, reimplemented from the papers with their settings.

- SWIFT (arXiv 2410.06916): while decoding the calibration prompts; skip ratio 0.45, matchness over
  50 tokens, every 25th candidate by Bayesian optimization. Drafts are confidence-aware trees of up
  to 25 levels, τ = 0.8.
- Draft & Verify (arXiv 2309.08168): Bayesian optimization of real tokens/s over [0, 1]^2L on eight
  prompts with 32 tokens, 1,000 evaluations in the paper and as many as the time allows here;
  chains of up to 12 with the adaptive threshold, from 0.6.
- CLaSp (arXiv 2505.24196): a dynamic program over whole layers by cosine; half of them are
  skipped. Chains of up to 10 that end below 0.7. The paper runs the program again after every
  round, here it runs once.
- KnapSpec (arXiv 2602.20217): the program over attention and MLP with their costs as weights, at
  most half of the weight, first and last layer kept, weight chosen by predicted tokens per time.
  Chains of up to 10 that end below 0.7.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.workloads import continuation
from skipopt.cost_model.costs import Costs
from skipopt.decoding.loop import decode
from skipopt.decoding.request import check_request, new_engine
from skipopt.drafting.swift import SwiftDrafter
from skipopt.masks import MaskSpace, SkipMask
from skipopt.measurement.cost_measurement import measure_costs
from skipopt.measurement.runners import SkipoptRunner
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import SwiftMaskSearch
from skipopt.profile import Profile
from skipopt.samplers.layer_dp import cost_weights, pareto_front, whole_layer_weights
from skipopt.sampling import SamplingOptions
from skipopt.scoring import ScoredText, Scorer

SWIFT_METHOD = "swift:tune_mask=no:auto_disable=no:cost_aware=no"
DRAFT_AND_VERIFY_METHOD = "layer-skip:adaptive_tau=yes"
CHAIN_METHOD, CHAIN_GAMMA, CHAIN_TAU = "layer-skip", 10, 0.7  # of CLaSp and KnapSpec
MAX_ALPHA = 0.999
FEW_PROMPTS, FEW_TOKENS = 8, 16
NEW_TOKENS = 32  # of a text by which Draft & Verify times a mask

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Procedure:
    """The result of a search: a mask, how it drafts, and the seconds it took."""

    name: str
    mask: SkipMask
    method: str
    gamma: int
    tau: float
    seconds: float
    note: str


def swift(target: Target, prompts: Prompts, seconds: float) -> Procedure:
    """Decodes prompt after prompt until the search ends by its own rules or by time."""
    began = time.perf_counter()
    search = SwiftMaskSearch(target.depth)
    state = OnlineState(mask_search=search)
    while not search.done and time.perf_counter() - began < seconds:
        for prompt in prompts:
            if not search.done and time.perf_counter() - began < seconds:
                _decode_with_swift(target, prompt, state)
    took = time.perf_counter() - began
    note = f"{search.trials} candidates, matchness {search.matchness or 0:.2f}"
    return Procedure("SWIFT", search.mask, SWIFT_METHOD, 25, 0.8, took, note)


def _decode_with_swift(target: Target, prompt: Sequence[int], state: OnlineState) -> None:
    drafter = SwiftDrafter(
        target,
        online_state=state,
        cost_aware=False,
        auto_disable=False,
        search_overhead=0.9,
    )
    limits = check_request(target, prompt, 128)
    engine = new_engine(target, prompt, limits, drafter.max_extra_rows)
    for _ in decode(engine, prompt, drafter, SamplingOptions(), limits):
        pass


def draft_and_verify(target: Target, prompts: Prompts, seconds: float) -> Procedure:
    """Optimizes real tokens per second, prefill included, as the published code does."""
    from skopt import Optimizer

    began, count = time.perf_counter(), 2 * target.depth
    prompts = prompts[:FEW_PROMPTS]
    optimizer = Optimizer(
        [(0.0, 1.0)] * count,
        "GP",
        n_initial_points=2,
        acq_func="LCB",
        acq_func_kwargs={"kappa": 2.576},
        random_state=1,
    )
    every_second_layer = [float(i // 2 % 2) for i in range(count)]
    starts = [every_second_layer, [float(i % 2) for i in range(count)]]
    speeds: dict[SkipMask, float] = {}
    while time.perf_counter() - began < seconds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-optimize warns of points it has seen
            point = starts.pop() if starts else optimizer.ask()
            mask = SkipMask(target.depth, frozenset(i for i, x in enumerate(point) if x > 0.5))
            speeds[mask] = _real_speed(target, mask, prompts)
            optimizer.tell(point, -speeds[mask])
    best = max(speeds, key=lambda mask: speeds[mask])
    took = time.perf_counter() - began
    note = f"{len(speeds)} of 1,000 evaluations"
    return Procedure("Draft & Verify", best, DRAFT_AND_VERIFY_METHOD, 12, 0.6, took, note)


def _real_speed(target: Target, mask: SkipMask, prompts: Prompts) -> float:
    """Tokens per second, without the time of capturing steps: the published code has none."""
    method = parse_method(DRAFT_AND_VERIFY_METHOD)
    profile = Profile.build(target, mask, method=DRAFT_AND_VERIFY_METHOD, gamma=8, tau=0.8)
    runner = SkipoptRunner(target, method, profile)
    made = [runner.decode(prompt, NEW_TOKENS, time.perf_counter) for prompt in prompts]
    seconds = sum(each.prefill_seconds + each.decode_seconds for each in made)
    return sum(len(each.tokens) for each in made) / seconds


def clasp(target: Target, prompts: Prompts, seconds: float) -> Procedure:
    """`seconds` do not limit it: the program ends by itself."""
    began = time.perf_counter()
    scorer = _few_positions(target, prompts)
    paths = pareto_front(scorer, MaskSpace(target.depth), whole_layer_weights())
    half = min(paths, key=lambda path: abs(len(path.mask.skipped) - target.depth))
    took = time.perf_counter() - began
    return _chain("CLaSp", half.mask, took, "one program, half the layers")


def knapspec(target: Target, prompts: Prompts, seconds: float) -> Procedure:
    """Takes the weight, up to half of the whole, with the most predicted tokens per time.

    `seconds` do not limit it, as in `clasp`.
    """
    began, depth = time.perf_counter(), target.depth
    scorer = _few_positions(target, prompts)
    costs = measure_costs(target, prompts[0], 9, seconds=2.0)
    ends = frozenset({0, 1, 2 * depth - 2, 2 * depth - 1})
    paths = pareto_front(scorer, MaskSpace(depth, ends), cost_weights(costs))
    traces = scorer.read_out([path.state for path in paths])
    rates = {
        path.mask: _best_rate(path.mask, trace.matchness, costs)
        for path, trace in zip(paths, traces, strict=True)
    }
    best = max(rates, key=lambda mask: rates[mask])
    return _chain("KnapSpec", best, time.perf_counter() - began, "one program")


def _best_rate(mask: SkipMask, matchness: float, costs: Costs) -> float:
    """Predicted tokens per time at the best γ ≤ 10; negative above half of the weight."""
    whole = mask.layers * (costs.attention + costs.mlp)
    skipped = len(mask.attention) * costs.attention + len(mask.mlp) * costs.mlp
    if skipped > whole / 2:
        return -1.0
    alpha = min(matchness, MAX_ALPHA)
    return max(
        (1 - alpha ** (gamma + 1)) / (1 - alpha) / (gamma * (whole - skipped) + whole)
        for gamma in range(1, CHAIN_GAMMA + 1)
    )


def _chain(name: str, mask: SkipMask, seconds: float, note: str) -> Procedure:
    return Procedure(name, mask, CHAIN_METHOD, CHAIN_GAMMA, CHAIN_TAU, seconds, note)


def _few_positions(target: Target, prompts: Prompts) -> Scorer:
    """A scorer of the first eight prompts, 16 tokens each."""
    texts = [
        ScoredText((*prompt, *continuation(target, prompt, FEW_TOKENS)), len(prompt))
        for prompt in prompts[:FEW_PROMPTS]
    ]
    return Scorer(target, texts)


# Each is given the target, token ids of the calibration prompts, and the seconds that a search
# that could go on may take.
PROCEDURES: Mapping[str, Callable[[Target, Prompts, float], Procedure]] = MappingProxyType(
    {"SWIFT": swift, "Draft & Verify": draft_and_verify, "CLaSp": clasp, "KnapSpec": knapspec}
)
