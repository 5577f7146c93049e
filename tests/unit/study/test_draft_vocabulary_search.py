"""A search tries draft vocabularies, and values them by texts that they were not made from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import byte_tokenizer, hf_greedy, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.cost_model.costs import Costs
from skipopt.decoding.api import generate
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.draft_mode import frequent_vocabulary, with_vocabulary
from skipopt.runtime.engine import Engine
from skipopt.sampling import confidence
from skipopt.scoring import ScoredText, Scorer, TextContexts
from skipopt.storage.base import Trial
from skipopt.study.config import SearchConfig
from skipopt.study.draft_config_search import (
    Candidate,
    DraftConfigSearch,
    best_per_draft_config,
)
from skipopt.study.rescoring import TimeToScore
from skipopt.testing.costs import FixedCosts


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(3, vocabulary=257, gain=2.0), byte_tokenizer())


@pytest.fixture(scope="module")
def texts(target: Target) -> list[ScoredText]:
    return [
        ScoredText((*prompt, *hf_greedy(target, prompt, count)), len(prompt))
        for prompt, count in zip(tiny_prompts(4, 4, 12), (20, 14, 9, 9), strict=True)
    ]


@pytest.mark.parametrize(
    ("space", "sizes"),
    [
        (("skip", "vocab"), [16, 32, 64, 128]),
        (("vocab=100", "int8", "vocab=10"), [10, 100]),
        (("vocab=16", "vocab"), [16, 32, 64, 128]),
        (("skip", "int8"), []),
    ],
)
def test_sizes_of_the_search_space(space: tuple[str, ...], sizes: list[int]) -> None:
    config = SearchConfig(search_space=space)
    assert config.vocab_sizes(257) == sizes
    assert config.searches_draft_configs == (space != ("skip",))


@pytest.mark.parametrize("space", [("vocab=0",), ("vocab=",), ("vocab=many",)])
def test_impossible_sizes_are_refused(space: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="vocab"):
        SearchConfig(search_space=space)


def vocabulary_of(target: Target, texts: Sequence[ScoredText], size: int) -> DraftConfig:
    tokens = [text.tokens for text in texts]
    return with_vocabulary(target, DraftConfig(vocab_size=size), tokens)


@torch.inference_mode()
def test_a_token_counts_where_the_other_texts_have_it(
    target: Target, texts: list[ScoredText]
) -> None:
    """Against draft steps from each position, fed with the text."""
    size, mask = 40, SkipMask.of(3, [1], [])
    config = vocabulary_of(target, texts, size)
    (trace,) = Scorer(target, texts, draft_config=config).score([mask])
    counted = missed = 0
    for s, text in enumerate(texts):
        others = [each.tokens for each in texts if each is not text]
        known = set(frequent_vocabulary(target, others, size).ids.tolist())
        engine = Engine(target, len(text.tokens))
        engine.prefill(text.tokens[: text.scored_from - 1])
        for place in range(text.scored_from - 1, len(text.tokens) - 1):
            with engine.draft_mode(mask, config):
                logits = engine.step([text.tokens[place]])[0]
            engine.rewind(place)
            engine.step([text.tokens[place]])
            right, token = int(logits.argmax()) == text.tokens[place + 1], text.tokens[place + 1]
            at = place - text.scored_from + 1
            assert trace.matched[s, at] == [right and token in known]
            assert np.allclose(trace.confidence[s, at], float(confidence(logits)), atol=1e-4)
            counted += right and token in known
            missed += right and token not in known
    assert counted
    assert missed, "some tokens are in the vocabulary because of their own text"


def cheap_vocabularies(context: int, longest: int, draft_config: DraftConfig) -> Costs:
    """A draft step costs most of its time in the output projection."""
    size = draft_config.vocab_size or 257
    verify = (6.4, *(6.6 + 0.1 * n for n in range(longest - 1)))
    return Costs(5 * size / 257, 0.2, 0.2, 0.02, verify)


def candidates(
    target: Target, texts: list[ScoredText], space: tuple[str, ...], notes: list[str]
) -> list[Candidate]:
    search = DraftConfigSearch(
        TextContexts(target),
        SearchConfig(search_space=space, gamma=2, tau=0.0),
        FixedCosts(cheap_vocabularies),
        (1, 2, 3),
        TimeToScore(),
        notes.append,
    )
    return search.try_alone(texts)


def test_vocabularies_go_with_the_best_of_the_other_settings(
    target: Target, texts: list[ScoredText]
) -> None:
    notes: list[str] = []
    found = candidates(target, texts, ("vocab=20", "vocab=200", "window=8"), notes)
    configs = [each.trial.draft_config for each in found]
    assert not notes
    assert {(each.vocab_size, each.attention_window) for each in configs} == {
        (None, 8),
        (20, 8),
        (200, 8),
    }
    for each in found:
        expected = cheap_vocabularies(3, len(each.costs.verify), each.trial.draft_config)
        assert each.costs == expected


@pytest.mark.parametrize(
    ("values", "tried"),
    [
        ({200: 1.5, 100: 1.4, 20: 2.0}, [200, 100]),  # a smaller one is worse: no further ones
        ({200: 0.5, 100: 0.9, 20: 0.8}, [200, 100, 20]),
        ({200: 1.0, 100: 1.2, 20: 1.3}, [200, 100, 20]),
    ],
)
def test_vocabularies_are_tried_from_the_largest_down_until_one_is_worse(
    target: Target,
    texts: list[ScoredText],
    monkeypatch: pytest.MonkeyPatch,
    values: dict[int, float],
    tried: list[int],
) -> None:
    asked: list[int] = []

    def try_one(search: Any, mask: SkipMask, config: DraftConfig, *_: Any) -> Candidate:
        size = config.vocab_size or 0
        asked.append(size)
        trial = Trial(mask, values.get(size, 1.0), draft_config=config)
        return Candidate(trial, cheap_vocabularies(3, 4, config))

    monkeypatch.setattr(DraftConfigSearch, "try_one", try_one)
    space = ("vocab=20", "vocab=100", "vocab=200", "window=8")
    found = candidates(target, texts, space, [])
    assert asked == [0, *tried]
    assert [each.trial.value for each in found] == sorted((1.0, *map(values.get, tried)))[::-1]


def test_a_size_that_does_not_fit_is_noted(target: Target, texts: list[ScoredText]) -> None:
    notes: list[str] = []
    found = candidates(target, texts, ("vocab=20", "vocab=257"), notes)
    assert {each.trial.draft_config.vocab_size for each in found} == {20}
    assert notes == ["vocab=257 is not tried: the model has 257 tokens"]


def test_of_all_sizes_one_more_is_validated() -> None:
    costs = cheap_vocabularies(3, 4, UNCHANGED)

    def candidate(value: float, size: int | None) -> Candidate:
        config = DraftConfig(vocab_size=size)
        return Candidate(Trial(SkipMask.empty(3), value, draft_config=config), costs)

    many = [candidate(2 - i / 10, None) for i in range(3)]
    others = [candidate(0.5, 10), candidate(0.4, 20), candidate(0.3, 30)]
    assert best_per_draft_config([*others, *many], 3) == [*many, others[0]]


WORDS = ("alpha", "beta", "gamma", "delta", "eta", "theta", "iota", "mu")
search = partial(
    skipopt.search,
    prompts=[f"{word} and {word} again" for word in WORDS],
    config=SearchConfig(calibration_tokens=12, max_gamma=2, methods=("layer-skip",)),
    cost_source=FixedCosts(cheap_vocabularies),
)


def test_a_search_writes_the_vocabulary_of_its_drafts(target: Target) -> None:
    """No mask and one size: every candidate has it."""
    found = search(target, search_space=("vocab=64",))
    config = found.draft_config
    assert config.vocab_size == 64
    assert config.vocabulary is not None
    assert len(config.vocabulary) == 64
    assert found.environment is not None
    assert found.environment.memory is not None
    assert found.environment.memory.draft_vocabulary == 64 * 32 * 4
    again = Profile.parse(found.to_yaml(), "again")
    assert again == found
    again.check_model(target)
    decoded = [
        [token.id for token in generate(target, [1, 2], profile=p, method=m, max_new_tokens=12)]
        for p, m in ((None, None), (again, "layer-skip"))
    ]
    assert decoded[0] == decoded[1]
