"""The server, asked by the client of OpenAI: answers are the texts that are decoded offline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from support.servers import serving
from support.tiny import byte_tokenizer, tiny_llama, tiny_target

import skipopt
from skipopt.models.target import Target
from skipopt.profile import Profile

openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

KEY = "secret"
PROMPTS = [f"def f{i}(a, b):" for i in range(6)]
LENGTH = 24


@pytest.fixture(scope="module")
def target() -> Target:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    return tiny_target(tiny_llama(vocabulary=257, gain=0.6), tokenizer)


@pytest.fixture(scope="module")
def profile(target: Target) -> Profile:
    return Profile.by_hand(target, attention=[1], mlp=[1, 2], gamma=4)


@pytest.fixture(scope="module")
def address(target: Target, profile: Profile) -> Iterator[str]:
    from skipopt.serving.server import Limits

    limits = Limits(max_prompt_tokens=64, max_new_tokens=100, max_queue=8, max_body_bytes=10_000)
    with serving(target, profile, limits=limits, api_key=KEY) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)


def offline(target: Target, prompt: Any, **options: Any) -> str:
    """Plain greedy text, without the special tokens that the server leaves out."""
    made = skipopt.complete(target, prompt, **{"max_new_tokens": LENGTH, **options})
    text: str = target.tokenizer.decode(made.tokens, skip_special_tokens=True)
    return text


def metrics(address: str) -> dict[str, float]:
    import urllib.request

    request = urllib.request.Request(
        f"{address}/metrics", headers={"Authorization": f"Bearer {KEY}"}
    )
    lines = urllib.request.urlopen(request).read().decode().splitlines()
    return {name: float(n) for name, n in (x.split() for x in lines if not x.startswith("#"))}


def test_completions_are_the_offline_texts_whole_and_streamed(
    target: Target, client: Any, address: str
) -> None:
    settings = {"model": "any", "max_tokens": LENGTH, "temperature": 0}

    def ask(prompt: str) -> tuple[str, str]:
        whole = client.completions.create(prompt=prompt, **settings)
        stream = client.completions.create(prompt=prompt, stream=True, **settings)
        return whole.choices[0].text, "".join(chunk.choices[0].text for chunk in stream)

    before = metrics(address)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, PROMPTS))
    for prompt, (whole, streamed) in zip(PROMPTS, answers, strict=True):
        assert whole == offline(target, prompt)
        assert streamed.rstrip("\ufffd") == whole.rstrip("\ufffd")
    now = metrics(address)
    name = "skipopt:spec_decode_num_{}_tokens_total"
    assert now["skipopt:generation_tokens_total"] > before["skipopt:generation_tokens_total"]
    assert now[name.format("draft")] > now[name.format("accepted")] > 0
    by_position = [n for key, n in now.items() if "per_pos" in key]
    assert sum(by_position) == now[name.format("accepted")]
    assert now["skipopt:num_requests_running_or_waiting"] == 0


def test_chats_and_stop_strings(target: Target, client: Any) -> None:
    chat = [{"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(
        model="any", messages=chat, max_tokens=LENGTH, temperature=0
    )
    expected = offline(target, chat)
    assert answer.choices[0].message.content == expected
    assert answer.usage.prompt_tokens == len("<user>hi<assistant>")
    stop = next(c for i, c in enumerate(expected) if c.isascii() and i > 3)
    short = client.chat.completions.create(
        model="any", messages=chat, max_tokens=LENGTH, temperature=0, stop=[stop]
    )
    assert short.choices[0].finish_reason == "stop"
    assert short.choices[0].message.content == expected[: expected.index(stop) + 1]


def test_a_client_that_goes_away_frees_the_model(client: Any, address: str) -> None:
    settings = {"model": "any", "prompt": "a", "max_tokens": 100, "temperature": 0}
    before = metrics(address)["skipopt:generation_tokens_total"]
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.001).completions.create(**settings)
    stream = client.completions.create(stream=True, **settings)
    next(iter(stream))
    stream.close()
    end = time.monotonic() + 30
    while metrics(address)["skipopt:num_requests_running_or_waiting"]:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert metrics(address)["skipopt:generation_tokens_total"] - before < 200


def test_what_is_not_allowed_is_refused(client: Any, address: str, target: Target) -> None:
    create = client.completions.create
    with pytest.raises(openai.BadRequestError, match="65 tokens, expected 1 to 64"):
        create(model="any", prompt="x" * 65)
    with pytest.raises(openai.APIStatusError, match="10000 bytes"):
        create(model="any", prompt="x" * 10_001)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.post("/load_model", body={"model": "x"}, cast_to=object)
    assert client.models.list().data[0].id == target.model_id
    answer = create(model="any", prompt="def", max_tokens=1000, temperature=0)
    assert answer.usage.completion_tokens <= 100


def test_a_full_queue_is_told(target: Target, profile: Profile) -> None:
    from fastapi import HTTPException

    from skipopt.decoding.transformers_integration import Decoder
    from skipopt.serving.managers import Worker
    from skipopt.serving.server import Limits
    from skipopt.serving.server_metrics import ServerMetrics

    counts = ServerMetrics()
    worker = Worker(replace(target), Decoder(profile, None), Limits(max_queue=1), counts)
    worker.admit()
    with pytest.raises(HTTPException) as refusal:
        worker.admit()
    assert (refusal.value.status_code, counts.refused) == (503, 1)
    worker.leave()
    worker.admit()
