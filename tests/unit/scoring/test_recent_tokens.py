"""Scoring the last tokens of a text on its live cache."""

from __future__ import annotations

import pytest
import torch
from support.tiny import tiny_llama, tiny_prompts, tiny_target

from skipopt.decoding.api import generate_rounds
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.online.swift_search import alternating
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.scoring import score_recent_tokens

WINDOW = 12
GREEDY = SamplingOptions()
SAMPLED = SamplingOptions(temperature=0.9, top_k=12, seed=5)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(layers=4))


def written(target: Target, options: SamplingOptions) -> list[int]:
    prompt = tiny_prompts(1)[0]
    rounds = generate_rounds(
        target, prompt, method="plain:verify=match", max_new_tokens=20, options=options
    )
    return prompt + [token for each in rounds for token in each.emitted]


def filled(target: Target, tokens: list[int]) -> Engine:
    engine = Engine(target, len(tokens) + WINDOW)
    engine.prefill(tokens[:-1])
    return engine


def matchness_of(
    engine: Engine, sampler: TokenSampler, tokens: list[int], mask: SkipMask
) -> float:
    drafting = engine.draft_mode(mask)
    return score_recent_tokens(engine, sampler, tokens, WINDOW, drafting).matchness


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_whole_model_matches_everything(target: Target, options: SamplingOptions) -> None:
    tokens = written(target, options)
    sampler = TokenSampler(options, target.device, coupled=True)
    empty = SkipMask.empty(target.depth)
    assert matchness_of(filled(target, tokens), sampler, tokens, empty) == 1.0


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_matchness_is_the_share_of_first_drafts_that_are_right(
    target: Target, options: SamplingOptions
) -> None:
    tokens = written(target, options)
    sampler = TokenSampler(options, target.device, coupled=True)
    mask = SkipMask.of(target.depth, [2])
    right = 0
    for position in range(len(tokens) - WINDOW, len(tokens)):
        engine = filled(target, tokens[:position])
        with skipping(target, mask):
            logits = engine.step([tokens[position - 1]])
        right += sampler.choose(logits, [position])[0] == tokens[position]
    assert 0 < right < WINDOW
    found = matchness_of(filled(target, tokens), sampler, tokens, mask)
    assert found == pytest.approx(right / WINDOW)


def test_matchness_without_coupling_takes_the_likeliest_token(target: Target) -> None:
    tokens = written(target, GREEDY)
    free = TokenSampler(SamplingOptions(temperature=3.0), target.device, coupled=False)
    empty = SkipMask.empty(target.depth)
    assert matchness_of(filled(target, tokens), free, tokens, empty) == 1.0


def test_scoring_leaves_the_cache_and_the_model_as_they_were(target: Target) -> None:
    tokens = written(target, GREEDY)
    engine = filled(target, tokens)
    sampler = TokenSampler(GREEDY, target.device, coupled=True)
    held = [part[:, :, : engine.position].clone() for p in engine.cache.contents() for part in p]
    storage = [part.data_ptr() for pair in engine.cache.contents() for part in pair]
    matchness_of(engine, sampler, tokens, alternating(target.depth))
    assert engine.position == len(tokens) - 1
    after = [part[:, :, : engine.position] for pair in engine.cache.contents() for part in pair]
    assert all(torch.equal(*pair) for pair in zip(held, after, strict=True))
    assert storage == [part.data_ptr() for pair in engine.cache.contents() for part in pair]
    assert all("forward" not in module.__dict__ for module in target.model.modules())


def test_scoring_that_fails_rewinds(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = written(target, GREEDY)
    engine = filled(target, tokens)
    sampler = TokenSampler(GREEDY, target.device, coupled=True)

    def fail(self: Engine, inputs: list[int], *rest: object) -> None:
        self.step(inputs)
        raise MemoryError("no more")

    monkeypatch.setattr(Engine, "step_tree", fail)
    with pytest.raises(MemoryError):
        matchness_of(engine, sampler, tokens, alternating(target.depth))
    assert engine.position == len(tokens) - 1
    assert all("forward" not in module.__dict__ for module in target.model.modules())
