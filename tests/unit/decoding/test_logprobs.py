"""Log-probabilities are those of the model itself, whatever changes its choice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import byte_tokenizer, tiny_llama, tiny_target

import skipopt
from skipopt.decoding.logprobs import LEAST, LogprobRecorder, logprobs_json
from skipopt.errors import UsageError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.verification.target_rows import TargetRows

PROMPT = "def f(a, b):"


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(vocabulary=257), byte_tokenizer())


@torch.inference_mode()
def expected(target: Target, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities after each token of prompt and text, by transformers.  # (N, V)"""
    prompt = target.tokenizer(PROMPT)["input_ids"]
    logits = target.model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0]
    found: torch.Tensor = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "layer-skip:gamma=4"},
        {"method": "token-recycling"},
        {"temperature": 0.7, "top_k": 5, "seed": 2},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    ],
)
def test_they_are_the_models_own(target: Target, options: dict[str, Any]) -> None:
    recorder = LogprobRecorder(top=3)
    profile = Profile.by_hand(target, attention=[1], mlp=[1])
    made = skipopt.complete(
        target, PROMPT, profile=profile, recorder=recorder, max_new_tokens=20, **options
    )
    rows = expected(target, made.tokens)
    assert [each.token for each in recorder.tokens] == made.tokens
    for row, each in zip(rows, recorder.tokens, strict=True):
        assert each.logprob == pytest.approx(float(row[each.token]), abs=1e-4)
        values, ids = row.topk(3)
        assert [t.token for t in each.top] == ids.tolist()
        assert [t.logprob for t in each.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_no_more_are_shown_than_there_are_tokens(target: Target) -> None:
    recorder = LogprobRecorder(top=1000)
    skipopt.complete(target, PROMPT, recorder=recorder, max_new_tokens=1)
    assert len(recorder.tokens[0].top) == 257
    with pytest.raises(UsageError, match="-1"):
        LogprobRecorder(-1)


def test_an_impossible_token_has_a_number_too(target: Target) -> None:
    recorder = LogprobRecorder(top=2)
    recorder.add(TargetRows(torch.tensor([[0.0, -torch.inf]])), (), [1])
    [shown] = logprobs_json(recorder.tokens, target.tokenizer)
    assert shown["logprob"] == shown["top_logprobs"][1]["logprob"] == LEAST
    assert shown["top_logprobs"][0]["logprob"] == 0.0
