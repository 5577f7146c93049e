"""The methods table: speedups, repetition, losslessness, failing methods, settings."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from support.timing_fakes import PREFILL, FakeClock, FakeRunner, tiny_prompts, tiny_target
from support.tiny import byte_tokenizer, tiny_llama

import skipopt
from skipopt.decoding.api import generate
from skipopt.draft_config import DraftConfig
from skipopt.draft_memory.memory import DraftMemory
from skipopt.errors import PromptError, SkipoptError, UsageError
from skipopt.masks import SkipMask
from skipopt.measurement.methods_table import BenchResult, bench, bench_runners
from skipopt.measurement.metrics import SourceCounts, drafts_by_source
from skipopt.measurement.runners import PEERS, SkipoptRunner
from skipopt.methods import parse_method
from skipopt.profile import Profile
from skipopt.prompts import Prompt
from skipopt.reporting.load_results import load_bench
from skipopt.reporting.tables import bench_table, category_table, markdown_table
from skipopt.rounds import Round
from skipopt.runtime.load import make_target
from skipopt.sampling import SamplingOptions

PROMPTS = [[0], [100], [200], [300]]
OURS = ("plain", "layer-skip", "prompt-lookup")


def run_fakes(*runners: FakeRunner, repeats: int = 2, **options: Any) -> BenchResult:
    clock = runners[0].clock
    return bench_runners(tiny_target(), runners, PROMPTS, 40, repeats, clock, **options)


def shown(result: BenchResult) -> str:
    console = Console(file=io.StringIO(), width=250)
    console.print(bench_table(result))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_speedups_are_against_plain_and_against_generate(clock: FakeClock) -> None:
    result = run_fakes(
        FakeRunner("plain", clock, lambda run: 0.1),
        FakeRunner("fast", clock, lambda run: 0.05),
        FakeRunner("hf-generate", clock, lambda run: 0.2),
    )
    plain, fast, generate = result.methods
    assert [m.tokens_per_second for m in result.methods] == pytest.approx([10, 20, 5])
    assert [m.prefill_seconds for m in result.methods] == [PREFILL] * 3
    assert plain.speedup is not None
    assert fast.speedup is not None
    assert fast.speedup_vs_hf is not None
    assert generate.speedup is not None
    assert plain.speedup.median == pytest.approx(1)
    assert fast.speedup.to_json() == pytest.approx({"median": 2, "low": 2, "high": 2})
    assert fast.speedup_vs_hf.median == pytest.approx(4)
    assert generate.speedup.median == pytest.approx(0.5)
    assert fast.acceptance_rate == 0.75
    assert fast.mean_acceptance_length == 2
    assert fast.end_to_end is not None
    assert fast.end_to_end.whole.median == pytest.approx(4.5 / 2.5)
    row = result.to_json()["methods"][1]
    assert row["end_to_end"]["median"] == pytest.approx(1.8)
    assert row["first_text"]["median"] == pytest.approx(1.8)
    assert row["end_to_end_at"].keys() == {"32"}
    assert "32: 1.76×" in shown(result)


def test_speedups_by_category(clock: FakeClock, tmp_path: Path) -> None:
    seconds = {0: 0.05, 100: 0.05, 200: 0.1, 300: 0.2}
    fast = FakeRunner("fast", clock, lambda run: 0.0)
    fast.cost = lambda run: seconds[fast.calls[-1][1]]
    plain = FakeRunner("plain", clock, lambda run: 0.1)
    result = run_fakes(plain, fast, categories=["copy", "copy", "chat", None])
    found = {name: each.median for name, each in result.methods[1].speedup_by_category}
    assert found == pytest.approx({"copy": 2, "chat": 1})
    assert result.to_json()["prompts"]["categories"] == {"copy": 2, "chat": 1}
    assert result.to_json()["prompts"]["category_of"] == ["copy", "copy", "chat", None]
    rows = [line for line in markdown_table(result).splitlines() if line.startswith("| c")]
    assert rows[0] == "| category | prompts | plain | fast |"
    assert rows[1] == "| copy | 2 | 1.00× (1.00–1.00) | 2.00× (2.00–2.00) |"
    path = tmp_path / "r.json"
    path.write_text(json.dumps(result.to_json()))
    assert markdown_table(load_bench(path)[1]) == markdown_table(result)


@pytest.mark.parametrize(
    "text", ['{"methods": ' + "[" * 100_000, '{"methods": ' + "9" * 5000, "{}", '{"prompts": 1}']
)
def test_a_file_that_is_no_result_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(SkipoptError, match="is not a result of `skipopt bench`") as caught:
        load_bench(path)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_prompts_without_categories_have_no_second_table(clock: FakeClock) -> None:
    result = run_fakes(FakeRunner("plain", clock, lambda run: 0.1))
    assert category_table(result) is None
    assert "by category" not in markdown_table(result)


def test_without_generate_there_is_no_speedup_against_it(clock: FakeClock) -> None:
    result = run_fakes(FakeRunner("plain", clock, lambda run: 0.1))
    assert result.methods[0].speedup_vs_hf is None
    assert result.to_json()["methods"][0]["speedup_vs_hf"] is None


def repeating_after(fresh: dict[int, int]) -> Any:
    def text(prompt: Sequence[int]) -> list[int]:
        count = fresh[prompt[0]]
        return ([prompt[0] + i for i in range(count)] + [90, 91] * 40)[:40]

    return text


def test_repetition_is_cut_and_short_texts_are_skipped(clock: FakeClock) -> None:
    """Texts begin with 40, 20, 5 and 6 new tokens; the first cycle of 2 tokens is kept."""
    text = repeating_after({0: 40, 100: 20, 200: 5, 300: 6})
    plain = FakeRunner("plain", clock, lambda run: 0.1, text=text)
    result = run_fakes(plain)
    assert result.workload.lengths == [40, 22, 8]
    assert result.workload.prompts == ((0,), (100,), (300,))
    assert {len(s.decoding.tokens) for s in result.methods[0].samples} == {40, 22, 8}
    assert result.to_json()["prompts"] | {"hash": ""} == {
        "hash": "",
        "count": 4,
        "num_timed": 3,
        "skipped_prompts": 1,
        "repetitive": 3,
        "share_repetitive": 0.75,
        "repetitive_tokens": 18 + 33 + 32,
        "categories": {},
        "category_of": [],
    }
    assert result.methods[0].lossless is not None
    assert result.methods[0].lossless.verdict == "exact"
    assert "3 continuations end in repetition: 83 tokens" in markdown_table(result)


def test_only_repetition_is_an_error(clock: FakeClock) -> None:
    plain = FakeRunner("plain", clock, lambda run: 0.1, text=lambda prompt: [7] * 40)
    with pytest.raises(PromptError, match="none of the 4 prompts"):
        run_fakes(plain)


def test_a_wrong_text_is_reported_even_in_the_last_repeat(clock: FakeClock) -> None:
    wrong = FakeRunner("wrong", clock, lambda run: 0.05)
    wrong.text = lambda prompt: [prompt[0] + i + (wrong.runs == 7) for i in range(39)] + [0]
    plain = FakeRunner("plain", clock, lambda run: 0.1)
    plain.text = lambda prompt: [prompt[0] + i for i in range(39)] + [0]
    clock_prompts = [[1], [2], [3], [4]]
    result = bench_runners(tiny_target(), [plain, wrong], clock_prompts, 40, 2, clock)
    found = result.methods[1].lossless
    assert found is not None
    assert (found.exact, found.failed, found.verdict) == (4, 1, "failed")
    assert "FAILED (1 of 5)" in shown(result)


def test_a_text_that_is_only_guaranteed_the_distribution_is_not_compared(clock: FakeClock) -> None:
    other = FakeRunner("other", clock, lambda run: 0.05, text=lambda prompt: [1, 2, 3] * 13)
    other.guarantee = "same distribution"
    result = run_fakes(FakeRunner("plain", clock, lambda run: 0.1), other)
    plain, drawn = result.methods
    assert plain.lossless is not None
    assert drawn.lossless is None
    assert [row["guarantee"] for row in result.to_json()["methods"]] == [
        plain.guarantee,
        drawn.guarantee,
    ]
    assert "same distribution" in shown(result)


def test_sampled_texts_of_other_lengths_are_timed_up_to_the_shorter_one(clock: FakeClock) -> None:
    plain = FakeRunner("plain", clock, lambda run: 0.1)
    shorter = FakeRunner("shorter", clock, lambda run: 0.1, text=lambda prompt: [7] * 10)
    shorter.guarantee = "same distribution"
    row = run_fakes(plain, shorter).methods[1]
    assert row.end_to_end is not None
    assert row.end_to_end.whole.median == pytest.approx(1)


def test_a_failing_peer_has_a_row_with_its_error(clock: FakeClock) -> None:
    peer = FakeRunner("hf-generate", clock, lambda run: 1 / (3 - run))
    peer.may_fail = True
    result = run_fakes(FakeRunner("plain", clock, lambda run: 0.1), peer)
    row = result.to_json()["methods"][1]
    assert row["error"] == "ZeroDivisionError: division by zero"
    assert row["tokens_per_second"] is row["speedup"] is row["lossless"] is None
    assert row["samples"] == []
    assert result.methods[0].speedup_vs_hf is None
    assert "division by zero" in shown(result)
    lines = markdown_table(result).splitlines()
    [line] = [each for each in lines if each.startswith("| hf-generate |")]
    _, *figures, last = line.split(" | ")
    assert set(figures) == {"–"}
    assert last.startswith("error: Zero")


def test_progress_ends_at_its_total(clock: FakeClock) -> None:
    seen: list[tuple[float, float]] = []
    run_fakes(
        FakeRunner("plain", clock, lambda run: 0.1),
        FakeRunner("fast", clock, lambda run: 0.1),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, 22) for i in range(22)]  # 3 first texts each, and 8 later ones


def test_unknown_methods_and_no_repeats_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown method 'magic'"):
        bench(tiny_target(), tiny_prompts(1), ["magic"])
    with pytest.raises(UsageError, match="needs a mask"):
        bench(tiny_target(), tiny_prompts(1), ["layer-skip"])
    with pytest.raises(UsageError, match="repeats must be 1 or more"):
        bench(tiny_target(), tiny_prompts(1), ["plain"], repeats=0)


@pytest.fixture(scope="module")
def real() -> BenchResult:
    target = tiny_target()
    profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=3, tau=0.1)
    methods = [*OURS, *PEERS]
    return bench(target, tiny_prompts(4), methods, profile, max_new_tokens=24, repeats=1)


@pytest.mark.slow
def test_every_method_and_peer_writes_the_same_text(real: BenchResult) -> None:
    assert [method.name for method in real.methods] == [*OURS, *PEERS]
    for method in real.methods:
        assert method.error is None
        assert method.lossless is not None
        assert (method.lossless.verdict, method.lossless.exact) == ("exact", 4)
        for sample in method.samples:
            assert sample.decoding.tokens == real.workload.references[sample.prompt]


@pytest.mark.slow
def test_methods_that_copy_decode_without_and_with_earlier_texts() -> None:
    target, prompts = tiny_target(), tiny_prompts(2)
    memory = DraftMemory()
    for prompt in prompts:
        memory.add([*prompt, *(each.id for each in generate(target, prompt, max_new_tokens=16))])
    methods = ["prompt-lookup", "suffix", "hf-generate"]
    found = bench(target, prompts, methods, max_new_tokens=16, repeats=1, memory=memory).methods
    assert [each.name for each in found] == [
        "plain",
        "prompt-lookup",
        "suffix",
        "suffix, with memory",
        "hf-generate",
    ]
    assert found[3].drafts_by_source["remembered"].accepted > 0
    assert "remembered" not in found[2].drafts_by_source
    assert len(memory) == 2, "nothing is added"
    assert found[3].lossless is not None
    assert found[3].lossless.verdict == "exact"


@pytest.mark.slow
def test_sampled_texts_are_compared_where_drafts_are_matched() -> None:
    target, warm = tiny_target(), SamplingOptions(temperature=1.0, seed=1)
    profile = Profile.by_hand(target, attention=[1], gamma=3)
    guarantees = {
        "plain": "same tokens",
        "prompt-lookup": "same tokens",
        "layer-skip": "same distribution",
        "rsd-s": "same distribution",
        "rsd-s:verify=match": "same tokens",
        "layer-skip:verify=relaxed-typical": "none",
        "hf-generate": "same distribution",
    }
    result = bench(
        target,
        tiny_prompts(2),
        list(guarantees),
        profile,
        max_new_tokens=16,
        repeats=1,
        options=warm,
    )
    assert {method.name: method.guarantee for method in result.methods} == guarantees
    for method in result.methods:
        assert method.error is None
        assert (method.lossless is None) == (method.guarantee == "same distribution")
        if method.guarantee == "same tokens":
            assert method.lossless is not None
            assert (method.lossless.verdict, method.lossless.exact) == ("exact", 2)


def test_settings_describe_what_ran(real: BenchResult) -> None:
    settings = {method.name: method.settings for method in real.methods}
    assert settings["layer-skip"] == {"mask": "attn 1 mlp 2", "gamma": 3, "tau": 0.1}
    assert settings["hf-early-exit"]["assistant_early_exit"] in (1, 2)
    assert settings["hf-prompt-lookup"]["prompt_lookup_num_tokens"] in (3, 10)
    assert settings["plain"] == settings["hf-generate"] == {}


def test_settings_include_those_for_longer_texts() -> None:
    target = tiny_target()
    later = {
        "min_context": 9,
        "mask": {"attention": (), "mlp": (2,)},
        "drafting": {"gamma": 2, "tau": 0.5},
    }
    mask = SkipMask.of(target.depth, [1])
    profile = Profile.build(target, mask, gamma=3, tau=0.0, contexts=[later])
    settings = {name: SkipoptRunner(target, parse_method(name), profile).settings for name in OURS}
    assert settings["layer-skip"] == {
        "mask": "attn 1",
        "gamma": 3,
        "tau": 0.0,
        "contexts": [{"min_context": 9, "mask": "mlp 2", "gamma": 2, "tau": 0.5}],
    }
    assert settings["plain"] == settings["prompt-lookup"] == {}


def settings_of(*names: str) -> list[dict[str, Any]]:
    target = tiny_target()
    mask = SkipMask.of(target.depth, [1])
    profile = Profile.build(
        target, mask, gamma=3, tau=0.5, draft_config=DraftConfig(attention_window=2)
    )
    return [SkipoptRunner(target, parse_method(name), profile).settings for name in names]


def test_settings_name_the_draft_config_only_where_it_is_used() -> None:
    own, cascade, swift, jacobi, exiting = settings_of(
        "layer-skip", "cascade", "swift", "jacobi", "layer-skip:exit_layer=1"
    )
    assert own == {"mask": "attn 1", "gamma": 3, "tau": 0.5, "draft_config": "window=2"}
    assert cascade == own
    assert swift == {"mask": "attn 1", "draft_config": "window=2"}
    assert jacobi == {}
    assert exiting == {"gamma": 3, "tau": 0.5}  # drafts with its first layers, and no mask


def test_settings_leave_out_values_overridden_by_options() -> None:
    settings = settings_of("layer-skip:quant=none:window=none", "layer-skip:gamma=2:window=4")
    assert settings == [{"mask": "attn 1", "gamma": 3, "tau": 0.5}, {"mask": "attn 1", "tau": 0.5}]


def test_settings_leave_out_an_unsupported_draft_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipopt.runtime.draft_mode.uses_causal_sdpa", lambda model: False)
    assert settings_of("layer-skip") == [{"mask": "attn 1", "gamma": 3, "tau": 0.5}]


def test_some_drafts_were_rejected(real: BenchResult) -> None:
    """Otherwise a verifier that accepts everything would pass the other tests."""
    rates = {m.name: m.acceptance_rate for m in real.methods}
    assert rates["layer-skip"] is not None
    assert 0 < rates["layer-skip"] < 1
    assert rates["plain"] is rates["hf-generate"] is None


def test_peers_leave_the_model_as_it_was(real: BenchResult) -> None:
    model = tiny_target().model
    assert model.config.num_hidden_layers == 4
    assert model.generation_config.pad_token_id is None


def test_drafted_tokens_are_told_by_source(real: BenchResult) -> None:
    found = {m.name: m.drafts_by_source for m in real.methods}
    assert found["layer-skip"].keys() == {"drafted"}
    assert found["prompt-lookup"].keys() == {"copied"}
    assert found["plain"] == found["hf-generate"] == {}
    for method in real.methods:
        for each in method.drafts_by_source.values():
            assert method.acceptance_rate == pytest.approx(each.accepted / each.drafted)
            assert 0 < each.accepted < 100
    drafted = found["layer-skip"]["drafted"]
    row = f"| layer-skip | drafted | {drafted.drafted:.0f} | {drafted.accepted:.0f} |"
    assert row in markdown_table(real)


def test_tokens_of_a_tree_count_by_their_own_source() -> None:
    tree = Round((4, 5, 6), 1, (5, 7), parents=(-1, -1, 1), path=(1,), sources=("a", "b", "a"))
    chain = Round((8, 9), 1, (8, 1))
    decoding = SimpleNamespace(rounds=(tree, chain))
    found = drafts_by_source([SimpleNamespace(decoding=decoding)])  # type: ignore[list-item]
    assert found == {
        "a": SourceCounts(50, 0),
        "b": SourceCounts(25, 25),
        "drafted": SourceCounts(50, 25),
    }


def test_json_has_what_the_contract_names(real: BenchResult) -> None:
    document = json.loads(json.dumps(real.to_json()))
    assert document.keys() >= {"environment", "model", "prompts", "methods"}
    assert document["environment"]["threads"] >= 1
    assert document["prompts"].keys() >= {"hash", "count"}
    for row in document["methods"]:
        assert row.keys() >= {
            "name",
            "tokens_per_second",
            "speedup",
            "speedup_vs_hf",
            "acceptance_rate",
            "drafts_by_source",
            "mean_acceptance_length",
            "lossless",
            "samples",
        }
        assert row["speedup_vs_hf"].keys() == {"median", "low", "high"}
        assert len(row["samples"]) == 4


def test_the_tables_show_every_method(real: BenchResult) -> None:
    for text in (shown(real), markdown_table(real)):
        for name in (*OURS, *PEERS):
            assert name in text
        assert "attn 1 mlp 2" in text


def test_prompts_of_any_form_are_timed() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    target = make_target(tiny_llama(vocabulary=257), tokenizer, runtime="eager")
    chat = [{"role": "user", "content": "def f():"}]
    given = [
        "def f():",
        chat,
        tokenizer("def f():").input_ids,
        Prompt("def f():", category="code"),
    ]
    result = skipopt.bench(target, given, ["suffix"], max_new_tokens=16, repeats=1)
    first, *others = result.workload.prompts
    assert all(each == first for each in others)
    assert result.workload.categories == (None, None, None, "code")
    assert repr(result).startswith("BenchResult(4 prompts: MethodResult('plain', 1.00×")


@pytest.mark.parametrize("prompts", ["one text", [1, 2], [{"role": "user", "content": "a"}], []])
def test_a_single_prompt_is_refused_with_a_hint(prompts: Any) -> None:
    with pytest.raises(PromptError) as refusal:
        bench(tiny_target(), prompts, ["plain"])
    assert refusal.value.hint
