"""Drafts that choose from part of the vocabulary change no text and no distribution."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from support.architectures import build
from support.drafter_contract import small_target
from support.kernel_timings import prefer_packed, prefer_quantized
from support.native import needs_native
from support.tiny import byte_tokenizer, tiny_gpt2, tiny_llama, tiny_target
from torch import Tensor, nn

from skipopt.decoding.api import generate_rounds
from skipopt.draft_config import DraftConfig
from skipopt.draft_vocabulary import DraftVocabulary
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.errors import DraftConfigWarning, UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.draft_mode import frequent_vocabulary, unsupported_reasons
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import PROMPTS, Case, Check

IDS = [0, 1, 2, 3, 7, 11, 12, 13, 30, 41, 42, 63]
SOME = DraftConfig(vocab_size=len(IDS), vocabulary=DraftVocabulary.of(IDS))
INT8 = replace(SOME, weight_bits=8)
INT8_HEAD = replace(SOME, head_bits=8)
INT4 = replace(SOME, weight_bits=4)
NATIVE = pytest.param("native", marks=needs_native)
RUNTIMES = ["eager", "prepacked", "captured", NATIVE]


@pytest.fixture(autouse=True)
def quantized_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer_packed(monkeypatch)
    prefer_quantized(monkeypatch)
    warnings.simplefilter("error", DraftConfigWarning)


@pytest.fixture(scope="module", params=["eager", NATIVE])
def target(request: pytest.FixtureRequest) -> Target:
    model = tiny_llama(layers=3, context=256, vocabulary=64)
    return tiny_target(model, runtime=request.param)


def profile_of(target: Target, config: DraftConfig) -> Profile:
    mask = SkipMask.of(target.depth, [1], [])
    return Profile.build(target, mask, gamma=4, tau=0.0, draft_config=config)


@pytest.mark.slow
@pytest.mark.parametrize("check", [contract.check_greedy_text, contract.check_end_of_text])
def test_drafts_with_a_vocabulary_keep_the_contract(target: Target, check: Check) -> None:
    """`tests/contract` has the whole suite, with all settings of a draft config together."""
    check(Case(target, "layer-skip", profile_of(target, SOME)))


def test_quantization_that_cannot_read_so_few_rows_leaves_them_as_they_are() -> None:
    """torch's int4 needs a multiple of 16 rows."""
    target = tiny_target(tiny_llama())
    case = Case(target, "layer-skip", profile_of(target, INT4))
    contract.check_greedy_text(case, PROMPTS[:2])
    assert target.memory.draft_vocabulary == len(IDS) * 32 * 4


@pytest.mark.parametrize("options", ["vocab=1", "vocab=9:quant=int8", "vocab=63:tau=0.4"])
def test_no_profile_is_needed(target: Target, options: str) -> None:
    contract.check_greedy_text(Case(target, f"layer-skip:{options}"), PROMPTS[:3])


# --- what a draft computes


def one_step(target: Target, config: DraftConfig, times: int = 3) -> Tensor:
    """Logits of a draft step of all sublayers, the last of some, so captured if it can be."""
    engine = Engine(target, 32)
    engine.prefill([3, 5, 7])
    for _ in range(times):
        with engine.draft_mode(SkipMask.empty(target.depth), config):
            logits = engine.step([9])[0]
        engine.rewind(3)
    return logits


def check_step(target: Target, config: DraftConfig = SOME, tolerance: float = 1e-4) -> None:
    """The logits of the vocabulary are the model's, and all others −∞."""
    whole, part = one_step(target, DraftConfig(), 1), one_step(target, config)
    assert config.vocabulary is not None
    ids = torch.from_numpy(config.vocabulary.ids)
    assert part.shape == whole.shape
    assert torch.allclose(part[ids], whole[ids], atol=tolerance * float(whole.abs().max()))
    others = torch.ones(len(part), dtype=torch.bool)
    others[ids] = False
    assert (part[others] == -math.inf).all()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("config", [SOME, INT8, INT8_HEAD], ids=str)
def test_a_step_has_the_models_logits_for_its_tokens(runtime: str, config: DraftConfig) -> None:
    target = tiny_target(tiny_llama(), runtime=runtime)
    check_step(target, config, 0.1 if config.weights else 1e-4)
    assert target.runtime.name == runtime
    other = DraftVocabulary.of([*IDS[1:], 50])
    check_step(target, replace(config, vocabulary=other), 0.1)


# Soft-capped; tied; a bias; a scale; another norm.
@pytest.mark.parametrize("name", ["gemma2", "gemma3", "opt", "falcon", "phi3", "gpt_neox"])
@pytest.mark.parametrize("runtime", ["eager", NATIVE])
def test_what_models_do_with_logits_is_done_with_those_of_a_part(name: str, runtime: str) -> None:
    target = tiny_target(build(name), runtime=runtime)
    check_step(target)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_bias_of_the_output_projection_is_added(runtime: str) -> None:
    model = tiny_llama()
    bias = nn.Parameter(torch.linspace(-3, 3, 64), requires_grad=False)
    model.lm_head.register_parameter("bias", bias)
    check_step(tiny_target(model, runtime=runtime))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("config", [SOME, INT8], ids=str)
def test_weights_that_change_in_place_are_read_anew(runtime: str, config: DraftConfig) -> None:
    model = tiny_llama()
    target = tiny_target(model, runtime=runtime)
    one_step(target, config)
    with torch.no_grad():
        model.lm_head.weight.mul_(-2.0).add_(0.1)
    check_step(target, config, 0.1 if config.weights else 1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_was_resized_has_logits_for_its_new_tokens(runtime: str) -> None:
    model = tiny_llama()
    target = tiny_target(model, runtime=runtime)
    one_step(target, SOME)
    torch.manual_seed(4)
    model.resize_token_embeddings(72, mean_resizing=False)
    check_step(target)
    assert one_step(target, SOME).shape == (72,)


def test_the_native_runtime_makes_no_copy_in_the_models_own_precision() -> None:
    copied = {}
    for runtime in ("native", "eager"):
        target = tiny_target(tiny_llama(), runtime=runtime)
        one_step(target, SOME)
        copied[target.runtime.name] = target.memory.draft_vocabulary
    assert copied.pop("eager") == len(IDS) * 32 * 4
    assert not copied.get("native")


def test_a_quantized_draft_copies_its_rows_only() -> None:
    target = tiny_target(tiny_llama())
    one_step(target, INT8)
    whole = tiny_target(tiny_llama())
    one_step(whole, DraftConfig(weight_bits=8))
    head = whole.memory.quantized_weights - target.memory.quantized_weights
    assert 64 * 32 <= head < 1.2 * 64 * 32


# --- which tokens


def test_drafts_propose_tokens_of_the_vocabulary_only(target: Target) -> None:
    for options in (SamplingOptions(), SamplingOptions(1.0, seed=3)):
        rounds: list[Any] = []
        for prompt in PROMPTS[:3]:
            profile = profile_of(target, SOME)
            rounds += generate_rounds(
                target, prompt, profile=profile, max_new_tokens=30, options=options
            )
        drafted = {token for each in rounds for token in each.drafted}
        emitted = {token for each in rounds for token in each.emitted}
        assert drafted <= set(IDS)
        assert len(drafted) > 3
        assert not emitted <= set(IDS)
        assert sum(each.accepted for each in rounds) > 0


def test_the_prompt_decides_where_no_profile_does(target: Target) -> None:
    drafter = LayerSkipDrafter(target, draft_config=DraftConfig(vocab_size=5))
    state = contract.DraftState([60, 50, 60, 60, 50, 1, 61], engine_after(target), greedy(target))
    drafter.propose(state, 1)
    found = drafter.draft_model.config.vocabulary
    assert found is not None
    assert found.ids.tolist() == [0, 1, 50, 60, 61]


def engine_after(target: Target) -> Engine:
    engine = Engine(target, 32)
    engine.prefill([60, 50, 60, 60, 50, 1])
    return engine


def greedy(target: Target) -> contract.TokenSampler:
    return contract.TokenSampler(SamplingOptions(), target.device, coupled=True)


def test_end_of_text_and_special_tokens_are_always_there() -> None:
    target = tiny_target(tiny_llama(vocabulary=257), byte_tokenizer())
    special = target.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert special in frequent_vocabulary(target, [[200] * 9], 2).ids


@pytest.mark.parametrize(
    ("options", "size", "given"),
    [
        ("", 12, True),
        (":vocab=none", None, False),
        (":vocab=12", 12, True),
        (":vocab=9", 9, False),
    ],
)
def test_the_option_replaces_the_profiles_vocabulary(
    target: Target, options: str, size: int | None, given: bool
) -> None:
    profile = profile_of(target, SOME)
    spec = contract.resolve_method(profile, f"layer-skip{options}")
    drafter = contract.make_decoding(target, spec, profile, contract.GREEDY).drafter
    assert isinstance(drafter, LayerSkipDrafter)
    assert drafter.draft_model.config.vocab_size == size
    assert (drafter.draft_model.config.vocabulary is not None) == given


# --- sampling


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        "layer-skip:gamma=2",
        "rsd-c:branching=2-2",
        "rsd-s:width=3:depth=2",
        "swift:auto_disable=no:tune_mask=no:siblings=2-2-3-3:cost_aware=no:tau=0",
        "cascade:auto_disable=no:gamma=2",
    ],
)
def test_sampled_text_has_the_models_distribution(method: str) -> None:
    """The first two tokens, drafted from three of eight, against their exact probabilities."""
    target = tiny_target(tiny_llama(layers=1, vocabulary=8, gain=0.5))
    prompt, count, method = [1, 2], 300, f"{method}:vocab=3:verify=rejection"
    seen = torch.zeros(8, 8)
    for seed in range(count):
        options = SamplingOptions(1.5, seed=seed)
        rounds = generate_rounds(target, prompt, method=method, max_new_tokens=2, options=options)
        first, second = (token for each in rounds for token in each.emitted)
        seen[first, second] += 1
    expected = count * pairs(target, prompt, 1.5)
    assert p_value(seen.flatten(), expected.flatten()) > 1e-3
    outside = expected.sum(1)[3:].sum()
    assert outside > 30, "tokens that no draft proposes are likely"


@torch.inference_mode()
def pairs(target: Target, prompt: Sequence[int], temperature: float) -> Tensor:
    """Probabilities of the next two tokens.  # (8, 8)"""
    after = [[*prompt, token] for token in range(8)]
    logits = target.model(torch.tensor(after)).logits.double() / temperature
    probabilities = logits.softmax(-1)
    return probabilities[0, -2][:, None] * probabilities[:, -1]


def p_value(seen: Tensor, expected: Tensor) -> float:
    """Chi-square; cells that are seldom hit are one."""
    rare = expected < 5
    observed = [*seen[~rare].tolist(), float(seen[rare].sum())]
    wanted = [*expected[~rare].tolist(), float(expected[rare].sum())]
    statistic = sum((a - b) ** 2 / b for a, b in zip(observed, wanted, strict=True))
    return float(stats.chi2.sf(statistic, len(wanted) - 1))


# --- refusals


@pytest.mark.parametrize("size", [64, 65])
def test_a_vocabulary_of_all_tokens_is_left_out_with_a_note(target: Target, size: int) -> None:
    drafter = LayerSkipDrafter(target, draft_config=DraftConfig(vocab_size=size))
    with pytest.warns(DraftConfigWarning, match=f"without vocab={size}.*the model has 64 tokens"):
        assert not drafter.draft_model.config


def test_a_model_whose_logits_depend_on_each_other_is_refused() -> None:
    model = tiny_llama()
    target = tiny_target(model)
    model.register_forward_hook(normalized)
    (reason,) = unsupported_reasons(target, SOME).values()
    assert reason == "its logits cannot be computed for some tokens alone"


def normalized(module: nn.Module, args: object, output: Any) -> Any:
    output.logits = output.logits.log_softmax(-1)
    return output


def test_a_model_without_a_plain_output_projection_is_refused() -> None:
    model = tiny_gpt2()
    target = tiny_target(model)
    model.lm_head = nn.Sequential(model.lm_head)
    (reason,) = unsupported_reasons(target, SOME).values()
    assert "not a linear layer" in reason


def test_a_token_that_the_model_does_not_have_is_refused() -> None:
    target = small_target()
    config = DraftConfig(vocab_size=2, vocabulary=DraftVocabulary.of([1, 64]))
    with pytest.raises(UsageError, match="has the token 64, but the model has 64 tokens"):
        one_step(target, config)
