"""Context buckets and costs of a profile: written, read and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.profiles import TARGET, changed, failure, full_profile

from skipopt.masks import SkipMask
from skipopt.profile import DraftSettings, Profile

# Masks by length

CONTEXTS = """\
contexts:
- {min_context: 512, mask: {attention: [3, 6], mlp: []}, drafting: {gamma: 4, tau: 0.2}, predicted: {speedup: 1.31, acceptance_rate: 0.8, matchness: null}}
- {min_context: 2048, mask: {attention: [3, 6, 7], mlp: [4]}, drafting: {gamma: 2, tau: 0.0}, predicted: null}
"""  # noqa: E501
BUCKETS = (
    {
        "min_context": 512,
        "mask": {"attention": (6, 3), "mlp": ()},
        "drafting": {"gamma": 4, "tau": 0.2},
        "predicted": {"speedup": 1.31, "acceptance_rate": 0.8, "matchness": None},
    },
    {
        "min_context": 2048,
        "mask": {"attention": (3, 6, 7), "mlp": (4,)},
        "drafting": {"gamma": 2, "tau": 0},
    },
)


def with_contexts(contexts: str = CONTEXTS) -> str:
    return changed("predicted:\n", f"{contexts}predicted:\n")


def wrong_contexts(old: str, new: str) -> str:
    assert CONTEXTS.count(old) == 1, old
    return with_contexts(CONTEXTS.replace(old, new))


def bucketed_profile() -> Profile:
    mask = SkipMask.of(16, attention=[3, 5, 6])
    return Profile.build(TARGET, mask, gamma=6, tau=0.5, contexts=BUCKETS)


def test_masks_by_length_are_written_a_line_each_and_come_back_equal(tmp_path: Path) -> None:
    profile = bucketed_profile()
    profile.save(tmp_path / "p.yaml")
    assert CONTEXTS in (tmp_path / "p.yaml").read_text(encoding="utf-8")
    again = Profile.load(tmp_path / "p.yaml")
    assert again == profile
    assert hash(again) == hash(profile)
    assert again != full_profile()
    assert Profile.parse(with_contexts(), "p.yaml").contexts == profile.contexts


def test_buckets_may_be_built_from_buckets() -> None:
    made = bucketed_profile()
    again = Profile.build(TARGET, made.skip_mask, gamma=6, tau=0.5, contexts=made.contexts)
    assert again == made


@pytest.mark.parametrize("text", ["", "contexts: null\n", "contexts: []\n"])
def test_without_masks_by_length_there_is_one_for_all(text: str) -> None:
    profile = Profile.parse(with_contexts(text), "p.yaml")
    assert profile == full_profile()
    assert "contexts" not in profile.to_yaml()
    assert {profile.at(n) for n in (0, 1, 511, 10**6)} == {profile.at(0)}
    assert Profile.by_hand(TARGET).contexts == ()


@pytest.mark.parametrize(
    ("context", "start"),
    [(0, 0), (1, 0), (511, 0), (512, 512), (513, 512), (2047, 512), (2048, 2048), (9999, 2048)],
)
def test_the_mask_of_a_length(context: int, start: int) -> None:
    way = bucketed_profile().at(context)
    expected = {
        0: DraftSettings(0, SkipMask.of(16, [3, 5, 6]), 6, 0.5),
        512: DraftSettings(512, SkipMask.of(16, [3, 6]), 4, 0.2),
        2048: DraftSettings(2048, SkipMask.of(16, [3, 6, 7], [4]), 2, 0.0),
    }
    assert way == expected[start]


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("min_context: 512", "min_context: 0", "contexts[0].min_context is 0, expected", "hand"),
        (
            "min_context: 512",
            "min_context: '512'",
            "contexts[0].min_context is '512', expected",
            "quotes",
        ),
        ("min_context: 512, ", "", "contexts[0].min_context is missing", "cut short"),
        (
            "min_context: 2048",
            "min_context: 512",
            "contexts[1].min_context is 512, expected a length above contexts[0].min_context",
            "hand",
        ),
        (
            "min_context: 2048",
            "min_context: 100",
            "contexts[1].min_context is 100, expected a length above",
            "hand",
        ),
        ("[3, 6]", "[3, 16]", "contexts[0].mask.attention is 16, expected a layer from 0", ""),
        ("mlp: [4]", "mlp: [-1]", "contexts[1].mask.mlp is -1, expected a layer from 0", ""),
        ("mlp: [4]", "mlp: [4, 4]", "contexts[1].mask.mlp is 4, expected each layer once", ""),
        ("gamma: 2", "gamma: 0", "contexts[1].drafting.gamma is 0, expected", ""),
        ("tau: 0.2", "tau: 2", "contexts[0].drafting.tau is 2, expected", ""),
        ("tau: 0.2", "tua: 2", "contexts[0].drafting.tua is 2, but there is no", "mean 'tau'"),
        (
            "gamma: 2",
            "method: swift, gamma: 2",
            "contexts[1].drafting.method is 'swift', but there is no such key",
            "gamma, tau",
        ),
        (
            "min_context: 512",
            "mincontext: 512",
            "contexts[0].mincontext is 512, but",
            "mean 'min_context'",
        ),
        ("speedup: 1.31", "speed: 1.31", "contexts[0].predicted.speed is 1.31, but", "'speedup'"),
    ],
)
def test_a_wrong_value_of_a_length_is_named(old: str, new: str, message: str, hint: str) -> None:
    error = failure(wrong_contexts(old, new))
    assert message in str(error)
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "contexts is 3, expected a list of masks"),
        ("{min_context: 3}", "contexts is {'min_context': 3}, expected a list of masks"),
        ("[512]", "contexts[0] is 512, expected a mapping"),
    ],
)
def test_masks_by_length_are_a_list(text: str, message: str) -> None:
    assert message in str(failure(with_contexts(f"contexts: {text}\n")))


def test_a_wrong_key_below_a_name_is_explained() -> None:
    text = changed("baselines: null", "baselines: {swift: {medain: 1.0, low: 1.0, high: 1.0}}")
    error = failure(text)
    assert "measured.baselines.swift.medain is 1.0, but" in str(error)
    assert "did you mean 'median'" in str(error.hint)


def test_a_comparison_with_the_winner_is_one_of_three() -> None:
    error = failure(changed("vs_winner: null", "vs_winner: {swift: first}"))
    assert "measured.vs_winner.swift is 'first'" in str(error)


def test_comparisons_with_the_winner_may_be_missing() -> None:
    measured = Profile.parse(changed("  vs_winner: null\n", ""), "p.yaml").measured
    assert measured is not None
    assert measured.vs_winner is None


# Costs


COSTS = {
    "context": 198,
    "overhead": 0.000250444,
    "attention": 0.0002,
    "mlp": 0.0001,
    "layer_overhead": -0.00001,
    "confidence": 0.0,
    "verify": (0.01, 0.011),
    "relative_iqr": 0.1,
}
TREES = {"verify_tree": {8: 0.0150004, 32: 0.024}}
GROWTH = {"attention_per_token": 1.23456e-7, "verify_per_token": 0.000001}


@pytest.mark.parametrize("more", [{}, TREES, GROWTH, {**TREES, **GROWTH}])
def test_costs_come_back_equal(tmp_path: Path, more: dict[str, Any]) -> None:
    profile = Profile.build(TARGET, SkipMask.of(16), gamma=2, tau=0.0, costs=COSTS | more)
    profile.save(tmp_path / "p.yaml")
    assert Profile.load(tmp_path / "p.yaml") == profile
    assert profile.as_dict()["costs"].keys() == COSTS.keys() | more.keys()


def test_costs_of_trees_are_keyed_by_node_count() -> None:
    costs = COSTS | TREES
    profile = Profile.build(TARGET, SkipMask.of(16), gamma=2, tau=0.0, costs=costs)
    assert "\n  verify_tree: {8: 0.015, 32: 0.024}\n" in profile.to_yaml()
    assert json.loads(json.dumps(profile.as_dict()))["costs"]["verify_tree"]["8"] == 0.015


def test_costs_without_trees_are_read() -> None:
    profile = Profile.build(TARGET, SkipMask.of(16), gamma=2, tau=0.0, costs=COSTS)
    assert profile.costs is not None
    assert profile.costs.verify_tree == {}
    assert (profile.costs.attention_per_token, profile.costs.verify_per_token) == (0.0, 0.0)
    assert "verify_tree" not in profile.to_yaml()


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        ("{2: 0.1}", "costs.verify_tree[2] is 2, expected"),
        ("{8: 0}", "costs.verify_tree[8] is 0, expected"),
        ("{8: fast}", "costs.verify_tree[8] is 'fast', expected"),
        ("{eight: 0.1}", "costs.verify_tree.eight is 'eight', expected"),
        ("{8: 0.1, x: 0.1}", "the key '8' is not text"),
        ("{8: 0.1, 8: 0.1}", "the key '8' is there twice"),
        ("[8, 0.1]", "costs.verify_tree is [8, 0.1], expected a mapping of keys to values"),
    ],
)
def test_wrong_costs_of_trees_are_named(trees: str, message: str) -> None:
    costs = COSTS | TREES
    profile = Profile.build(TARGET, SkipMask.of(16), gamma=2, tau=0.0, costs=costs)
    text = profile.to_yaml().replace("{8: 0.015, 32: 0.024}", trees)
    assert message in str(failure(text))


def test_a_number_instead_of_text_is_named() -> None:
    text = changed(
        "  method: layer-skip\n  gamma: 6\n  tau: 0.5512\n"
        "  quant: null\n  vocab: null\n  window: null\n",
        "  3: 4\n",
    )
    error = failure(text)
    assert "there is no key drafting[3]" in str(error)
    assert "method, gamma, tau" in str(error.hint)
