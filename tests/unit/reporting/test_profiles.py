"""A profile in the terminal, with masks by context length."""

from __future__ import annotations

from pathlib import Path

from skipopt.profile import Profile
from skipopt.reporting.profiles import profile_text

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
        "from 32768  tokens on: γ = 2, τ = 0",
        "            none (0 of 32 sublayers)",
        "            attn ░░░░░░░░░░░░░░░░",
    ]
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
    assert "            also measured: cascade 1.50× (1.40–1.60), ahead on these prompts" in found
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
