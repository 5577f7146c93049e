"""Texts decoded in several threads are those of one thread."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support.native import needs_native
from support.tiny import byte_tokenizer, hf_greedy, tiny_llama, tiny_target

import skipopt
from skipopt.decoding.api import generate
from skipopt.decoding.text import stream_generate
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_streams_of_text_take_turns(often_switching: None, runtime: str) -> None:
    model = tiny_llama(3, vocabulary=300)
    target = tiny_target(model, byte_tokenizer(), runtime=runtime)

    def streamed(method: str, prompt: str) -> str:
        pieces = stream_generate(target, prompt, method=method, max_new_tokens=20)
        return "".join(piece.text for piece in pieces)

    prompts = ("one two", "three")
    alone = [streamed("plain", prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(streamed, METHODS[i % 4], prompts[i % 2]) for i in range(12)]
        assert [job.result() for job in jobs] == alone * 6


@pytest.mark.parametrize("decoders", [1, 2])
def test_generate_takes_turns_with_decoders_that_threads_share(
    often_switching: None, decoders: int
) -> None:
    """Also where one decoder is used with two models."""
    models = [tiny_llama(3), tiny_llama(3, seed=1)]
    alone = [hf_greedy(tiny_target(model), PROMPTS[0], 20) for model in models]
    shared = [skipopt.decoder(method=METHODS[i]) for i in range(decoders)]

    def generated(i: int) -> list[int]:
        ids = torch.tensor([PROMPTS[0]])
        found = models[i % 2].generate(
            ids,
            attention_mask=torch.ones_like(ids),
            custom_generate=shared[i // 2 % decoders],
            max_new_tokens=20,
            do_sample=False,
            pad_token_id=0,
        )
        tokens: list[int] = found[0, ids.shape[1] :].tolist()
        return tokens

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(generated, i) for i in range(12)]
        assert [job.result() for job in jobs] == alone * 6


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_sampled_texts_take_turns(often_switching: None, runtime: str) -> None:
    target = tiny_target(tiny_llama(3), runtime=runtime)

    def sampled(i: int) -> list[int]:
        method = METHODS[i % 4] + ":verify=match" * (i % 4 != 3)
        tokens = generate(
            target, PROMPTS[i % 2], method=method, max_new_tokens=20, temperature=1.0, seed=3
        )
        return [token.id for token in tokens]

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(sampled, i) for i in range(12)]
        found = [job.result() for job in jobs]
    assert found == [sampled(i) for i in range(12)]


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
