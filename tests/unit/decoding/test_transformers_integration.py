"""`generate(custom_generate=skipopt.decoder(profile))` returns what `generate` returns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import tiny_gpt2, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.errors import ProfileError, UsageError
from skipopt.profile import Profile

LENGTH = 24


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


@pytest.fixture(scope="module")
def profile(model: Any) -> Profile:
    return Profile.by_hand(tiny_target(model), attention=[1], mlp=[2], gamma=3)


def generate(model: Any, prompt: list[int], **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": LENGTH, "do_sample": False, "pad_token_id": 0, **options}
    found: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[
        0
    ].tolist()
    return found


@pytest.mark.parametrize("method", [None, "prompt-lookup", "jacobi"])
def test_greedy_text_is_that_of_generate(model: Any, profile: Profile, method: str | None) -> None:
    inside = skipopt.decoder(profile, method)
    for prompt in tiny_prompts(6):
        expected = generate(model, prompt)
        assert generate(model, prompt, custom_generate=inside) == expected


def test_an_end_of_text_token_ends_the_text(model: Any, profile: Profile) -> None:
    prompt = tiny_prompts(1)[0]
    end = generate(model, prompt)[len(prompt) + 4]
    expected = generate(model, prompt, eos_token_id=end)
    assert len(expected) <= len(prompt) + 5
    inside = skipopt.decoder(profile)
    assert generate(model, prompt, eos_token_id=end, custom_generate=inside) == expected


def test_stopping_criteria_are_evaluated_after_every_token(model: Any, profile: Profile) -> None:
    from transformers import StoppingCriteria, StoppingCriteriaList

    class SevenTokens(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **rest: Any) -> Any:
            return torch.full((1,), input_ids.shape[1] >= size + 7)

    prompt = tiny_prompts(1)[0]
    size = len(prompt)
    criteria = StoppingCriteriaList([SevenTokens()])
    found = generate(
        model, prompt, stopping_criteria=criteria, custom_generate=skipopt.decoder(profile)
    )
    assert found == generate(model, prompt)[: size + 7]


def test_sampling_repeats_with_the_seed_of_torch(model: Any, profile: Profile) -> None:
    options = {"do_sample": True, "temperature": 0.8, "top_k": 5}
    inside = skipopt.decoder(profile)
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(generate(model, tiny_prompts(1)[0], custom_generate=inside, **options))
    assert texts[0] == texts[1] != texts[2]


def test_return_dict_in_generate(model: Any, profile: Profile) -> None:
    ids = torch.tensor([tiny_prompts(1)[0]])
    found = model.generate(
        ids,
        max_new_tokens=5,
        do_sample=False,
        return_dict_in_generate=True,
        custom_generate=skipopt.decoder(profile),
    )
    assert found.sequences.shape == (1, ids.shape[1] + 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 1.2}, "RepetitionPenalty"),
        ({"num_beams": 2}, "beam search"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores"),
        ({"position_ids": torch.tensor([[0, 2, 4]])}, "position_ids"),
        ({"inputs_embeds": torch.zeros(1, 3, 32)}, "inputs_embeds"),
    ],
)
def test_unsupported_options_are_refused(
    model: Any, profile: Profile, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        generate(model, [1, 2, 3], custom_generate=skipopt.decoder(profile), **options)


def test_batches_and_padding_are_refused(model: Any, profile: Profile) -> None:
    inside = skipopt.decoder(profile)
    two = torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(UsageError, match="one sequence"):
        model.generate(two, max_new_tokens=4, custom_generate=inside)
    padded = torch.tensor([[0, 1]])
    with pytest.raises(UsageError, match="padded"):
        model.generate(two[:1], attention_mask=padded, max_new_tokens=4, custom_generate=inside)


def test_a_profile_of_another_model_is_refused(profile: Profile) -> None:
    with pytest.raises(ProfileError, match="another model"):
        generate(tiny_gpt2(), [1, 2, 3], custom_generate=skipopt.decoder(profile))


def test_a_cache_that_holds_tokens_is_refused(model: Any, profile: Profile) -> None:
    """What is in it could be anything, such as a trained prefix."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    model(torch.tensor([[1, 2]]), past_key_values=cache)
    with pytest.raises(UsageError, match="past_key_values"):
        generate(model, [1, 2, 3], past_key_values=cache, custom_generate=skipopt.decoder(profile))
