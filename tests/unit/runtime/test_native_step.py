"""Steps on the native kernels: the model's own results, for any rows, from its own weights."""

from __future__ import annotations

import gc

import pytest
import torch
from support.architectures import FORMS, build
from support.native import needs_native, recorded
from support.step_cache import PROMPT, near
from support.tiny import tiny_llama, tiny_target
from torch import nn

from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target

pytestmark = needs_native

# Experts are chosen by values; rotations by complex numbers.
NOT_NATIVE = ("mixtral", "llama4")


def native(target: Target | None = None) -> Engine:
    engine = Engine(target or tiny_target(tiny_llama(3), runtime="native"), 64)
    engine.prefill(PROMPT)
    return engine


def eager_logits(target: Target, tokens: list[int]) -> torch.Tensor:
    """Logits of the model's modules, as they are now."""
    engine = Engine(target, 64, captured=False)
    engine.prefill(PROMPT)
    return engine.step(tokens)


@pytest.mark.parametrize("name", FORMS)
def test_every_architecture_is_native_or_has_a_reason(name: str) -> None:
    """One captured step serves all numbers of rows, past the end of a sliding window too."""
    notices: list[str] = []
    target = make_target(build(name), None, runtime="native", on_notice=notices.append)
    reference = tiny_target(build(name), runtime="eager")
    mask = SkipMask.of(target.depth, [1], [0])
    engines = [Engine(each, 48) for each in (target, reference)]
    for engine in engines:
        engine.prefill(PROMPT)
    for rows in (1, 2, 9, 5):
        tokens = list(range(2, 2 + rows))
        with skipping(target, mask), skipping(reference, mask):
            assert near(*(engine.step(tokens) for engine in engines))
        for engine in engines:
            engine.rewind(engine.position - rows)
        assert near(*(engine.step(tokens) for engine in engines))
    if name in NOT_NATIVE:
        assert "steps are not native" in notices[0]
    else:
        assert notices == []
        assert target.runtime.name == "native"
        assert target.runtime.step_caches.num_captured == 2


def test_verification_gives_the_very_numbers_of_plain_decoding() -> None:
    """Bit for bit: a token is as likely among others as alone."""
    tokens = [4, 8, 1, 30, 2, 2, 17, 5, 9]
    one, several = native(), native()
    alone = torch.cat([one.step([token]) for token in tokens])
    assert torch.equal(alone, several.step(tokens))


@pytest.mark.parametrize("draft", ["a token", "a tree"])
def test_a_windowed_draft_is_native_and_reads_what_the_modules_do(draft: str) -> None:
    """Far behind the window, so that whole blocks of keys are hidden."""
    text = [(7 * i * i + 3) % 64 for i in range(200)]
    config, found = DraftConfig(attention_window=9), []
    for runtime in ("native", "eager"):
        target = tiny_target(tiny_llama(3), runtime=runtime)
        engine = Engine(target, 220)
        engine.prefill(text)
        with engine.draft_mode(SkipMask.empty(3), config):
            found.append(engine.step([5]))
            if draft == "a tree":
                attends = torch.tensor([[True, True, False], [True, False, True]])
                found[-1] = engine.step_tree([6, 7], [1, 1], attends)
        assert target.runtime.name == runtime
        captured = target.runtime.step_caches.num_captured
        assert captured == (0 if runtime == "eager" else 2 if draft == "a tree" else 1)
        assert not near(found[-1], whole_step(engine, text, draft))
    assert near(*found)


def whole_step(engine: Engine, text: list[int], draft: str) -> torch.Tensor:
    """The same without a window."""
    engine.rewind(len(text))
    logits = engine.step([5])
    if draft == "a token":
        return logits
    attends = torch.tensor([[True, True, False], [True, False, True]])
    return engine.step_tree([6, 7], [1, 1], attends)


def test_bfloat16_models_are_native_and_verification_is_exact_too() -> None:
    tokens = [4, 8, 1, 30, 2]
    model = tiny_llama(3).to(torch.bfloat16)
    engines = [native(tiny_target(model, runtime="native")) for _ in range(2)]
    alone = torch.cat([engines[0].step([token]) for token in tokens])
    assert engines[0].target.runtime.name == "native"
    assert torch.equal(alone, engines[1].step(tokens))
    eager = native(tiny_target(model, runtime="eager")).step(tokens)
    assert (alone - eager).abs().max() < 0.03 * eager.abs().max()


def test_trees_embeddings_and_hidden_states_are_the_models() -> None:
    engines = [
        native(tiny_target(tiny_llama(3), runtime=runtime)) for runtime in ("native", "eager")
    ]
    attends = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    for engine in engines:
        engine.keeps_hidden = True
    assert near(*(engine.step_tree([3, 4, 5], [0, 1, 1], attends) for engine in engines))
    first, second = (engine.hidden for engine in engines)
    assert first is not None
    assert second is not None
    assert near(first, second)
    embedded = [engine.embed([7, 8]) for engine in engines]
    both = torch.ones(2, 2, dtype=torch.bool).tril()
    pairs = zip(engines, embedded, strict=True)
    assert near(*(engine.step_tree(each, [0, 1], both) for engine, each in pairs))


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_drafts_are_those_of_the_modules(bits: int) -> None:
    target = tiny_target(build("qwen3"), runtime="native")
    mask = SkipMask.empty(target.depth)
    found = []
    for captured in (True, False):
        engine = Engine(target, 64, captured=captured)
        engine.prefill(PROMPT)
        with engine.draft_mode(mask, DraftConfig(bits)):
            found.append(engine.step([5]))
    assert (found[0] - found[1]).abs().max() < 0.05 * found[1].abs().max()


@pytest.mark.parametrize("change", ["values", "parameter", "state", "module", "forward"])
def test_steps_never_go_stale(change: str) -> None:
    target = tiny_target(tiny_llama(3), runtime="native")
    engine = native(target)
    before = engine.step([4, 5])
    del engine
    gc.collect()
    projection = target.model.model.layers[1].mlp.down_proj
    new = 3 * projection.weight.detach()
    if change == "values":
        projection.weight.data.mul_(3)
    elif change == "parameter":
        projection.weight = nn.Parameter(new)
    elif change == "state":
        target.model.load_state_dict({"model.layers.1.mlp.down_proj.weight": new}, strict=False)
    elif change == "module":
        other = nn.Linear(projection.in_features, projection.out_features, bias=False)
        other.weight = nn.Parameter(new)
        target.model.model.layers[1].mlp.down_proj = other
    else:
        own = projection.forward
        projection.forward = lambda x: 3 * own(x)  # type: ignore[method-assign]
    found = native(target).step([4, 5])
    assert near(found, eager_logits(target, [4, 5]))
    assert not near(found, before)


def test_the_time_of_each_instruction_is_told_and_the_results_are_the_same() -> None:
    weight = torch.randn(40, 64)

    def call(x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.nn.functional.linear(x * 2, weight).mean(-1)]

    step = recorded(call, lambda rows: [torch.randn(rows, 64)])
    x = torch.randn(3, 64)
    before = step(x)[0]
    times = step.timed(x)
    labels = [label for label, _ in times]
    assert labels == ["pointwise mul", "linear 64 to 40, float32", "reduce mean"]
    assert all(0 < seconds < 10 for _, seconds in times)
    assert torch.equal(step(x)[0], before)


def test_results_have_memory_of_their_own_for_the_rows_that_there_are() -> None:
    weight = torch.randn(4096, 64)

    def call(x: torch.Tensor) -> list[torch.Tensor]:
        """Logits, a part of a larger result, the most likely token, and logits again."""
        logits = torch.nn.functional.linear(x, weight)
        return [logits, (2 * x)[:, :5], logits.argmax(-1), logits]

    step = recorded(call, lambda rows: [torch.randn(rows, 64)])
    first, second = torch.randn(3, 64), torch.randn(5, 64)
    found = step(first)
    step(second)
    for mine, wanted in zip(found, call(first), strict=True):
        assert near(mine, wanted)
    assert len({each.data_ptr() for each in found}) == 4
    assert step.scratch_bytes < 64 * 4096  # of which 64 rows of logits are four times as many


@pytest.mark.parametrize("part", [0, 1])
def test_a_part_of_a_result_is_copied_out_of_scratch_memory(part: int) -> None:
    """The first of two slices begins where their buffer does, which is larger than it."""
    factors = torch.tensor([2.0, 3.0])[:, None, None]

    def call(x: torch.Tensor) -> list[torch.Tensor]:
        return [(x[None] * factors)[part]]

    step = recorded(call, lambda rows: [torch.randn(rows, 64)])
    assert step.scratch_bytes >= 2 * 64 * 64 * 4, "64 rows of both slices"
    x = torch.randn(3, 64)
    assert near(step(x)[0], call(x)[0])
