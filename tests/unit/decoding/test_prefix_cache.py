"""A text that begins as the one before reads only what is new, and is the same text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import torch
from support.rope import build as build_with_borders
from support.tiny import tiny_llama, tiny_prompts, tiny_target

from skipopt.decoding.api import generate_rounds
from skipopt.decoding.prefix_cache import MIN_CAPACITY, PrefixCache
from skipopt.errors import PromptError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.load import make_target
from skipopt.sampling import SamplingOptions
from tools.tiny_models import tiny_model

LENGTH = 12


@contextmanager
def counted_rows(target: Target) -> Iterator[list[int]]:
    """The rows of each forward inside."""
    rows: list[int] = []
    hook = target.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: rows.append(args[0].shape[-1])
    )
    try:
        yield rows
    finally:
        hook.remove()


def decoded(
    target: Target, prompt: list[int], cache: PrefixCache | None = None, **options: Any
) -> list[int]:
    rounds = generate_rounds(target, prompt, prefix_cache=cache, max_new_tokens=LENGTH, **options)
    return [token for each in rounds for token in each.emitted]


def test_only_what_is_new_is_read(target: Target, prompt: list[int]) -> None:
    cache = PrefixCache()
    with counted_rows(target) as rows:  # the hook counts as a change of the model
        first = decoded(target, prompt, cache)
        assert cache.num_cached == 0
        rows.clear()
        decoded(target, [*prompt, *first, 5, 6, 7], cache)
    assert cache.num_cached == len(prompt) + LENGTH - 1
    # The last token of the answer and two new ones; the third is the current token.
    assert rows == [3, *[1] * LENGTH]


@pytest.mark.parametrize("method", ["plain", "layer-skip:gamma=3", "suffix", "token-recycling"])
@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(temperature=0.9, seed=4)])
def test_the_texts_of_a_conversation_are_those_of_fresh_decodings(
    target: Target, method: str, options: SamplingOptions
) -> None:
    profile = Profile.by_hand(target, attention=[1], mlp=[1])
    given: dict[str, Any] = {"method": method, "profile": profile, "options": options}
    cache, text = PrefixCache(), [3, 1, 4]
    for turn in tiny_prompts(4):
        text += turn
        made = decoded(target, text, cache, **given)
        assert made == decoded(target, text, **given)
        text += made
        assert cache.tokens == text
    assert cache.num_cached > 3 * LENGTH


@pytest.mark.parametrize(
    ("second", "cached"),
    [
        ([9, 8, 7, 6, 5], 4),  # the same again: its last token is not in the cache
        ([9, 8, 7], 2),
        ([9, 8, 1, 2, 3, 4], 2),
        ([1, 8, 7, 6, 5], 0),
        ([9], 0),
    ],
)
def test_another_text_keeps_what_both_have_in_common(
    target: Target, second: list[int], cached: int
) -> None:
    cache = PrefixCache()
    decoded(target, [9, 8, 7, 6, 5], cache)
    assert decoded(target, second, cache) == decoded(target, second)
    assert cache.num_cached == cached


def test_a_text_may_be_stopped_between_two_rounds(target: Target, prompt: list[int]) -> None:
    cache = PrefixCache()
    rounds = generate_rounds(
        target, prompt, method="suffix", prefix_cache=cache, max_new_tokens=LENGTH
    )
    begun = [token for each in islice(rounds, 3) for token in each.emitted]
    del rounds
    assert cache.tokens == [*prompt, *begun]
    further = [*prompt, *begun, 1, 2]
    assert decoded(target, further, cache) == decoded(target, further)
    assert cache.num_cached == len(prompt) + len(begun) - 1


def test_what_a_failed_text_has_left_is_not_kept(target: Target, prompt: list[int]) -> None:
    def fail(ids: Any, scores: Any) -> Any:
        if ids.shape[1] > len(prompt) + 2:
            raise OSError("it fails")
        return scores

    cache = PrefixCache()
    with pytest.raises(OSError, match="it fails"):
        decoded(target, prompt, cache, logits_processor=[fail])
    assert decoded(target, prompt, cache) == decoded(target, prompt)
    assert cache.num_cached == 0


def test_the_cache_grows_with_the_text() -> None:
    target = tiny_target(tiny_llama(context=4 * MIN_CAPACITY))
    cache, prompt = PrefixCache(), [1, 2, 3]
    decoded(target, prompt, cache)
    first = cache.engine
    assert first is not None
    assert first.cache.capacity == MIN_CAPACITY
    long = [i % 60 for i in range(MIN_CAPACITY)]
    assert decoded(target, long, cache) == decoded(target, long)
    assert cache.engine is not None
    assert cache.engine is not first
    assert cache.engine.cache.capacity == 2 * (MIN_CAPACITY + LENGTH)
    decoded(target, [*long, 1], cache)
    assert cache.num_cached == MIN_CAPACITY


def test_the_cache_is_no_larger_than_the_context(target: Target, prompt: list[int]) -> None:
    cache = PrefixCache()
    decoded(target, prompt, cache)
    assert cache.engine is not None
    assert cache.engine.cache.capacity == target.context_limit
    with pytest.raises(PromptError, match="context"):
        decoded(target, [1] * target.context_limit, cache)


def test_a_changed_model_reads_all_again(prompt: list[int]) -> None:
    target = tiny_target()
    cache = PrefixCache()
    decoded(target, prompt, cache)
    with torch.no_grad():
        target.model.lm_head.weight.mul_(-1.0)
        target.model.model.layers[0].mlp.down_proj.weight.mul_(3.0)
    assert decoded(target, prompt, cache) == decoded(target, prompt)
    assert cache.num_cached == 0


def test_a_cache_may_go_on_with_another_model(target: Target, prompt: list[int]) -> None:
    other, cache = tiny_target(tiny_llama(seed=1)), PrefixCache()
    decoded(target, prompt, cache)
    assert decoded(other, prompt, cache) == decoded(other, prompt)
    assert cache.num_cached == 0


@pytest.mark.parametrize("name", ["llama longrope", "phi3 longrope"])
def test_nothing_is_kept_where_frequencies_change_with_the_length(name: str) -> None:
    target, cache = make_target(build_with_borders(name), None, runtime="eager"), PrefixCache()
    text = [5, 4, 3, 2, 1]
    for _ in range(3):  # beyond the border and back
        made = decoded(target, text, cache)
        assert made == decoded(target, text)
        assert cache.num_cached == 0
        text = [*text, *made]
    assert decoded(target, text[:7], cache) == decoded(target, text[:7])


@pytest.mark.parametrize("kind", ["qwen3_next", "lfm2", "mamba"])
def test_states_of_recurrent_layers_are_those_of_the_prompt(kind: str) -> None:
    target, cache = make_target(tiny_model(kind), None, runtime="eager"), PrefixCache()
    text = [3, 1, 4, 1, 5]
    for more in ([2, 6], [5, 3, 5], [8]):
        made = decoded(target, text, cache, method="suffix")
        assert made == decoded(target, text)
        text = [*text, *made, *more]
    shorter = [*text[:9], 7]
    assert decoded(target, shorter, cache) == decoded(target, shorter)
