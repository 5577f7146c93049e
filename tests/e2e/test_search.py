"""A search from prompts to a profile on a tiny model, and searches that are stopped or resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.tiny import byte_tokenizer, tiny_llama, tiny_target

import skipopt
from skipopt.cost_model.costs import Costs
from skipopt.decoding.api import generate
from skipopt.draft_config import DraftConfig
from skipopt.errors import SearchError, SkipoptError, UsageError
from skipopt.measurement import workload
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.storage.base import Trial
from skipopt.study import study
from skipopt.study.config import SearchConfig
from skipopt.study.interrupted import Interrupted
from skipopt.study.progress import Progress, ProgressReporter
from skipopt.testing.costs import FixedCosts

LAYERS = 3
TRIALS = 20
WORDS = ("alpha", "beta", "gamma", "delta", "eta", "theta", "iota", "mu")
TEXTS = [f"{word} and {word} again" for word in WORDS]
Search = Callable[..., Profile]
CONFIG = SearchConfig(calibration_tokens=12, num_finalists=1, validation_repeats=1)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(LAYERS, vocabulary=257, gain=2.0), byte_tokenizer())


def skipping_saves(context: int, longest: int, draft_config: DraftConfig) -> Costs:
    """Costs with which skipping saves much, so that samplers find masks that pay."""
    return Costs(0.1, 1.0, 1.0, 0.1, (6.4, *[6.6 + 0.1 * n for n in range(longest - 1)]))


@pytest.fixture
def search(target: Target) -> Search:
    """Search with fixed costs, so that every run gives the same trials."""
    costs = FixedCosts(skipping_saves)
    return partial(skipopt.search, target, TEXTS, config=CONFIG, trials=TRIALS, cost_source=costs)


def trials_in(journal: Path) -> list[Trial]:
    """Trials of a journal, read like `skipopt show` does, without the identity of the search."""
    from skipopt.reporting.studies import load_study

    return load_study(str(journal)).ranked


def masks_in(journal: Path) -> list[str]:
    """Masks of a journal in the order they were tried."""
    from skipopt.reporting.studies import load_study

    return [str(trial.mask) for trial in load_study(str(journal)).trials]


def stop_at(count: int) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.trials >= count:
            raise KeyboardInterrupt

    return on_progress


def test_speculation_is_off_where_no_mask_is_predicted_to_pay(
    target: Target, tmp_path: Path
) -> None:
    """With measured costs: a random model accepts hardly any draft."""
    phases: list[str] = []
    found = skipopt.search(
        target,
        TEXTS,
        SearchConfig(cost_seconds=1e-3),
        trials=TRIALS,
        on_progress=lambda p: phases.append(p.phase),
    )
    assert found.enabled is False
    assert found.reason is not None
    assert "no draft is predicted to be faster: the best reaches 0." in found.reason
    assert "acceptance rate" in found.reason
    assert found.measured is None
    assert found.search is not None
    assert found.search.trials == TRIALS
    assert list(dict.fromkeys(phases)) == ["calibrate", "costs", "search"]
    assert found.costs is not None
    assert found.costs.verify_tree.keys() == {8, 32}
    found.save(tmp_path / "profile.yaml")
    assert Profile.load(tmp_path / "profile.yaml") == found


@pytest.mark.slow
def test_speculation_is_off_where_decoding_is_not_faster(target: Target, search: Search) -> None:
    """With these costs every draft is predicted to pay, but decoding is slower."""

    def cheap(context: int, longest: int, draft_config: DraftConfig) -> Costs:
        costs = skipping_saves(context, longest, draft_config)
        return replace(costs, verify=(6.4, *[3.0] * (longest - 1)))

    config = replace(CONFIG, methods=("layer-skip",))
    found = search(config=config, cost_source=FixedCosts(cheap))
    assert found.enabled is False
    assert found.measured is not None
    assert found.reason is not None
    assert found.measured.end_to_end is not None
    shown = re.search(r"measured speedup ([0-9.]+)", found.reason)
    assert shown is not None
    # The reason has two digits, the profile three.
    assert float(shown[1]) == pytest.approx(found.measured.end_to_end.median, abs=0.006)
    assert "acceptance rate" in found.reason
    assert found.measured.lossless == "exact"


def test_speculation_is_off_where_the_validation_texts_repeat_themselves(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks were scored on other texts, which do not."""
    calibrated = study.calibrate

    def calibrate(*arguments: Any, **options: Any) -> Any:
        made = calibrated(*arguments, **options)
        monkeypatch.setattr(workload, "repeats_from", lambda text: 0)
        return made

    monkeypatch.setattr(study, "calibrate", calibrate)
    found = search()
    assert found.enabled is False
    assert found.reason is not None
    assert "only repeats itself" in found.reason
    assert found.search is not None
    assert found.search.trials > 0
    assert found.candidate is not None


def test_speculation_is_off_where_all_texts_repeat_themselves(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "repeats_from", lambda text: 0)
    found = search()
    assert found.enabled is False
    assert found.reason is not None
    assert "only repeats itself" in found.reason
    assert "c = 0.02 at least, verification v(2) = 1.03" in found.reason
    assert found.search is not None
    assert found.search.trials == 0
    assert found.costs is not None
    assert found.costs.verify[:2] == (6.4, 6.6)


@pytest.mark.slow
def test_profile_decodes_the_same_text(target: Target, search: Search) -> None:
    found = search()
    ids = target.tokenizer("kappa and")["input_ids"]
    plain = [t.id for t in generate(target, ids, max_new_tokens=20)]
    drafted = generate(target, ids, profile=found, method="layer-skip", max_new_tokens=20)
    assert [t.id for t in drafted] == plain


def test_same_seed_gives_the_same_trials(search: Search, tmp_path: Path) -> None:
    names = {"one": 7, "two": 7, "other": 8}
    for name, seed in names.items():
        search(journal=tmp_path / name, seed=seed, sampler="random")
    tried = {name: masks_in(tmp_path / name) for name in names}
    assert len(tried["one"]) == len(set(tried["one"])) == TRIALS
    assert tried["one"] == tried["two"] != tried["other"]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["auto", "local-search", "tpe"])
def test_guided_samplers_give_the_same_trials(
    search: Search, tmp_path: Path, sampler: str
) -> None:
    for name in ("one", "two"):
        search(journal=tmp_path / name, sampler=sampler, trials=14)
    assert masks_in(tmp_path / "one") == masks_in(tmp_path / "two")
    assert len(masks_in(tmp_path / "one")) == 14


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "count"), [(0.5, 3), (0.34, 2)])
def test_a_fixed_skip_ratio_gives_exactly_that_many_skipped(
    search: Search, tmp_path: Path, ratio: float, count: int
) -> None:
    found = search(
        objective="matchness", skip_ratio=ratio, trials=12, journal=tmp_path / "journal"
    )
    trials = trials_in(tmp_path / "journal")
    assert len(found.skip_mask.skipped) == count
    assert {len(t.mask.skipped) for t in trials} == {count}
    assert all(t.prediction and t.value == t.prediction.matchness for t in trials)


def test_small_space_is_searched_to_its_end(search: Search, tmp_path: Path) -> None:
    """Three of six sublayers: 20 masks, whatever the number of trials."""
    search(skip_ratio=0.5, trials=500, journal=tmp_path / "journal")
    masks = masks_in(tmp_path / "journal")
    assert len(masks) == len(set(masks)) == 20


def test_a_search_without_a_limit_tells_its_plan_and_ends(search: Search) -> None:
    notes: list[str] = []
    phases: list[str] = []
    left: list[float | None] = []

    def on_progress(progress: Progress) -> None:
        phases.append(progress.phase)
        left.append(progress.seconds_left)

    found = search(trials=None, on_note=notes.append, on_progress=on_progress)
    assert found.search is not None
    plans = [note for note in notes if re.fullmatch(r"about .*: .* texts, .* validation", note)]
    assert len(plans) == 1
    assert set(phases) <= {"calibrate", "costs", "search", "validate"}
    assert left[-1] is not None


def test_a_search_ends_at_its_timeout(search: Search) -> None:
    config = replace(CONFIG, patience=10_000, patience_without_gain=10_000, validation_repeats=99)
    began = time.monotonic()
    search(config=config, trials=None, timeout=8.0)
    assert time.monotonic() - began < 8.0 + 2.0  # tests run on both cores at once


def test_a_timeout_too_short_for_any_answer_is_refused_at_once(search: Search) -> None:
    with pytest.raises(SearchError, match="its time limit is 0") as e:
        search(trials=None, timeout=0.02)
    assert re.fullmatch(r"--timeout \d+", e.value.hint or "")


# --- stopped


def test_interrupted_search_gives_its_best_and_keeps_its_trials(
    search: Search, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with pytest.raises(Interrupted) as stopped:
        search(journal=journal, on_progress=stop_at(6))
    kept = trials_in(journal)
    assert len(kept) == 6
    assert stopped.value.profile is not None
    assert stopped.value.profile.skip_mask == max(kept, key=lambda t: t.value).mask
    assert stopped.value.profile.measured is None


def test_a_trial_that_another_worker_has_stored_counts_at_an_interrupt(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: ProgressReporter, trial: Trial) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressReporter, "add_trial", stop)
    with pytest.raises(Interrupted) as stopped:
        search(sampler="random")
    assert stopped.value.profile is not None


def test_interrupted_before_any_trial_gives_no_profile(search: Search) -> None:
    with pytest.raises(Interrupted) as stopped:
        search(on_progress=stop_at(0))
    assert stopped.value.profile is None


@pytest.mark.slow
def test_interrupted_search_resumes_where_it_stopped(search: Search, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with pytest.raises(Interrupted):
        search(journal=journal, on_progress=stop_at(9))
    before = masks_in(journal)
    found = search(journal=journal, resume=True)
    after = masks_in(journal)
    assert after[:9] == before
    assert len(after) == len(set(after)) == TRIALS
    assert found.search is not None
    assert found.search.trials == TRIALS


@pytest.mark.slow
def test_resuming_a_finished_search_scores_nothing_new(search: Search, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    search(journal=journal)
    before = masks_in(journal)
    search(journal=journal, resume=True)
    assert masks_in(journal) == before


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from skipopt.testing.costs import FixedCosts
from support.tiny import byte_tokenizer, tiny_llama, tiny_target
import test_search
import skipopt
target = tiny_target(tiny_llama(3, vocabulary=257, gain=2.0), byte_tokenizer())
def die(progress):
    if progress.trials >= 7:
        os.kill(os.getpid(), signal.SIGKILL)
costs = FixedCosts(test_search.skipping_saves)
skipopt.search(
    target, test_search.TEXTS, test_search.CONFIG, trials=20, journal=Path({journal!r}),
    on_progress=die, cost_source=costs,
)
"""


@pytest.mark.slow
def test_killed_search_keeps_every_finished_trial(search: Search, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    here = Path(__file__).parent
    script = KILLED.format(paths=[str(here), str(here.parent)], journal=str(journal))
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    before = masks_in(journal)
    assert len(before) == 7
    search(journal=journal, resume=True)
    assert masks_in(journal)[:7] == before
    assert len(masks_in(journal)) == TRIALS


# --- refused


@pytest.mark.parametrize(
    ("changed", "texts", "options"),
    [
        ("prompts", [text.upper() for text in TEXTS], {}),
        ("objective", TEXTS, {"objective": "matchness"}),
        ("skip_ratio", TEXTS, {"skip_ratio": 0.34}),
    ],
)
def test_journal_of_another_search_is_refused(
    search: Search,
    target: Target,
    tmp_path: Path,
    changed: str,
    texts: list[str],
    options: dict[str, Any],
) -> None:
    journal = tmp_path / "journal"
    search(journal=journal, trials=3, skip_ratio=0.5)
    asked = {"trials": 5, "skip_ratio": 0.5, "journal": journal, "resume": True, **options}
    with pytest.raises(SearchError, match=f"another search: its {changed} is"):
        skipopt.search(target, texts, **asked)
    assert len(masks_in(journal)) == 3


def test_journal_of_another_model_is_refused(
    search: Search, target: Target, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    search(journal=journal, trials=3)
    other = replace(target, fingerprint="sha256:other")
    with pytest.raises(SearchError, match="another search: its model is"):
        skipopt.search(other, TEXTS, trials=5, journal=journal, resume=True)


def test_existing_journal_without_resume_is_refused(search: Search, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    search(journal=journal, trials=3)
    with pytest.raises(SearchError, match="earlier search"):
        search(journal=journal)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "beauty"},
        {"objective": "matchness"},
        {"skip_ratio": 0.0},
        {"skip_ratio": 1.0},
        {"trials": 0},
        {"timeout": 0.0},
        {"sampler": "no-such-sampler"},
    ],
)
def test_impossible_requests_fail_before_anything_is_done(
    search: Search, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        search(journal=tmp_path / "journal", **options)
    assert not (tmp_path / "journal").exists()


def test_too_few_prompts(target: Target) -> None:
    with pytest.raises(SkipoptError, match="prompts"):
        skipopt.search(target, ["one text", "another"], trials=2)


def test_search_that_tried_the_empty_mask_only_says_so(search: Search) -> None:
    with pytest.raises(SearchError, match="no mask that skips anything") as refused:
        search(trials=1, sampler="local-search")
    assert "--trials" in (refused.value.hint or "")
    assert search(trials=2, sampler="local-search").skip_mask.skipped
