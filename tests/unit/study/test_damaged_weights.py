"""A search on a model whose logits are not always numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.marking import Marking
from support.tiny import byte_tokenizer, tiny_llama, tiny_target
from torch import Tensor, nn

import skipopt
from skipopt.cost_model.costs import Costs
from skipopt.decoding.api import generate
from skipopt.draft_config import DraftConfig
from skipopt.errors import ModelError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.scoring import ScoredText, Scorer
from skipopt.testing.costs import FixedCosts

TEXTS = [f"def {name}(a, b):" for name in "abcdefghijkl"]
DAMAGED = "ü"  # no other text has its bytes


def cheap_drafts(context: int, longest: int, draft_config: DraftConfig) -> Costs:
    """Costs with which skipping pays."""
    return Costs(0.1, 1.0, 1.0, 0.1, tuple(6.3 + 0.1 * n for n in range(longest)))


def model() -> Any:
    return tiny_llama(3, vocabulary=257, gain=2.0)


def loaded(model: Any) -> Target:
    return tiny_target(model, byte_tokenizer())


def search(target: Target, texts: list[str] = TEXTS) -> Profile:
    return skipopt.search(
        target, texts, trials=12, calibration_tokens=24, search_space=("skip",),
        cost_source=FixedCosts(cheap_drafts),
    )  # fmt: skip


def tokens_of(target: Target, texts: list[str]) -> list[int]:
    """All tokens that are generated after these texts."""
    found = []
    for text in texts:
        prompt = target.tokenizer(text)["input_ids"]
        made = generate(target, prompt, method="plain", max_new_tokens=24)
        found += [token.id for token in made]
    return found


def expect_refusal(target: Target, number: str, texts: list[str] = TEXTS) -> None:
    with pytest.raises(ModelError, match=f"new token {number} are NaN or infinite") as refusal:
        search(target, texts)
    assert "weight" in str(refusal.value.hint)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_damaged_norm_ends_the_search(value: float) -> None:
    damaged = model()
    damaged.model.norm.weight.data[3] = value
    expect_refusal(loaded(damaged), "1")


def test_a_token_whose_logit_is_not_a_number_ends_the_search() -> None:
    damaged = model()
    damaged.lm_head.weight.data[7] = math.nan
    expect_refusal(loaded(damaged), "1")


def test_a_generated_token_with_a_damaged_embedding_ends_the_search() -> None:
    damaged = model()
    made = tokens_of(loaded(damaged), TEXTS)
    damaged.model.embed_tokens.weight.data[max(set(made), key=made.count)] = math.nan
    expect_refusal(loaded(damaged), r"\d+")


def test_prompts_with_a_damaged_token_end_the_search() -> None:
    damaged = model()
    target = loaded(damaged)  # before, since the tokens that prove its sublayers are damaged too
    for token in target.tokenizer(DAMAGED)["input_ids"]:
        damaged.model.embed_tokens.weight.data[token] = math.nan
    expect_refusal(target, "1", [f"{DAMAGED} {text}" for text in TEXTS])


class NaNWithout(nn.Module):
    """A final norm that gives NaN for most rows that a layer has not marked."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        good = (x[..., :1] > 50) | (x[..., 1:2] > 0.5)
        return torch.where(good, self.inner(x), math.nan)


@pytest.mark.slow
def test_drafts_alone_that_are_not_numbers_count_as_wrong() -> None:
    damaged = model()
    damaged.model.layers[1].mlp = Marking(damaged.model.layers[1].mlp)
    damaged.model.norm = NaNWithout(damaged.model.norm)
    found = search(loaded(damaged))
    assert Profile.parse(found.to_yaml(), "again") == found


def test_a_row_without_numbers_matches_nothing() -> None:
    damaged = model()
    damaged.model.layers[1].mlp = Marking(damaged.model.layers[1].mlp)
    damaged.model.norm = NaNWithout(damaged.model.norm)
    target = loaded(damaged)
    prompt = target.tokenizer(TEXTS[0])["input_ids"]
    text = [token.id for token in generate(target, prompt, method="plain", max_new_tokens=12)]
    zeros = [token for other in range(1, 25) for token in (other, 0)]  # NaN's argmax is 0
    scored = [ScoredText((*prompt, *text), len(prompt)), ScoredText(tuple(zeros), 4)]
    whole, without = Scorer(target, scored, steps=2).score(
        [SkipMask.empty(3), SkipMask.of(3, mlp=[1])]
    )
    assert whole.matchness_per_text[0] == 1
    assert np.isfinite(without.confidence).all()
    assert not without.matched[without.confidence == 0].any()
    assert (without.confidence[without.valid] == 0).any()
