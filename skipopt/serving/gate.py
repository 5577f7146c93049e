"""What a request passes before the server sees it: route, key and size; and what ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from secrets import compare_digest
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

OPEN_ROUTES = ("/health",)  # need no key


class Gate:
    """ASGI middleware: refuses a request, or passes it on and cancels it when its client goes.

    Args:
        routes: paths that can be reached.
        api_key: the bearer token that requests must have; None: none.
        max_body_bytes: longest body.
    """

    def __init__(
        self, app: App, routes: Sequence[str], api_key: str | None, max_body_bytes: int
    ) -> None:
        self._app = app
        self._routes = routes
        self._key = api_key
        self._most = max_body_bytes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["path"] not in self._routes:
            return await _refuse(send, 404, f"there is no {scope['path']} here")
        if not self._has_key(scope):
            return await _refuse(send, 401, "a valid API key is needed")
        body = await self._read(receive)
        if body is None:
            return await _refuse(send, 413, f"a request may have {self._most} bytes at most")
        return await _until_gone(self._app, scope, body, receive, send)

    def _has_key(self, scope: Any) -> bool:
        if self._key is None or scope["path"] in OPEN_ROUTES:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return compare_digest(given, f"Bearer {self._key}".encode())

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if it is too long."""
        body = b""
        while True:
            message = await receive()
            body += bytes(message.get("body", b""))
            if len(body) > self._most:
                return None
            if not message.get("more_body", False):
                return body


async def _until_gone(app: App, scope: Any, body: bytes, receive: Receive, send: Send) -> None:
    """Run the application until it has answered or the client is gone."""
    gone = asyncio.create_task(_wait_until_gone(receive))
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        first = next(messages, None)
        if first is not None:
            return first
        await asyncio.shield(gone)
        return {"type": "http.disconnect"}

    answer = asyncio.ensure_future(app(scope, replay, send))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
        await asyncio.wait({answer})
    finally:
        answer.cancel()
        gone.cancel()
    if not answer.cancelled():
        answer.result()


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
