"""The regression gate: verdicts, exit codes, baselines and thresholds."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from support.timing_fakes import FakeClock, FakeRunner, tiny_prompts, tiny_target

from skipopt.bench.provenance import environment_of
from skipopt.bench.regression_gate import CheckResult, check, check_runners
from skipopt.bench.runners import SkipoptRunner
from skipopt.bench.threshold import Baseline, Subject, Threshold, choose_threshold
from skipopt.bench.timing import Clock, Decoding, device_clock
from skipopt.errors import ProfileError, SkipoptError, UsageError
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.profile import Profile
from skipopt.reporting.junit import junit_report
from skipopt.reporting.tables import check_table, markdown_table

PROMPTS = [[100 * i] for i in range(6)]
THRESHOLD = Threshold(1.2, "asked for")


def check_fakes(
    cost: Callable[[int], float], max_seconds: float = 2000, **options: Any
) -> tuple[CheckResult, FakeRunner]:
    """Plain decoding takes 0.1 s a token; the runner's runs take `cost`."""
    clock = FakeClock()
    plain = FakeRunner("plain", clock, lambda run: 0.1)
    fast = FakeRunner("layer-skip", clock, cost)
    target = tiny_target()
    return check_runners(
        target, plain, fast, PROMPTS, THRESHOLD, 40, max_seconds, clock, **options
    ), fast


def test_a_speedup_that_is_kept_passes_after_one_block() -> None:
    result, fast = check_fakes(lambda run: 0.1 / 1.3)
    assert result.verdict == "pass"
    assert result.speedup is not None
    assert result.speedup.median == pytest.approx(1.3)
    assert fast.runs == 6 + 2 * 6  # texts first, then one block: AB and BA over six prompts
    assert result.end_to_end is not None
    assert result.end_to_end.whole.median == pytest.approx((0.5 + 4) / (0.5 + 4 / 1.3))
    assert result.acceptance_rate == 0.75


def test_a_speedup_on_the_threshold_passes() -> None:
    clock = FakeClock()
    clock.now = 0.0
    plain = FakeRunner("plain", clock, lambda run: 0.25)
    same = FakeRunner("layer-skip", clock, lambda run: 0.25)
    threshold = Threshold(1.0, "asked for")
    result = check_runners(tiny_target(), plain, same, PROMPTS, threshold, 40, 2000, clock)
    assert result.verdict == "pass"


def test_a_regression_fails_with_3() -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.1)
    assert result.verdict == "fail"
    assert "below the threshold of 1.200" in result.reason
    assert result.lossless is not None
    assert result.lossless.verdict == "exact"


def test_prompts_on_both_sides_of_the_threshold_are_inconclusive_with_4() -> None:
    costs = [0.1 / 1.4, 0.1 / 1.0]
    result, fast = check_fakes(lambda run: costs[run % 2], max_seconds=1000)
    assert result.verdict == "inconclusive"
    assert "both sides of the threshold of 1.200" in result.reason
    # The texts take 51 s and a block 101 s: nine of them end before 1000 s.
    assert fast.runs == 6 + 9 * 2 * 6


def test_a_block_that_cannot_finish_in_time_is_not_started() -> None:
    clock = FakeClock()
    plain = FakeRunner("plain", clock, lambda run: 0.1)
    fast = FakeRunner("layer-skip", clock, lambda run: [0.05, 0.1][run % 2])
    check_runners(tiny_target(), plain, fast, PROMPTS, THRESHOLD, 40, 500, clock)
    assert 400 < clock.now - 100 <= 500


def test_the_first_block_is_always_finished() -> None:
    result, fast = check_fakes(lambda run: [0.05, 0.1][run % 2], max_seconds=0)
    assert result.verdict == "inconclusive"
    assert fast.runs == 6 + 2 * 6


def test_blocks_are_added_until_the_interval_is_decided() -> None:
    """The first block has random times; all later ones are clearly above the threshold."""
    first = range(6, 18)
    result, fast = check_fakes(lambda run: 0.1 / (0.9 if run in first and run % 2 else 1.5))
    assert result.verdict == "pass"
    assert fast.runs > 18


def test_progress_counts_seconds_up_to_the_limit() -> None:
    seen: list[tuple[float, float]] = []
    check_fakes(
        lambda run: [0.05, 0.1][run % 2],
        max_seconds=90,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) == 2 * 3 + 24
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (90, 90)


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


@pytest.mark.parametrize("wrong_from", [0, 3, 7])
def test_a_wrong_token_fails_with_5_whenever_it_comes(wrong_from: int) -> None:
    target = tiny_target()
    wrong = Wrong(target, parse_method("prompt-lookup"), runs=[], wrong_from=wrong_from)
    clock = device_clock(target.device)
    threshold = Threshold(0.001, "asked for")
    plain = SkipoptRunner(target, parse_method("plain"))
    result = check_runners(target, plain, wrong, tiny_prompts(4), threshold, 16, 0.0, clock)
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


def test_real_decoding_passes_a_threshold_it_cannot_miss() -> None:
    prompts, threshold = tiny_prompts(4), Threshold(0.01, "asked for")
    result = check(
        tiny_target(), profile_of(), prompts, threshold, max_new_tokens=16, max_seconds=0
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
    result = check(tiny_target(), profile, tiny_prompts(2), THRESHOLD)
    assert (result.verdict, result.speedup) == ("pass", None)
    assert "decodes plainly: no mask pays" in result.reason
    assert result.to_json()["lossless"] is None


@pytest.mark.parametrize("enabled", [True, False])
def test_another_models_profile_is_refused(enabled: bool) -> None:
    profile = profile_of(enabled=enabled, reason=None if enabled else "no mask pays")
    other = profile.model.model_copy(update={"fingerprint": "sha256:00"})
    with pytest.raises(ProfileError, match="another model"):
        check(
            tiny_target(), profile.model_copy(update={"model": other}), tiny_prompts(2), THRESHOLD
        )


def test_threshold_is_the_baseline_minus_the_tolerance() -> None:
    here = environment_of(tiny_target())
    profile = profile_of(measured=measured(1.4), environment=here)
    threshold = choose_threshold(Baseline.of(profile), here, min_speedup=1.0, tolerance=0.1)
    assert threshold.value == pytest.approx(1.26)
    assert threshold.baseline == 1.4
    assert "baseline speedup 1.4 minus 10 %" in threshold.reason


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


def test_an_earlier_check_is_a_baseline(tmp_path: Path) -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.5)
    path = tmp_path / "before.json"
    path.write_text(json.dumps(result.to_json()))
    threshold = choose_threshold(Baseline.load(path), result.environment, tolerance=0.2)
    total = (0.5 + 4) / (0.5 + 4 / 1.5)
    assert threshold.value == pytest.approx(0.8 * total)
    assert threshold.baseline == pytest.approx(total)


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
        ({"prompts": "sha256:11"}, "of other prompts: its prompts.hash is"),
        ({"max_new_tokens": 8}, "of other lengths: its max_new_tokens is 40, here it is 8"),
    ],
)
def test_a_baseline_of_other_texts_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    result, _ = check_fakes(lambda run: 0.1 / 1.5)
    path = tmp_path / "before.json"
    path.write_text(json.dumps(result.to_json()))
    baseline = Baseline.load(path)
    baseline.check_subject(result.subject)
    with pytest.raises(SkipoptError, match=words):
        baseline.check_subject(replace(result.subject, **change))


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
        (lambda run: [0.1 / 1.4, 0.1][run % 2], ["speedup"], []),
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
    result = check_runners(target, plain, wrong, tiny_prompts(3), THRESHOLD, 12, 5, clock)
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
