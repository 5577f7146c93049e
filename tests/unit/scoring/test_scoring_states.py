"""Masks are scored on models with recurrent layers or shared keys as on others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import hf_greedy, tiny_prompts
from torch import Tensor, nn

from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.models.text_states import StateModule
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.sampling import confidence
from skipopt.scoring import ScoredText, Scorer, stacked_states
from skipopt.scoring.stacked_states import StackedStates
from tools.tiny_models import tiny_model

CLOSE = 1e-4
Step = tuple[bool, float]


# Recurrent layers, convolutions, or both beside attention; an index; shared keys and values, in
# several streams too; layers that change the stream when they are skipped whole.
TYPES = (
    "qwen3_next",
    "lfm3",
    "falcon_h1",
    "mamba",
    "deepseek_v32",
    "gemma3n_text",
    "gemma4_text",
)


@pytest.fixture(scope="module", params=TYPES)
def target(request: pytest.FixtureRequest) -> Target:
    return make_target(tiny_model(request.param), None, runtime="eager")


def texts_of(target: Target) -> list[ScoredText]:
    """Texts of different lengths, one from its first token on."""
    prompts, lengths = [*tiny_prompts(2, 3, 9), [7]], (8, 5, 3)
    return [
        ScoredText((*prompt, *hf_greedy(target, prompt, length)), len(prompt))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]


def masks_of(target: Target) -> list[SkipMask]:
    depth = target.depth
    return [
        SkipMask.empty(depth),
        SkipMask.of(depth, [0], [1]),
        SkipMask.of(depth, [1, 2], [3]),
        SkipMask.of(depth, range(depth), range(depth)),
        SkipMask.of(depth, [3]),
    ]


@torch.inference_mode()
def drafts_of(target: Target, text: ScoredText, mask: SkipMask, steps: int) -> list[list[Step]]:
    """Draft steps from each position, fed with the text, each draft in a cache of its own."""
    found = []
    for position in range(text.scored_from - 1, len(text.tokens) - 1):
        engine = Engine(target, len(text.tokens))
        engine.prefill(text.tokens[:position])
        draft = []
        with skipping(target, mask):
            for here in range(position, min(position + steps, len(text.tokens) - 1)):
                logits = engine.step([text.tokens[here]])[0]
                right = int(logits.argmax()) == text.tokens[here + 1]
                draft.append((right, float(confidence(logits))))
        found.append(draft)
    return found


@pytest.mark.parametrize("steps", [1, 3])
def test_scores_equal_those_of_decoding(target: Target, steps: int) -> None:
    texts, masks, seen = texts_of(target), masks_of(target), set()
    for mask, trace in zip(masks, Scorer(target, texts, steps).score(masks), strict=True):
        for s, text in enumerate(texts):
            for position, draft in enumerate(drafts_of(target, text, mask, steps)):
                matched, sure = zip(*draft, strict=True)
                assert trace.matched[s, position, : len(draft)].tolist() == list(matched)
                assert np.allclose(trace.confidence[s, position, : len(draft)], sure, atol=CLOSE)
                seen |= set(matched)
    assert seen == {True, False}


def test_a_part_scores_what_the_whole_does(target: Target) -> None:
    texts, masks = texts_of(target), masks_of(target)
    whole = Scorer(target, texts)
    part = whole.part(slice(0, 2), slice(2, 4))
    for a, b in zip(whole.score(masks), part.score(masks), strict=True):
        valid = b.valid
        assert np.array_equal(a.matched[:2, 2:4][valid], b.matched[valid])


def test_texts_are_cut_where_their_states_take_too_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = make_target(tiny_model("mamba"), None, runtime="eager")
    monkeypatch.setattr(stacked_states, "MOST_BYTES", 10 * stacked_states._state_bytes(target))
    scorer = Scorer(target, texts_of(target))
    assert scorer.shape == (3, 3)
    assert scorer.score([SkipMask.empty(target.depth)])[0].matchness == 1


class AnyNames(nn.Module):
    """Keeps no state, and names its arguments as the wrapper around it names its own."""

    def forward(self, hidden_states: Tensor, cache: float, forward: float, after: float) -> Tensor:
        return hidden_states + cache + forward + after


@pytest.mark.parametrize("one_by_one", [False, True])
def test_modules_may_name_their_arguments_as_they_like(one_by_one: bool) -> None:
    module = AnyNames()
    states = StackedStates([StateModule(module, 0, (), one_by_one)], {}, steps=2)
    hidden = torch.randn(3, 4, 5)
    cache: Any = SimpleNamespace(layers=[None])
    with states.patch(cache):
        found = module(hidden, cache=1.0, forward=2.0, after=3.0)
    assert torch.equal(found, hidden + 1.0 + 2.0 + 3.0)
