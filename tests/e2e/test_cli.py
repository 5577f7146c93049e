"""The command line as a user types it: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.command_line import RUN_KEYS, Cli, Ended, expect_error

COMMANDS = ("search", "run", "bench", "check", "show", "train", "env")
HEAVY = (
    "torch", "transformers", "tokenizers", "optuna", "numpy", "scipy", "sklearn", "matplotlib",
)  # fmt: skip
HELP_SECONDS = float(os.environ.get("SKIPOPT_TEST_HELP_SECONDS", "0.3"))
SUBPROCESS = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def spawn(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "skipopt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=SUBPROCESS, **options)


# Help


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_answers_at_once(arguments: list[str]) -> None:
    def measure() -> float:
        began = time.perf_counter()
        assert spawn(*arguments).returncode == 0
        return time.perf_counter() - began

    measure()  # the first one may have to compile
    assert statistics.median(measure() for _ in range(5)) < HELP_SECONDS


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(command: str) -> None:
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


# run


def test_text_goes_to_stdout_and_the_rest_to_stderr(cli: Cli, tiny: Path) -> None:
    ended = cli("run", tiny, "--prompt", "def f", "--max-new-tokens", 12)
    assert ended.code == 0
    assert "no profile: decoding plainly" in ended.err
    assert "plain: 12 tokens" in ended.err
    assert "stopped by length" in ended.err
    document = json.loads(
        cli("run", tiny, "--prompt", "def f", "--max-new-tokens", 12, "--json").out
    )
    assert ended.out.removesuffix("\n") == document["text"].removesuffix("\n")


def test_json_has_the_keys_of_the_contract(cli: Cli, tiny: Path, profile: Path) -> None:
    ended = cli("run", "-p", profile, "--prompt", "def f", "--max-new-tokens", 20, "--json", "-q")
    document = json.loads(ended.out)
    assert tuple(document) == RUN_KEYS
    assert ended.err == ""
    assert document["method"] == "layer-skip"
    assert document["profile"] == str(profile)
    assert len(document["tokens"]) == document["new_tokens"] == 20
    assert document["prompt_tokens"] == 5
    assert 0 < document["accepted"] < document["drafted"]
    rate = document["new_tokens"] / document["seconds"]
    assert document["tokens_per_second"] == pytest.approx(rate)


@pytest.mark.parametrize("prompt", ["def f", "class A:\n", "é"])
def test_a_profile_changes_no_text(cli: Cli, tiny: Path, profile: Path, prompt: str) -> None:
    common = ("--prompt", prompt, "--max-new-tokens", 60, "-q")
    assert cli("run", "-p", profile, *common) == cli("run", tiny, *common)


def test_the_prompt_may_come_from_anywhere(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("def f\n")
    common = ("run", tiny, "--max-new-tokens", 8, "--json", "-q")
    documents = [
        json.loads(ended.out)
        for ended in (
            cli(*common, "--prompt", "def f"),
            cli(*common, "--prompt-file", file),
            cli(*common, stdin=b"def f\n"),
        )
    ]
    assert [d["tokens"] for d in documents] == [documents[0]["tokens"]] * 3
    assert [d["prompt_tokens"] for d in documents] == [5, 5, 5]


def test_the_text_ends_before_a_stop_text(cli: Cli, tiny: Path, profile: Path) -> None:
    common = ("run", "-p", profile, "--prompt", "def f", "--max-new-tokens", 60, "--json", "-q")
    whole = json.loads(cli(*common).out)
    stop = next(c for c in whole["text"][3:] if c.isascii() and c.isprintable())
    cut = json.loads(cli(*common, "--stop", "never said", "--stop", stop).out)
    assert cut["text"] == whole["text"].split(stop)[0]
    assert cut["stop_reason"] == "stop"
    assert cut["new_tokens"] == len(cut["tokens"]) < whole["new_tokens"]
    assert cut["tokens"] == whole["tokens"][: cut["new_tokens"]]


def test_sampling_repeats_with_its_seed(cli: Cli, tiny: Path) -> None:
    def text(seed: int) -> Any:
        sampled = ("--temperature", 1.5, "--top-p", 0.9, "--top-k", 50, "--seed", seed)
        ended = cli("run", tiny, "--prompt", "a", "--max-new-tokens", 20, "--json", *sampled)
        return json.loads(ended.out)["tokens"]

    assert text(1) == text(1) != text(2)


def test_compare_tells_the_speedup_and_that_tokens_are_the_same(cli: Cli, profile: Path) -> None:
    common = ("run", "-p", profile, "--prompt", "def f", "--max-new-tokens", 20, "--compare")
    ended = cli(*common)
    assert ended.code == 0
    assert "speedup" in ended.err
    assert "the same tokens" in ended.err
    found = json.loads(cli(*common, "--json").out)["compare"]
    assert found["differs_at"] is None
    low, high = sorted(found["pair_ratios"])
    assert low <= found["speedup"] <= high


def test_compare_without_a_method_is_a_usage_error(cli: Cli, tiny: Path) -> None:
    expect_error(cli("run", tiny, "--prompt", "a", "--compare", "-q"), 2, "--compare", "--method")


def test_rounds_are_shown_with_symbols(cli: Cli, profile: Path) -> None:
    common = ("run", "-p", profile, "--prompt", "def f", "--max-new-tokens", 20, "--show-rounds")
    ended = cli(*common)
    assert all(symbol in ended.out for symbol in "✓✗→")
    assert "\x1b" not in ended.out
    document = json.loads(cli(*common, "--json").out)
    assert [t for r in document["rounds"] for t in r["emitted"]] == document["tokens"]


def test_without_progress_the_text_comes_at_the_end(cli: Cli, tiny: Path) -> None:
    common = ("run", tiny, "--prompt", "def f", "--max-new-tokens", 12, "-q")
    assert cli(*common, "--no-progress") == cli(*common)


def test_a_profile_that_is_off_says_so(cli: Cli, profile: Path, tmp_path: Path) -> None:
    off = tmp_path / "off.yaml"
    text = profile.read_text()
    text = text.replace("enabled: true", "enabled: false").replace(
        "reason: null", "reason: drafts cost too much"
    )
    off.write_text(text)
    ended = cli("run", "-p", off, "--prompt", "a", "--max-new-tokens", 4)
    assert "drafts cost too much" in ended.err
    assert "plain: 4 tokens" in ended.err
    compared = cli("run", "-p", off, "--prompt", "a", "--max-new-tokens", 4, "--compare")
    assert (compared.code, compared.out) == (0, ended.out)
    assert "nothing to compare with" in compared.err


def test_skip_layers_files_can_be_used(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "skip_layers.json"
    file.write_text('{"mine": {"attention": [1], "mlp": [2]}}')
    ended = cli("run", tiny, "-p", f"{file}#mine", "--prompt", "a", "--max-new-tokens", 8)
    assert ended.code == 0
    assert "layer-skip: 8 tokens" in ended.err
    expect_error(cli("run", tiny, "-p", f"{file}#other", "--prompt", "a"), 1, "other", "mine")


def test_libraries_keep_quiet(tiny: Path) -> None:
    done = spawn("run", tiny, "--prompt", "a", "--max-new-tokens", 2, "--threads", 1, "-q")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_is_no_error(tiny: Path) -> None:
    command = f"{sys.executable} -m skipopt run {tiny} --prompt a --show-rounds | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=SUBPROCESS)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


# Bad input


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "{tmp}/none", "--prompt", "a"], 1, ["none", "path"]),
        (["run", "no-such-model", "--prompt", "a"], 1, ["no-such-model"]),
        (["run", "{tiny}", "--prompt", ""], 1, ["empty"]),
        (["run", "{tiny}", "--prompt-file", "{tmp}/none.txt"], 1, ["none.txt"]),
        (["run", "{tiny}", "--prompt", "a", "--prompt-file", "b"], 2, ["--prompt-file"]),
        (["run", "{tiny}", "--prompt", "a", "--max-new-tokens", "-3"], 2, ["-3"]),
        (["run", "{tiny}", "--prompt", "a", "--max-new-tokens", "0"], 2, ["max-new-tokens"]),
        (["run", "{tiny}", "--prompt", "a", "--max-new-tokens", "few"], 2, ["--max-new-tokens"]),
        (["run", "{tiny}", "--prompt", "x" * 300, "-q"], 1, ["300", "256"]),
        (["run", "{tiny}", "--prompt", "a", "--method", "magic"], 2, ["magic", "plain"]),
        (["run", "{tiny}", "--prompt", "a", "--method", "layer-skip"], 2, ["--profile"]),
        (["run", "{tiny}", "--prompt", "a", "--temperature", "-1"], 2, ["temperature"]),
        (["run", "{tiny}", "--prompt", "a", "--top-p", "0"], 2, ["top-p"]),
        (["run", "{tiny}", "--prompt", "a", "--stop", ""], 2, ["stop"]),
        (["run", "{tiny}", "--prompt", "a", "--chat", "-q"], 2, ["template"]),
        (["run", "{tiny}", "--prompt", "a", "--threads", "0"], 2, ["threads"]),
        (["run", "{tiny}", "--prompt", "a", "--device", "abacus"], 2, ["abacus"]),
        (["run", "{tiny}", "--prompt", "a", "--dtype", "int3"], 2, ["int3"]),
        (["run", "{tiny}", "--prompt", "a", "-p", "{tmp}/none.yaml"], 1, ["none.yaml"]),
        (["run", "{tiny}", "--prompt", "a", "-p", "{tmp}/corrupt.yaml"], 1, ["corrupt.yaml"]),
        (["run", "{tiny}", "--prompt", "a", "--config", "{tmp}/none.yaml"], 2, ["none.yaml"]),
        (["run", "{tiny}", "--prompt", "a", "--config", "{tmp}/unknown.yaml"], 2, ["colour"]),
        (["search", "{tiny}", "--prompts", "{tmp}/empty.txt"], 1, ["empty.txt"]),
        (["search", "{tiny}", "--prompts", "{tmp}/none.txt"], 1, ["none.txt"]),
        (["search", "{tiny}", "-o", "{tmp}/none/profile.yaml"], 1, ["cannot write", "mkdir"]),
        (["search", "{tiny}", "-o", "{tmp}"], 1, ["cannot write"]),
        (["search", "{tiny}", "--sampler", "oracle"], 2, ["oracle", "auto"]),
        (["search", "{tiny}", "--objective", "beauty"], 2, ["beauty"]),
        (["search", "{tiny}", "--skip-ratio", "1.5"], 2, ["skip-ratio"]),
        (["search", "{tiny}", "--trials", "0"], 2, ["trials"]),
        (["search", "{tiny}", "--timeout", "0"], 2, ["timeout"]),
        (["search", "{tiny}", "--resume", "--overwrite"], 2, ["--overwrite"]),
        (["search", "{tiny}", "--keep-layers", "0,last"], 2, ["0,last", "--keep-layers 0,-1"]),
        (["search", "{tiny}", "--context-lengths", "64,long"], 2, ["64,long", "512,2048"]),
        (["search", "{tiny}", "--context-lengths", "64,32"], 2, ["must ascend, not 64, 32"]),
        (["search", "{tiny}", "--context-lengths", "99999"], 2, ["99999", "--context-lengths"]),
        (["bench", "{tiny}", "--methods", "plain,magic"], 2, ["magic", "hf-generate"]),
        (["bench", "{tiny}", "--methods", ","], 2, ["--methods"]),
        (["bench", "{tiny}", "--repeats", "0"], 2, ["repeats"]),
        (["bench", "{tiny}", "-o", "{tmp}/none/bench.json"], 1, ["cannot write"]),
        (["bench", "{tiny}", "-o", "{tmp}/bench.md"], 2, ["bench.md"]),
        (["check", "{tiny}"], 2, ["--profile"]),
        (["check", "{tiny}", "-p", "{profile}", "--tolerance", "much"], 2, ["much", "5%"]),
        (["check", "{tiny}", "-p", "{profile}", "--min-speedup", "0"], 2, ["min-speedup"]),
        (["check", "{tiny}", "-p", "{profile}", "--baseline", "{tmp}/no.json"], 1, ["no.json"]),
        (["check", "{tiny}", "-p", "{profile}", "--junit", "{tmp}/no/x.xml"], 1, ["cannot write"]),
        (["show", "{tmp}/none.yaml"], 1, ["none.yaml"]),
        (["show", "{tmp}/corrupt.yaml"], 1, ["corrupt.yaml"]),
        (["show", "{tmp}/other.json"], 1, ["other.json", "bench"]),
        (["train", "eyes"], 2, ["eyes", "heads"]),
        (["train", "heads", "--time-limit", "0"], 2, ["time-limit"]),
        (["train", "heads", "-o", "{tmp}/none/m.safetensors"], 1, ["cannot write"]),
        (["fly"], 2, ["fly"]),
        (["run", "--fly"], 2, ["--fly"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line_and_a_hint(
    cli: Cli,
    tiny: Path,
    profile: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "corrupt.yaml").write_text("schema: [1\nmodel: {")
    (tmp_path / "unknown.yaml").write_text("colour: red\n")
    (tmp_path / "other.json").write_text('{"a": 1}')
    given = [a.format(tmp=tmp_path, tiny=tiny, profile=profile) for a in arguments]
    if given[0] == "run" and "-q" not in given and "--fly" not in given:
        given.append("-q")
    expect_error(cli(*given), code, *words)


def test_a_profile_of_another_model(cli: Cli, tiny: Path, profile: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    found = profile.read_text().split("sha256:")[1][:32]
    other.write_text(profile.read_text().replace(found, "0" * 32))
    expect_error(cli("run", tiny, "-p", other, "--prompt", "a"), 1, "another model", "search")


def test_a_prompt_that_is_not_text(cli: Cli, tiny: Path) -> None:
    expect_error(cli("run", tiny, stdin=b"\xff\xfe"), 1, "UTF-8")


def test_a_bug_is_one_line_and_verbose_shows_where(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("skipopt.decoding.text.stream_generate", broken)
    ended = cli("run", tiny, "--prompt", "a", "-q")
    assert ended.code == 1
    assert ended.err.startswith("error: this is a bug in skipopt: RuntimeError: two lines\nhint:")
    assert "Traceback" not in ended.err
    assert "Traceback" in cli("run", tiny, "--prompt", "a", "--verbose").err


def test_an_interrupt_is_not_an_error(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("skipopt.decoding.text.stream_generate", interrupted)
    ended = cli("run", tiny, "--prompt", "a", "-q")
    assert (ended.code, ended.err) == (130, "")


# search


@pytest.mark.slow
def test_search_writes_a_profile_that_runs(cli: Cli, tiny: Path, prompts: Path) -> None:
    common = ("search", tiny, "--prompts", prompts, "--trials", 12)
    ended = cli(*common)
    assert ended.code == 0, ended.err
    assert Path("profile.yaml").exists()
    assert Path("profile.yaml.journal").exists()
    assert "mask" in ended.out
    assert "wrote profile.yaml" in ended.err
    assert cli("run", "-p", "profile.yaml", "--prompt", "a", "--max-new-tokens", 4).code == 0
    expect_error(cli(*common), 1, "--resume", "--overwrite")
    assert cli(*common, "--resume", "-q").err == ""
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
    ended = cli("search", tiny, "--prompts", prompts, "--trials", 30)
    assert ended.code == 130
    assert "--resume" in ended.err
    assert Path("profile.yaml").exists()
    monkeypatch.setattr(SearchProgress, "__call__", shown)
    resumed = cli("search", tiny, "--prompts", prompts, "--trials", 8, "--resume", "--json")
    assert json.loads(resumed.out)["search"]["trials"] == 8


def test_a_search_that_fails_at_once_leaves_no_journal(
    cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("\n\n".join(c * 400 for c in "abcd"))
    assert cli("search", tiny, "--prompts", long, "--trials", 4).code == 1
    assert not list(tmp_path.glob("*.journal"))


# bench, check, show, env


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
    """The methods that bench timed, and what it said."""
    ended = cli("bench", "--max-new-tokens", 8, "--repeats", 1, *options, "--json")
    assert ended.code == 0, ended.err
    return [row["name"] for row in json.loads(ended.out)["methods"]], ended.err


def test_bench_times_the_method_that_the_profile_says(
    cli: Cli, profile: Path, prompts: Path, tmp_path: Path
) -> None:
    own = ("--prompts", prompts, "--methods", "plain,profile")
    assert timed(cli, "-p", profile, *own)[0] == ["plain", "layer-skip"]
    other = tmp_path / "other.yaml"
    text = profile.read_text()
    for_layer_skip = "method: layer-skip\n  gamma: 4\n  tau: 0.0\n"
    assert for_layer_skip in text
    lookup = "method: prompt-lookup:max_ngram=2\n"
    other.write_text(text.replace(for_layer_skip, lookup))
    assert timed(cli, "-p", other, *own)[0] == ["plain", "prompt-lookup:max_ngram=2"]
    off = text.replace("enabled: true\nreason: null", "enabled: false\nreason: too slow")
    other.write_text(off)
    names, notes = timed(cli, "-p", other, *own)
    assert names == ["plain"]
    assert "decode plainly: too slow" in notes


def test_bench_without_a_profile_knows_no_method_of_it(cli: Cli, tiny: Path) -> None:
    ended = cli("bench", tiny, "--methods", "plain,profile")
    expect_error(ended, 2, "none is given", "--profile")


def test_bench_times_the_profile_s_method_unless_told_otherwise() -> None:
    from skipopt.cli.bench import default_methods, with_profile_method
    from skipopt.profile import Profile

    golden = Path(__file__).parents[1] / "golden" / "profile.yaml"
    profile = Profile.parse(golden.read_text().replace("layer-skip", "cascade"), "p.yaml")
    names = with_profile_method(default_methods(profile), profile)
    assert names[:3] == ["plain", "cascade", "layer-skip"]
    assert "layer-skip" not in with_profile_method(default_methods(None), None)


@pytest.mark.parametrize(("floor", "code"), [(0.001, 0), (1000, 3)])
def test_check_ends_with_its_verdict(
    cli: Cli, profile: Path, prompts: Path, floor: float, code: int
) -> None:
    short = ("--prompts", prompts, "--max-new-tokens", 12, "--timeout", 5)
    ended = cli("check", "-p", profile, *short, "--min-speedup", floor, "--markdown", "check.md")
    assert ended.code == code, ended.err
    assert ("pass" if code == 0 else "fail") in ended.out
    assert "verdict" in Path("check.md").read_text()
    document = json.loads(cli("check", "-p", profile, *short, "--json", "-q").out)
    keys = {"verdict", "speedup", "floor", "lossless", "acceptance_rate", "baseline"}
    assert keys | {"environment"} <= set(document)


def test_show_a_profile(cli: Cli, profile: Path) -> None:
    ended = cli("show", profile)
    assert "attn ░██░" in ended.out
    assert "mlp  ░░█░" in ended.out
    assert json.loads(cli("show", profile, "--json").out)["mask"] == {
        "attention": [1, 2],
        "mlp": [2],
    }


def test_env_tells_versions_and_no_secrets(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    facts = json.loads(cli("env", "--json").out)
    assert facts["packages"]["torch"]
    assert facts["variables"]["HF_HUB_OFFLINE"] == "1"
    assert "hf_secret" not in cli("env").out
