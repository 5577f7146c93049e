"""Quantized drafts and attention windows change no text and leave the model unchanged."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from support.architectures import build
from support.drafter_contract import small_target
from support.kernel_timings import prefer_quantized
from support.tiny import tiny_llama, tiny_target
from torch import Tensor

from skipopt.decoding.api import generate, generate_rounds
from skipopt.draft_config import DraftConfig
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.errors import DraftConfigWarning, UsageError
from skipopt.kernels import quantized_linear
from skipopt.kernels.native import native_kernels
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.runtime.attention_mask import SINKS
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import CHECKS, LENGTH, PROMPTS, Case, Check

INT8, INT4, SHORT = (
    DraftConfig(weight_bits=8),
    DraftConfig(weight_bits=4),
    DraftConfig(attention_window=2),
)
BOTH = DraftConfig(weight_bits=8, attention_window=3)
MIXED = DraftConfig(4, head_bits=8, int8_layers=(0,))
EVERY = (INT8, INT4, SHORT, BOTH, MIXED)
TEXT = [(7 * i * i + 3) % 64 for i in range(24)]


@pytest.fixture(autouse=True)
def quantized_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantized kernels always win; a draft setting that is left out is an error."""
    prefer_quantized(monkeypatch)
    warnings.simplefilter("error", DraftConfigWarning)


@pytest.fixture(scope="module")
def target() -> Target:
    return small_target()


def profile_of(
    target: Target, draft_config: DraftConfig, skip: bool = True, gamma: int = 4
) -> Profile:
    mask = SkipMask.of(target.depth, [1], [1]) if skip else SkipMask.empty(target.depth)
    return Profile.build(target, mask, gamma=gamma, tau=0.0, draft_config=draft_config)


def statistics(target: Target, profile: Profile, count: int = 40) -> Statistics:
    rounds: list[Any] = []
    for prompt in PROMPTS[:4]:
        rounds += generate_rounds(target, prompt, profile=profile, max_new_tokens=count)
    return Statistics.of(rounds)


# --- the text


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_drafts_with_draft_configs_keep_the_contract(target: Target, check: Check) -> None:
    """`tests/contract` has other methods and settings."""
    check(Case(target, "layer-skip", profile_of(target, BOTH)))


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [1, 3, 6])
def test_the_text_is_that_of_plain_decoding_for_every_draft_length(
    target: Target, gamma: int
) -> None:
    """With skipped sublayers and without."""
    for skip in (True, False):
        case = Case(target, "layer-skip", profile_of(target, BOTH, skip, gamma))
        contract.check_greedy_text(case, PROMPTS[:3])
        contract.check_end_of_text(case)
        contract.check_sampled_text(case, PROMPTS[:1])


@pytest.mark.slow
def test_no_profile_is_needed(target: Target) -> None:
    contract.check_greedy_text(Case(target, "layer-skip:quant=int8:window=3"))


def test_text_continues_to_the_end_of_the_context() -> None:
    target = small_target(context=48)
    contract.check_context_end(Case(target, "layer-skip", profile_of(target, BOTH)), reach=4)


@pytest.mark.slow
@pytest.mark.parametrize("draft_config", [INT8, SHORT, BOTH, MIXED], ids=str)
def test_some_drafts_are_rejected_and_some_accepted(draft_config: DraftConfig) -> None:
    """A draft config must change drafts, but not make all of them wrong."""
    target = tiny_target(tiny_llama(layers=3, gain=3.0))
    found = statistics(target, profile_of(target, draft_config, skip=False))
    assert found.acceptance_rate is not None
    assert 0 < found.acceptance_rate < 1
    whole = statistics(target, profile_of(target, DraftConfig(), skip=False))
    assert whole.acceptance_rate == 1


def test_packed_kernels_do_not_replace_quantized_drafts() -> None:
    """Packed layers are applied in every forward, drafts included."""
    target = make_target(tiny_llama(), None, runtime="prepacked")
    engines = [Engine(target, 32) for _ in range(2)]
    for engine in engines:
        engine.prefill(TEXT)
    own = engines[0].step([5])
    with engines[1].draft_mode(SkipMask.empty(target.depth), INT8):
        coarse = engines[1].step([5])
    assert not torch.equal(own, coarse)
    assert torch.allclose(own, coarse, atol=0.1 * float(own.abs().max()))


# --- attention windows


def seeing(target: Target, text: list[int], seen: list[int]) -> Tensor:
    """Logits after the last token of `text` if it attends to these positions only."""
    engine = Engine(target, len(text) + 1)
    engine.prefill(text[:-1])
    attends = torch.zeros(1, len(text), dtype=torch.bool)
    attends[0, seen] = True
    return engine.step_tree(text[-1:], [len(text) - 1], attends)


@pytest.mark.parametrize("window", [1, 5, 19, 20, 21, 100])
def test_a_step_sees_the_first_few_and_the_latest_positions(target: Target, window: int) -> None:
    engine = Engine(target, 64)
    engine.prefill(TEXT[:-1])
    with engine.draft_mode(SkipMask.empty(target.depth), DraftConfig(attention_window=window)):
        found = engine.step(TEXT[-1:])
    count = len(TEXT)
    seen = [i for i in range(count) if i < SINKS or i >= count - window]
    assert torch.allclose(found, seeing(target, TEXT, seen), atol=1e-5)
    whole = seeing(target, TEXT, list(range(count)))
    assert torch.allclose(found, whole, atol=1e-5) == (SINKS + window >= count)


def test_a_later_step_attends_to_earlier_draft_tokens(target: Target) -> None:
    """The window moves with the draft."""
    draft_config, empty = DraftConfig(attention_window=3), SkipMask.empty(target.depth)
    engine = Engine(target, 64)
    engine.prefill(TEXT[:10])
    with engine.draft_mode(empty, draft_config):
        for token in TEXT[10:14]:
            found = engine.step([token])
    other = Engine(target, 64)
    other.prefill(TEXT[:10])
    for i in range(10, 14):
        attends = torch.zeros(1, i + 1, dtype=torch.bool)
        attends[0, [*range(SINKS), *range(i - 2, i + 1)]] = True
        expected = other.step_tree([TEXT[i]], [i], attends)
    assert torch.allclose(found, expected, atol=1e-5)


def test_after_a_draft_all_positions_are_attended_to_again(target: Target) -> None:
    engine = Engine(target, 64)
    engine.prefill(TEXT[:-1])
    drafting = engine.draft_mode(SkipMask.empty(target.depth), BOTH)
    with pytest.raises(RuntimeError, match="inside"), drafting:
        raise RuntimeError("inside")
    fresh = Engine(target, 64)
    fresh.prefill(TEXT[:-1])
    assert torch.equal(engine.step(TEXT[-1:]), fresh.step(TEXT[-1:]))


# --- memory


def test_only_weights_that_drafts_read_are_copied() -> None:
    target, draft_config = small_target(), DraftConfig(weight_bits=8)
    matrices = 32 * (32 + 32 + 16 + 16 + 3 * 48)  # q, o, k, v and the MLP's of one layer
    head = 64 * 32
    statistics(target, profile_of(target, draft_config), 4)  # skips the whole second layer
    skipping = target.runtime.quantized.extra_bytes
    assert 2 * matrices + head <= skipping < 1.2 * (2 * matrices + head)
    statistics(target, profile_of(target, draft_config, skip=False), 4)
    assert target.runtime.quantized.extra_bytes - skipping == pytest.approx(matrices, rel=0.2)


def test_without_draft_configs_nothing_is_copied() -> None:
    target = small_target()
    statistics(target, profile_of(target, DraftConfig()), 4)
    assert target.runtime.quantized.extra_bytes == 0


# --- unsupported settings


def absent(layer: Any) -> Any:
    raise NotImplementedError


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_linear, "KERNELS", {8: (absent,), 4: (absent,)})


def texts(target: Target, profile: Profile) -> list[list[int]]:
    return [
        [token.id for token in generate(target, p, profile=profile, max_new_tokens=LENGTH)]
        for p in PROMPTS[:3]
    ]


def test_a_profile_for_a_machine_without_the_kernel_drafts_without_it(no_kernels: None) -> None:
    target = small_target()
    with pytest.warns(DraftConfigWarning, match="drafts do without int8") as shown:
        found = texts(target, profile_of(target, BOTH))
    assert all("window" not in str(each.message) for each in shown)
    assert found == [contract.plain(target, tuple(p)) for p in PROMPTS[:3]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DraftConfigWarning)
        drafter = LayerSkipDrafter(target, SkipMask.of(3, [1], [1]), draft_config=BOTH)
        config = drafter.draft_model.config
    assert config == DraftConfig(attention_window=3)


def test_the_warning_is_shown_once(no_kernels: None) -> None:
    """Python shows a warning with the same text and location once."""
    target = small_target()
    profile = profile_of(target, INT8)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default", DraftConfigWarning)
        texts(target, profile)
    assert len(shown) == 1


def test_nothing_is_drafted_where_the_draft_would_be_the_target(no_kernels: None) -> None:
    """Such drafts would have the target's cost."""
    target = small_target()
    with pytest.warns(DraftConfigWarning):
        found = statistics(target, profile_of(target, INT8, skip=False))
    assert found.drafted == 0


def test_where_int8_is_slower_the_timings_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_linear, "measure_seconds", lambda *_: 1.0)
    target = small_target()
    with pytest.warns(DraftConfigWarning, match=r"int8 does not pay here: .* 1\.00 of the time"):
        texts(target, profile_of(target, INT8))


@pytest.mark.parametrize("name", ["mistral", "qwen2 sliding"])
def test_models_with_sliding_windows_ignore_a_window_with_a_warning(name: str) -> None:
    target = make_target(build(name), None, runtime="eager")
    with pytest.warns(DraftConfigWarning, match=r"do without window=2.*windows of its own"):
        found = texts(target, profile_of(target, SHORT))
    assert found == [contract.plain(target, tuple(p)) for p in PROMPTS[:3]]


# --- bits of single weights


@pytest.mark.parametrize("runtime", ["eager", "captured", "native"])
def test_each_weight_is_read_in_its_own_bits(runtime: str) -> None:
    """A draft step is that of a model whose weights have the copies' values, and of no other."""
    if runtime == "native" and native_kernels() is None:
        pytest.skip("the native kernels are not built")
    target = tiny_target(tiny_llama(width=128), runtime=runtime)
    texts = ("none", "head=int8", "int4", "int4+head=int8", "int4+int8_layers=0-2", "int8")
    configs = [DraftConfig.parse(text) for text in texts]
    wanted = [draft_logits(with_copies(target, each), DraftConfig()) for each in configs]
    for index, config in enumerate(configs):
        found = draft_logits(target, config)
        distances = [float((found - each).norm()) for each in wanted]
        assert distances[index] < 0.7 * min(distances[:index] + distances[index + 1 :])


def with_copies(target: Target, config: DraftConfig) -> Target:
    """A model of its own whose weights are those that drafts read."""
    model, kernels = copy.deepcopy(target.model), target.runtime.quantized._kernels
    weights = config.weights
    bits = {f"model.layers.{i}": weights and weights.of_layer(i) for i in range(target.depth)}
    bits["lm_head"] = weights and weights.head
    for name, width in bits.items():
        for layer in model.get_submodule(name).modules():
            if isinstance(layer, torch.nn.Linear) and width is not None:
                eye = torch.eye(layer.in_features)[None]
                layer.weight.data = kernels[width][0](layer).many_rows(eye)[0].t().contiguous()
    return tiny_target(model)


def draft_logits(target: Target, config: DraftConfig) -> Tensor:
    """After one token: nothing is read from the cache that other weights wrote."""
    engine = Engine(target, 8)
    with target.runtime.capture_immediately(), engine.draft_mode(SkipMask.empty(3), config):
        return engine.step([5])


# --- options


def test_options_of_a_method_override_the_profile(target: Target) -> None:
    profile = profile_of(target, BOTH)
    cases = {
        "quant=none:window=none": DraftConfig(),
        "quant=none": DraftConfig(attention_window=3),
        "quant=int4:window=none": INT4,
        "window=9": DraftConfig(weight_bits=8, attention_window=9),
        "head=int4": DraftConfig(8, 3, 4),
        "quant=int4:int8_layers=2-0": DraftConfig(4, 3, None, (0, 2)),
    }
    for options, expected in cases.items():
        method = f"layer-skip:{options}"
        way = contract.make_decoding(
            target, contract.resolve_method(profile, method), profile, contract.GREEDY
        )
        assert isinstance(way.drafter, LayerSkipDrafter)
        assert way.drafter.draft_model.config == expected


def test_an_exit_ignores_the_profiles_draft_config(target: Target) -> None:
    """The config was found for the profile's mask, and reused layers need the target's own
    weights.
    """
    case = Case(target, "layer-skip:exit_layer=1:reuse_exit_state=yes", profile_of(target, BOTH))
    contract.check_greedy_text(case, PROMPTS[:3])


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ("layer-skip:quant=int3", "quant is 'int3', expected int8 or int4 or none"),
        ("layer-skip:exit_layer=1:reuse_exit_state=yes:quant=int8", "own layers, not int8"),
        ("layer-skip:quant=none:window=none", "needs a mask"),
        ("jacobi:quant=int8", "no option 'quant'"),
        ("rsd-c:quant=int3", "quant is 'int3', expected int8 or int4 or none"),
        ("cascade:window=none", "needs a mask"),
        ("layer-skip:quant=int4:int8_layers=3", "int8_layers names layer 3, and the last is 2"),
        ("layer-skip:quant=int8:int8_layers=1", "int8_layers needs int4"),
    ],
)
def test_contradictory_options_are_refused(target: Target, method: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        generate_rounds(target, TEXT, method=method, max_new_tokens=2)


# --- in a profile


@pytest.mark.parametrize("draft_config", [*EVERY, DraftConfig()], ids=str)
def test_draft_configs_come_back_from_a_file(target: Target, draft_config: DraftConfig) -> None:
    profile = profile_of(target, draft_config)
    text = profile.to_yaml()
    assert Profile.parse(text, "here") == profile
    assert Profile.parse(text, "here").draft_config == draft_config
