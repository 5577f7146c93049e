"""`skipopt serve`: an OpenAI-compatible server that decodes with a profile."""

from __future__ import annotations

from typing import Annotated

from skipopt.cli import options
from skipopt.cli.command import command
from skipopt.cli.decoding_method import check_method, note_plain
from skipopt.cli.model_options import ModelOptions, load_with_profile
from skipopt.cli.output import Output
from skipopt.errors import UsageError
from skipopt.exit_codes import ExitCode

SHUTDOWN_SECONDS = 5  # for answers that are under way when the server is told to stop
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@command
def serve(
    *,
    model: options.Model = None,
    profile: options.Profile = None,
    method: Annotated[
        str | None,
        options.option(
            "--method",
            metavar="NAME",
            help="As for `skipopt run`. Default: the profile's; plain without a profile.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str,
        options.option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on; others than this one's "
            "own (127.0.0.1, localhost, ::1) need --api-key.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, options.option("--port", metavar="N", min=0, max=65535, help="Port to listen on.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        options.option(
            "--api-key",
            metavar="KEY",
            help="What clients must give as their API key. Better as SKIPOPT_API_KEY: other "
            "users of the machine see flags.",
            show_default=False,
        ),
    ] = None,
    max_prompt_tokens: Annotated[
        int | None,
        options.option(
            "--max-prompt-tokens",
            metavar="N",
            min=1,
            help="Longer prompts are refused. Default: the model's context.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int,
        options.option(
            "--max-new-tokens",
            metavar="N",
            min=1,
            help="Most tokens of an answer, whatever a request asks for.",
        ),
    ] = 1024,
    max_queue: Annotated[
        int,
        options.option(
            "--max-queue",
            metavar="N",
            min=1,
            help="Most requests that wait or are answered; others get status 503.",
        ),
    ] = 64,
    loading: ModelOptions,
    terminal: Output,
) -> int:
    """Serve a model by the API of OpenAI, with a profile or plain.

    The server is that of `transformers serve` (pip install 'skipopt[serving]'), through
    skipopt: chat and text completions, streamed or whole, and /metrics for Prometheus.

    Example: skipopt serve -p profile.yaml --port 8000
    """
    from skipopt.serving.server import Limits, check_packages, make_app

    check_method(method, profile)
    if host not in LOOPBACK and api_key is None:
        raise UsageError(
            f"{host} can be reached by others, so the server needs a key",
            hint="give SKIPOPT_API_KEY, or leave out --host",
        )
    check_packages()
    target, found = load_with_profile(model, profile, loading, terminal)
    limits = Limits(max_prompt_tokens, max_new_tokens, max_queue)
    app = make_app(target, found, method=method, limits=limits, api_key=api_key)
    note_plain(found, method, terminal)
    run_server(app, host, port, terminal)
    return ExitCode.OK


def run_server(app: object, host: str, port: int, terminal: Output) -> None:
    """Serve until the process is told to stop; what is not answered soon after that is cut off.

    Raises:
        OutputError: the port cannot be listened on.
    """
    import socket

    import uvicorn

    from skipopt.errors import OutputError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OutputError(
            f"cannot listen on {host} port {port}: {error.strerror}", hint="choose another --port"
        ) from None
    with listener:
        address = f"[{host}]" if ":" in host else host
        terminal.note(f"serving at http://{address}:{listener.getsockname()[1]}/v1")
        level = "info" if terminal.verbose else "warning"
        config = uvicorn.Config(app, log_level=level, timeout_graceful_shutdown=SHUTDOWN_SECONDS)
        uvicorn.Server(config).run(sockets=[listener])
