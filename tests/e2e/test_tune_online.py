"""`run --tune-online` and `--save-profile` as a user types them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.command_line import RUN_KEYS, Cli, expect_error

from skipopt.decoding.api import new_online_state
from skipopt.online.config import OnlineConfig
from skipopt.online.state import OnlineState
from skipopt.profile import Profile

PROMPT = ("--prompt", "def f")
ALL_TIME = ("--tune-online", "--tune-overhead", "1")
TUNING_KEYS = {
    "trials", "switches", "rollbacks", "scored_tokens", "seconds", "overhead", "enabled",
    "pauses", "mask", "gamma", "tau", "draft_config",
}  # fmt: skip


@pytest.fixture
def switching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adopt every candidate."""

    def eager(*args: Any, config: OnlineConfig, **options: Any) -> OnlineState:
        return new_online_state(*args, config=replace(config, win_errors=-1e9), **options)

    monkeypatch.setattr("skipopt.decoding.api.new_online_state", eager)


def facts_of(cli: Cli, *arguments: object) -> Any:
    ended = cli("run", *arguments, *PROMPT, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.parametrize("sampling", [[], ["--temperature", "0.8", "--seed", "1"]])
def test_tuning_changes_no_text(
    cli: Cli, tiny: Path, profile: Path, switching: None, sampling: list[str]
) -> None:
    """Also when sampling, because drafts are verified by matching."""
    long = ["--max-new-tokens", 200, *sampling]
    plain = facts_of(cli, tiny, *long)
    assert "tuning" not in plain
    for start in ([], ["-p", profile]):
        found = facts_of(cli, tiny, *start, *long, *ALL_TIME)
        assert found["tokens"] == plain["tokens"]
        assert set(found) == {*RUN_KEYS, "tuning"}
        assert set(found["tuning"]) == TUNING_KEYS
        assert found["tuning"]["switches"] > 0
        assert 0 < found["tuning"]["overhead"] <= 1
        assert found["method"] == "layer-skip"


def test_tuning_starts_with_the_profile(cli: Cli, profile: Path) -> None:
    found = facts_of(cli, "-p", profile, "--tune-online", "--max-new-tokens", 8)["tuning"]
    assert found["mask"] == {"attention": [1, 2], "mlp": [2]}
    assert (found["gamma"], found["tau"], found["trials"]) == (4, 0.0, 0)


def test_the_summary_has_a_line_about_tuning(cli: Cli, tiny: Path) -> None:
    ended = cli("run", tiny, "--tune-online", *PROMPT, "--max-new-tokens", 8)
    assert "tuning: 0 candidates, 0 switches (0 rolled back), " in ended.err
    assert "no profile" not in ended.err


def test_compare_continues_the_tuning(cli: Cli, tiny: Path, switching: None) -> None:
    found = facts_of(cli, tiny, *ALL_TIME, "--max-new-tokens", 60, "--compare")
    assert found["compare"]["differs_at"] is None
    assert found["tuning"]["scored_tokens"] > 60, "more than one text was looked at"


def test_a_disabled_profile_is_tried_anyway(cli: Cli, profile: Path, tmp_path: Path) -> None:
    off = tmp_path / "off.yaml"
    text = profile.read_text().replace("enabled: true", "enabled: false")
    off.write_text(text.replace("reason: null", "reason: it lost"))
    found = facts_of(cli, "-p", off, "--tune-online", "--max-new-tokens", 8)
    assert found["drafted"] > 0
    saved = tmp_path / "saved.yaml"
    facts_of(cli, "-p", off, "--tune-online", "--max-new-tokens", 2, "--save-profile", saved)
    assert Profile.load(saved).reason == "it lost", "nothing else was learned"


def test_the_tuned_profile_is_saved_and_drafts(
    cli: Cli, tiny: Path, tmp_path: Path, switching: None
) -> None:
    saved = tmp_path / "learned.yaml"
    long = ["--max-new-tokens", 200]
    ended = cli("run", tiny, *ALL_TIME, *long, *PROMPT, "--save-profile", saved, "--json")
    assert f"wrote {saved}" in ended.err
    learned = json.loads(ended.out)["tuning"]
    kept = Profile.load(saved)
    assert kept.mask.model_dump() == {
        key: tuple(layers) for key, layers in learned["mask"].items()
    }
    assert (kept.drafting.gamma, kept.drafting.tau) == (learned["gamma"], learned["tau"])
    assert kept.drafting.method == "layer-skip"
    assert kept.search is not None
    assert (kept.search.sampler, kept.search.trials) == ("tune-online", learned["trials"])
    assert kept.measured is None
    at_once = ["--runtime", "native"]  # drafts of a profile without measurements would wait
    again = facts_of(cli, "-p", saved, "--method", "layer-skip", *long, *at_once)
    assert again["tokens"] == facts_of(cli, tiny, *long)["tokens"]
    assert again["drafted"] > 0


def test_a_profile_that_lost_is_saved_as_disabled_with_the_loss(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts seem to cost a hundred times as much as they do."""
    observe = OnlineState.observe

    def slow(self: OnlineState, draft_seconds: float, **rest: Any) -> None:
        observe(self, draft_seconds=100 * draft_seconds if rest["rows"] > 1 else 0.0, **rest)

    monkeypatch.setattr(OnlineState, "observe", slow)
    saved = tmp_path / "learned.yaml"
    options = ("--tune-online", "--max-new-tokens", 60, "--save-profile", saved)
    found = facts_of(cli, tiny, *options)["tuning"]
    assert not found["enabled"]
    assert found["pauses"] >= 1
    kept = Profile.load(saved)
    assert not kept.enabled
    assert kept.reason is not None
    assert "speculation was slower while tuning" in kept.reason


def test_too_few_rounds_leave_the_profile_disabled(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    saved = tmp_path / "learned.yaml"
    facts_of(cli, tiny, "--tune-online", "--max-new-tokens", 3, "--save-profile", saved)
    assert Profile.load(saved).reason == "too few drafted rounds to measure whether drafting pays"


def test_an_interrupted_run_saves_its_profile(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.drafting.tuned import TunedDrafter

    observe, rounds = TunedDrafter.observe, iter(range(5))

    def interrupted(self: TunedDrafter, outcome: Any) -> None:
        if next(rounds, None) is None:
            raise KeyboardInterrupt
        observe(self, outcome)

    monkeypatch.setattr(TunedDrafter, "observe", interrupted)
    saved = tmp_path / "learned.yaml"
    ended = cli("run", tiny, "--tune-online", *PROMPT, "--save-profile", saved)
    assert ended.code == 130
    assert Profile.load(saved).search is not None


def test_a_failed_run_leaves_the_file_unchanged(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.drafting.tuned import TunedDrafter

    def fail(self: TunedDrafter, outcome: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(TunedDrafter, "observe", fail)
    saved = tmp_path / "learned.yaml"
    saved.write_text("before")
    assert cli("run", tiny, "--tune-online", *PROMPT, "--save-profile", saved).code == 1
    assert saved.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["learned.yaml"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--save-profile", "x.yaml"], 2, ["--save-profile", "--tune-online"]),
        (["--tune-online", "--tune-overhead", "0"], 2, ["tune-overhead", "0.0"]),
        (["--tune-online", "--tune-overhead", "1.5"], 2, ["tune-overhead", "1.5"]),
        (["--tune-online", "--tune-overhead", "nan"], 2, ["tune-overhead", "nan"]),
        (["--tune-overhead", "0.1"], 2, ["--tune-overhead", "--tune-online"]),
        (["--tune-online", "--method", "swift"], 2, ["swift cannot be tuned", "layer-skip"]),
        (["--tune-online", "--method", "layer-skip:exit_layer=2"], 2, ["exit", "nothing to tune"]),
        (["--tune-online", "--method", "layer-skip:gamma=0"], 2, ["gamma", "1 or more"]),
        (["--tune-online", "--save-profile", "no/folder/x.yaml"], 1, ["no/folder", "mkdir -p"]),
        (["--tune-online", "--save-profile", "."], 1, ["cannot write", "inside that folder"]),
    ],
)
def test_bad_input_ends_in_one_line_and_a_hint(
    cli: Cli, tiny: Path, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    expect_error(cli("run", tiny, *PROMPT, *arguments), code, *words)
    assert not list(tmp_path.iterdir())
