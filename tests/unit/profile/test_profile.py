"""A profile is read as it was saved, and refused for another model."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from support.profiles import GOLDEN_TEXT, TARGET, changed, failure, full_profile

from skipopt.draft_config import DraftConfig
from skipopt.errors import OutputError, ProfileError
from skipopt.masks import SkipMask
from skipopt.methods import METHODS
from skipopt.profile import DraftSettings, Profile, read_skip_layers

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
def test_impossible_memory_values_are_refused(old: str, new: str, words: str) -> None:
    assert words in str(failure(changed(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("window: null", "window: 0", "drafting.window is 0"),
        ("quant: null", "quant: int3", "drafting.quant is 'int3'"),
        ("quant: null", "quant: 8", "drafting.quant is 8"),
        ("quant: null", "quant: int4\n  head: int2", "drafting.head is 'int2'"),
        ("quant: null", "quant: null\n  experts: -1", "drafting.experts is -1"),
        ("quant: null", "quant: null\n  experts: all", "drafting.experts is 'all'"),
        ("quant: null", "quant: int8\n  int8_layers: [1]", "drafting.int8_layers is [1]"),
        ("quant: null", "quant: int4\n  int8_layers: [16]", "drafting.int8_layers is 16"),
        ("quant: null", "quant: int4\n  int8_layers: [1, 1]", "int8_layers is 1, expected each"),
        ("quant: null", "qaunt: int8", "drafting.qaunt is 'int8', but there is no such key"),
    ],
)
def test_draft_configs_out_of_range_are_refused(old: str, new: str, words: str) -> None:
    assert words in str(failure(changed(old, new)))


@pytest.mark.parametrize(
    "text", ["int8+window=64", "int4+head=int8+int8_layers=0-15", "int8+experts=2", "experts=0"]
)
def test_a_draft_config_comes_back_equal(text: str) -> None:
    given = DraftConfig.parse(text)
    profile = Profile.build(TARGET, SkipMask.of(16, [3]), gamma=2, tau=0, draft_config=given)
    again = Profile.parse(profile.to_yaml(), "p.yaml")
    assert again == profile
    assert again.draft_config == given
    assert (again.drafting.quant, again.drafting.window) == (given.quant, given.attention_window)
    assert ("int8_layers" in again.to_yaml()) == bool(given.int8_layers)
    assert ("experts" in again.to_yaml()) == (given.experts is not None)
    assert f"experts: {given.experts}" in again.to_yaml() or given.experts is None


@pytest.mark.parametrize("method", ["jacobi", "layer-skip:exit_layer=8", "rsd-c:exit_layer=8"])
def test_a_draft_config_with_a_method_that_does_not_use_it_is_refused(method: str) -> None:
    text = changed("quant: null", "quant: int8").replace("method: layer-skip", f"method: {method}")
    if method == "jacobi":
        for key in ("gamma", "tau"):
            text = re.sub(rf"^  {key}: .*$", f"  {key}: null", text, count=1, flags=re.M)
    assert "drafting.quant is 'int8', expected null" in str(failure(text))


@pytest.mark.parametrize("method", ["cascade", "rsd-c:branching=3-2", "rsd-s"])
def test_other_methods_that_use_a_draft_config_have_one(method: str) -> None:
    """Its mask may skip nothing."""
    given = DraftConfig.parse("int8+window=64")
    empty = SkipMask.empty(16)
    profile = Profile.build(TARGET, empty, method=method, gamma=2, tau=0, draft_config=given)
    again = Profile.parse(profile.to_yaml(), "p.yaml")
    assert again == profile
    assert (again.drafting.method, again.draft_config) == (method, given)


WITHOUT_MASK = """\
mask: null
drafting:
  method: prompt-lookup
  gamma: null
  tau: null
  quant: null
  vocab: null
  window: null
"""
WITH_MASK = GOLDEN_TEXT[GOLDEN_TEXT.index("mask:") : GOLDEN_TEXT.index("predicted:")]


def test_a_method_without_a_mask_writes_the_best_one_as_candidate() -> None:
    mask = SkipMask.of(16, [3, 5], [4])
    predicted = {"speedup": 1.1, "acceptance_rate": 0.8, "matchness": 0.9}
    profile = Profile.build(
        TARGET,
        mask,
        method="prompt-lookup",
        gamma=3,
        tau=0.2,
        predicted=predicted | {"speedup": 1.3},
        predicted_of_candidate=predicted,
    )
    assert WITHOUT_MASK in profile.to_yaml()
    assert profile.mask is None
    assert profile.predicted is not None
    assert profile.predicted.speedup == 1.3
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


def test_a_disabled_profile_has_a_reason() -> None:
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
    full_profile().check_model(TARGET)


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
        full_profile().check_model(
            replace(TARGET, architecture=architecture, depth=layers, fingerprint=fingerprint)
        )
    assert "search again" in str(caught.value.hint)
