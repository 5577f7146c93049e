"""Options of `generate`: each is decoded as `generate` does, or refused before a token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from support.architectures import build
from support.tiny import tiny_llama, tiny_prompts, tiny_target
from transformers import GenerationConfig, LogitsProcessorList, WatermarkingConfig

import skipopt
from skipopt.decoding.generation_options import OPTIONS
from skipopt.errors import UsageError
from skipopt.profile import Profile

LENGTH = 24
VOCABULARY = 64
ARCHITECTURES = ("llama", "gemma3", "gpt2", "gpt_neox", "qwen3")
METHODS = ("layer-skip", "rsd-s", "swift", "token-recycling", "jacobi")
PROMPTS = tiny_prompts(2, shortest=5)


def only_even(batch: int, ids: Any) -> list[int]:
    """Allows even tokens after an odd length, and all others after an even one."""
    return list(range(0, VOCABULARY, 1 + len(ids) % 2))


class Forbids:
    """A processor of the caller: no token that was among the last four."""

    def __call__(self, ids: Any, scores: Any) -> Any:
        scores[:, ids[0, -4:]] = -torch.inf  # in place, as many do
        return scores


# name: arguments of `generate`
EXACT: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[3], [7, 9], [11, 5]]},
    "suppress_tokens": {"suppress_tokens": list(range(0, VOCABULARY, 3))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(40))},
    "min_new_tokens": {"min_new_tokens": 12, "eos_token_id": list(range(30))},
    "min_length": {"min_length": 15, "eos_token_id": list(range(30))},
    "forced_bos_token_id": {"forced_bos_token_id": 4},
    "forced_eos_token_id": {"forced_eos_token_id": [5, 6]},
    "sequence_bias": {"sequence_bias": [[[3], 4.0], [[8, 2], 6.0], [[9], -5.0]]},
    "exponential_decay": {"exponential_decay_length_penalty": (3, 1.3), "eos_token_id": 9},
    "watermarking_config": {"watermarking_config": WatermarkingConfig(bias=3.0)},
    "watermarking selfhash": {
        "watermarking_config": WatermarkingConfig(bias=3.0, seeding_scheme="selfhash")
    },
    "renormalize_logits": {"renormalize_logits": True, "repetition_penalty": 1.2},
    "remove_invalid_values": {"remove_invalid_values": True},
    "encoder penalties": {
        "encoder_repetition_penalty": 1.5,
        "encoder_no_repeat_ngram_size": 2,
    },
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": only_even},
    "logits_processor": {"logits_processor": LogitsProcessorList([Forbids()])},
    "all at once": {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "suppress_tokens": [1, 2],
        "logits_processor": LogitsProcessorList([Forbids()]),
        "prefix_allowed_tokens_fn": only_even,
    },
}
# Of sampling: the same list of processors with a draw at the end.
WARPERS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.1},
    "top_h": {"top_h": 0.6},
    "typical_p": {"typical_p": 0.6},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02},
    "eta_cutoff": {"eta_cutoff": 0.02},
    "penalty and top_p": {"repetition_penalty": 1.4, "top_p": 0.8, "temperature": 1.2},
}


@cache
def model_of(name: str) -> Any:
    return tiny_llama() if name == "tiny" else build(name)


@cache
def profile_of(name: str) -> Profile:
    return Profile.by_hand(tiny_target(model_of(name)), attention=[1], mlp=[2], gamma=3)


@cache
def decoder_of(name: str, method: str) -> Any:
    made = skipopt.decoder(profile_of(name), method)
    made._target = tiny_target(model_of(name))  # no kernel is timed
    return made


def generated(model: Any, prompt: list[int], **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": LENGTH, "do_sample": False, "pad_token_id": 0, **options}
    found: Any = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return list(found[0, len(prompt) :].tolist())


# --- exact


@pytest.mark.slow
@pytest.mark.parametrize("option", EXACT)
def test_greedy_text_is_that_of_generate(option: str) -> None:
    for architecture, method in zip(ARCHITECTURES, METHODS, strict=True):
        model = model_of(architecture)
        for prompt in PROMPTS:
            expected = generated(model, prompt, **EXACT[option])
            inside = decoder_of(architecture, method)
            found = generated(model, prompt, custom_generate=inside, **EXACT[option])
            assert found == expected, (architecture, method)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_exact_with_penalties(method: str) -> None:
    model = model_of("tiny")
    for prompt in PROMPTS:
        expected = generated(model, prompt, **EXACT["all at once"])
        inside = decoder_of("tiny", method)
        assert generated(model, prompt, custom_generate=inside, **EXACT["all at once"]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("option", [*WARPERS, *EXACT])
def test_a_sampled_text_does_not_depend_on_its_drafts(option: str) -> None:
    options = {"do_sample": True, **{**WARPERS, **EXACT}[option]}
    for method in ("layer-skip:verify=match", "rsd-c:verify=match"):
        for prompt in PROMPTS[:2]:
            texts = []
            for inside in (decoder_of("tiny", "plain"), decoder_of("tiny", method)):
                torch.manual_seed(5)
                texts.append(
                    generated(model_of("tiny"), prompt, custom_generate=inside, **options)
                )
            assert texts[0] == texts[1], method


@pytest.mark.parametrize("method", ["plain", "layer-skip", "rsd-c"])
@pytest.mark.parametrize("option", ["top_k", "penalty and top_p", "prefix_allowed_tokens_fn"])
def test_sampled_tokens_are_possible_in_generate(option: str, method: str) -> None:
    """Where only one token is left, sampling gives what `generate` gives."""
    options = {"do_sample": True, **{**WARPERS, **EXACT}[option], "top_k": 1}
    for prompt in PROMPTS:
        expected = generated(model_of("tiny"), prompt, **options)
        inside = decoder_of("tiny", method)
        assert generated(model_of("tiny"), prompt, custom_generate=inside, **options) == expected


@pytest.mark.slow
def test_sampled_tokens_have_the_distribution_of_generate() -> None:
    """Pairs of tokens, with a penalty and with drafts that are rejected."""
    model, prompt = model_of("tiny"), PROMPTS[0]
    options = {
        "do_sample": True, "repetition_penalty": 1.5, "temperature": 1.5, "top_k": 4,
        "max_new_tokens": 2,
    }  # fmt: skip
    count = 300
    inside = decoder_of("tiny", "layer-skip")
    torch.manual_seed(0)
    ours = [
        tuple(generated(model, prompt, custom_generate=inside, **options)) for _ in range(count)
    ]
    ids = torch.tensor([prompt] * 4000)
    settings = {"pad_token_id": 0, **options}
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, len(prompt) :]
    expected = [tuple(each) for each in theirs.tolist()]
    for pair in set(expected) | set(ours):
        share = expected.count(pair) / len(expected)
        spread = (share * (1 - share) / count) ** 0.5 + 0.01
        assert abs(ours.count(pair) / count - share) < 5 * spread, pair


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.0},
        {"top_p": 1e-9},
        {"temperature": 1e-4},
        {"temperature": 1},
        {"temperature": 1e40},
        {"top_k": 1, "top_p": 1},
    ],
)
def test_extreme_numbers_mean_what_they_mean_in_generate(options: dict[str, Any]) -> None:
    model = model_of("tiny")
    settings = {"do_sample": True, "top_k": 50, **options}
    torch.manual_seed(1)
    found = generated(
        model, PROMPTS[0], custom_generate=decoder_of("tiny", "layer-skip"), **settings
    )
    assert len(found) == LENGTH
    if options.get("temperature", 0) < 1:  # else any token may come
        assert found == generated(model, PROMPTS[0], **settings)


def test_a_temperature_that_leaves_no_distribution_is_an_error() -> None:
    """`generate` itself fails in torch.multinomial."""
    for method in ("plain", "layer-skip"):
        inside = decoder_of("tiny", method)
        with pytest.raises(UsageError, match="no distribution"):
            generated(
                model_of("tiny"), PROMPTS[0], do_sample=True, temperature=1e-40,
                custom_generate=inside,
            )  # fmt: skip


def test_a_warper_that_is_handed_in_acts() -> None:
    from transformers import TopKLogitsWarper

    model, handed = model_of("tiny"), LogitsProcessorList([TopKLogitsWarper(1)])
    for method in ("plain", "layer-skip", "rsd-s"):
        found = generated(
            model, PROMPTS[0], do_sample=True, logits_processor=handed,
            custom_generate=decoder_of("tiny", method),
        )  # fmt: skip
        assert found == generated(model, PROMPTS[0])


class Counts:
    """Remembers what it was called with."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, ids: Any, scores: Any) -> Any:
        self.lengths.append(ids.shape[1])
        return scores


@pytest.mark.parametrize("method", METHODS)
def test_a_processor_is_called_once_for_each_token_in_order(method: str) -> None:
    counts, prompt = Counts(), PROMPTS[0]
    generated(
        model_of("tiny"), prompt, logits_processor=LogitsProcessorList([counts]),
        custom_generate=decoder_of("tiny", method),
    )  # fmt: skip
    assert counts.lengths == list(range(len(prompt), len(prompt) + LENGTH))


def test_a_processor_is_not_called_after_the_end_of_the_text() -> None:
    prompt = PROMPTS[0]
    text = generated(model_of("tiny"), prompt)
    end = text[7]
    for method in ("layer-skip", "rsd-s"):
        counts = Counts()
        found = generated(
            model_of("tiny"), prompt, logits_processor=LogitsProcessorList([counts]),
            eos_token_id=end, custom_generate=decoder_of("tiny", method),
        )  # fmt: skip
        assert found == text[: text.index(end) + 1]
        assert len(counts.lengths) == len(found)


def test_a_watermark_that_remembers_the_text_is_exact() -> None:
    from transformers import SynthIDTextWatermarkingConfig

    config = SynthIDTextWatermarkingConfig(keys=[3, 7, 11], ngram_len=3)
    for prompt in PROMPTS:
        expected = generated(model_of("tiny"), prompt, watermarking_config=config)
        inside = decoder_of("tiny", "layer-skip")
        found = generated(
            model_of("tiny"), prompt, watermarking_config=config, custom_generate=inside
        )
        assert found == expected


def test_penalized_drafts_are_accepted() -> None:
    """Drafts are processed as the target is, so most of them stand."""
    from skipopt.decoding.api import generate_rounds
    from skipopt.rounds import Statistics
    from skipopt.sampling import SamplingOptions

    target = tiny_target(tiny_llama(gain=0.3))
    profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=3)
    rates = {}
    for penalty in (1.0, 1.5):
        total = Statistics()
        options = SamplingOptions(repetition_penalty=penalty)
        for prompt in tiny_prompts(4):
            rounds = generate_rounds(
                target, prompt, profile=profile, max_new_tokens=32, options=options
            )
            for each in rounds:
                total.add(each)
        rates[penalty] = total.acceptance_rate
    assert rates[1.5] > rates[1.0] / 2


@pytest.mark.parametrize("method", ["plain", "layer-skip", "rsd-s"])
def test_options_of_skipopt_mean_what_they_mean_in_generate(method: str) -> None:
    model, end = model_of("tiny"), 9
    target = replace(tiny_target(model), eos_ids=frozenset({end}))
    options: Any = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 9}
    for prompt in PROMPTS:
        found = skipopt.generate(
            target, prompt, profile=profile_of("tiny"), method=method, max_new_tokens=LENGTH,
            logits_processor=[Forbids()], **options,
        )  # fmt: skip
        expected = generated(
            model, prompt, logits_processor=LogitsProcessorList([Forbids()]), eos_token_id=end,
            **options,
        )  # fmt: skip
        assert [token.id for token in found] == expected


def test_a_processor_that_is_not_supported_is_refused_before_a_token() -> None:
    with pytest.raises(UsageError, match="callable"):
        skipopt.generate(tiny_target(model_of("tiny")), [1, 2], logits_processor=[3])  # type: ignore[list-item]


# --- outputs


def test_scores_and_logits_are_those_of_generate() -> None:
    model, ids = model_of("tiny"), torch.tensor([PROMPTS[0]])
    settings = {
        "max_new_tokens": 9, "do_sample": False, "return_dict_in_generate": True,
        "output_scores": True, "output_logits": True, "repetition_penalty": 1.3,
        "pad_token_id": 0,
    }  # fmt: skip
    expected = model.generate(ids, **settings)
    for method in ("plain", "layer-skip", "rsd-s"):
        found = model.generate(ids, custom_generate=decoder_of("tiny", method), **settings)
        assert found.sequences.tolist() == expected.sequences.tolist()
        for name in ("scores", "logits"):
            rows, right = getattr(found, name), getattr(expected, name)
            assert len(rows) == len(right) == 9
            torch.testing.assert_close(torch.cat(rows), torch.cat(right))


def test_criteria_read_the_scores_of_their_token() -> None:
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Sure(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **rest: Any) -> Any:
            seen.append(len(scores))
            return torch.tensor([bool(scores[-1].softmax(-1).amax() > 0.6)])

    texts = []
    for inside in (None, decoder_of("tiny", "layer-skip")):
        seen: list[int] = []
        found = model_of("tiny").generate(
            torch.tensor([PROMPTS[1]]), max_new_tokens=LENGTH, do_sample=False, pad_token_id=0,
            return_dict_in_generate=True, output_scores=True,
            stopping_criteria=StoppingCriteriaList([Sure()]), custom_generate=inside,
        )  # fmt: skip
        assert seen == list(range(1, len(seen) + 1))
        assert len(found.scores) == len(seen)
        texts.append(found.sequences.tolist())
    assert texts[0] == texts[1]


# --- refused


REFUSED: dict[str, Any] = {
    "num_beams": 2,
    "guidance_scale": 1.5,
    "diversity_penalty": 0.5,
    "token_healing": True,
    "is_assistant": True,
    "assistant_ensemble_weight": 0.5,
    "cache_implementation": "quantized",
    "dola_layers": "high",
}


def config_with(**options: Any) -> GenerationConfig:
    config = GenerationConfig(max_new_tokens=4, pad_token_id=0, max_length=8)
    for name, value in options.items():
        setattr(config, name, value)
    return config


def call(config: Any, model: Any = None) -> Any:
    """Call the decoder as `generate` does."""
    made = model or model_of("tiny")
    inside = decoder_of("tiny", "layer-skip")
    return inside(made, torch.tensor([PROMPTS[0][:4]]), generation_config=config)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        call(config_with(**{name: REFUSED[name]}))


def fields() -> Iterator[str]:
    return (name for name in vars(GenerationConfig()) if not name.startswith("_"))


def test_every_field_of_the_configuration_is_in_the_table() -> None:
    assert set(fields()) == set(OPTIONS)


def test_defaults_are_never_refused() -> None:
    defaults = GenerationConfig()._get_default_generation_params()
    assert call(config_with(**{**defaults, "max_length": 8})).shape == (1, 8)


def test_a_field_of_a_later_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.generation import configuration_utils

    plain = configuration_utils.GenerationConfig.__init__

    def later(self: Any, **options: Any) -> None:
        plain(self, **options)
        self.telepathy = options.get("telepathy")

    monkeypatch.setattr(configuration_utils.GenerationConfig, "__init__", later)
    assert call(config_with()).shape == (1, 8)
    with pytest.raises(UsageError, match="telepathy=2 is not supported"):
        call(config_with(telepathy=2))


def test_settings_of_the_model_are_told_as_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("tiny")
    monkeypatch.setattr(model, "generation_config", config_with(guidance_scale=1.5))
    with pytest.raises(UsageError, match=r"guidance_scale=1\.5 \(from the model's"):
        generated(model, PROMPTS[0], custom_generate=decoder_of("tiny", "plain"))


@pytest.mark.parametrize("treatment", ["exact", "no effect", "refused"])
def test_the_table_is_documented(treatment: str) -> None:
    from pathlib import Path

    page = Path(__file__).parents[3] / "docs" / "reference" / "generate-options.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    for name, option in OPTIONS.items():
        if option.treatment == treatment:
            assert f"| `{name}` | {option.treatment} | {option.note} |" in lines
