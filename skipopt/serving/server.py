"""An OpenAI-compatible server: that of `transformers serve`, for one model, through a profile.

Its model manager is given the loaded model: a request may name any, and none is fetched. Its
generation managers bound the prompt, the new tokens and the queue, and end a text whose client is
gone. Only the routes of `ROUTES` are reachable.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import resolve_method
from skipopt.decoding.text_prompt import ending_turns, tokenizer_of
from skipopt.decoding.transformers_integration import Decoder
from skipopt.errors import SkipoptError
from skipopt.runtime.load import keep_target
from skipopt.serving.gate import Gate
from skipopt.serving.server_metrics import ServerMetrics

if TYPE_CHECKING:
    from fastapi import FastAPI

    from skipopt.models.target import Target
    from skipopt.profile import Profile

PACKAGES = ("fastapi", "uvicorn", "openai")
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes.

    Attributes:
        max_prompt_tokens: longer prompts are refused; None: what the model's context allows.
        max_new_tokens: of each answer, whatever a request asks for.
        max_queue: requests that wait or are answered; further ones are refused.
        max_body_bytes: of a request.
    """

    max_prompt_tokens: int | None = None
    max_new_tokens: int = 1024
    max_queue: int = 64
    max_body_bytes: int = 4_000_000


def check_packages() -> None:
    """Raise SkipoptError if an optional package of the server is not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise SkipoptError(
            f"the server needs {', '.join(missing)}",
            hint="pip install 'skipopt[serving]'",
        )


def make_app(
    target: Target,
    profile: Profile | None = None,
    *,
    method: str | None = None,
    limits: Limits | None = None,
    api_key: str | None = None,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        profile, method: how texts are decoded, as for `skipopt.decoder`.
        api_key: what requests must give as a bearer token; None: nothing.

    Raises:
        ProfileError: the profile is for another model.
        UsageError: a method that needs a profile, or a target without a tokenizer.
        SkipoptError: a package is not installed.
    """
    check_packages()
    from fastapi import HTTPException, Request
    from fastapi.responses import JSONResponse, PlainTextResponse
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.server import build_server

    from skipopt.serving.managers import OneModel, Queue, Worker

    tokenizer_of(target)
    if profile is not None:
        profile.check_model(target)
    resolve_method(profile, method)
    limits, metrics = limits or Limits(), ServerMetrics()
    keep_target(target)
    worker = Worker(target, Decoder(profile, method), limits, metrics)
    model, queue = OneModel(target), Queue(worker, target.eos_ids)
    missing: Any = None  # no request reaches these handlers
    app: Any = build_server(
        model,
        ChatCompletionHandler(model, Queue(worker, ending_turns(target).eos_ids)),
        CompletionHandler(model, queue),
        response_handler=missing,
        transcription_handler=missing,
        systemone_handler=missing,
        generation_state=queue,
    )

    async def refuse(_: Request, error: SkipoptError) -> JSONResponse:
        hint = f" ({error.hint})" if error.hint else ""
        return JSONResponse({"error": {"message": f"{error}{hint}"}}, status_code=400)

    async def refuse_by_status(_: Request, error: HTTPException) -> JSONResponse:
        document = {"error": {"message": str(error.detail)}}
        return JSONResponse(document, status_code=error.status_code)

    async def show_metrics(_: Request) -> PlainTextResponse:
        return PlainTextResponse(metrics.text(worker.waiting))

    app.add_exception_handler(SkipoptError, refuse)
    app.add_exception_handler(HTTPException, refuse_by_status)
    app.add_route("/metrics", show_metrics)
    app.add_middleware(Gate, routes=ROUTES, api_key=api_key, max_body_bytes=limits.max_body_bytes)
    return app
