"""Paired timing: the order of runs, warm-up, prefill, and errors of runners."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from support.native import needs_native
from support.timing_fakes import PREFILL, FakeClock, FakeRunner, tiny_prompts, tiny_target

from skipopt.errors import SkipoptError
from skipopt.measurement import metrics
from skipopt.measurement.runners import HFRunner, SkipoptRunner
from skipopt.measurement.timing import Clock, Decoding, Timer, device_clock, run_order
from skipopt.methods import parse_method
from skipopt.runtime.load import make_target

PROMPTS = [[0], [100], [200]]


def test_order_rotates_with_prompts_and_is_reversed_with_repeats() -> None:
    orders = [[run_order(3, prompt, repeat) for repeat in (0, 1)] for prompt in (0, 1, 2)]
    assert orders == [
        [[0, 1, 2], [2, 1, 0]],
        [[1, 2, 0], [0, 2, 1]],
        [[2, 0, 1], [1, 0, 2]],
    ]


def test_all_runners_warm_up_first_and_are_then_interleaved() -> None:
    clock, calls = FakeClock(), list[tuple[str, int]]()
    runners = [FakeRunner(name, clock, lambda run: 0.1, calls) for name in "AB"]
    timer = Timer(runners, PROMPTS, [10, 10, 10], clock)
    timer.warm_up()
    timer.run(2)
    first, again = ["AB", "BA", "AB"], ["BA", "AB", "BA"]
    expected = [("A warms up", 0), ("B warms up", 0)]
    for orders in (first, again):
        for (prompt,), order in zip(PROMPTS, orders, strict=True):
            expected += [(name, prompt) for name in order]
    assert calls == expected
    assert [(s.runner, s.prompt) for s in timer.samples] == [(n, p // 100) for n, p in calls[2:]]
    assert [s.repeat for s in timer.samples] == [0] * 6 + [1] * 6


def test_a_steady_slowdown_of_the_machine_does_not_bias_speedups() -> None:
    clock = FakeClock()
    steps = iter(range(1000))
    runners = [FakeRunner(n, clock, lambda run: 1 + 0.01 * next(steps)) for n in "AB"]
    timer = Timer(runners, PROMPTS[:1], [10], clock)
    timer.run(2)
    assert metrics.speedup(timer.samples, "B", "A").median == pytest.approx(1, abs=1e-3)


def test_prefill_does_not_count_as_decoding() -> None:
    clock = FakeClock()
    timer = Timer([FakeRunner("A", clock, lambda run: 0.1)], PROMPTS, [10, 20, 30], clock)
    timer.run(1)
    assert metrics.tokens_per_second(timer.samples) == pytest.approx(10)
    assert metrics.prefill_seconds(timer.samples) == PREFILL


def test_end_to_end_counts_the_prefill_and_is_told_by_length() -> None:
    """Half a second of prefill, and 0.1 or 0.05 s a token; one text is too short for 32 tokens."""
    clock = FakeClock()
    runners = [FakeRunner("A", clock, lambda run: 0.1), FakeRunner("B", clock, lambda run: 0.05)]
    timer = Timer(runners, PROMPTS, [40, 40, 20], clock)
    timer.run(2)
    found = metrics.end_to_end(timer.samples, "B", "A")
    assert found is not None
    assert found.whole.median == pytest.approx((0.5 + 4) / (0.5 + 2))
    assert found.whole.low == pytest.approx((0.5 + 2) / (0.5 + 1))
    ((length, at),) = found.at
    assert (length, at.median) == (32, pytest.approx((0.5 + 3.2) / (0.5 + 1.6)))
    assert metrics.end_to_end([], "B", "A") is None
    assert timer.samples[0].to_json()["seconds_to"] == {"32": pytest.approx(3.7)}


def test_first_texts_are_interleaved_and_kept_apart() -> None:
    """Capturing takes two seconds of the first text, which decoding alone does not show."""
    clock, calls = FakeClock(), list[tuple[str, int]]()
    runners = [FakeRunner(name, clock, lambda run: 0.1, calls) for name in "AB"]
    runners[1].first = 2.0
    timer = Timer(runners, PROMPTS, [10, 10, 10], clock)
    timer.run_first_texts(2)
    assert calls == [("A anew", 0), ("B anew", 0), ("B anew", 100), ("A anew", 100)]
    assert timer.samples == []
    found = metrics.end_to_end(timer.first_texts, "B", "A")
    assert found is not None
    assert found.whole.median == pytest.approx(1.5 / 3.5)
    assert metrics.speedup(timer.first_texts, "B", "A").median == pytest.approx(1)


@needs_native
def test_a_text_in_a_fresh_state_captures_its_steps_again() -> None:
    target = make_target(deepcopy(tiny_target().model), None, runtime="native")
    runner = SkipoptRunner(target, parse_method("plain"))
    prompt, pool = tiny_prompts(1)[0], target.runtime.step_caches
    runner.decode(prompt, 20, time.perf_counter)
    before = pool.num_captured
    later = runner.decode(prompt, 20, time.perf_counter)
    assert pool.num_captured == before
    first = runner.decode_fresh(prompt, 20, time.perf_counter)
    assert pool.num_captured == before + 1
    assert first.tokens == later.tokens
    assert first.total_seconds > first.prefill_seconds + first.decode_seconds
    assert target.runtime.quantized.extra_bytes == 0


def test_one_slow_repeat_does_not_change_the_speed() -> None:
    clock = FakeClock()
    costs = [0.1, 0.1, 0.1, 5.0, 0.1, 0.1, 0.1, 0.1, 0.1]
    timer = Timer([FakeRunner("A", clock, lambda run: costs[run])], PROMPTS, [10] * 3, clock)
    timer.run(3)
    assert metrics.tokens_per_second(timer.samples) == pytest.approx(10)


class Failing(FakeRunner):
    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        if self.runs == 2:
            raise RuntimeError("no\n  such   thing")
        return super().decode(prompt, max_new_tokens, clock)


def test_a_peers_error_is_recorded_and_the_others_continue() -> None:
    clock = FakeClock()
    peer, own = Failing("peer", clock, lambda run: 0.1), FakeRunner("own", clock, lambda r: 0.1)
    peer.may_fail = True
    timer = Timer([own, peer], PROMPTS, [10] * 3, clock)
    timer.run(2)
    assert timer.errors == {"peer": "RuntimeError: no such thing"}
    assert (own.runs, peer.runs) == (6, 2)


def test_an_excluded_runner_is_not_run() -> None:
    clock = FakeClock()
    runners = [FakeRunner(name, clock, lambda run: 0.1) for name in "AB"]
    timer = Timer(runners, PROMPTS, [10] * 3, clock)
    timer.exclude("B", "no time to compile it")
    timer.warm_up()
    timer.run(1)
    assert timer.errors == {"B": "no time to compile it"}
    assert {sample.runner for sample in timer.samples} == {"A"}


def test_only_kept_runners_continue() -> None:
    clock = FakeClock()
    runners = [FakeRunner(name, clock, lambda run: 0.1) for name in "ABC"]
    timer = Timer(runners, PROMPTS, [10] * 3, clock)
    for prompt in timer.iter_repeat():
        if prompt == 0:
            timer.keep(["A", "C"])
    assert [runner.runs for runner in runners] == [3, 1, 3]
    assert len(metrics.samples_of(timer.samples, "B")) == 1


def test_a_runner_has_the_name_it_is_given_or_its_methods() -> None:
    spec = parse_method("prompt-lookup")
    assert SkipoptRunner(tiny_target(), spec).name == "prompt-lookup"
    assert SkipoptRunner(tiny_target(), spec, name="lookup-eager").name == "lookup-eager"


def test_an_error_of_skipopt_is_raised() -> None:
    clock = FakeClock()
    timer = Timer([Failing("own", clock, lambda run: 0.1)], PROMPTS, [10] * 3, clock)
    with pytest.raises(RuntimeError, match="such"):
        timer.run(1)


class CountingClock(FakeClock):
    """A second passes at each reading."""

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_an_accelerator_is_synchronized_before_each_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []

    def read() -> float:
        events.append("read")
        return 1.5

    monkeypatch.setattr(torch.accelerator, "synchronize", lambda d: events.append(f"wait {d}"))
    monkeypatch.setattr(time, "perf_counter", read)
    assert device_clock(torch.device("cpu"))() == 1.5
    assert device_clock(torch.device("cuda:1"))() == 1.5
    assert events == ["read", "wait cuda:1", "read"]


def test_prefill_ends_before_the_first_draft() -> None:
    """The clock counts readings: the request, the start, the prefill's end, each round's end."""
    clock = CountingClock()
    own = SkipoptRunner(tiny_target(), parse_method("prompt-lookup"))
    found = own.decode(tiny_prompts(1)[0], 20, clock)
    assert (found.prefill_seconds, found.decode_seconds) == (1, len(found.rounds) + 1)
    assert found.total_seconds == 2 + len(found.rounds)
    assert found.timed_tokens == len(found.tokens) == 20


def fake_generate(
    clock: FakeClock, seconds: Callable[[dict[str, Any]], float]
) -> Callable[..., torch.Tensor]:
    """`generate` that prefills in one second and takes `seconds` of its arguments for the rest."""

    def generate(
        ids: torch.Tensor, max_new_tokens: int, stopping_criteria: Any, **arguments: Any
    ) -> torch.Tensor:
        for made in range(max_new_tokens):
            clock.now += 1 if made == 0 else seconds(arguments) / (max_new_tokens - 1)
            ids = torch.nn.functional.pad(ids, (0, 1), value=made)
            assert not stopping_criteria(ids, None).any()
        return ids

    return generate


def test_a_peers_prefill_and_first_token_are_not_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, target = FakeClock(), tiny_target()
    monkeypatch.setattr(target.model, "generate", fake_generate(clock, lambda _: 6))
    found = HFRunner(target, "hf-generate", ({},)).decode(tiny_prompts(1)[0], 13, clock)
    assert found.tokens == tuple(range(13))
    assert (found.prefill_seconds, found.decode_seconds, found.timed_tokens) == (1, 6, 12)
    assert found.seconds_per_token == 0.5


@pytest.mark.parametrize(
    "settings", [{}, {"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 2}], ids=str
)
def test_the_first_forward_of_a_peer_is_prefill(settings: dict[str, Any]) -> None:
    """The clock counts its readings: at the start, at each check, at the end."""
    clock = CountingClock()
    found = HFRunner(tiny_target(), "peer", (settings,)).decode(tiny_prompts(1)[0], 20, clock)
    assert found.prefill_seconds == 1
    assert found.total_seconds == 1 + found.decode_seconds
    assert found.seconds_to(20) is not None
    assert found.seconds_to(21) is None
    assert 20 - 11 <= found.timed_tokens < len(found.tokens) == 20


def test_a_text_of_one_token_cannot_be_timed_in_a_peer() -> None:
    with pytest.raises(SkipoptError, match="1 tokens are too few"):
        HFRunner(tiny_target(), "hf-generate", ({},)).decode(
            tiny_prompts(1)[0], 1, CountingClock()
        )


def test_a_peer_keeps_the_fastest_of_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, target = FakeClock(), tiny_target()
    seconds = {3: 8.0, 10: 5.0, 20: 6.0}
    monkeypatch.setattr(target.model, "generate", fake_generate(clock, lambda a: seconds[a["n"]]))
    peer = HFRunner(target, "peer", tuple({"n": n} for n in seconds))
    peer.warm_up([1, 2], 8, clock)
    assert peer.settings == {"n": 10}


def test_a_failed_early_exit_restores_the_models_depth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tiny_target()

    def fail(*args: object, **kwargs: object) -> None:
        target.model.config.num_hidden_layers = 2
        raise RuntimeError("no early exit here")

    monkeypatch.setattr(target.model, "generate", fail)
    peer = HFRunner(target, "hf-early-exit", ({"assistant_early_exit": 2},))
    with pytest.raises(RuntimeError, match="no early exit"):
        peer.decode([1, 2, 3], 8, FakeClock())
    assert target.model.config.num_hidden_layers == 4
