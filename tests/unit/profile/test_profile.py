"""A profile comes back as it was saved, and whatever is wrong in one is named."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from skipopt.draft_config import DraftConfig
from skipopt.errors import OutputError, ProfileError
from skipopt.masks import SkipMask
from skipopt.methods import METHODS
from skipopt.profile import DraftSettings, Profile, read_skip_layers

GOLDEN = Path(__file__).parents[2] / "golden" / "profile.yaml"
GOLDEN_TEXT = GOLDEN.read_text(encoding="utf-8")


@dataclass(frozen=True)
class FakeTarget:
    model_id: str = "builtin"
    revision: str | None = None
    architecture: str = "LlamaForCausalLM"
    depth: int = 16
    fingerprint: str = "sha256:0123456789abcdef"


TARGET = FakeTarget()


def full_profile() -> Profile:
    """The golden profile, from values as a search finds them: with all their digits."""
    return Profile.build(
        TARGET,
        SkipMask.of(16, attention=[6, 3, 5], mlp=[4, 9, 5]),
        gamma=6,
        tau=0.551249,
        predicted={"speedup": 1.41249, "acceptance_rate": 0.923456, "matchness": 0.9},
        measured={
            "speedup": {"median": 1.3934, "low": 1.35, "high": 1.43},
            "acceptance_rate": 0.91,
            "mean_acceptance_length": 3.8,
            "plain_tokens_per_second": 88.03456,
            "tokens_per_second": 12345.678,
            "lossless": "exact",
        },
        search={
            "sampler": "auto",
            "objective": "speed",
            "trials": 400,
            "seconds": 41,
            "seed": 0,
            "prompts": "sha256:fedcba9876543210",
            "breaks_even_after_tokens": 12000,
        },
        environment={
            "skipopt": "0.1.0",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "python": "3.11.7",
            "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
            "torch": "2.9",
            "transformers": "5.23.0",
            "device": "Some CPU @ 2.50GHz",
            "dtype": "float32",
            "runtime": "eager",
            "threads": 2,
            "memory": {
                "weights": 44_000_000,
                "prepacked_weights": 43_500_000,
                "fused_weights": 29_500_000,
                "cache": 4_700_000,
            },
        },
    )


def failure(text: str) -> ProfileError:
    """The error of reading this text: one line, from the file, with a hint."""
    with pytest.raises(ProfileError) as caught:
        Profile.parse(text, "p.yaml")
    assert str(caught.value).startswith("p.yaml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert caught.value.hint
    return caught.value


def changed(old: str, new: str) -> str:
    assert GOLDEN_TEXT.count(old) == 1, old
    return GOLDEN_TEXT.replace(old, new)


# Saving and loading


def test_a_profile_is_written_as_the_golden_file(tmp_path: Path) -> None:
    full_profile().save(tmp_path / "profile.yaml")
    assert (tmp_path / "profile.yaml").read_text(encoding="utf-8") == GOLDEN_TEXT
    assert os.listdir(tmp_path) == ["profile.yaml"]


def test_a_profile_comes_back_equal(tmp_path: Path) -> None:
    profile = full_profile()
    profile.save(str(tmp_path / "p.yaml"))
    again = Profile.load(str(tmp_path / "p.yaml"))
    assert again == profile
    assert hash(again) == hash(profile)
    assert again.drafting.tau == 0.5512


def test_a_profile_by_hand_comes_back_equal(tmp_path: Path) -> None:
    profile = Profile.by_hand(TARGET, attention=[5, 3], mlp=[], gamma=2, tau=1)
    profile.save(tmp_path / "p.yaml")
    assert Profile.load(tmp_path / "p.yaml") == profile
    assert (profile.drafting.gamma, profile.drafting.tau) == (2, 1.0)
    assert (profile.predicted, profile.measured, profile.search) == (None, None, None)
    assert profile.skip_mask == SkipMask.of(16, attention=[3, 5])


def test_a_profile_without_memory_is_read_and_written_alike() -> None:
    old = "".join(x for x in GOLDEN_TEXT.splitlines(True) if not x.startswith("  memory:"))
    profile = Profile.parse(old, "p.yaml")
    assert profile.environment is not None
    assert profile.environment.memory is None
    assert profile.to_yaml() == old


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "prepacked_weights: 43500000",
            "prepacked_weights: -1",
            "environment.memory.prepacked_weights is -1, expected",
        ),
        (
            "prepacked_weights:",
            "prepakced:",
            "environment.memory.prepakced is 43500000, but there is no such key",
        ),
        ("weights: 44000000, ", "", "environment.memory.weights is missing"),
        (
            "cache: 4700000",
            "cache: 4.7",
            "memory.cache is 4.7, expected",
        ),
    ],
)
def test_memory_that_cannot_be_is_refused(old: str, new: str, words: str) -> None:
    assert words in str(failure(changed(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("window: null", "window: 0", "drafting.window is 0"),
        ("quant: null", "quant: int3", "drafting.quant is 'int3'"),
        ("quant: null", "quant: 8", "drafting.quant is 8"),
        ("quant: null", "qaunt: int8", "drafting.qaunt is 'int8', but there is no such key"),
    ],
)
def test_draft_configs_out_of_range_are_refused(old: str, new: str, words: str) -> None:
    assert words in str(failure(changed(old, new)))


def test_a_draft_config_comes_back_equal() -> None:
    given = DraftConfig(8, 64)
    profile = Profile.build(TARGET, SkipMask.of(16, [3]), gamma=2, tau=0, draft_config=given)
    again = Profile.parse(profile.to_yaml(), "p.yaml")
    assert again == profile
    assert again.draft_config == given
    assert (again.drafting.quant, again.drafting.window) == ("int8", 64)


@pytest.mark.parametrize("method", ["cascade", "layer-skip:exit_layer=8"])
def test_a_draft_config_with_a_method_that_does_not_use_it_is_refused(method: str) -> None:
    text = changed("quant: null", "quant: int8").replace("method: layer-skip", f"method: {method}")
    assert "drafting.quant is 'int8', expected null" in str(failure(text))


WITHOUT_MASK = """\
mask: null
drafting:
  method: prompt-lookup
  gamma: null
  tau: null
  quant: null
  window: null
"""
WITH_MASK = GOLDEN_TEXT[GOLDEN_TEXT.index("mask:") : GOLDEN_TEXT.index("predicted:")]


def test_the_best_mask_stands_under_candidate_where_the_method_uses_none() -> None:
    mask = SkipMask.of(16, [3, 5], [4])
    predicted = {"speedup": 1.1, "acceptance_rate": 0.8, "matchness": 0.9}
    profile = Profile.build(
        TARGET, mask, method="prompt-lookup", gamma=3, tau=0.2, predicted=predicted
    )
    assert WITHOUT_MASK in profile.to_yaml()
    assert (profile.mask, profile.predicted) == (None, None)
    again = Profile.parse(profile.to_yaml(), "p.yaml")
    assert again == profile
    assert again.candidate is not None
    assert again.candidate.predicted is not None
    assert again.candidate.predicted.speedup == 1.1
    assert (again.has_mask, again.skip_mask) == (True, mask)
    assert again.at(10**6) == DraftSettings(0, mask, 3, 0.2)


def test_a_profile_may_have_no_mask_at_all() -> None:
    profile = Profile.parse(changed(WITH_MASK, WITHOUT_MASK), "p.yaml")
    assert not profile.has_mask
    assert profile.skip_mask == SkipMask.empty(16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            changed(WITH_MASK, WITHOUT_MASK.replace("gamma: null", "gamma: 3")),
            "drafting.gamma is 3",
        ),
        (changed("method: layer-skip", "method: jacobi"), "drafting.gamma is 6, expected null"),
        (
            changed(WITH_MASK, WITHOUT_MASK.replace("null\ndr", "{attention: [1], mlp: []}\ndr")),
            "mask is {'attention': [1], 'mlp': []}, expected null",
        ),
        (changed("gamma: 6", "gamma: null"), "drafting.gamma is null, expected"),
        (
            changed("mask:\n  attention: [3, 5, 6]\n  mlp: [4, 5, 9]\n", "mask: null\n"),
            "mask is null, expected a mapping",
        ),
    ],
)
def test_the_mask_fits_the_method(text: str, message: str) -> None:
    assert message in str(failure(text))


def test_the_example_of_the_contract_is_read() -> None:
    text = """\
schema: 1
enabled: true            # false: speculation does not pay here
reason: null
model: {id: builtin, revision: null, architecture: LlamaForCausalLM, layers: 16,
        fingerprint: "sha256:00ff"}
mask:
  attention: [3, 5, 6]
  mlp: [4, 5, 9]
drafting: {method: layer-skip, gamma: 6, tau: 0.55, quant: int8, window: null}
predicted: {speedup: 1.41, acceptance_rate: 0.92, matchness: 0.90}
measured: {speedup: {median: 1.39, low: 1.35, high: 1.43}, acceptance_rate: 0.91,
           mean_acceptance_length: 3.8, plain_tokens_per_second: 88.0, tokens_per_second: 122.0,
           lossless: exact}
search: {sampler: auto, objective: speed, trials: 400, seconds: 41.0, seed: 0,
         prompts: "sha256:00ff", breaks_even_after_tokens: 12000}
environment: {skipopt: 0.1.0, torch: 2.9.1, transformers: 5.23.0, device: Some CPU,
              dtype: float32, runtime: eager, threads: 2}
"""
    profile = Profile.parse(text, "p.yaml")
    assert profile.skip_mask == SkipMask.of(16, [3, 5, 6], [4, 5, 9])
    assert profile.measured is not None
    assert profile.measured.speedup.low == 1.35
    assert profile.as_dict().keys() == yaml.safe_load(text).keys()


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.0, 0.0), (0.000123456, 0.0001235), (0.99999, 1.0), (1e-7, 1e-7)]
)
def test_rounding_keeps_four_digits_through_a_file(value: float, rounded: float) -> None:
    profile = Profile.by_hand(TARGET, tau=value)
    assert profile.drafting.tau == rounded
    assert Profile.parse(profile.to_yaml(), "p.yaml") == profile


@pytest.mark.parametrize(
    "name",
    ["123", "0123456", "1e3", "yes", "null", "a: b", "# x", "modèle/日本", "it's", "2024-01-01"],
)
def test_awkward_names_come_back_as_text(name: str) -> None:
    profile = Profile.by_hand(replace(TARGET, model_id=name, revision=name))
    again = Profile.parse(profile.to_yaml(), "p.yaml")
    assert (again.model.id, again.model.revision) == (name, name)


def test_a_file_stays_readable_beyond_ascii() -> None:
    profile = Profile.by_hand(replace(TARGET, model_id="modèle/日本"))
    assert "  id: modèle/日本\n" in profile.to_yaml()


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOLDEN_TEXT, encoding="utf-8-sig")
    assert Profile.load(path) == full_profile()
    (tmp_path / "s.json").write_text('{"x": {"attention": [], "mlp": [1]}}', encoding="utf-8-sig")
    assert read_skip_layers(f"{tmp_path}/s.json#x") == ([], [1])


def test_a_name_cannot_break_out_of_the_comment() -> None:
    profile = Profile.by_hand(replace(TARGET, model_id="a\nenabled: false\n#"))
    assert Profile.parse(profile.to_yaml("b\nschema: 2"), "p.yaml") == profile


def test_the_comment_holds_a_command_that_can_be_pasted() -> None:
    profile = Profile.by_hand(replace(TARGET, model_id="my models/one"))
    assert "skipopt run 'my models/one' --profile 'my p.yaml'\n" in profile.to_yaml("my p.yaml")


def test_long_masks_stay_on_one_line() -> None:
    everything = range(200)
    profile = Profile.by_hand(replace(TARGET, depth=200), attention=everything, mlp=everything)
    line = f"  attention: [{', '.join(map(str, everything))}]"
    assert line in profile.to_yaml().splitlines()


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        full_profile().drafting.gamma = 3


def test_a_disabled_profile_says_why() -> None:
    empty = SkipMask.empty(16)
    profile = Profile.build(
        TARGET, empty, method="plain", gamma=1, tau=0, enabled=False, reason="costs more"
    )
    assert Profile.parse(profile.to_yaml(), "p.yaml") == profile
    with pytest.raises(ProfileError, match="reason is null, expected text that says why"):
        Profile.build(TARGET, empty, gamma=1, tau=0, enabled=False)


@pytest.mark.parametrize("method", METHODS)
def test_every_known_method_is_read(method: str) -> None:
    profile = Profile.build(TARGET, SkipMask.of(16, [3]), method=method, gamma=2, tau=0)
    assert Profile.parse(profile.to_yaml(), "p.yaml").drafting.method == method


def test_a_failed_save_leaves_the_old_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "p.yaml"
    Profile.by_hand(TARGET).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        full_profile().save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.yaml"]


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


def test_costs_of_trees_stand_by_their_nodes() -> None:
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


def test_a_number_where_a_word_stands_is_named() -> None:
    text = changed(
        "  method: layer-skip\n  gamma: 6\n  tau: 0.5512\n  quant: null\n  window: null\n",
        "  3: 4\n",
    )
    error = failure(text)
    assert "there is no key drafting[3]" in str(error)
    assert "method, gamma, tau" in str(error.hint)


# What is wrong with a file


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        (
            "gamma: 6",
            "gamma: 0",
            "drafting.gamma is 0, expected",
            "by hand",
        ),
        ("gamma: 6", "gamma: 6.0", "drafting.gamma is 6.0, expected", "by hand"),
        ("gamma: 6", "gamma: '6'", "drafting.gamma is '6', expected", "quotes"),
        ("gamma: 6", "gamma: true", "drafting.gamma is true, expected", "by hand"),
        ("gamma: 6", "gamma: null", "drafting.gamma is null, expected", "by hand"),
        ("gamma: 6", "gama: 6", "drafting.gama is 6, but there is no such key", "mean 'gamma'"),
        ("  gamma: 6\n", "", "drafting.gamma is missing", "cut short"),
        ("tau: 0.5512", "tau: 1.5", "drafting.tau is 1.5, expected", "hand"),
        ("tau: 0.5512", "tau: -0.1", "drafting.tau is -0.1, expected", ""),
        ("tau: 0.5512", "tau: .nan", "drafting.tau is nan, expected", "by hand"),
        ("tau: 0.5512", "tau: 1e-3", "drafting.tau is '1e-3', expected", "YAML reads"),
        ("method: layer-skip", "method: magic", "drafting.method is 'magic', expected one", ""),
        ("[3, 5, 6]", "[3, 16]", "mask.attention is 16, expected a layer from 0 to 15", ""),
        ("[4, 5, 9]", "[-1]", "mask.mlp is -1, expected a layer from 0 to 15", "by hand"),
        ("[4, 5, 9]", "[4, 5, 4]", "mask.mlp is 4, expected each layer once", "by hand"),
        ("[4, 5, 9]", "[4, five]", "mask.mlp[1] is 'five', expected", "quotes"),
        ("[4, 5, 9]", "[true]", "mask.mlp[0] is true, expected", "by hand"),
        ("[4, 5, 9]", "4, 5", "mask.mlp is '4, 5', expected", "by hand"),
        ("layers: 16", "layers: 0", "model.layers is 0, expected", ""),
        ("id: builtin", "id: 123", "model.id is 123, expected", "in quotes"),
        ("id: builtin", "id: ''", "model.id is ''", "by hand"),
        ("sha256:01", "md5:01", "model.fingerprint is 'md5:0123456789abcdef'", ""),
        ("enabled: true", "enabled: 'no'", "enabled is 'no', expected", "by hand"),
        ("enabled: true", "enabled: false", "reason is null, expected text that says why", ""),
        ("lossless: exact", "lossless: maybe", "lossless is 'maybe', expected", ""),
        ("low: 1.35, ", "", "measured.speedup.low is missing", "cut short"),
        ("low: 1.35", "lo: 1.35", "measured.speedup.lo is 1.35, but", "did you mean 'low'"),
        ("speedup: 1.412", "speedup: 0", "predicted.speedup is 0, expected", ""),
        ("seed: 0", "seed: x", "search.seed is 'x', expected", "quotes"),
        ("torch: '2.9'", "torch: 2.9", "environment.torch is 2.9, expected", "in quotes"),
        (
            "schema: 1",
            "schema: 1\nzzz: 3",
            "zzz is 3, but there is no such key",
            "schema, enabled",
        ),
    ],
)
def test_a_wrong_value_is_named(old: str, new: str, message: str, hint: str) -> None:
    error = failure(changed(old, new))
    assert message in str(error)
    assert hint in str(error.hint)


@pytest.mark.parametrize("section", ["model", "mask", "drafting", "predicted", "environment"])
def test_a_section_is_a_mapping(section: str) -> None:
    data = yaml.safe_load(GOLDEN_TEXT)
    error = failure(yaml.safe_dump({**data, section: [1]}))
    assert f"{section} is [1], expected a mapping" in str(error)
    del data[section]
    assert f"{section} is missing" in str(failure(yaml.safe_dump(data)))


def test_further_errors_are_counted() -> None:
    text = changed("gamma: 6", "gamma: 0").replace("seed: 0", "seed: x")
    assert str(failure(text)).endswith("(and 1 more)")


def test_long_values_are_cut() -> None:
    assert "..." in str(failure(changed("id: builtin", f"id: [{', '.join(['x'] * 5000)}]")))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2", "schema is 2, but this skipopt reads schema 1 only"),
        ("0", "schema is 0, expected 1"),
        ("'1'", "schema is '1', expected 1"),
        ("true", "schema is true, expected 1"),
        ("1.0", "schema is 1.0, expected 1"),
        ("null", "schema is null, expected 1"),
    ],
)
def test_another_schema_is_the_first_complaint(value: str, message: str) -> None:
    error = failure(changed("schema: 1", f"schema: {value}\nnew_key: 1"))
    assert message in str(error)
    assert ("upgrade" in str(error.hint)) == (value == "2")


def test_a_missing_schema() -> None:
    assert "schema is missing, expected 1" in str(failure(changed("schema: 1\n", "")))


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_file(text: str) -> None:
    assert "the file is empty" in str(failure(text))


@pytest.mark.parametrize("text", ["[1, 2]", "hello", "3", "true"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    assert "expected a mapping" in str(failure(text))


def test_a_file_cut_short_anywhere_is_no_profile() -> None:
    last_line = GOLDEN_TEXT.rindex("  threads: ")
    for length in range(last_line + len("  threads: ")):
        failure(GOLDEN_TEXT[:length])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: 1\nmask: [1, 2\nmodel: x\n", "line 3: "),
        ("schema: 1\n\tmask: 2\n", "line 2: found character '\\t'"),
        ("schema: 1\nmask: &a\n  x: *b\n", "line 3: found undefined alias"),
        ("schema: 1\nmask: !!python/name:os.system x\n", "line 2: could not determine"),
        ("schema: 1\n---\nschema: 1\n", "line 2: "),
        ("schema: 1\nreason: \x00\n", "line 2: a character that YAML does not allow"),
        ("schema: 1\n[a]: 2\n", "line 2: a key that is a list or a mapping"),
        ("schema: 1\n7: 3\n", "line 2: the key '7' is not text"),
        ("schema: 1\nmodel:\n  id:\n", "line 3: the key 'id' has no value"),
        ("schema: 1\nreason: 2024-13-45\n", "month must be in 1..12"),
        ("schema: 1\nreason: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_yaml_that_is_none_is_named_by_its_line(text: str, message: str) -> None:
    assert message in str(failure(text))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("gamma: 6", "gamma: 6\n  gamma: 7", 18), ("schema: 1", "schema: 1\nschema: 1", 4)],
)
def test_a_key_given_twice_is_an_error(old: str, new: str, line: int) -> None:
    key = old.partition(":")[0]
    assert f"line {line}: the key '{key}' is there twice" in str(failure(changed(old, new)))


def test_the_path_is_in_every_message(tmp_path: Path) -> None:
    cases: dict[str, tuple[Any, str]] = {
        "none.yaml": (None, "there is no file"),
        "folder": ("", "is a folder, expected a file"),
        "binary.yaml": (b"\xff\xfe\x00", "is not text"),
        "wrong.yaml": (changed("gamma: 6", "gamma: 0").encode(), "drafting.gamma is 0"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content == "":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        with pytest.raises(ProfileError, match=message) as caught:
            Profile.load(path)
        assert str(path) in str(caught.value)
        assert caught.value.hint


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ProfileError, match=r"cannot read 'p.yaml': Permission denied"):
        Profile.load("p.yaml")


# Profiles and models


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": [3, 99]}, "mask.attention is 99, expected a layer from 0 to 15"),
        ({"mlp": [2, 2]}, "mask.mlp is 2, expected each layer once"),
        ({"gamma": 0}, "drafting.gamma is 0, expected"),
        ({"tau": 2.0}, "drafting.tau is 2.0, expected"),
    ],
)
def test_by_hand_is_checked_as_a_file_is(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        Profile.by_hand(TARGET, **arguments)
    assert caught.value.hint


def test_a_mask_of_a_deeper_model_cannot_be_built_in() -> None:
    with pytest.raises(ProfileError, match=r"mask.mlp is 20, expected a layer from 0 to 15"):
        Profile.build(TARGET, SkipMask.of(24, mlp=[20]), gamma=1, tau=0)


def test_the_right_model_passes() -> None:
    full_profile().check_model(TARGET.architecture, TARGET.depth, TARGET.fingerprint)


@pytest.mark.parametrize(
    ("architecture", "layers", "fingerprint", "message"),
    [
        ("Other", 3, "sha256:1", "model.architecture is LlamaForCausalLM, this model's is Other"),
        (TARGET.architecture, 3, "sha256:1", "model.layers is 16, this model's is 3"),
        (TARGET.architecture, 16, "sha256:1", "model.fingerprint is sha256:0123456789abcdef"),
    ],
)
def test_another_model_is_refused(
    architecture: str, layers: int, fingerprint: str, message: str
) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        full_profile().check_model(architecture, layers, fingerprint)
    assert "search again" in str(caught.value.hint)


# Masks of the literature


@pytest.fixture
def skip_layers(tmp_path: Path) -> str:
    path = tmp_path / "skip#layers.json"
    path.write_text(
        '{"llama-2-13b": {"attention": [5, 3], "mlp": []},\n'
        ' "odd": {"attention": [1]}, "twice": {"attention": [1, 1], "mlp": []}, "list": [1]}'
    )
    return str(path)


def test_a_mask_of_the_literature_is_read_and_made_a_profile(skip_layers: str) -> None:
    attention, mlp = read_skip_layers(f"{skip_layers}#llama-2-13b")
    assert (attention, mlp) == ([3, 5], [])
    profile = Profile.by_hand(TARGET, attention=attention, mlp=mlp)
    assert profile.skip_mask == SkipMask.of(16, attention=[3, 5])


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("llama", "has no entry 'llama'", "the entries are: llama-2-13b, odd, twice, list"),
        ("odd", "#odd: mlp is missing", ""),
        ("twice", "#twice: attention is 1, expected each layer once", ""),
        ("list", r"the whole is \[1\], expected a mapping", ""),
        ("", "names no entry", "FILE#name"),
    ],
)
def test_a_wrong_entry_is_named(skip_layers: str, name: str, message: str, hint: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        read_skip_layers(f"{skip_layers}#{name}")
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n\n'a': 1}", "line 3: Expecting property name"),
        ("", "line 1: Expecting value"),
        ("[1]", r"the file holds \[1\], expected a mapping"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "has no entry 'x'"),
    ],
)
def test_a_wrong_skip_layers_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message) as caught:
        read_skip_layers(f"{path}#x")
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_a_missing_skip_layers_file(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="there is no file"):
        read_skip_layers(f"{tmp_path}/none.json#x")
    with pytest.raises(ProfileError, match="names no entry"):
        read_skip_layers("none.json")


def test_profiles_load_no_torch() -> None:
    code = (
        "import sys, skipopt.profile, skipopt.prompts, skipopt.files;"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
