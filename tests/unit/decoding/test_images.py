"""Images of a prompt are read by the first forward, or refused before the first token."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import skipopt
from skipopt.decoding import images
from skipopt.decoding.images import image_inputs, other_arguments
from skipopt.errors import PromptError, UsageError
from skipopt.masks import SkipMask
from skipopt.profile import Profile
from skipopt.runtime.load import kept_target
from skipopt.runtime.prompt_inputs import PromptInputs
from tools.tiny_models import randomize

IMAGE = 90
TEXT = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "image_size": 16, "patch_size": 4, "num_channels": 3,
}  # fmt: skip
SIZES = {"llava": 16, "gemma3": 4, "qwen2_vl": 4}  # tokens of an image
GEMMA = {
    "sliding_window": 8, "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
NEW = 14


@cache
def built(name: str) -> Any:
    """A model of images and text with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MADE[name]()
        randomize(model)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def llava() -> Any:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, projection_dim=32),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return transformers.LlavaForConditionalGeneration(config)


def gemma3() -> Any:
    config = transformers.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **VISION},
        text_config={**TEXT, **GEMMA},
        image_token_index=IMAGE,
        mm_tokens_per_image=SIZES["gemma3"],
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def qwen2_vl() -> Any:
    config = transformers.Qwen2VLConfig(
        text_config={
            **{k: v for k, v in TEXT.items() if k != "head_dim"},
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]
            },
        },
        vision_config={
            "depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "patch_size": 4,
            "mlp_ratio": 2,
        },
        image_token_id=IMAGE, vision_start_token_id=91, vision_end_token_id=92,
        video_token_id=93,
    )  # fmt: skip
    return transformers.Qwen2VLForConditionalGeneration(config)


MADE = {"llava": llava, "gemma3": gemma3, "qwen2_vl": qwen2_vl}


def prompt(name: str, count: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """What a processor gives: text, images, and text again."""
    ids = [5, 61]
    for number in range(count):
        ids += [*[IMAGE] * SIZES[name], 7 + number, 23]
    made = torch.Generator().manual_seed(seed)
    given = {
        "input_ids": torch.tensor([[*ids, 17, 33]]),
        "pixel_values": torch.randn(count, 3, 16, 16, generator=made),
    }
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    types = (given["input_ids"] == IMAGE).long()
    if name == "gemma3":
        given["token_type_ids"] = types
    if name == "qwen2_vl":
        given["mm_token_type_ids"] = types
        given["pixel_values"] = torch.randn(count * 16, 3 * 2 * 4 * 4, generator=made)
        given["image_grid_thw"] = torch.tensor([[1, 4, 4]] * count)
    return given


def generated(model: Any, given: Mapping[str, Any], **options: Any) -> list[int]:
    settings = {"max_new_tokens": NEW, "do_sample": False, **options}
    output: list[int] = model.generate(**given, **settings)[0].tolist()
    return output


def profile_of(model: Any) -> Profile:
    target = kept_target(model)
    mask = SkipMask.of(target.depth, [1], [2])
    return Profile.by_hand(target, attention=mask.attention, mlp=mask.mlp, gamma=3)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", SIZES)
def test_the_text_is_that_of_transformers(name: str, count: int) -> None:
    model, given = built(name), prompt(name, count)
    expected = generated(model, given)
    other = generated(model, prompt(name, count, seed=1))
    assert expected != other, "the image does not matter"
    methods = {
        None: profile_of(model), "plain": None, "prompt-lookup": None,
        "layer-skip:quant=none:gamma=4": profile_of(model),
    }  # fmt: skip
    with kept_target(model).runtime.capture_immediately():
        for method, profile in methods.items():
            way = skipopt.decoder(profile, method)
            assert generated(model, given, custom_generate=way) == expected
            assert way.last_statistics is not None
            if profile is not None:
                assert way.last_statistics.rounds.drafted > 0
        assert generated(model, prompt(name, count, seed=1), custom_generate=way) == other


@pytest.mark.parametrize("name", SIZES)
def test_texts_after_an_image_have_none(name: str) -> None:
    """The same decoder, with and without an image, in turns."""
    model, way = built(name), skipopt.decoder()
    text = {"input_ids": torch.tensor([[5, 61, 17, 33]])}
    expected = generated(model, text)
    for _ in range(2):
        assert generated(model, text, custom_generate=way) == expected
        given = prompt(name)
        assert generated(model, given, custom_generate=way) == generated(model, given)


def test_token_types_of_text_alone_change_nothing() -> None:
    model = built("gemma3")
    ids = torch.tensor([[5, 61, 17, 33]])
    given = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    assert generated(model, given, custom_generate=skipopt.decoder()) == generated(model, given)


def test_text_alone_of_a_model_with_positions_in_rows_and_columns() -> None:
    model = built("qwen2_vl")
    given = {"input_ids": torch.tensor([[5, 61, 17, 33]])}
    assert generated(model, given, custom_generate=skipopt.decoder()) == generated(model, given)


# --- what is refused


def refusal(model: Any, given: Mapping[str, Any], **options: Any) -> str:
    with pytest.raises(UsageError) as refused:
        generated(model, given, custom_generate=skipopt.decoder(), **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_positions_that_are_not_known_are_refused_by_name() -> None:
    model, given = built("qwen2_vl"), prompt("qwen2_vl")
    given["position_ids"] = torch.arange(given["input_ids"].shape[1])[None]
    said = refusal(model, given)
    assert said.startswith("images of Qwen2VLForConditionalGeneration:")
    assert "rows and columns" in said


def test_models_with_states_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "keeps_states", lambda model: True)
    assert "keeps states of a text" in refusal(built("llava"), prompt("llava"))


def test_several_prompts_with_images_are_refused() -> None:
    given = {name: torch.cat([each, each]) for name, each in prompt("llava").items()}
    assert "one prompt at a time, not 2" in refusal(built("llava"), given)


def test_a_padded_prompt_with_an_image_is_refused() -> None:
    given = prompt("gemma3")
    given["attention_mask"][0, 0] = 0
    assert "no padding" in refusal(built("gemma3"), given)


@pytest.mark.parametrize("name", SIZES)
def test_a_prompt_that_ends_with_an_image_is_refused(name: str) -> None:
    given = prompt(name)
    for key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if key in given:
            given[key] = given[key][:, :-4]
    assert "must go on after its last image" in refusal(built(name), given)


def test_token_types_without_pixels_are_refused() -> None:
    given = prompt("gemma3")
    del given["pixel_values"]
    assert "token_type_ids without pixel_values" in refusal(built("gemma3"), given)


def test_a_model_that_reads_images_in_every_forward_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = built("llava")
    monkeypatch.setattr(
        model, "prepare_inputs_for_generation", lambda ids, **kwargs: {"input_ids": ids, **kwargs}
    )
    assert "every forward reads" in refusal(model, prompt("llava"))


def test_other_arguments_are_left_for_others_to_refuse() -> None:
    ids = prompt("llava")["input_ids"]
    given = {"mm_encoder_outputs": {"image": 1}, "sound": 2, "use_cache": None}
    found = image_inputs(built("llava"), ids, given)
    assert found.whole == {"mm_encoder_outputs": {"image": 1}}
    assert other_arguments(given, found) == {"sound": 2}
    nothing = image_inputs(built("llava"), ids, {"mm_encoder_outputs": {}, "image_sizes": 3})
    assert not nothing
    assert other_arguments({"mm_encoder_outputs": {}, "image_sizes": 3}, nothing) == {
        "image_sizes": 3
    }


def test_parts_of_messages_that_are_not_text_are_refused() -> None:
    from skipopt.testing.architectures import words

    tokenizer = words()
    tokenizer.chat_template = "{% for m in messages %}w1 {% endfor %}"
    target = skipopt.load((built("llava"), tokenizer))
    parts = [{"type": "text", "text": "w3"}, {"type": "image"}]
    with pytest.raises(
        PromptError, match=r"messages\.0\.content: a part that is not text: 'image'"
    ):
        list(skipopt.stream_generate(target, [{"role": "user", "content": parts}]))


# --- arguments of the first forward


def test_arguments_fit_the_tokens_of_a_forward() -> None:
    types = torch.tensor([[0, 1, 1, 0]])
    inputs = PromptInputs({"pixel_values": 3}, {"token_type_ids": types})
    assert inputs
    assert not PromptInputs()
    for count, expected in ((3, [0, 1, 1]), (4, [0, 1, 1, 0]), (6, [0, 1, 1, 0, 0, 0])):
        found = inputs.of_first(count)
        assert found["token_type_ids"].tolist() == [expected]
        assert found["pixel_values"] == 3


def test_positions_in_rows_and_columns_go_on_after_the_prompt() -> None:
    given = torch.tensor([[[0, 1, 2, 3]], [[0, 1, 1, 2]], [[0, 1, 1, 2]]])
    inputs = PromptInputs({"pixel_values": 3}, {}, given, shift=-1)
    assert inputs.of_first(3)["position_ids"].tolist() == given[..., :3].tolist()
    later = inputs.of_first(6)["position_ids"]
    assert later[1, 0].tolist() == [0, 1, 1, 2, 3, 4]
    assert later.shape == (3, 1, 6)
