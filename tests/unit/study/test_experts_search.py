"""A search tries drafts with fewer experts, on mixtures of experts and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.experts import CHOSEN, mixture
from support.tiny import tiny_llama, tiny_target

from skipopt.cost_model.costs import Costs
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.measurement.cost_measurement import measure_costs
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.sampling import confidence
from skipopt.scoring import ScoredText, Scorer, TextContexts
from skipopt.storage.base import Trial
from skipopt.study.config import SearchConfig
from skipopt.study.draft_config_search import Candidate, DraftConfigSearch
from skipopt.study.rescoring import TimeToScore
from skipopt.study.study import search
from skipopt.testing.architectures import LONG, ModelCase, decode, reference, words
from skipopt.testing.costs import FixedCosts

ONE = DraftConfig(experts=1)
STEPS = 2


@pytest.fixture(scope="module")
def target() -> Target:
    return make_target(mixture("mixtral"), words(), runtime="eager")


@pytest.fixture(scope="module")
def texts(target: Target) -> list[ScoredText]:
    return [ScoredText((*LONG, *reference(target.model, LONG)), len(LONG))]


def cheap_with_one(context: int, longest: int, draft_config: DraftConfig) -> Costs:
    """A draft with one expert takes a fifth of a step."""
    share = 0.02 if draft_config.experts == 1 else 0.1
    verify = tuple(1 + 0.01 * more for more in range(longest))
    return Costs(share, share, share, 0.0, verify, context=context)


def try_alone(
    target: Target, texts: list[ScoredText], space: tuple[str, ...], notes: list[str]
) -> list[Candidate]:
    config = SearchConfig(search_space=space, gamma=2, tau=0.0)
    contexts, costs = TextContexts(target), FixedCosts(cheap_with_one)
    made = DraftConfigSearch(contexts, config, costs, (1, 2), TimeToScore(), notes.append)
    return made.try_alone(texts)


def test_by_default_only_mixtures_of_experts_try_fewer(target: Target) -> None:
    assert "experts=1" in (SearchConfig().for_target(target).search_space or ())
    assert "experts=1" not in (SearchConfig().for_target(tiny_target()).search_space or ())
    fixed = SearchConfig(skip_ratio=0.5, objective="matchness")
    assert fixed.for_target(target).search_space == ("skip",)


def test_models_without_experts_do_not_try_fewer() -> None:
    notes: list[str] = []
    dense = tiny_target(tiny_llama())
    assert try_alone(dense, [ScoredText(LONG, 8)], ("skip", "experts"), notes) == []
    assert notes == ["experts=1 is not tried: LlamaForCausalLM is not a mixture of experts"]


def test_a_draft_with_fewer_experts_is_a_candidate(
    target: Target, texts: list[ScoredText]
) -> None:
    notes: list[str] = []
    (found,) = try_alone(target, texts, ("skip", "experts"), notes)
    assert found.trial.draft_config == ONE
    assert found.costs.attention == 0.02
    assert notes == []


def test_a_trial_of_fewer_experts_is_stored() -> None:
    for config in (ONE, DraftConfig(experts=0)):
        trial = Trial(SkipMask.of(4, [1]), 1.2, draft_config=config)
        assert Trial.from_json(trial.to_json(), 4).draft_config == config


@torch.inference_mode()
def test_scores_are_those_of_drafts_with_fewer_experts(
    target: Target, texts: list[ScoredText]
) -> None:
    (text,), engine = texts, Engine(target, 64)
    mask = SkipMask.of(target.depth, [1])
    (trace,) = Scorer(target, texts, STEPS, draft_config=ONE).score([mask])
    (other,) = Scorer(target, texts, STEPS).score([mask])
    assert not np.allclose(trace.confidence, other.confidence, atol=1e-3)
    engine.prefill(text.tokens[: text.scored_from - 1])
    for place in range(text.scored_from - 1, len(text.tokens) - STEPS):
        with engine.draft_mode(mask, ONE):
            for step in range(STEPS):
                given, wanted = text.tokens[place + step : place + step + 2]
                logits = engine.step([given])[0]
                at = (0, place - text.scored_from + 1, step)
                assert bool(trace.matched[at]) == (int(logits.argmax()) == wanted)
                sure = float(confidence(logits))
                assert float(trace.confidence[at]) == pytest.approx(sure, abs=1e-4)
        engine.rewind(place)
        engine.step([text.tokens[place]])


@pytest.mark.parametrize("config", [UNCHANGED, ONE], ids=str)
def test_costs_are_measured_with_as_many_experts_as_drafts_have(
    target: Target, config: DraftConfig
) -> None:
    chosen: set[int] = set()

    def look(module: Any, args: Any) -> None:
        chosen.add(args[1].shape[-1])

    handle = target.model.model.layers[0].mlp.experts.register_forward_pre_hook(look)
    found = measure_costs(target, LONG, 3, seconds=0.0, draft_config=config)
    handle.remove()
    assert chosen == ({1, CHOSEN} if config else {CHOSEN})
    assert len(found.verify) == 3


def test_a_search_ends_with_a_profile_of_fewer_experts() -> None:
    case = ModelCase(mixture("mixtral"))
    prompts = [" ".join(f"w{(i * i + k) % 64}" for i in range(6 + k)) for k in range(12)]
    config = SearchConfig(
        trials=1, calibration_tokens=8, max_gamma=2, validation_repeats=1,
        min_validation_prompts=2, search_space=("experts",), methods=("layer-skip",),
    )  # fmt: skip
    profile = search(case.target(), prompts, config=config, cost_source=FixedCosts(cheap_with_one))
    assert profile.draft_config == ONE
    case.assert_expected(LONG, decode(case.target(), LONG, profile=profile))
