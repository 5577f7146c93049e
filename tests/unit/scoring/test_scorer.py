"""Scoring many masks at once equals drafting one token at a time."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from support.architectures import WINDOW, build
from support.tiny import hf_greedy, tiny_gpt2, tiny_llama, tiny_prompts, tiny_target

from skipopt.draft_config import DraftConfig
from skipopt.drafting.layer_skip import confidence
from skipopt.errors import ModelError, PromptError
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.runtime.draft_mode import frequent_vocabulary
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.scoring import (
    ScoredText,
    Scorer,
    StagedScorer,
    StepwiseScorer,
    TextContexts,
    Trace,
    not_scored_reason,
    scorer_of,
    stages,
)

CLOSE = 1e-4


@pytest.fixture(scope="module", params=["llama", "gpt2", "mistral", "gemma2", "gemma3"])
def target(request: pytest.FixtureRequest) -> Target:
    """Mistral and Gemma models have windows shorter than the texts."""
    models = {"llama": tiny_llama, "gpt2": tiny_gpt2}
    make = models.get(request.param, lambda: build(request.param))
    return tiny_target(make())


def texts_of(target: Target) -> list[ScoredText]:
    """Texts of different lengths, all but one longer than a window."""
    prompts, lengths = tiny_prompts(3, 3, 9), (WINDOW + 14, WINDOW + 6, 2)
    return [
        ScoredText((*prompt, *hf_greedy(target, prompt, length)), len(prompt))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]


def random_masks(depth: int, count: int) -> list[SkipMask]:
    rng = Random(0)
    shares = [rng.choice((0.2, 0.5, 0.8)) for _ in range(count)]
    return [SkipMask.from_bits([rng.random() < s for _ in range(2 * depth)]) for s in shares]


def masks_of(target: Target) -> list[SkipMask]:
    """With a duplicate, the empty mask, the full one, and one without layer 0's attention."""
    depth = target.depth
    some = random_masks(depth, 7)
    everything = SkipMask.of(depth, range(depth), range(depth))
    return [*some, SkipMask.empty(depth), everything, some[0], SkipMask.of(depth, [0])]


@torch.inference_mode()
def draft_one_by_one(target: Target, text: ScoredText, mask: SkipMask) -> list[tuple[bool, float]]:
    """Reference: one draft step at each position, on the target's keys and values."""
    engine = Engine(target, len(text.tokens))
    engine.prefill(text.tokens[: text.scored_from - 1])
    found = []
    for position in range(text.scored_from - 1, len(text.tokens) - 1):
        with skipping(target, mask):
            logits = engine.step([text.tokens[position]])[0]
        found.append(
            (int(logits.argmax()) == text.tokens[position + 1], float(confidence(logits)))
        )
        engine.rewind(position)
        engine.step([text.tokens[position]])
    return found


@torch.inference_mode()
def draft_whole(
    target: Target, text: ScoredText, mask: SkipMask, steps: int
) -> list[list[tuple[bool, float]]]:
    """Reference: `steps` draft steps from each position, fed with the text."""
    engine = Engine(target, len(text.tokens))
    engine.prefill(text.tokens[: text.scored_from - 1])
    found = []
    for position in range(text.scored_from - 1, len(text.tokens) - 1):
        draft = []
        with skipping(target, mask):
            for here in range(position, min(position + steps, len(text.tokens) - 1)):
                logits = engine.step([text.tokens[here]])[0]
                right = int(logits.argmax()) == text.tokens[here + 1]
                draft.append((right, float(confidence(logits))))
        found.append(draft)
        engine.rewind(position)
        engine.step([text.tokens[position]])
    return found


def same(a: Trace, b: Trace) -> bool:
    close = np.allclose(a.confidence[a.valid], b.confidence[b.valid], atol=CLOSE)
    return np.array_equal(a.valid, b.valid) and np.array_equal(a.matched, b.matched) and close


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 5])
def test_whole_drafts_equal_those_of_decoding(target: Target, steps: int) -> None:
    texts, masks = texts_of(target), masks_of(target)[:6]
    later = set()
    for mask, trace in zip(masks, Scorer(target, texts, steps).score(masks), strict=True):
        for s, text in enumerate(texts):
            for position, draft in enumerate(draft_whole(target, text, mask, steps)):
                matched, sure = zip(*draft, strict=True)
                count = len(draft)
                assert trace.valid[s, position].sum() == count
                assert trace.matched[s, position, :count].tolist() == list(matched)
                assert np.allclose(trace.confidence[s, position, :count], sure, atol=CLOSE)
                later |= set(matched[1:])
    assert later == {True, False}


def test_first_tokens_of_whole_drafts_equal_those_scored_alone(target: Target) -> None:
    texts, masks = texts_of(target), masks_of(target)[:4]
    alone, whole = (Scorer(target, texts, steps).score(masks) for steps in (1, 4))
    for a, b in zip(alone, whole, strict=True):
        assert np.array_equal(a.matched[..., 0], b.matched[..., 0])
        assert a.matchness == b.matchness


@pytest.mark.slow
def test_scores_equal_drafting_one_token_at_a_time(target: Target) -> None:
    texts, masks = texts_of(target), masks_of(target)
    decided = set()
    for mask, trace in zip(masks, Scorer(target, texts).score(masks), strict=True):
        for s, text in enumerate(texts):
            matched, sure = zip(*draft_one_by_one(target, text, mask), strict=True)
            assert trace.valid[s].sum() == len(matched)
            assert trace.matched[s, : len(matched), 0].tolist() == list(matched)
            assert np.allclose(trace.confidence[s, : len(sure), 0], sure, atol=CLOSE)
            decided |= set(matched)
    assert decided == {True, False}


@pytest.mark.parametrize("rows", [1, 100, 10_000])
def test_stacked_masks_score_the_same_as_one_by_one(target: Target, rows: int) -> None:
    texts, masks = texts_of(target), masks_of(target)
    scorer = Scorer(target, texts, stacked_rows=rows)
    alone = [Scorer(target, texts).score([mask])[0] for mask in masks]
    assert all(map(same, scorer.score(masks), alone))
    assert all(map(same, scorer.score(masks[::-1]), alone[::-1]))


def test_masks_that_start_at_kept_states_score_the_same(target: Target) -> None:
    texts, masks = texts_of(target), masks_of(target)
    scorer = Scorer(target, texts)
    expected = scorer.score(masks)
    for kept in (masks[:2], [SkipMask.empty(target.depth), masks[3]]):
        scorer.keep(kept)
        assert all(map(same, scorer.score(masks), expected))


@pytest.mark.parametrize("sizes", [(2, 3, 7), (1, 30, 5), (9, 4, 100)])
def test_stages_hold_every_position_once_with_the_same_scores(
    target: Target, sizes: tuple[int, int, int]
) -> None:
    masks, scorer = masks_of(target)[:4], Scorer(target, texts_of(target))
    staged = StagedScorer(scorer, stages(*scorer.shape, *sizes))
    traces, counts = staged.extend(0, masks), []
    for stage in range(len(staged)):
        traces = traces if stage == 0 else staged.extend(stage, masks, traces)
        counts.append(traces[0].scored_texts.lengths.sum())
    assert counts == sorted(set(counts))
    assert counts[-1] == scorer.positions
    assert all(map(same, traces, scorer.score(masks)))


def test_scorers_share_the_keys_and_values_of_texts(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts, texts, masks = TextContexts(target), texts_of(target), masks_of(target)[:3]
    first = Scorer(target, texts, contexts=contexts).score(masks)
    assert all(text in contexts for text in texts)
    monkeypatch.setattr(Engine, "prefill", None)  # would raise
    again = Scorer(target, texts, contexts=contexts).score(masks)
    assert all(map(same, first, again))


def test_empty_mask_matches_everywhere(target: Target) -> None:
    trace = Scorer(target, texts_of(target)).score([SkipMask.empty(target.depth)])[0]
    assert trace.matchness == 1.0


@pytest.mark.parametrize("steps", [1, 3])
def test_a_model_that_goes_by_the_order_of_rows_is_not_scored(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its positions are right over one text, and not where several drafts are stored."""
    target = tiny_target(tiny_llama(gain=4.0))
    texts = texts_of(target)
    rotary = target.model.model.rotary_emb
    monkeypatch.setattr(rotary, "forward", as_stored(type(rotary).forward, rotary))
    with pytest.raises(ModelError, match="cannot be scored") as refusal:
        Scorer(target, texts, steps)
    assert refusal.value.hint


def as_stored(forward: Any, rotary: Any) -> Any:
    """Rotary embeddings by the number of a row, behind those that are stored before it."""

    def embed(hidden: torch.Tensor, position_ids: torch.Tensor) -> Any:
        rows = torch.arange(hidden.shape[1])[None] + position_ids[:, :1]
        return forward(rotary, hidden, rows.expand_as(position_ids))

    return embed


@pytest.mark.parametrize("steps", [1, 3])
def test_scoring_step_by_step_gives_the_same(target: Target, steps: int) -> None:
    texts, masks = texts_of(target), masks_of(target)[-4:]
    together = Scorer(target, texts, steps).score(masks)
    alone = StepwiseScorer(target, texts, steps).score(masks)
    for found, expected in zip(alone, together, strict=True):
        where = expected.valid
        assert (found.matched == expected.matched)[where].all()
        assert np.allclose(found.confidence[where], expected.confidence[where], atol=CLOSE)
        assert found.lengths.tolist() == expected.lengths.tolist()


@pytest.mark.parametrize("size", [8, 24])
def test_step_by_step_a_vocabulary_is_judged_by_the_other_texts_too(size: int) -> None:
    target = tiny_target()
    texts, empty = texts_of(target), SkipMask.empty(target.depth)
    vocabulary = frequent_vocabulary(target, [text.tokens for text in texts], size)
    config = DraftConfig(vocab_size=size, vocabulary=vocabulary)
    (expected,) = Scorer(target, texts, draft_config=config).score([empty])
    (found,) = StepwiseScorer(target, texts, draft_config=config).score([empty])
    assert (found.matched == expected.matched)[expected.valid].all()
    assert 0 < found.matchness < 1


def test_a_model_that_is_not_scored_at_once_is_scored_step_by_step() -> None:
    target = make_target(build("bloom"), None, runtime="eager")
    texts, empty = texts_of(target), SkipMask.empty(target.depth)
    contexts = TextContexts(target)
    assert "cannot be scored" in (not_scored_reason(contexts, texts[0]) or "")
    (trace,) = scorer_of(contexts, texts).score([empty])
    assert trace.matchness == 1.0
    stacked = tiny_target()
    contexts = TextContexts(stacked)
    assert not_scored_reason(contexts, texts_of(stacked)[0]) is None
    assert isinstance(scorer_of(contexts, texts_of(stacked)), Scorer)


def test_texts_do_not_influence_each_other(target: Target) -> None:
    """Padding of the shorter texts is not attended to."""
    texts, masks = texts_of(target), masks_of(target)[:4]
    together = Scorer(target, texts).score(masks)
    for s, text in enumerate(texts):
        count = len(text.continuation)
        for trace, alone in zip(together, Scorer(target, [text]).score(masks), strict=True):
            assert alone.matched[0].tolist() == trace.matched[s, :count].tolist()
            assert np.allclose(alone.confidence[0], trace.confidence[s, :count], atol=CLOSE)
            assert not trace.valid[s, count:].any()
            assert not trace.matched[s, count:].any()


def test_scoring_leaves_the_model_unchanged(target: Target) -> None:
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        before = target.model(ids).logits
        Scorer(target, texts_of(target)).score(masks_of(target))
        assert torch.equal(target.model(ids).logits, before)
    assert all("forward" not in module.__dict__ for module in target.model.modules())
    assert all(not layer.block.module._forward_pre_hooks for layer in target.layers)


def test_texts_without_a_continuation_are_ignored() -> None:
    target = tiny_target()
    scorer = Scorer(target, [ScoredText((1, 2, 3), 3), ScoredText((1, 2, 3), 2)])
    assert scorer.positions == 1
    with pytest.raises(PromptError, match="no calibration text"):
        Scorer(target, [ScoredText((1, 2, 3), 3)])


def test_matchness_counts_valid_positions_only() -> None:
    """At these positions, matchness counts the first token of each draft."""
    matched = np.array([[[True, True], [False, True]], [[True, True], [False, True]]])
    trace = Trace(matched, matched.astype(np.float32), np.array([2, 1]))
    assert trace.matchness == pytest.approx(2 / 3)
