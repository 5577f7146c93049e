"""Commands as a user types them: what they print where, and their exit status."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Cli, Ended, expect_error, spawn
from support.native import kernels, needs_native

from skipopt.cli import model_options
from skipopt.cli.app import main
from skipopt.errors import SkipoptError

COMMANDS = ("search", "run", "bench", "check", "show", "train", "env")
HEAVY = (
    "torch", "transformers", "tokenizers", "optuna", "numpy", "scipy", "sklearn", "matplotlib",
)  # fmt: skip
HELP_SECONDS = 0.3
IMPORTS = "import inspect, pathlib, re, subprocess, typing"
IMPORT_SECONDS = 0.06  # what these take where help may take HELP_SECONDS
# --- help


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_is_fast(arguments: list[str]) -> None:
    """In CPU time, the least of several runs; on a slow machine, relative to plain imports."""

    def measure(run: Callable[[], object]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    helps, imports = [], []
    for _ in range(10):
        helps.append(measure(lambda: spawn(*arguments)))
        imports.append(measure(lambda: subprocess.run([sys.executable, "-c", IMPORTS])))
    assert min(helps) < HELP_SECONDS * max(1.0, min(imports) / IMPORT_SECONDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_alone_is_the_help_beside_other_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help that is asked for alone is made without typer's parsing."""
    texts = []
    for arguments in ([command, "--help"], [command, "-h"], [command, "--quiet", "--help"]):
        assert main(arguments) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    assert f"skipopt {command}" in texts[0]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from skipopt.cli.app import main; "
        f"code = main({[command, '--help'] if command else ['--help']}); "
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "Usage: skipopt" in done.stdout


def test_every_command_is_listed(cli: Cli) -> None:
    ended = cli("--help")
    assert all(command in ended.out for command in COMMANDS)


def test_no_command_is_a_usage_error_that_shows_the_help(cli: Cli) -> None:
    ended = cli()
    assert (ended.code, "Usage:" in ended.out) == (2, True)


def test_the_version(cli: Cli) -> None:
    import skipopt

    assert cli("--version") == Ended(0, f"{skipopt.__version__}\n", "")


# --- search

# Where int8 kernels seem to pay, no mask may be worth a trial, and timings would decide it.
MASKS = ("--search-space", "skip")


@pytest.mark.slow
def test_search_writes_a_profile_that_runs(cli: Cli, tiny: Path, prompts: Path) -> None:
    common = ("search", tiny, "--prompts", prompts, *MASKS, "--trials", 12)
    ended = cli(*common)
    assert ended.code == 0, ended.err
    assert Path("profile.yaml").exists()
    assert Path("profile.yaml.journal").exists()
    assert "mask" in ended.out
    assert "wrote profile.yaml" in ended.err
    assert cli("run", "-p", "profile.yaml", "--prompt", "a", "--max-new-tokens", 4).code == 0
    expect_error(cli(*common), 1, "--resume", "--overwrite")
    again = cli(*common, "--overwrite", "--json", "-q")
    assert json.loads(again.out)["search"]["trials"] == 12
    assert "best 3 of 12 trials" in cli("show", "profile.yaml.journal", "--limit", 3).out
    assert "attn" in cli("show", "profile.yaml").out


@pytest.mark.slow
def test_an_interrupted_search_keeps_what_it_found(
    cli: Cli, tiny: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.cli.search_progress import SearchProgress

    shown = SearchProgress.__call__

    def interrupt(self: SearchProgress, progress: Any) -> None:
        shown(self, progress)
        if progress.trials >= 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(SearchProgress, "__call__", interrupt)
    ended = cli("search", tiny, "--prompts", prompts, *MASKS, "--trials", 30)
    assert ended.code == 130
    assert "--resume" in ended.err
    assert Path("profile.yaml").exists()
    monkeypatch.setattr(SearchProgress, "__call__", shown)
    common = ("search", tiny, "--prompts", prompts, *MASKS)
    resumed = cli(*common, "--trials", 8, "--resume", "--json")
    assert json.loads(resumed.out)["search"]["trials"] == 8


def test_a_search_interrupted_before_its_first_trial_says_so(
    cli: Cli, tiny: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skipopt.study.study.calibrate", interrupted)
    ended = cli("search", tiny, "--prompts", prompts, "--trials", 8)
    assert ended.code == 130
    assert "nothing is saved" in ended.err
    assert not list(Path().glob("profile.yaml*"))


def test_a_search_that_fails_at_once_leaves_no_journal(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("\n\n".join(c * 400 for c in "abcd"))
    assert cli("search", tiny, "--prompts", long, "--trials", 4).code == 1
    assert not list(tmp_path.glob("*.journal"))


# --- bench, check, show, env


@pytest.mark.slow
def test_bench_prints_and_writes(cli: Cli, tiny: Path, profile: Path, prompts: Path) -> None:
    short = ("--prompts", prompts, "--max-new-tokens", 12, "--repeats", 1)
    ended = cli("bench", "-p", profile, *short, "-o", "bench.json")
    assert ended.code == 0, ended.err
    assert all(name in ended.out for name in ("plain", "layer-skip", "hf-generate"))
    document = json.loads(Path("bench.json").read_text())
    assert {"environment", "model", "prompts", "methods"} <= set(document)
    assert "| plain" in Path("bench.md").read_text()
    assert "layer-skip" in cli("show", "bench.json").out
    names = ("--methods", "plain,prompt-lookup")
    found = json.loads(cli("bench", tiny, *short, *names, "--json", "-q").out)["methods"]
    assert [row["name"] for row in found] == ["plain", "prompt-lookup"]


def timed(cli: Cli, *options: object) -> tuple[list[str], str]:
    """The methods that were timed, and stderr."""
    ended = cli("bench", "--max-new-tokens", 8, "--repeats", 1, *options, "--json")
    assert ended.code == 0, ended.err
    return [row["name"] for row in json.loads(ended.out)["methods"]], ended.err


def test_bench_times_the_profile_s_method(
    cli: Cli, profile: Path, prompts: Path, tmp_path: Path
) -> None:
    own = ("--prompts", prompts, "--methods", "plain,profile")
    assert timed(cli, "-p", profile, *own)[0] == ["plain", "layer-skip"]
    other = tmp_path / "other.yaml"
    text = profile.read_text()
    for_layer_skip = "method: layer-skip\n  gamma: 4\n  tau: 0.0\n"
    assert for_layer_skip in text
    lookup = "method: prompt-lookup:max_ngram=2\n  gamma: null\n  tau: null\n"
    with_mask = "mask:\n  attention: [1, 2]\n  mlp: [2]\n"
    assert with_mask in text
    other.write_text(text.replace(for_layer_skip, lookup).replace(with_mask, "mask: null\n"))
    assert timed(cli, "-p", other, *own)[0] == ["plain", "prompt-lookup:max_ngram=2"]
    off = text.replace("enabled: true\nreason: null", "enabled: false\nreason: too slow")
    other.write_text(off)
    names, notes = timed(cli, "-p", other, *own)
    assert names == ["plain"]
    assert "speculation is off in the profile: too slow" in notes


def test_the_profile_s_method_needs_a_profile(cli: Cli, tiny: Path) -> None:
    ended = cli("bench", tiny, "--methods", "plain,profile")
    expect_error(ended, 2, "none is given", "--profile")


def test_the_default_methods_of_bench() -> None:
    from skipopt.measurement.methods_table import default_methods, with_profile_method
    from skipopt.profile import Profile

    golden = Path(__file__).parents[1] / "golden" / "profile.yaml"
    profile = Profile.parse(golden.read_text().replace("layer-skip", "cascade"), "p.yaml")
    names = with_profile_method(default_methods(profile), profile)
    assert names[:3] == ["plain", "cascade", "layer-skip"]
    assert "layer-skip" not in with_profile_method(default_methods(None), None)


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "code"), [(0.001, 0), (1000, 3)])
def test_check_ends_with_its_verdict(
    cli: Cli, profile: Path, prompts: Path, floor: float, code: int
) -> None:
    short = ("--prompts", prompts, "--max-new-tokens", 12)
    files = ("--timeout", 60, "--markdown", "check.md")
    ended = cli("check", "-p", profile, *short, "--min-speedup", floor, *files)
    assert ended.code == code, ended.err
    assert ("pass" if code == 0 else "fail") in ended.out
    assert "verdict" in Path("check.md").read_text()
    timeout = ("--timeout", 5)
    document = json.loads(cli("check", "-p", profile, *short, *timeout, "--json", "-q").out)
    keys = {
        "verdict",
        "speedup",
        "end_to_end",
        "first_text",
        "floor",
        "kept",
        "texts",
        "samples",
        "lossless",
        "acceptance_rate",
        "baseline",
    }
    assert keys | {"environment"} <= set(document)


def test_the_time_of_a_check_counts_from_the_start_of_the_command(
    cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def load(*arguments: Any) -> Any:
        time.sleep(0.5)
        return model_options.load_with_profile(*arguments)

    def measure(*arguments: Any, timeout: float, **options: Any) -> Any:
        given.append(timeout)
        raise SkipoptError("measured")

    monkeypatch.setattr("skipopt.cli.check.load_with_profile", load)
    monkeypatch.setattr("skipopt.measurement.regression_gate.check", measure)
    assert "measured" in cli("check", "-p", profile, "--timeout", 60).err
    assert given[0] <= 59.5


@pytest.mark.slow
def test_a_check_is_compared_text_by_text_with_its_own_document(
    cli: Cli, profile: Path, prompts: Path
) -> None:
    """With the widest tolerance and no floor; another number of threads counts by the floor."""
    options = (
        "--prompts",
        prompts,
        "--max-new-tokens",
        12,
        "--min-speedup",
        0.001,
        "--json",
        "-q",
    )
    before = cli("check", "-p", profile, *options, "--timeout", 60, "--repeats", 4)
    Path("before.json").write_text(before.out)
    against = ("--baseline", "before.json", "--tolerance", "99%", "--timeout", 60)
    same = json.loads(cli("check", "-p", profile, *options, *against).out)
    assert same["verdict"] == "pass", same["reason"]
    assert same["kept"]["prompts"] == len(same["texts"])
    there = json.loads(before.out)
    there["environment"]["threads"] += 1
    Path("before.json").write_text(json.dumps(there))
    elsewhere = json.loads(cli("check", "-p", profile, *options, *against).out)
    assert (elsewhere["verdict"], elsewhere["kept"]) == ("pass", None)
    assert "measured elsewhere: threads was" in elsewhere["baseline"]["reason"]


@pytest.mark.parametrize(
    ("choice", "code", "warned"), [("fail", 4, False), ("warn", 0, True), ("pass", 0, False)]
)
def test_an_inconclusive_check_ends_as_asked(
    cli: Cli,
    profile: Path,
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    code: int,
    warned: bool,
) -> None:
    from skipopt.measurement.regression_gate import CheckResult
    from skipopt.measurement.threshold import Subject, Threshold

    def inconclusive(target: Any, profile: Any, prompts: Any, **_: Any) -> Any:
        threshold, subject = Threshold(1.0, "as asked"), Subject.of(target, [[1, 2, 3]], 64)
        return CheckResult("inconclusive", "time is over", threshold, {}, subject)

    monkeypatch.setattr("skipopt.measurement.regression_gate.check", inconclusive)
    ended = cli("check", "-p", profile, "--on-inconclusive", choice)
    assert ended.code == code, ended.err
    assert ("warning: inconclusive: time is over" in ended.err) == warned


def test_show_a_profile(cli: Cli, profile: Path) -> None:
    ended = cli("show", profile)
    assert "attn ░██░" in ended.out
    assert "mlp  ░░█░" in ended.out
    assert json.loads(cli("show", profile, "--json").out)["mask"] == {
        "attention": [1, 2],
        "mlp": [2],
    }


def test_env_shows_versions_and_no_secrets(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("SKIPOPT_STORAGE", "postgresql://me:hf_secret@host/db")
    facts = json.loads(cli("env", "--json").out)
    assert facts["packages"]["torch"]
    assert facts["variables"]["HF_HUB_OFFLINE"] == "1"
    assert facts["variables"]["SKIPOPT_STORAGE"] == "postgresql://host/db"
    assert "hf_secret" not in cli("env").out


@needs_native
def test_env_names_the_kernels_and_their_speed(cli: Cli) -> None:
    facts = json.loads(cli("env", "--json").out)
    assert facts["native_kernels"]["instruction_set"] in kernels().supported
    assert facts["native_kernels"]["gb_per_second"] > 0.1


def test_env_says_what_is_lost_without_the_kernels(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skipopt.kernels.native.native_kernels", lambda: None)
    facts = json.loads(cli("env", "--json").out)
    assert facts["native_kernels"] is None
    assert any("native kernels" in problem["what"] for problem in facts["problems"])
