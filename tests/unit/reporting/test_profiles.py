"""A profile in the terminal, with masks by context length."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipopt.masks import SkipMask
from skipopt.profile import Profile
from skipopt.reporting.lines import wrapped
from skipopt.reporting.masks import mask_picture, mask_rows
from skipopt.reporting.profiles import next_steps, profile_text

DRAFTS_WITHOUT_MASK = "method: suffix\n  gamma: null\n  tau: null"
GOLDEN = (Path(__file__).parents[2] / "golden" / "profile.yaml").read_text(encoding="utf-8")
CONTEXTS = """\
contexts:
- min_context: 512
  mask: {attention: [0], mlp: [15]}
  drafting: {gamma: 4, tau: 0.25}
  predicted: {speedup: 1.317, acceptance_rate: null, matchness: null}
- {min_context: 32768, mask: {attention: [], mlp: []}, drafting: {gamma: 2, tau: 0}}
predicted:
"""


COSTS = """\
costs:
  context: 198
  overhead: 0.001
  attention: 0.0003
  mlp: 0.0002
  layer_overhead: 0
  confidence: 0
  verify: [0.01, 0.011, 0.011, 0.0125, 0.013]
  relative_iqr: 0.1
environment:
"""
BEYOND = """\
  verify_tree: {32: 0.024, 8: 0.015}
  attention_per_token: 1.0e-07
  verify_per_token: 1.0e-05
environment:
"""


def shown(text: str) -> list[str]:
    return profile_text(Profile.parse(text, "p.yaml")).plain.splitlines()


@pytest.mark.parametrize("width", [80, 60, 40, 20])
def test_no_number_and_no_name_is_broken(width: int) -> None:
    """Whatever fits on a line by itself stays in one piece."""
    text = GOLDEN.replace("predicted:\n", CONTEXTS).replace(
        "baselines: null", "baselines: {'layer-skip:quant=int8': {median: 1.5, low: 0.4, high: 9}}"
    )
    profile = Profile.parse(text, "p.yaml")
    lines = profile_text(profile).text(width).plain.splitlines()
    assert max(map(len, lines)) <= width
    found = " ".join(lines).split()
    for word in profile_text(profile).plain.split():
        if len(word) <= width - 2 and not {"█", "░"} & set(word):
            assert word in found
    speedups = ["1.39× (1.35–1.43)", "1.37× (1.33–1.41)"]
    for each in speedups if width >= len(speedups[0]) + 2 else []:
        assert any(each in line for line in lines)


def test_words_are_broken_at_spaces_only() -> None:
    assert wrapped("with layer-skip:quant=int8 on", 22) == ["with", "layer-skip:quant=int8", "on"]
    assert wrapped("takes 45.7 MB and 1.39× (1.35–1.43)", 20) == [
        "takes 45.7 MB and",
        "1.39× (1.35–1.43)",
    ]
    assert wrapped("abcdefgh", 3) == ["abc", "def", "gh"]


def test_a_deep_mask_is_drawn_in_blocks_that_fit() -> None:
    mask = SkipMask.of(80, range(0, 80, 3), range(40))
    lines = mask_picture(mask, 68).splitlines()
    assert max(map(len, lines)) <= 68
    rows = mask_rows(mask)
    for name, row in zip(("attn ", "mlp  "), rows, strict=True):
        drawn = "".join(line.removeprefix(name) for line in lines if line.startswith(name))
        assert name + drawn == row
    assert [line.split()[0] for line in lines[2::3]] == ["0", "60"]


def test_a_wide_interval_around_one_is_called_undecided() -> None:
    baselines = (
        "{a: {median: 1.06, low: 0.48, high: 7.69}, b: {median: 1.01, low: 0.99, high: 1.03}}"
    )
    text = "\n".join(shown(GOLDEN.replace("baselines: null", f"baselines: {baselines}")))
    assert "a 1.06× (0.48–7.69), undecided" in text
    assert "b 1.01× (0.99–1.03)\n" in text


def test_a_profile_explains_its_choice() -> None:
    baselines = "{suffix: {median: 1.3, low: 1.2, high: 1.4}}"
    text = GOLDEN.replace("baselines: null", f"baselines: {baselines}")
    found = shown(text.replace("vs_winner: null", "vs_winner: {suffix: tied}"))
    at = next(n for n, line in enumerate(found) if line.startswith("chosen"))
    assert "layer-skip" in found[at]
    assert found[at + 1].endswith("suffix 1.30× (1.20–1.40), not significantly different")
    assert not any(line.startswith("chosen") for line in shown(GOLDEN))


def test_a_method_without_a_mask_shows_none() -> None:
    text = GOLDEN.replace("mask:\n  attention: [3, 5, 6]\n  mlp: [4, 5, 9]\n", "mask: null\n")
    text = text.replace("method: layer-skip\n  gamma: 6\n  tau: 0.5512", DRAFTS_WITHOUT_MASK)
    candidate = "candidate: {attention: [1, 2], mlp: [3], gamma: 3, tau: 0.5}\npredicted:\n"
    text = text.replace("predicted:\n", candidate)
    assert "█" not in "\n".join(shown(text))
    assert any("attn 1,2 mlp 3" in line for line in shown(text))
    assert "█" in "\n".join(shown(GOLDEN))


@pytest.mark.parametrize("enabled", [True, False])
def test_a_search_ends_with_the_commands_to_type_next(enabled: bool) -> None:
    profile = Profile.parse(GOLDEN, "p.yaml")
    if not enabled:
        profile = profile.model_copy(update={"enabled": False, "reason": "slow"})
    text = next_steps(profile, "my profile.yaml").plain
    commands = [line.split() for line in text.splitlines() if "skipopt " in line]
    assert [words[1] for words in commands] == (["run", "check"] if enabled else ["bench"])
    assert ("'my profile.yaml'" in text) == enabled


def test_the_time_of_a_search_is_told_by_phase() -> None:
    phases = "{calibrate: 20.2, costs: 5.0, search: 80.0, validate: 30.0}"
    found = shown(GOLDEN.replace("seconds_by_phase: null", f"seconds_by_phase: {phases}"))
    assert "            20 s texts, 5 s costs, 80 s trials, 30 s validation" in found


def test_a_profile_shows_its_mask_and_figures() -> None:
    lines = shown(GOLDEN)
    assert lines[:4] == [
        "profile     enabled",
        "model       builtin (LlamaForCausalLM, 16 layers)",
        "drafting    layer-skip, γ = 6, τ = 0.5512",
        "mask        attn 3,5,6 mlp 4,5,9 (6 of 32 sublayers)",
    ]
    assert "            attn ░░░█░██░░░░░░░░░" in lines
    assert any("1.39× (1.35–1.43)" in line for line in lines)
    assert "measured on Some CPU @ 2.50GHz, float32, eager, 2 threads" in lines
    assert lines[-1] == (
        "memory      weights 44.0 MB + prepacked copies 43.5 MB + fused copies 29.5 MB "
        "+ KV cache 4.7 MB"
    )
    assert not any(line.startswith("from") for line in lines)


def test_masks_by_length_are_shown_below_the_first() -> None:
    lines = shown(GOLDEN.replace("predicted:\n", CONTEXTS))
    at = lines.index("from 512    tokens on: γ = 4, τ = 0.25 · predicted 1.32×")
    assert lines[at + 1 : at + 7] == [
        "            attn 0 mlp 15 (2 of 32 sublayers)",
        "            attn █░░░░░░░░░░░░░░░",
        "            mlp  ░░░░░░░░░░░░░░░█",
        "                 0    5    10   15",
        "from 32768  tokens on: γ = 2, τ = 0",
        "            none (0 of 32 sublayers)",
    ]
    drawn = [line for line in lines if line.strip().startswith(("attn ░", "attn █"))]
    assert len(drawn) == 2, "a mask that skips nothing is not drawn"
    rest = [line for line in lines if not line.startswith(("from", "            "))]
    assert [line.split()[0] for line in rest] == [
        line.split()[0] for line in shown(GOLDEN) if not line.startswith(" ")
    ]


def test_baselines_are_shown_with_their_comparison() -> None:
    baselines = (
        "{cascade: {median: 1.5, low: 1.4, high: 1.6}, swift: {median: 1, low: 1, high: 1}}"
    )
    text = GOLDEN.replace("baselines: null", f"baselines: {baselines}")
    assert "            also measured: cascade 1.50× (1.40–1.60)" in shown(text)
    found = shown(text.replace("vs_winner: null", "vs_winner: {cascade: ahead, swift: behind}"))
    assert (
        "            also measured: cascade 1.50× (1.40–1.60), faster on these prompts, not "
        "expected to be on other text, or not lossless"
    ) in found
    assert "            also measured: swift 1.00× (1.00–1.00), significantly slower" in found


def with_costs(beyond: str = "environment:\n") -> str:
    costs = COSTS.replace("environment:\n", beyond)
    assert GOLDEN.count("\nenvironment:\n") == 1
    return GOLDEN.replace("environment:\n", costs)


def test_costs_are_shown_in_plain_steps() -> None:
    lines = shown(with_costs())
    at = lines.index(
        "costs       a plain step takes 10.00 ms at 198 tokens of context; "
        "one attention is 3.0% of it, one MLP 2.0%"
    )
    assert lines[at + 1] == (
        "            in plain steps: verify 1: 1.00, 2: 1.10, 4: 1.25, 5: 1.30"
    )
    assert lines[at + 2].startswith("search")


def test_known_costs_of_trees_and_longer_texts_are_shown() -> None:
    """The profile is faster than plain decoding by 1.393."""
    lines = shown(with_costs(BEYOND))
    at = next(i for i, line in enumerate(lines) if "in plain steps" in line)
    assert lines[at].endswith("5: 1.30; tree 8: 1.50, 32: 2.40")
    assert lines[at + 1 : at + 3] == [
        "            tokens per round a tree needs (without its draft) to be as fast: "
        "8: 2.09, 32: 3.34",
        "            at 396 tokens of context a plain step takes 1.20 times as long",
    ]
    assert lines[at + 3].startswith("search")


def test_a_tree_competes_with_plain_decoding_where_the_profile_is_off() -> None:
    off = with_costs(BEYOND).replace("enabled: true\nreason: null", "enabled: false\nreason: slow")
    assert any("to be as fast: 8: 1.50, 32: 2.40" in line for line in shown(off))
