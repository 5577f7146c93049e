"""What texts, decoders and targets leave behind when they are gone."""

from __future__ import annotations

import copy
import gc
import linecache
import pickle
import weakref
from typing import Any

import pytest
import torch
from support.native import needs_native
from support.tiny import hf_greedy, tiny_llama, tiny_target
from torch import nn
from torch.fx import graph_module

import skipopt
from skipopt.decoding.api import generate
from skipopt.runtime.load import kept_target
from skipopt.runtime.step_cache import StepCache

PROMPT = [5, 9, 60, 3, 7, 5, 9, 60]
METHOD = "layer-skip:exit_layer=2:gamma=3"
RUNTIMES = ("eager", pytest.param("native", marks=needs_native), "captured")


def alive(kind: type) -> int:
    gc.collect()
    return sum(issubclass(type(each), kind) for each in gc.get_objects())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_of_a_deleted_model_stays(runtime: str) -> None:
    model = tiny_llama(3)
    target = tiny_target(model, runtime=runtime)
    for method in ("plain", METHOD):
        list(generate(target, PROMPT, method=method, max_new_tokens=20))
    watched = [weakref.ref(each) for each in (model, target.runtime, model.lm_head)]
    watched += [weakref.ref(each) for each in target.runtime.step_caches.all]
    del model, target
    gc.collect()
    assert [each() for each in watched] == [None] * len(watched)


def test_the_source_of_captured_steps_is_not_kept() -> None:
    target = tiny_target(tiny_llama(3), runtime="captured")
    before = kept_sources()
    list(generate(target, PROMPT, method=METHOD, max_new_tokens=20))
    assert target.runtime.step_caches.num_captured > 2
    assert kept_sources() == before


def kept_sources() -> tuple[int, int]:
    """How many sources Python and fx keep for tracebacks."""
    names = [name for name in linecache.cache if name.startswith("<eval_with_key>")]
    return len(names), len(graph_module._loader.eval_cache)


def generated(model: Any, decoder: Any) -> list[int]:
    ids = torch.tensor([PROMPT])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        custom_generate=decoder,
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
    )
    tokens: list[int] = found[0, ids.shape[1] :].tolist()
    return tokens


@pytest.mark.slow
def test_a_decoder_for_each_call_costs_no_more_than_one() -> None:
    model = tiny_llama(3)
    expected = hf_greedy(tiny_target(model), PROMPT, 20)
    before = alive(StepCache), alive(nn.Module)
    for _ in range(4):
        assert generated(model, skipopt.decoder(method=METHOD)) == expected
    assert alive(StepCache) <= before[0] + 1
    assert alive(nn.Module) == before[1]
    assert kept_target(model).runtime is kept_target(model).runtime
    assert kept_target(model).runtime.step_caches.generation == 0


def test_a_kept_target_goes_with_its_model_and_not_with_copies() -> None:
    model = tiny_llama(3)
    kept = weakref.ref(kept_target(model).runtime)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert kept_target(other).model is other
    del other, model
    gc.collect()
    assert kept() is None


def test_a_kept_target_is_made_anew_for_other_layers() -> None:
    model = tiny_llama(3)
    kept = kept_target(model)
    model.lm_head.weight.data.mul_(-1)
    changed = kept_target(model)
    assert changed.runtime is kept.runtime
    assert changed.fingerprint != kept.fingerprint
    model.model.layers[1] = copy.deepcopy(model.model.layers[0])
    model.model.layers[1].self_attn.layer_idx = 1
    assert kept_target(model).runtime is not kept.runtime
    decoder = skipopt.decoder(method=METHOD)
    assert generated(model, decoder) == hf_greedy(tiny_target(model), PROMPT, 20)
