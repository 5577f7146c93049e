"""The regression gate: verdicts, exit codes, baselines and thresholds."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from support.timing_fakes import FakeClock, FakeRunner, tiny_prompts, tiny_target

from skipopt.errors import ProfileError, SkipoptError, UsageError
from skipopt.masks import SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.regression_gate import CheckResult, TimeLimit, check, check_runners
from skipopt.measurement.runners import SkipoptRunner
from skipopt.measurement.threshold import (
    Baseline,
    Subject,
    Threshold,
    choose_threshold,
    threshold_against,
)
from skipopt.measurement.timing import (
    Clock,
    Decoding,
    ProgressCallback,
    device_clock,
    ignore_progress,
)
from skipopt.methods import parse_method
from skipopt.profile import Profile
from skipopt.reporting.junit import junit_report
from skipopt.reporting.tables import check_table, markdown_table

PROMPTS = [[100 * i] for i in range(6)]
THRESHOLD = Threshold(1.2, "asked for")


def on_threshold(run: int) -> float:
    """Seconds of a token with which a whole text of 40 is 1.2 times as fast as plainly."""
    return (4.5 / 1.2 - 0.5) / 40


def check_fakes(
    cost: Callable[[int], float],
    max_seconds: float = 2000,
    threshold: Threshold = THRESHOLD,
    plain_cost: Callable[[int], float] = lambda run: 0.1,
    min_repeats: int = 2,
    on_progress: ProgressCallback = ignore_progress,
) -> tuple[CheckResult, FakeRunner]:
    """Plain decoding takes 0.1 s a token; the runner's runs take `cost`."""
    clock = FakeClock()
    plain = FakeRunner("plain", clock, plain_cost)
    fast = FakeRunner("layer-skip", clock, cost)
    limit = TimeLimit(clock, max_seconds, on_progress)
    result = check_runners(tiny_target(), plain, fast, PROMPTS, threshold, 40, limit, min_repeats)
    return result, fast


def check_against(cost: float, other: float) -> CheckResult:
    """Plain decoding takes 0.1 s a token; the runner and the reference take these times."""
    clock = FakeClock()
    plain, fast, reference = (
        FakeRunner(name, clock, lambda run, seconds=seconds: seconds)  # type: ignore[misc]
        for name, seconds in (("plain", 0.1), ("layer-skip", cost), ("reference", other))
    )
    threshold, limit = threshold_against(1.0, 0.05), TimeLimit(clock, 2000)
    return check_runners(
        tiny_target(), plain, fast, PROMPTS, threshold, 40, limit, reference=reference
    )


@pytest.mark.parametrize(
    ("cost", "other", "verdict"),
    [(0.05, 0.05, "pass"), (0.07, 0.05, "fail"), (0.04, 0.05, "pass")],
)
def test_another_profile_takes_the_place_of_plain_decoding(
    cost: float, other: float, verdict: str
) -> None:
    """An equal one passes by the tolerance; faster than plain decoding does not suffice."""
    result = check_against(cost, other)
    assert result.verdict == verdict
    assert result.speedup is not None
    assert result.speedup.median == pytest.approx(other / cost)
    assert {each.runner for each in result.samples} == {"reference", "layer-skip"}
    assert result.to_json()["against"]["method"] == "reference"


def test_a_speedup_that_is_kept_passes_after_one_block() -> None:
    result, fast = check_fakes(lambda run: 0.1 / 1.3)
    assert result.verdict == "pass"
    assert result.speedup is not None
    assert result.speedup.median == pytest.approx(1.3)
    assert fast.runs == 6 + 2 * 6  # texts first, then one block: AB and BA over six prompts
    assert result.end_to_end is not None
    assert result.end_to_end.whole.median == pytest.approx((0.5 + 4) / (0.5 + 4 / 1.3))
    assert result.acceptance_rate == 0.75


def test_a_regression_fails_with_3() -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.1)
    assert result.verdict == "fail"
    assert "below the threshold of 1.200" in result.reason
    assert result.lossless is not None
    assert result.lossless.verdict == "exact"


def test_a_speedup_on_the_threshold_is_inconclusive_with_4() -> None:
    """Runs differ by more than their texts show, so more time would not help."""
    result, fast = check_fakes(on_threshold, max_seconds=600)
    assert result.verdict == "inconclusive"
    assert "both sides of the threshold of 1.200" in result.reason
    assert fast.runs > 6 + 4 * 6


def test_repeats_are_timed_while_time_allows_even_if_the_verdict_is_clear() -> None:
    result, fast = check_fakes(lambda run: 0.05, min_repeats=6)
    assert (result.verdict, fast.runs) == ("pass", 6 + 6 * 6)


@pytest.mark.parametrize("copies", [1, 8])
@pytest.mark.parametrize("seconds", [30, 60, 90, 150, 300, 500, 1000])
def test_the_time_limit_bounds_everything(seconds: float, copies: int) -> None:
    """A text takes up to 5 s, which is most of what is left of the shortest limit."""
    clock = FakeClock()
    plain = FakeRunner("plain", clock, lambda run: 0.1)
    fast = FakeRunner("layer-skip", clock, lambda run: 0.07 + 0.03 * (run % 2))
    fast.first = 2.0
    limit = TimeLimit(clock, seconds)
    prompts, threshold = PROMPTS * copies, Threshold(1.09, "asked for")
    check_runners(tiny_target(), plain, fast, prompts, threshold, 40, limit)
    assert clock.now - 100 <= 1.1 * seconds


@pytest.mark.parametrize("seconds", [0, 5])
def test_no_time_for_a_text_is_inconclusive(seconds: float) -> None:
    result, _ = check_fakes(lambda run: 0.05, max_seconds=seconds)
    assert (result.verdict, result.end_to_end) == ("inconclusive", None)
    assert "a longer --timeout" in result.reason
    assert result.to_json()["speedup"] is None


def test_fewer_prompts_are_compared_where_time_is_short() -> None:
    result, _ = check_fakes(lambda run: 0.05, max_seconds=60)
    assert result.lossless is not None
    assert 0 < result.lossless.total < 6
    assert f"no time for {6 - result.lossless.total} prompts" in result.reason


def test_blocks_are_added_until_the_verdict_is_clear() -> None:
    """In the first block each text is slow once; later ones are clearly above the threshold."""
    slow = (*range(6, 12, 2), *range(13, 18, 2))
    result, fast = check_fakes(lambda run: 0.1 / (0.9 if run in slow else 1.5))
    assert result.verdict == "pass"
    assert fast.runs > 18


def test_progress_counts_seconds_up_to_the_limit() -> None:
    seen: list[tuple[float, float]] = []
    check_fakes(
        on_threshold,
        max_seconds=300,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {300}
    assert seen[-1][0] == pytest.approx(300, abs=10)


# --- against the texts of a baseline


def baseline_of(result: CheckResult, path: Path) -> Baseline:
    file = path / "before.json"
    file.write_text(json.dumps(result.to_json()))
    return Baseline.load(file)


def noisy(speedup: float, seed: int) -> Callable[[int], float]:
    """Costs around 0.1 s ÷ speedup, with a tenth of noise; every thirtieth text takes twice."""
    rng = Random(seed)
    return lambda run: 0.1 / speedup * rng.gauss(1, 0.1) * (2 if rng.random() < 1 / 30 else 1)


def recheck(tmp_path: Path, speedup: float, tolerance: float, seconds: float) -> CheckResult:
    """A baseline with a speedup of 1.5, and a check against it."""
    before, _ = check_fakes(noisy(1.5, 1), threshold=Threshold(1.0, ""), min_repeats=8)
    baseline = baseline_of(before, tmp_path)
    threshold = choose_threshold(baseline, before.environment, 1.0, tolerance)
    return check_fakes(noisy(speedup, 2), seconds, threshold)[0]


def test_an_unchanged_speedup_passes_against_the_texts_of_a_baseline(tmp_path: Path) -> None:
    result = recheck(tmp_path, 1.5, 0.10, 3000)
    assert result.verdict == "pass", result.reason
    assert result.kept is not None
    assert result.kept.prompts == 6
    assert result.kept.answer.ratio.median == pytest.approx(1, abs=0.08)
    assert result.kept.plain == pytest.approx(1)
    kept = result.to_json()["kept"]
    assert kept["ratio"].keys() == {"median", "low", "high"}
    assert kept["least"] == pytest.approx(0.9)


def test_a_planted_loss_fails_though_the_floor_is_kept(tmp_path: Path) -> None:
    """15 % less of the whole text's speedup, prefill included."""
    planted = 4 / ((0.5 + 4 / 1.5) / 0.85 - 0.5)
    result = recheck(tmp_path, planted, 0.05, 4000)
    assert result.verdict == "fail", result.reason
    assert result.end_to_end is not None
    assert result.end_to_end.whole.low > 1.0
    assert "of the baseline's on 6 texts, less than the 0.950 to keep" in result.reason


def test_a_loss_that_the_tolerance_allows_passes(tmp_path: Path) -> None:
    planted = 4 / ((0.5 + 4 / 1.5) / 0.95 - 0.5)
    assert recheck(tmp_path, planted, 0.20, 3000).verdict == "pass"


def test_a_loss_near_the_tolerance_is_inconclusive_and_says_what_helps(tmp_path: Path) -> None:
    planted = 4 / ((0.5 + 4 / 1.5) / 0.9 - 0.5)
    result = recheck(tmp_path, planted, 0.10, 700)
    assert result.verdict == "inconclusive"
    assert "--timeout" in result.reason or "--tolerance" in result.reason


def test_the_spread_between_prompts_does_not_hide_a_loss(tmp_path: Path) -> None:
    """Speedups of 1 to 3.5: their interval is wide, but each text is compared with itself."""

    def by_prompt(slower: float) -> Callable[[int], float]:
        return lambda run: slower * 0.1 / (1 + run % 6 / 2)

    before, _ = check_fakes(by_prompt(1.0), threshold=Threshold(0.9, ""), min_repeats=4)
    baseline = baseline_of(before, tmp_path)
    threshold = choose_threshold(baseline, before.environment, 0.5, 0.1)
    slow, _ = check_fakes(by_prompt(1.3), threshold=threshold)
    same, _ = check_fakes(by_prompt(1.0), threshold=threshold)
    assert before.end_to_end is not None
    assert before.end_to_end.whole.high > 1.3 * before.end_to_end.whole.low
    assert (slow.verdict, same.verdict) == ("fail", "pass")


def test_another_state_of_the_machine_forbids_a_verdict(tmp_path: Path) -> None:
    """Plain decoding takes a quarter less time than in the baseline, and drafts the same."""
    before, _ = check_fakes(lambda run: 0.05, threshold=Threshold(1.0, ""), min_repeats=4)
    baseline = baseline_of(before, tmp_path)
    threshold = choose_threshold(baseline, before.environment, 1.0, 0.1)
    result, _ = check_fakes(lambda run: 0.05, 1000, threshold, plain_cost=lambda run: 0.75 * 0.1)
    assert result.verdict == "inconclusive"
    assert "the machine is in another state" in result.reason


def test_other_texts_of_the_same_prompts_are_not_compared(tmp_path: Path) -> None:
    before, _ = check_fakes(lambda run: 0.05, threshold=Threshold(1.0, ""))
    document = before.to_json()
    document["texts"] = ["0" * 16, *document["texts"][1:]]
    path = tmp_path / "before.json"
    path.write_text(json.dumps(document))
    threshold = choose_threshold(Baseline.load(path), before.environment, 1.0, 0.1)
    result, _ = check_fakes(lambda run: 0.05, threshold=threshold)
    assert result.kept is not None
    assert result.kept.prompts == 5


def test_a_baseline_of_other_texts_altogether_counts_by_its_floor(tmp_path: Path) -> None:
    before, _ = check_fakes(lambda run: 0.05, threshold=Threshold(1.0, ""))
    document = before.to_json()
    document["texts"] = [f"{number:016}" for number in range(6)]
    path = tmp_path / "before.json"
    path.write_text(json.dumps(document))
    threshold = choose_threshold(Baseline.load(path), before.environment, 1.0, 0.1)
    result, _ = check_fakes(lambda run: 0.05, threshold=threshold)
    assert (result.verdict, result.kept) == ("pass", None)
    assert "none of the baseline's texts" in result.reason


@dataclass(frozen=True, slots=True)
class Wrong(SkipoptRunner):
    """Emits one token that the target would not, from the run of that number on."""

    runs: list[int] | None = None
    wrong_from: int = 0

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        found = SkipoptRunner.decode(self, prompt, max_new_tokens, clock)
        assert self.runs is not None
        self.runs.append(max_new_tokens)
        if len(self.runs) <= self.wrong_from:
            return found
        worse = (*found.tokens[:7], (found.tokens[7] + 1) % 100, *found.tokens[8:])
        return replace(found, tokens=worse)


@pytest.mark.slow
@pytest.mark.parametrize("wrong_from", [0, 3, 7])
def test_a_wrong_token_fails_with_5_whenever_it_comes(wrong_from: int) -> None:
    target = tiny_target()
    wrong = Wrong(target, parse_method("prompt-lookup"), runs=[], wrong_from=wrong_from)
    clock = device_clock(target.device)
    threshold = Threshold(0.001, "asked for")
    plain = SkipoptRunner(target, parse_method("plain"))
    limit = TimeLimit(clock, 1e5)
    result = check_runners(target, plain, wrong, tiny_prompts(4), threshold, 16, limit)
    assert result.verdict == "fail"
    assert "not lossless" in result.reason
    # Wrong from the start, so it is not timed.
    assert (result.speedup is None) == (wrong_from < 4)


def profile_of(**parts: Any) -> Profile:
    target = tiny_target()
    mask = SkipMask.of(4, [1], [2])
    return Profile.build(target, mask, gamma=3, tau=0.0, **parts)


def measured(speedup: float) -> dict[str, Any]:
    return {
        "speedup": {"median": 2 * speedup, "low": 1.01, "high": 4.0},
        "end_to_end": {"median": speedup, "low": 1.01, "high": 2.0},
        "acceptance_rate": 0.9,
        "mean_acceptance_length": 3.0,
        "plain_tokens_per_second": 10.0,
        "tokens_per_second": 14.0,
        "lossless": "exact",
    }


@pytest.mark.slow
def test_real_decoding_passes_a_threshold_it_cannot_miss() -> None:
    result = check(
        tiny_target(),
        profile_of(),
        tiny_prompts(4),
        min_speedup=0.01,
        max_new_tokens=16,
        timeout=1e5,
    )
    assert result.verdict == "pass"
    assert result.lossless is not None
    assert (result.lossless.verdict, result.lossless.exact) == ("exact", 4)
    document = json.loads(json.dumps(result.to_json()))
    assert document.keys() >= {
        "verdict",
        "speedup",
        "floor",
        "lossless",
        "acceptance_rate",
        "baseline",
        "environment",
    }
    assert document["floor"] == 0.01
    assert {s["method"] for s in document["samples"]} == {"plain", "layer-skip"}


def test_a_disabled_profile_passes_without_measurement() -> None:
    profile = profile_of(enabled=False, reason="no mask pays")
    result = check(tiny_target(), profile, tiny_prompts(2))
    assert (result.verdict, result.speedup) == ("pass", None)
    assert "decodes plainly: no mask pays" in result.reason
    assert result.to_json()["lossless"] is None


@pytest.mark.parametrize("enabled", [True, False])
def test_another_models_profile_is_refused(enabled: bool) -> None:
    profile = profile_of(enabled=enabled, reason=None if enabled else "no mask pays")
    other = profile.model.model_copy(update={"fingerprint": "sha256:00"})
    with pytest.raises(ProfileError, match="another model"):
        check(tiny_target(), profile.model_copy(update={"model": other}), tiny_prompts(2))


def test_threshold_is_the_baseline_minus_the_tolerance() -> None:
    here = environment_of(tiny_target())
    profile = profile_of(measured=measured(1.4), environment=here)
    threshold = choose_threshold(Baseline.of(profile), here, min_speedup=1.0, tolerance=0.1)
    assert threshold.value == pytest.approx(1.26)
    assert threshold.baseline == 1.4
    assert "baseline speedup 1.4 minus 10 %" in threshold.reason
    assert threshold.of_other_texts


def test_threshold_is_never_below_the_speedup_asked_for() -> None:
    here = environment_of(tiny_target())
    profile = profile_of(measured=measured(1.4), environment=here)
    assert choose_threshold(Baseline.of(profile), here, min_speedup=1.35).value == 1.35


@pytest.mark.parametrize("key", ["device", "dtype", "threads", "runtime", "torch"])
def test_a_baseline_from_another_environment_does_not_count(key: str) -> None:
    here = environment_of(tiny_target())
    there = here | {key: 99 if key == "threads" else "other"}
    profile = profile_of(measured=measured(1.4), environment=there)
    threshold = choose_threshold(Baseline.of(profile), here)
    assert (threshold.value, threshold.baseline) == (1.0, 1.4)
    assert f"{key} was {there[key]}, is {here[key]}" in threshold.reason


def test_irrelevant_environment_differences_are_ignored() -> None:
    here = environment_of(tiny_target())
    profile = profile_of(measured=measured(1.4), environment=here | {"transformers": "1.0"})
    assert choose_threshold(Baseline.of(profile), here, tolerance=0.0).value == 1.4


def test_without_measurement_or_environment_only_the_speedup_asked_for_counts() -> None:
    here = environment_of(tiny_target())
    assert (
        "no measured end-to-end speedup"
        in choose_threshold(Baseline.of(profile_of()), here).reason
    )
    threshold = choose_threshold(Baseline.of(profile_of(measured=measured(1.4))), here)
    assert threshold.value == 1.0
    assert "it has no environment" in threshold.reason


def test_an_earlier_check_is_a_baseline_text_by_text(tmp_path: Path) -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.5)
    threshold = choose_threshold(baseline_of(result, tmp_path), result.environment, tolerance=0.2)
    total = (0.5 + 4) / (0.5 + 4 / 1.5)
    assert (threshold.value, threshold.tolerance) == (1.0, 0.2)
    assert threshold.baseline == pytest.approx(total)
    assert threshold.texts is not None
    for repeats in threshold.texts.values():
        assert [pair.log_speedup for pair in repeats.values()] == pytest.approx(
            [math.log(total)] * 2
        )


def test_an_earlier_check_without_names_of_texts_counts_by_its_speedup(tmp_path: Path) -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.5)
    baseline = replace(baseline_of(result, tmp_path), texts=None)
    threshold = choose_threshold(baseline, result.environment, tolerance=0.2)
    assert threshold.value == pytest.approx(0.8 * (0.5 + 4) / (0.5 + 4 / 1.5))
    assert "no texts to compare" in threshold.reason
    assert not threshold.of_other_texts


@pytest.mark.parametrize(
    "wrong", [{"total_seconds": 0}, {"total_seconds": float("nan")}, {"prompt": -1}]
)
def test_a_baseline_with_impossible_samples_is_refused(
    tmp_path: Path, wrong: dict[str, float]
) -> None:
    document = check_fakes(lambda run: 0.05)[0].to_json()
    document["samples"][3].update(wrong)
    path = tmp_path / "before.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SkipoptError, match=rf"samples\S*{next(iter(wrong))}"):
        Baseline.load(path)


def test_another_profile_is_a_baseline(tmp_path: Path) -> None:
    here = environment_of(tiny_target())
    profile_of(measured=measured(1.4), environment=here).save(tmp_path / "before.yaml")
    assert Baseline.load(tmp_path / "before.yaml").speedup == 1.4


Change = Callable[[dict[str, Any]], Any]
REFUSED: list[tuple[Change, str]] = [
    (lambda d: d.update(speedup=None), "speedup is null"),
    (lambda d: d.update(end_to_end=None), "end_to_end is null"),
    (lambda d: d["end_to_end"].update(median=-1), "end_to_end.median is -1"),
    (lambda d: d["end_to_end"].update(median=0), "end_to_end.median is 0"),
    (lambda d: d["end_to_end"].update(median=float("nan")), "end_to_end.median is nan"),
    (lambda d: d["end_to_end"].update(median=float("inf")), "end_to_end.median is inf"),
    (lambda d: d["end_to_end"].update(median=True), "end_to_end.median is true"),
    (lambda d: d["end_to_end"].update(median="1.2"), "end_to_end.median is '1.2'"),
    (lambda d: d["speedup"].update(low=-1), "speedup.low is -1"),
    (lambda d: d.pop("end_to_end"), "end_to_end is missing"),
    (lambda d: d.pop("model"), "model is missing"),
    (lambda d: d.pop("prompts"), "prompts is missing"),
    (lambda d: d.pop("max_new_tokens"), "max_new_tokens is missing"),
    (lambda d: d["environment"].update(threads=0), "environment.threads is 0"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_baseline_without_a_valid_speedup_is_refused_by_the_name_of_the_key(
    tmp_path: Path, change: Change, words: str
) -> None:
    document = check_fakes(lambda run: 0.1 / 1.5)[0].to_json()
    path = tmp_path / "before.json"
    path.write_text(json.dumps(document))
    assert Baseline.load(path).speedup == document["end_to_end"]["median"]
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(SkipoptError, match=re.escape(f"before.json is not a baseline: {words}")):
        Baseline.load(path)


def test_a_profile_without_a_speedup_is_no_baseline_for_other_profiles(tmp_path: Path) -> None:
    profile_of().save(tmp_path / "p.yaml")
    with pytest.raises(SkipoptError, match=r"p\.yaml is not a baseline: expected is missing"):
        Baseline.load(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"fingerprint": "sha256:00"}}, "of another model: its model.fingerprint is"),
        ({"max_new_tokens": 8}, "of other lengths: its max_new_tokens is 40, here it is 8"),
    ],
)
def test_a_baseline_of_another_model_or_length_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.5)
    path = tmp_path / "before.json"
    path.write_text(json.dumps(result.to_json()))
    baseline = Baseline.load(path)
    baseline.check_subject(result.subject)
    with pytest.raises(SkipoptError, match=words):
        baseline.check_subject(replace(result.subject, **change))


def test_a_baseline_of_other_prompts_does_not_count(tmp_path: Path) -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.5)
    baseline = baseline_of(result, tmp_path)
    same = result.subject.prompts
    assert choose_threshold(baseline, result.environment, prompts=same).texts is not None
    other = choose_threshold(baseline, result.environment, prompts="sha256:11")
    assert (other.value, other.texts) == (1.0, None)
    assert "of other prompts: its prompts.hash is" in other.reason


def test_a_profile_of_another_model_is_no_baseline() -> None:
    subject = Subject.of(tiny_target(), PROMPTS, 40)
    Baseline.of(profile_of()).check_subject(subject)
    with pytest.raises(SkipoptError, match=r"model\.fingerprint"):
        Baseline.of(profile_of()).check_subject(replace(subject, model={"fingerprint": "x"}))


@pytest.mark.parametrize("text", ["", "[]", '{"speedup": {}}', '{"speedup": {"median": "x"}}'])
def test_other_files_are_not_a_baseline(tmp_path: Path, text: str) -> None:
    path = tmp_path / "before.json"
    path.write_text(text)
    with pytest.raises(SkipoptError, match=r"before\.json is not a baseline") as error:
        Baseline.load(path)
    assert "check --json" in (error.value.hint or "")
    with pytest.raises(SkipoptError, match=r"cannot read '.*missing\.json': No such file"):
        Baseline.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("cost", "skipped", "failed"),
    [
        (lambda run: 0.1 / 1.3, [], []),
        (lambda run: 0.1 / 1.1, [], ["speedup"]),
        (lambda run: 0.1 / 1.24, ["speedup"], []),
    ],
)
def test_the_junit_report_lists_what_passed(
    cost: Callable[[int], float], skipped: list[str], failed: list[str]
) -> None:
    result, _ = check_fakes(cost, max_seconds=300)
    suite = ElementTree.fromstring(junit_report(result, "profile.yaml"))
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert set(cases) == {"lossless", "speedup"}
    assert [n for n, case in cases.items() if case.find("skipped") is not None] == skipped
    assert [n for n, case in cases.items() if case.find("failure") is not None] == failed
    assert suite.get("failures") == str(len(failed))
    facts = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert facts["floor"] == "1.2"
    assert facts["dtype"] == "float32"
    assert facts["memory"].startswith("weights ")


def test_junit_report_of_a_wrong_token_fails_that_case() -> None:
    target = tiny_target()
    wrong = Wrong(target, parse_method("prompt-lookup"), runs=[])
    clock = device_clock(target.device)
    plain = SkipoptRunner(target, parse_method("plain"))
    limit = TimeLimit(clock, 1e5)
    result = check_runners(target, plain, wrong, tiny_prompts(3), THRESHOLD, 12, limit)
    suite = ElementTree.fromstring(junit_report(result, "profile.yaml"))
    exact, speed = suite.iter("testcase")
    failure = exact.find("failure")
    assert failure is not None
    assert "not lossless" in (failure.get("message") or "")
    assert speed.find("skipped") is not None


@pytest.mark.parametrize("wrong", [{"min_speedup": 0}, {"tolerance": 1.0}, {"tolerance": -0.1}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        choose_threshold(Baseline.of(profile_of()), environment_of(tiny_target()), **wrong)


def test_the_tables_show_verdict_and_threshold() -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.1)
    console = Console(file=io.StringIO(), width=200)
    console.print(check_table(result))
    for text in (console.file.getvalue(), markdown_table(result)):  # type: ignore[attr-defined]
        assert f"{result.environment['dtype']}, {result.environment['runtime']}, " in text
        assert "fail" in text
        assert "1.200×" in text
        assert "1.10× (1.10–1.10)" in text
