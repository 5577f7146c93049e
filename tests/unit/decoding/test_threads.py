"""Texts decoded in several threads are those of one thread."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.native import needs_native
from support.tiny import tiny_llama, tiny_target

from skipopt.decoding.api import generate
from skipopt.draft_config import DraftConfig
from skipopt.masks import SkipMask
from skipopt.models.model_lock import model_lock
from skipopt.models.target import Target
from skipopt.scoring import ScoredText, Scorer

PROMPTS = ([3, 1, 4, 1, 5], [2, 7, 1, 8, 2])
METHODS = ("layer-skip:exit_layer=2:gamma=3", "prompt-lookup", "rsd-s:exit_layer=1", "plain")
RUNTIMES = ("eager", pytest.param("native", marks=needs_native), "captured")


@pytest.fixture
def often_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def text(target: Target, method: str, prompt: list[int]) -> list[int]:
    return [t.id for t in generate(target, prompt, method=method, max_new_tokens=20)]


def patched(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("targets", [1, 2])
def test_threads_take_turns(often_switching: None, runtime: str, targets: int) -> None:
    model = tiny_llama(3)
    made = [tiny_target(model, runtime=runtime) for _ in range(targets)]
    before = patched(model)
    plain = [text(made[0], "plain", prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            (i % 2, pool.submit(text, made[i % targets], METHODS[i % 4], PROMPTS[i % 2]))
            for i in range(12)
        ]
        found = [job.result() == plain[prompt] for prompt, job in jobs]
    assert found == [True] * 12
    assert patched(model) == before
    assert text(made[0], METHODS[0], PROMPTS[0]) == plain[0]


def test_masks_are_scored_beside_decoding(often_switching: None) -> None:
    model = tiny_llama(3)
    target = tiny_target(model)
    plain = text(target, "plain", PROMPTS[0])
    scored = ScoredText((*PROMPTS[0], *plain), len(PROMPTS[0]))
    scorer = Scorer(target, [scored], draft_config=DraftConfig(attention_window=2))
    masks = [SkipMask.of(3, [i], [j]) for i in range(3) for j in range(3)]
    alone = [trace.matchness for trace in scorer.score(masks)]
    with ThreadPoolExecutor(1) as decoding, ThreadPoolExecutor(1) as scoring:
        texts = [decoding.submit(text, target, METHODS[0], PROMPTS[0]) for _ in range(6)]
        scores = [scoring.submit(scorer.score, masks) for _ in range(20)]
        assert all(job.result() == plain for job in texts)
        for job in scores:
            assert [trace.matchness for trace in job.result()] == alone


def test_a_copied_model_has_a_lock_of_its_own() -> None:
    model = tiny_llama(3)
    with model_lock(model):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for each in copies:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(model_lock(each).__enter__).result(timeout=10)
