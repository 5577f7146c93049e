"""Requests to an OpenAI-compatible server, and clients of the package `openai` that send them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from threading import Lock
from typing import Any

from skipopt.prompts import Prompt

LEAVING = 10  # of so many requests, one is left by its client
MOST_PIECES = 8  # of a stream, before its client goes away
FULL = (429, 503)  # statuses of a full queue
MOMENT = 0.5  # seconds before a client asks again that was refused, or met an error
PATIENCE = 300.0  # seconds in which a server must answer, or its queue have room


@dataclass(frozen=True, slots=True)
class Question:
    """A text that is to be continued, or the user's message of a chat."""

    text: str
    chat: bool
    category: str | None = None

    @property
    def content(self) -> str | list[dict[str, str]]:
        """As `skipopt.complete` takes it."""
        return [{"role": "user", "content": self.text}] if self.chat else self.text


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        leave_after: pieces of the stream after which the client goes away; None: it stays.
    """

    question: Question
    streamed: bool
    leave_after: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer.

    Attributes:
        tokens: new ones, as the server counts them.
        seconds: of the request, without earlier ones that were refused.
        first: seconds to the first text; None if it was not streamed.
    """

    request: Request
    text: str
    tokens: int
    seconds: float
    first: float | None = None


@dataclass(slots=True)
class Tally:
    """What became of requests.

    Attributes:
        left: streams whose client went away.
        refused: times that the queue was full.
        errors: by kind.
    """

    answers: list[Answer] = field(default_factory=list)
    left: int = 0
    refused: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.answers += other.answers
        self.left += other.left
        self.refused += other.refused
        self.errors += other.errors


class StreamWithoutEnd(Exception):
    """A stream stopped before it said why the text ends."""


def questions_of(prompts: Iterable[Prompt]) -> Iterator[Question]:
    """Each prompt as a text, and as a chat where it is one."""
    for prompt in prompts:
        if prompt.text is not None:
            yield Question(prompt.text, False, prompt.category)
        elif prompt.single_turn is not None:
            yield Question(prompt.single_turn, True, prompt.category)
            yield Question(prompt.single_turn, False, prompt.category)


def requests(questions: Iterable[Question], seed: int) -> Iterator[Request]:
    """Endless: every question, streamed and whole, in random order, again and again."""
    random = Random(seed)
    forms = [(question, streamed) for question in questions for streamed in (True, False)]
    number = 0
    while True:
        random.shuffle(forms)
        for question, streamed in forms:
            number += 1
            if number % LEAVING:
                yield Request(question, streamed)
            else:
                yield Request(question, True, 1 + random.randrange(MOST_PIECES))


class Clients:
    """Clients that share a sequence of requests.

    Args:
        address: of the server.
        tokens: most new tokens of an answer.
        count: of clients.
    """

    def __init__(self, address: str, requests: Iterator[Request], tokens: int, count: int) -> None:
        import openai

        options: Any = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE}
        self._clients = [openai.OpenAI(base_url=f"{address}/v1", **options) for _ in range(count)]
        self._requests = requests
        self._tokens = tokens
        self._lock = Lock()

    def run(self, seconds: float) -> Tally:
        """Ask for some seconds, and wait for the last answers."""
        until = time.monotonic() + seconds
        total = Tally()
        with ThreadPoolExecutor(len(self._clients)) as pool:
            for own in pool.map(lambda client: self._run_one(client, until), self._clients):
                total.add(own)
        return total

    def ask_once(self) -> Tally:
        """One request that its client does not leave."""
        own, request = Tally(), self._take()
        while request.leave_after is not None:
            request = self._take()
        self._ask(self._clients[0], request, own)
        return own

    def _run_one(self, client: Any, until: float) -> Tally:
        own = Tally()
        while time.monotonic() < until:
            self._ask(client, self._take(), own)
        return own

    def _take(self) -> Request:
        with self._lock:
            return next(self._requests)

    def _ask(self, client: Any, request: Request, own: Tally) -> None:
        """Send the request until it is not refused, and count what comes of it."""
        import openai

        end = time.monotonic() + PATIENCE
        while True:
            try:
                answer = send(client, request, self._tokens)
            except openai.APIStatusError as error:
                if error.status_code in FULL and time.monotonic() < end:
                    own.refused += 1
                    time.sleep(seconds_to_wait(error.response.headers))
                    continue
                own.errors[f"status {error.status_code}: {error.message}"] += 1
            except Exception as error:  # of any library: it is counted by kind
                own.errors[f"{type(error).__name__}: {error}"] += 1
            else:
                own.left += answer is None
                own.answers += [answer] if answer else []
                return
            time.sleep(MOMENT)
            return


def seconds_to_wait(headers: Mapping[str, str]) -> float:
    """What the server says, in seconds, or else a moment."""
    said = headers.get("retry-after", "")
    return float(said) if said.isdecimal() else MOMENT


def send(client: Any, request: Request, tokens: int) -> Answer | None:
    """The answer to a request; None if the client went away."""
    question, began = request.question, time.perf_counter()
    options = {"model": "any", "temperature": 0, "max_tokens": tokens, "stream": request.streamed}
    if question.chat:
        found = client.chat.completions.create(messages=question.content, **options)
    else:
        found = client.completions.create(prompt=question.content, **options)
    if request.streamed:
        with found:
            return read_stream(found, request, began)
    text, count = text_of(found.choices[0]), found.usage.completion_tokens
    return Answer(request, text, count, time.perf_counter() - began)


def read_stream(stream: Iterable[Any], request: Request, began: float) -> Answer | None:
    """The answer of a stream; None if the client goes away.

    Raises:
        StreamWithoutEnd: it stopped early.
    """
    pieces: list[str] = []
    first, usage, reason = None, None, None
    for chunk in stream:
        if piece := text_of(chunk.choices[0]):
            first = time.perf_counter() - began if first is None else first
            pieces.append(piece)
        if len(pieces) == request.leave_after:
            return None
        usage, reason = chunk.usage or usage, chunk.choices[0].finish_reason or reason
    if reason is None or usage is None:
        raise StreamWithoutEnd(f"after {len(pieces)} pieces")
    seconds = time.perf_counter() - began
    return Answer(request, "".join(pieces), usage.completion_tokens, seconds, first)


def text_of(choice: Any) -> str:
    """Of a completion, a chat completion, or a piece of either."""
    for part in ("message", "delta"):
        if hasattr(choice, part):
            return getattr(choice, part).content or ""
    return choice.text or ""
