"""The part `shapes`: costs of decoding at the shapes of large models, with random weights.

Plain decoding against the copy bandwidth of the device, draft costs against the bytes that a mask
keeps, verification of 1 … 16 tokens, and the host's share of a round. Random weights say nothing
about acceptance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from random import Random
from statistics import median
from typing import Any

import skipopt
from benchmarks.gpu_parts.configs import SHAPES, random_model
from benchmarks.gpu_parts.devices import (
    busy_seconds,
    copy_bandwidth,
    device_facts,
    free_memory,
    peak_memory,
)
from benchmarks.gpu_parts.session import Session
from benchmarks.gpu_parts.steps import Steps
from benchmarks.gpu_parts.targets import RUNTIMES, in_one_line
from benchmarks.gpu_parts.weights import kept_bytes, random_masks, read_bytes
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.stats import Interval, ratio_interval

MAX_VERIFIED = 16
PROFILED_ROUNDS = 16
PLAIN_EVERY = 4  # other measurements between two plain rounds


def shapes(session: Session) -> Iterator[dict[str, Any]]:
    """Yields the rows so far after each model and runtime."""
    bandwidth = copy_bandwidth(session.device, session.sizes.copied)
    session.say(f"copy bandwidth {bandwidth / 1e9:.0f} GB/s, read and written")
    rows: list[dict[str, Any]] = []
    found = {
        "device": device_facts(session.device),
        "copy_bytes_per_second": bandwidth,
        "copied_bytes": session.sizes.copied,
        "context": session.sizes.context,
        "models": rows,
    }
    yield found
    end = session.left()
    for place, (name, config) in enumerate(SHAPES.items()):
        try:
            model = random_model({**config, **session.sizes.shrink}, session.device)
        except RuntimeError as error:  # out of memory, mostly
            rows.append({"model": name, "runtime": "–", "error": in_one_line(error)})
            yield found
            continue
        for step, runtime in enumerate(RUNTIMES):
            done = (place * len(RUNTIMES) + step + 1) / (len(SHAPES) * len(RUNTIMES))
            session.say(f"{name} under {runtime}")
            rows.append({"model": name, "runtime": runtime})
            rows[-1] |= _measure_or_error(session, model, runtime, bandwidth, end * (1 - done))
            yield found
        del model
        free_memory(session.device)


def _measure_or_error(
    session: Session, model: Any, runtime: str, bandwidth: float, until: float
) -> dict[str, Any]:
    """The row of a runtime, with its error if it fails."""
    try:
        target = skipopt.load((model, None), runtime=runtime)
        return _measure(session, target, bandwidth, until)
    except Exception as error:
        return {"error": in_one_line(error)}


def _measure(session: Session, target: Target, bandwidth: float, until: float) -> dict[str, Any]:
    """Measure until `session.left()` is below `until`, with a minimum number of repeats."""
    context = session.sizes.context
    rng = Random(0)
    text = [rng.randrange(target.model.config.vocab_size) for _ in range(context + 1)]
    steps, masks = Steps(target, text, MAX_VERIFIED), random_masks(target.depth)
    times = Times()
    fewest, most = session.sizes.repeats
    _warm_up(steps, masks)
    for repeat in range(most):
        if repeat >= fewest and session.left() < until:
            break
        _one_repeat(steps, masks, times, backwards=bool(repeat % 2))
    plain, read = median(times.plain), read_bytes(target, context)
    busy = busy_seconds(session.device, lambda: _many_rounds(steps))
    own = None if busy is None else busy / PROFILED_ROUNDS
    return {
        "parameters": sum(p.numel() for p in target.model.parameters()),
        "peak_memory_bytes": peak_memory(target.device),
        "repeats": len(times.plain) // times.plain_per_repeat,
        "plain_seconds": plain,
        "tokens_per_second": 1 / plain,
        "read_bytes": read,
        "bytes_per_second": read / plain,
        "share_of_copy_bandwidth": read / plain / bandwidth,
        "device_busy_seconds": own,
        "host_share": None if own is None else max(0.0, 1 - own / plain),
        "draft_costs": [_draft_cost(target, mask, times, context) for mask in masks],
        "verify_costs": [
            {"tokens": n, **times.ratio(n).to_json()} for n in range(1, MAX_VERIFIED + 1)
        ],
    }


class Times:
    """Seconds of plain rounds, and of everything else relative to the plain round before it."""

    def __init__(self) -> None:
        self.plain: list[float] = []
        self.plain_per_repeat = 1
        self._ratios: dict[SkipMask | int, list[float]] = defaultdict(list)

    def add(self, what: SkipMask | int, seconds: float) -> None:
        self._ratios[what].append(math.log(seconds / self.plain[-1]))

    def ratio(self, what: SkipMask | int) -> Interval:
        """The median over repeats, with its bootstrap interval."""
        return ratio_interval([[each] for each in self._ratios[what]])


def _warm_up(steps: Steps, masks: Sequence[SkipMask]) -> None:
    """Let kernels be chosen and graphs be captured."""
    for _ in range(2):
        for tokens in range(1, MAX_VERIFIED + 1):
            steps.run_round(tokens)
        for mask in masks:
            steps.draft_step(mask)


def _one_repeat(steps: Steps, masks: Sequence[SkipMask], times: Times, backwards: bool) -> None:
    """Time everything once, with plain rounds in between; backwards in every second repeat."""
    things: list[SkipMask | int] = [*masks, *range(1, MAX_VERIFIED + 1)]
    plain = 0
    for i, thing in enumerate(reversed(things) if backwards else things):
        if i % PLAIN_EVERY == 0:
            times.plain.append(median(steps.round(1) for _ in range(3)))
            plain += 1
        timed = steps.round(thing) if isinstance(thing, int) else steps.draft_step(thing)
        times.add(thing, timed)
    times.plain_per_repeat = plain


def _draft_cost(target: Target, mask: SkipMask, times: Times, context: int) -> dict[str, Any]:
    share = kept_bytes(target, mask, context) / read_bytes(target, context)
    skipped = len(mask.skipped)
    return {"mask": str(mask), "skipped": skipped, "kept_share": share} | {
        "draft_cost": times.ratio(mask).to_json()
    }


def _many_rounds(steps: Steps) -> None:
    for _ in range(PROFILED_ROUNDS):
        steps.run_round(1)
