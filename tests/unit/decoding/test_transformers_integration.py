"""`generate(custom_generate=skipopt.decoder(profile))` returns what `generate` returns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import byte_tokenizer, tiny_gpt2, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.errors import ProfileError, UsageError
from skipopt.models.text_states import cache_argument
from skipopt.profile import Profile
from skipopt.runtime.load import keep_target

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
        ({"num_beams": 2}, "beam search"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "output_attentions"),
        ({"position_ids": torch.tensor([[0, 2, 4]])}, "position_ids"),
        ({"inputs_embeds": torch.zeros(1, 3, 32)}, "inputs_embeds"),
    ],
)
def test_unsupported_options_are_refused(
    model: Any, profile: Profile, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        generate(model, [1, 2, 3], custom_generate=skipopt.decoder(profile), **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_batch_have_the_texts_of_single_prompts(
    model: Any, profile: Profile, side: str
) -> None:
    prompts = tiny_prompts(4, shortest=3, longest=8)
    inside, longest = skipopt.decoder(profile), max(map(len, prompts))
    for options in (
        {},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
        {"eos_token_id": 9},
    ):
        ids = torch.full((4, longest), 63)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            start = longest - len(prompt) if side == "left" else 0
            ids[row, start : start + len(prompt)] = torch.tensor(prompt)
            mask[row, start : start + len(prompt)] = 1
        settings: Any = {
            "max_new_tokens": LENGTH,
            "do_sample": False,
            "pad_token_id": 63,
            **options,
        }
        found = model.generate(ids, attention_mask=mask, custom_generate=inside, **settings)
        assert found[:, :longest].tolist() == ids.tolist()
        for prompt, row in zip(prompts, found[:, longest:].tolist(), strict=True):
            text = generate(model, prompt, **{**options, "pad_token_id": 63})[len(prompt) :]
            assert row[: len(text)] == text
            assert set(row[len(text) :]) <= {63}
        if side == "left":
            expected = model.generate(ids, attention_mask=mask, **settings)
            assert found.tolist() == expected.tolist()


def test_sequences_of_one_prompt_are_drawn_with_seeds_of_their_own(
    model: Any, profile: Profile
) -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 3]])
    found = model.generate(
        ids, max_new_tokens=8, do_sample=True, num_return_sequences=3, pad_token_id=0,
        custom_generate=skipopt.decoder(profile),
    )  # fmt: skip
    assert found.shape == (3, 11)
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_a_function_of_allowed_tokens_gets_the_number_of_its_row(
    model: Any, profile: Profile
) -> None:
    ids = torch.tensor([[1, 2], [3, 4]])
    settings: Any = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids),
        prefix_allowed_tokens_fn=lambda row, _: [10 + row, 20 + row],
        custom_generate=skipopt.decoder(profile), **settings,
    )  # fmt: skip
    assert set(found[0, 2:].tolist()) <= {10, 20}
    assert set(found[1, 2:].tolist()) <= {11, 21}


@pytest.mark.parametrize(
    ("mask", "message"), [([1, 0, 1], "holes"), ([0, 0, 0], "leaves nothing")]
)
def test_masks_that_are_no_padding_are_refused(
    model: Any, profile: Profile, mask: list[int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.generate(
            torch.tensor([[1, 2, 3]]), attention_mask=torch.tensor([mask]), max_new_tokens=4,
            custom_generate=skipopt.decoder(profile),
        )  # fmt: skip


def test_what_is_for_one_sequence_is_refused_for_several(model: Any, profile: Profile) -> None:
    two = torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(UsageError, match="output_scores"):
        model.generate(
            two, max_new_tokens=4, return_dict_in_generate=True, output_scores=True,
            custom_generate=skipopt.decoder(profile),
        )  # fmt: skip


# --- streamers and stop strings


class Words:
    """A tokenizer of words for streamers."""

    def __init__(self) -> None:
        self.put_tokens: list[int] = []

    def decode(self, ids: Any, **options: Any) -> str:
        return "".join(f"w{int(each)} " for each in ids)


def test_a_streamer_gets_every_token_and_ends(model: Any, profile: Profile) -> None:
    from threading import Thread

    from transformers import TextIteratorStreamer

    prompt = tiny_prompts(1)[0]
    tokenizer: Any = Words()
    texts = []
    for inside in (None, skipopt.decoder(profile)):
        streamer = TextIteratorStreamer(tokenizer, timeout=60)
        thread = Thread(
            target=generate, args=(model, prompt), kwargs={
                "streamer": streamer, "custom_generate": inside
            },
        )  # fmt: skip
        thread.start()
        texts.append("".join(streamer))
        thread.join()
    assert texts[0] == texts[1] == Words().decode(generate(model, prompt))


def test_a_streamer_ends_where_an_option_is_refused(model: Any, profile: Profile) -> None:
    from transformers import TextIteratorStreamer

    tokenizer: Any = Words()
    streamer = TextIteratorStreamer(tokenizer, timeout=5)
    with pytest.raises(UsageError, match="guidance_scale"):
        generate(
            model, [1, 2, 3], streamer=streamer, guidance_scale=2.0,
            custom_generate=skipopt.decoder(profile),
        )  # fmt: skip
    assert "".join(streamer)  # the prompt, and an end


def test_stop_strings_end_the_text(profile: Profile) -> None:
    tokenizer = byte_tokenizer()
    model = tiny_llama(vocabulary=len(tokenizer))
    mine = Profile.by_hand(tiny_target(model), attention=[1], mlp=[2], gamma=3)
    prompt = tokenizer("abc").input_ids
    whole = generate(model, prompt)
    stop = tokenizer.decode(whole[len(prompt) + 5])
    options = {"stop_strings": [stop], "tokenizer": tokenizer}
    expected = generate(model, prompt, **options)
    assert len(expected) < len(whole)
    assert generate(model, prompt, custom_generate=skipopt.decoder(mine), **options) == expected


# --- what is put back


def state_of(model: Any) -> Any:
    flags = [module.training for module in model.modules()]
    patched = [name for name, each in model.named_modules() if "forward" in vars(each)]
    return flags, patched, model.config.use_cache, model.generation_config.to_dict()


class Fails:
    def __call__(self, ids: Any, scores: Any) -> Any:
        raise ArithmeticError("in a processor")


@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_left_as_it_was(failing: bool) -> None:
    from transformers import LogitsProcessorList

    model = tiny_llama()
    profile = Profile.by_hand(tiny_target(model), attention=[1], mlp=[2], gamma=3)
    model.train()
    model.model.layers[1].eval()
    before, inside = state_of(model), skipopt.decoder(profile)
    for _ in range(2):
        if failing:
            with pytest.raises(ArithmeticError):
                generate(
                    model, [1, 2, 3], logits_processor=LogitsProcessorList([Fails()]),
                    custom_generate=inside,
                )  # fmt: skip
        else:
            generate(model, [1, 2, 3], custom_generate=inside)
        assert state_of(model) == before


def test_an_end_of_text_criterion_of_the_caller_replaces_that_of_the_config(
    model: Any, profile: Profile
) -> None:
    from transformers import EosTokenCriteria, StoppingCriteriaList

    prompt = tiny_prompts(1)[0]
    text = generate(model, prompt)[len(prompt) :]
    options: Any = {
        "eos_token_id": text[2],
        "stopping_criteria": StoppingCriteriaList([EosTokenCriteria(text[9])]),
    }
    expected = generate(model, prompt, **options)
    assert generate(model, prompt, custom_generate=skipopt.decoder(profile), **options) == expected


def test_the_context_ends_the_text_with_a_warning() -> None:
    model = tiny_llama(context=32)
    with pytest.warns(UserWarning, match="32 tokens, the model's context"):
        found = generate(model, [1, 2, 3], max_new_tokens=64, custom_generate=skipopt.decoder())
    assert len(found) == 32


def test_a_profile_of_another_model_is_refused(profile: Profile) -> None:
    with pytest.raises(ProfileError, match="another model"):
        generate(tiny_gpt2(), [1, 2, 3], custom_generate=skipopt.decoder(profile))


def test_a_cache_of_the_caller_is_refused(model: Any, profile: Profile) -> None:
    """It would be empty afterwards."""
    from transformers import DynamicCache

    given = {cache_argument(model): DynamicCache(config=model.config)}
    with pytest.raises(UsageError, match=cache_argument(model)):
        generate(model, [1, 2, 3], **given, custom_generate=skipopt.decoder(profile))


def test_a_cache_that_holds_tokens_is_refused(model: Any, profile: Profile) -> None:
    """What is in it could be anything, such as a trained prefix."""
    from transformers import DynamicCache

    given = {cache_argument(model): DynamicCache(config=model.config)}
    model(torch.tensor([[1, 2]]), **given)
    with pytest.raises(UsageError, match=cache_argument(model)):
        generate(model, [1, 2, 3], **given, custom_generate=skipopt.decoder(profile))


def test_a_decoder_tells_the_statistics_of_its_last_call(profile: Profile) -> None:
    target = tiny_target()  # on the eager runtime, where drafts begin at once
    keep_target(target)
    inside = skipopt.decoder(profile)
    assert inside.last_statistics is None
    text = generate(target.model, [1, 2, 3], custom_generate=inside)
    statistics = inside.last_statistics
    assert statistics is not None
    assert (statistics.method, statistics.prompt_tokens) == ("layer-skip", 3)
    assert statistics.rounds.new_tokens == len(text) - 3 == LENGTH
    assert statistics.rounds.drafted > 0
    assert statistics.time_to_first_token is not None
    assert "layer-skip" in repr(inside)


def test_statistics_end_where_a_criterion_stops_the_text(model: Any, profile: Profile) -> None:
    inside = skipopt.decoder(profile)
    text = generate(
        model, [1, 2, 3], max_new_tokens=24, custom_generate=inside,
        stopping_criteria=[lambda ids, scores, **_: torch.tensor([ids.shape[1] >= 10])],
    )  # fmt: skip
    assert inside.last_statistics is not None
    assert inside.last_statistics.rounds.new_tokens == len(text) - 3 == 7
    assert inside.last_statistics.rounds.stop_reason == "stop"
