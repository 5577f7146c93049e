"""A server in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skipopt.models.target import Target
from skipopt.profile import Profile


@contextmanager
def serving(target: Target, profile: Profile, **options: Any) -> Iterator[str]:
    """Its address, while it runs.

    Args:
        options: of `skipopt.serving.server.make_app`.
    """
    import uvicorn

    from skipopt.serving.server import make_app

    app = make_app(target, profile, **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
