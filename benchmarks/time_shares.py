"""Where the time of decoding goes: draft forwards, target forwards, and the host."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from benchmarks.speedup_law import DecodingSeconds, RoundCounts
from skipopt.decoding.loop import decode
from skipopt.decoding.request import check_request
from skipopt.decoding.setup import make_decoding
from skipopt.measurement.runners import GREEDY
from skipopt.measurement.timed_drafter import TimedDrafter
from skipopt.measurement.workload import Workload
from skipopt.methods import MethodSpec
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.runtime.engine import Engine


class ClockedEngine(Engine):
    """An engine that adds up the seconds of its forwards, those of the prefill included."""

    seconds = 0.0

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        began = time.perf_counter()
        logits = super().forward(*arguments, **options)
        self.seconds += time.perf_counter() - began
        return logits


def decoding_seconds(
    target: Target, method: MethodSpec, profile: Profile | None, load: Workload
) -> tuple[DecodingSeconds, list[RoundCounts]]:
    """Sums over all texts, and the counts of every round; each text is decoded untimed before."""
    seconds: list[DecodingSeconds] = []
    rounds: list[Round] = []
    for prompt, length in zip(load.prompts, load.lengths, strict=True):
        decode_clocked(target, method, profile, prompt, length)
        spent, done = decode_clocked(target, method, profile, prompt, length)
        seconds.append(spent)
        rounds += done
    counts = [RoundCounts(len(r.drafted), r.accepted, len(r.emitted)) for r in rounds]
    return DecodingSeconds.sum_of(seconds), counts


def decode_clocked(
    target: Target,
    method: MethodSpec,
    profile: Profile | None,
    prompt: Sequence[int],
    length: int,
) -> tuple[DecodingSeconds, list[Round]]:
    """Decode one text."""
    limits = check_request(target, prompt, length)
    setup = make_decoding(target, method, profile, GREEDY)
    most = min(limits.context_limit, len(prompt) + limits.max_new_tokens)
    engine = ClockedEngine(target, most + setup.drafter.max_extra_rows)
    forwards = TimedDrafter(setup.drafter, lambda: engine.seconds)
    whole = TimedDrafter(forwards, time.perf_counter, each_proposal=False)
    with target.runtime.capture_immediately():
        rounds = list(decode(engine, prompt, whole, GREEDY, limits, setup.verifier))
    seconds = time.perf_counter() - whole.started
    drafting = forwards.total_seconds
    return DecodingSeconds(seconds, drafting, engine.seconds - forwards.started - drafting), rounds
