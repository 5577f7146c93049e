"""Reported memory: weights, their copies and the kept cache."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest
import torch
from support.kernel_timings import prefer_packed, prefer_quantized
from support.tiny import tiny_llama, tiny_target
from torch import Tensor, nn

from skipopt.decoding.api import generate
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.memory_usage import Memory
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.draft_mode import draft_weight_bytes
from skipopt.runtime.engine import Engine
from skipopt.runtime.step_cache import StepCache


@pytest.fixture(autouse=True)
def faster_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch cannot pack weights")
    prefer_packed(monkeypatch)
    prefer_quantized(monkeypatch)


def size(tensors: list[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def linear_weights(target: Target, *names: str) -> list[Tensor]:
    """Weights of all linear layers, or of those with one of the names."""
    modules = target.model.named_modules()
    linears = {name: m for name, m in modules if isinstance(m, nn.Linear)}
    return [m.weight for name, m in linears.items() if name.endswith(names or ("",))]


def decode(target: Target, draft_config: DraftConfig | None = None, count: int = 8) -> None:
    profile = None
    if draft_config is not None:
        mask = SkipMask.of(target.depth, [1], [1])
        profile = Profile.build(target, mask, gamma=3, tau=0.0, draft_config=draft_config)
    assert len(list(generate(target, [3, 4, 5], profile=profile, max_new_tokens=count))) == count
    gc.collect()


def kept(target: Target) -> StepCache:
    [steps] = target.runtime.step_caches.idle
    assert isinstance(steps, StepCache)
    return steps


def test_eager_decoding_has_the_weights_only() -> None:
    target = tiny_target(tiny_llama(), runtime="eager")
    decode(target)
    assert target.memory == Memory(size(list(target.model.parameters())))
    assert not target.memory.extra


def test_tied_weights_are_counted_once() -> None:
    model = tiny_llama()
    model.lm_head.weight = model.get_input_embeddings().weight
    own = size(list(model.parameters()))
    assert tiny_target(model, runtime="eager").memory.weights == own
    assert own == size(list(tiny_llama().parameters())) - 64 * 32 * 4


def test_saved_buffers_count_as_weights() -> None:
    model = tiny_llama()
    before = tiny_target(model, runtime="eager").memory.weights
    model.register_buffer("integers", torch.zeros(10, dtype=torch.int32))
    assert tiny_target(model, runtime="eager").memory.weights == before + 40


def test_prepacked_copies_are_as_large_as_their_originals() -> None:
    target = tiny_target(tiny_llama(), runtime="prepacked")
    decode(target)
    assert target.memory.prepacked_weights == size(linear_weights(target)) > 0
    weights = target.memory.weights
    assert target.memory == Memory(weights, target.memory.prepacked_weights)


def test_fused_copies_and_the_cache_are_those_of_the_captured_steps() -> None:
    target = tiny_target(tiny_llama(), runtime="captured")
    assert (target.memory.fused_weights, target.memory.cache) == (0, 0)
    decode(target)
    steps = kept(target)
    fused = linear_weights(target, "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    assert target.memory.fused_weights == size(fused) > 0
    pairs = steps.cache.contents()
    assert target.memory.cache == size([held for pair in pairs for held in pair]) > 0


def test_captured_steps_in_use_count_and_replaced_ones_do_not() -> None:
    """Steps with a longer cache are captured again, and fuse their weights again."""
    target = tiny_target(tiny_llama(), runtime="captured")
    decode(target)
    first = target.memory
    engine = Engine(target, kept(target).capacity + 1)
    engine.step([3])
    gc.collect()
    assert not target.runtime.step_caches.idle
    assert target.memory.fused_weights == first.fused_weights
    assert target.memory.cache > first.cache


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "captured"])
def test_quantized_copies_count_once_they_are_made(runtime: str) -> None:
    target = tiny_target(tiny_llama(), runtime=runtime)
    decode(target, DraftConfig(attention_window=2))
    assert target.memory.quantized_weights == 0
    decode(target, DraftConfig(weight_bits=8))
    once = target.memory.quantized_weights
    assert once > 0
    decode(target, DraftConfig(weight_bits=8))
    assert target.memory.quantized_weights == once


def quantized_bytes(target: Target, masks: Sequence[SkipMask], config: DraftConfig) -> int:
    return draft_weight_bytes(target, masks, config).quantized_weights


def test_a_profile_counts_the_quantized_copies_that_its_masks_read() -> None:
    target = tiny_target(tiny_llama(), runtime="eager")
    masks = [SkipMask.of(3, range(3), range(3)), SkipMask.of(3, [0, 1], range(3))]
    int8, int4 = DraftConfig(weight_bits=8), DraftConfig(weight_bits=4)
    assert quantized_bytes(target, masks, int8) == 0, "none has been made"
    patched = [*target.layers[2].block.module.modules(), target.model.lm_head]
    target.runtime.quantized.replacements(dict.fromkeys(patched, 8))
    target.runtime.quantized.replacements(dict.fromkeys(patched, 4))
    head, attention = 64 * 32, 32 * (32 + 16 + 16 + 32)
    counted = [quantized_bytes(target, given, int8) for given in (masks[:1], masks)]
    assert counted == [
        pytest.approx(head, rel=0.15),
        pytest.approx(head + attention, rel=0.15),
    ]
    assert quantized_bytes(target, masks, UNCHANGED) == 0
    assert 0 < quantized_bytes(target, masks, int4) < counted[1] < target.memory.quantized_weights


def test_memory_is_in_the_environment_record_and_in_profiles() -> None:
    target = tiny_target(tiny_llama(), runtime="captured")
    decode(target, DraftConfig(weight_bits=8))
    record = environment_of(target)
    profile = Profile.build(target, SkipMask.empty(3), gamma=1, tau=0.0, environment=record)
    again = Profile.parse(profile.to_yaml(), "p.yaml")
    assert again.environment is not None
    assert again.environment.memory is not None
    assert again.environment.memory.memory == target.memory


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (Memory(45_650_688), "weights 45.7 MB"),
        (Memory(1, cache=60_000), "weights 0.0 MB + KV cache 0.1 MB"),
        (
            Memory(10**9, prepacked_weights=10**8, fused_weights=1, quantized_weights=2 * 10**6),
            "weights 1000.0 MB + prepacked copies 100.0 MB + fused copies 0.0 MB"
            " + quantized copies 2.0 MB",
        ),
    ],
)
def test_memory_is_printed_in_megabytes_without_zeros(memory: Memory, words: str) -> None:
    assert str(memory) == words
