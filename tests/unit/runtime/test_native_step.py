"""Steps on the native kernels: the model's own results, for any rows, from its own weights."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from support.architectures import FORMS, build
from support.kernel_timings import prefer_quantized
from support.native import kernels, needs_native, recorded
from support.step_cache import PROMPT, near
from support.tiny import tiny_llama, tiny_target
from torch import nn

from skipopt.draft_config import DraftConfig
from skipopt.kernels.native import WeightFormat, int8_weight
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.runtime import native_step
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.runtime.model_runner import ModelRunner
from skipopt.runtime.native_step import NativeStep, Scratch, translation
from skipopt.runtime.step_cache import StepKey

pytestmark = needs_native

# Experts are chosen by values; rotations by complex numbers.
NOT_NATIVE = ("mixtral", "llama4")
QUANTIZED = (
    *(WeightFormat.INT8, WeightFormat.INT8_ROWS),
    *(WeightFormat.INT4, WeightFormat.INT4_ROWS),
)


def native(target: Target | None = None) -> Engine:
    engine = Engine(target or tiny_target(tiny_llama(3), runtime="native"), 64)
    engine.prefill(PROMPT)
    return engine


def calls_of(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of each call of a function from now on."""
    found: list[tuple[Any, ...]] = []
    function = getattr(owner, name)

    def noted(*given: Any, **more: Any) -> Any:
        found.append(given)
        return function(*given, **more)

    monkeypatch.setattr(owner, name, noted)
    return found


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


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *((name, DraftConfig(8)) for name in ("llama", "gemma3", "gpt_neox", "opt", "wide")),
        *(("wide", config) for config in (DraftConfig(4), DraftConfig(4, int8_layers=(1,)))),
    ],
    ids=str,
)
def test_a_quantized_draft_is_the_plain_step_with_other_weights(
    name: str, config: DraftConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not recorded again, and its code is the same as if it were.

    Some layers of the wide model cannot be int4.
    """
    prefer_quantized(monkeypatch)
    recordings = calls_of(native_step, "record", monkeypatch)
    model = tiny_llama(3, width=64) if name == "wide" else build(name)
    target = make_target(model, None, runtime="native")
    engine = native(target)
    codes = []
    engine.step([4])
    for shared in (True, False):
        monkeypatch.setattr(StepKey, "is_shared", shared)
        steps = engine.step_cache
        assert steps is not None
        with engine.draft_mode(SkipMask.empty(target.depth), config):
            before = set(steps._replays)
            engine.greedy_step([5])
        (new,) = set(steps._replays) - before
        step = steps._replays.pop(new)
        assert isinstance(step, NativeStep)
        codes.append(step._code)
        assert len(recordings) == (1 if shared else 2)
    assert codes[0].labels == codes[1].labels
    assert torch.equal(codes[0].words, codes[1].words)
    kinds = {weight.format for weight in codes[0].weights}
    assert kinds & {*QUANTIZED}


def test_weights_of_which_some_round_their_rows_are_read_in_two_products() -> None:
    """The others of the same rows are read as they are."""
    layers = [nn.Linear(64, 32, bias=False) for _ in range(3)]
    row = torch.randn(1, 64)

    def call(x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.cat([layer(x) for layer in layers], 1)]

    with torch.inference_mode():
        found = translation(call, lambda rows: [torch.zeros(rows, 64)], [8, 32, 64])
        copy = int8_weight(layers[1].weight, rows=True)
        other = int8_weight(torch.zeros(16, 64))  # of another shape
        copies = {layers[1].weight.data_ptr(): copy, layers[2].weight.data_ptr(): other}
        plain, quantized = found.code(), found.code(copies=copies)
        assert [len(each) for each in (plain.labels, quantized.labels)] == [4, 5]
        whole, expected = NativeStep(kernels(), quantized, 1, Scratch())(row)[0], call(row)[0]
    error = (whole - expected).abs()[0].view(3, 32).amax(1)
    assert error[1] > 1e-4
    assert error[[0, 2]].max() < 1e-5
    assert error[1] < 0.05 * expected.abs().max()


def test_what_is_not_returned_is_not_computed() -> None:
    cached = torch.zeros(8, 4)

    def call(x: torch.Tensor, slots: torch.Tensor) -> list[torch.Tensor]:
        cached.index_copy_(0, slots, x)
        return [x * 2, (x + 1).argmax(-1)]

    def inputs_of(rows: int) -> list[torch.Tensor]:
        return [torch.zeros(rows, 4), torch.arange(rows)]

    with torch.inference_mode():
        found = translation(call, inputs_of, [8])
        assert found.code().labels == ("index_copy", "pointwise mul", "pointwise add", "largest")
        code = found.code(dropped=1)
        assert code.labels == ("index_copy", "pointwise mul")
        x = torch.randn(3, 4)
        (doubled,) = NativeStep(kernels(), code, 2, Scratch())(x, torch.tensor([5, 0, 2]))
        both = NativeStep(kernels(), found.code(), 2, Scratch())(x, torch.tensor([5, 0, 2]))
    assert torch.equal(doubled, 2 * x)
    assert torch.equal(cached[[5, 0, 2]], x)
    assert torch.equal(both[0], 2 * x)
    assert torch.equal(both[1], x.argmax(-1))


def test_a_draft_of_layers_that_share_a_weight_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address does not tell then which layer reads it."""
    prefer_quantized(monkeypatch)
    recordings = calls_of(native_step, "record", monkeypatch)
    model = tiny_llama(3)
    model.model.layers[2].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    engine = native(tiny_target(model, runtime="native"))
    engine.step([4])
    with engine.draft_mode(SkipMask.empty(3), DraftConfig(8)):
        engine.step([5])
    assert len(recordings) == 2


def test_the_step_of_the_text_is_the_one_that_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capturing a native step runs it once, and the modules for two rows."""
    runs = calls_of(NativeStep, "__call__", monkeypatch)
    forwards = calls_of(ModelRunner, "__call__", monkeypatch)
    engine = native()
    forwards.clear()
    engine.step([4, 8, 1, 30])
    assert len(runs) == 1
    assert [len(given[1]) for given in forwards] == [7, 2]  # recorded, compared
    engine.step([2])
    assert len(runs) == 2


@pytest.mark.parametrize("output", [0, 1])
def test_a_native_step_that_differs_is_refused_at_its_first_use(
    output: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result is not the text's; whether logits differ, or the token chosen."""
    run = NativeStep.__call__

    def differs(self: NativeStep, *given: torch.Tensor) -> list[torch.Tensor]:
        found = run(self, *given)
        found[output][1] += 1
        return found

    monkeypatch.setattr(NativeStep, "__call__", differs)
    notices: list[str] = []
    target = make_target(tiny_llama(3), None, runtime="native", on_notice=notices.append)
    engines = native(target), native(tiny_target(tiny_llama(3), runtime="eager"))
    found, expected = (engine.greedy_step([4, 8, 1]) for engine in engines)
    assert torch.equal(found.tokens, expected.tokens)
    assert near(found.confidences, expected.confidences)
    assert "steps are not native, a replay differs from the model" in notices[0]
    assert near(*(engine.step([9, 2]) for engine in engines))


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
