"""Concurrent clients of `skipopt serve`: whether each answer is the text that is decoded offline.

    python -m benchmarks.server_clients MODEL --profile PROFILE --output results/server-clients

For each method a server runs as a process of its own, and clients of the package `openai` send it
held-out prompts for some seconds, one request after another each: as completions and, where the
prompt is a chat, as chat completions too; half of them streamed. Each tenth request is a stream
whose client goes away after its first pieces. A client that finds the queue full waits and asks
again. Then the server must be free, answer once more, and end with SIGTERM.

Afterwards each distinct prompt is decoded plainly in this process, in float32 as on the server,
and every complete answer is compared with that text. A stream holds back a character that its last
token leaves unfinished.

Needs `pip install "skipopt[serving]"`. The exit status is 1 if anything differs or fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGTERM
from statistics import median, quantiles
from typing import Any

from benchmarks.result_files import log, page_head, shown_path, write_results
from benchmarks.server_requests import (
    PATIENCE,
    Answer,
    Clients,
    Question,
    Tally,
    questions_of,
    requests,
)
from skipopt.prompts import load_prompts

PLAIN = "plain"
PROFILE = "profile"  # the profile's own method
UNFINISHED = "\ufffd"  # part of a character
MOST_TOLD = 20  # differences that are described
ENDED = (128 + SIGTERM, -SIGTERM)
ADDRESS = re.compile(r"serving at\s+(http://\S+)/v1")
DRAFTED, ACCEPTED = (f"skipopt:spec_decode_num_{x}_tokens_total" for x in ("draft", "accepted"))
WAITING = "skipopt:num_requests_running_or_waiting"


@dataclass(slots=True)
class Run:
    """One server.

    Attributes:
        tally: of all clients.
        afterwards: of one more request, when they had gone.
        seconds: from the first request to the last answer of the clients.
        drafted, accepted: tokens, as /metrics says.
        free_after: seconds from the end of the last client until no request ran or waited; None:
            some did for all the time that was allowed.
        status: of the server's process after SIGTERM; None: it did not end.
        tracebacks: in what the server printed.
    """

    method: str
    tally: Tally = field(default_factory=Tally)
    afterwards: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0
    free_after: float | None = None
    status: int | None = None
    tracebacks: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether everything was answered, and the server free at the end, and ended."""
        ended = self.status in ENDED and not self.tracebacks
        answers = bool(self.tally.answers and self.afterwards.answers)
        return ended and answers and self.free_after is not None and not self.tally.errors


def metrics(text: str) -> dict[str, float]:
    """The values of /metrics by name."""
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def read_metrics(address: str) -> dict[str, float]:
    """Empty if the server does not answer."""
    try:
        with urllib.request.urlopen(f"{address}/metrics", timeout=PATIENCE) as answer:
            return metrics(answer.read().decode())
    except OSError:
        return {}


def seconds_until_free(address: str) -> float | None:
    """Until no request runs or waits; None: some do for all the time that is allowed."""
    began = time.monotonic()
    while (found := read_metrics(address)) and time.monotonic() - began < PATIENCE:
        if not found[WAITING]:
            return time.monotonic() - began
        time.sleep(0.05)
    return None


class Server:
    """A process that serves; what it prints goes to a file."""

    def __init__(self, arguments: Sequence[str], printed: Path) -> None:
        self._printed = printed
        command = [sys.executable, "-m", "skipopt", "serve", *arguments, "--port", "0"]
        with printed.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def address(self) -> str:
        """Once it listens.

        Raises:
            SystemExit: it ends, or does not begin.
        """
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            if found := ADDRESS.search(self.printed()):
                return found.group(1)
            time.sleep(0.1)
        raise SystemExit(f"the server does not start:\n{self.printed()}")

    def printed(self) -> str:
        return self._printed.read_text(encoding="utf-8", errors="replace")

    def end(self) -> int | None:
        """Send SIGTERM; the exit status, or None if it does not end."""
        self.process.send_signal(SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def started(arguments: Sequence[str]) -> Iterator[Server]:
    """A server, which has ended after the block."""
    with tempfile.TemporaryDirectory(prefix="skipopt-server-") as folder:
        server = Server(arguments, Path(folder) / "printed")
        try:
            yield server
        finally:
            server.process.kill()
            server.process.wait()


def serve_and_ask(given: argparse.Namespace, method: str, questions: Sequence[Question]) -> Run:
    """Start a server of the method, let clients ask it, and end it."""
    run = Run(method)
    with started(server_arguments(given, method)) as server:
        address = server.address()
        log(f"{method}: {address}")
        clients = Clients(address, requests(questions, given.seed), given.tokens, given.clients)
        began = time.perf_counter()
        run.tally = clients.run(given.seconds)
        run.seconds = time.perf_counter() - began
        run.free_after = seconds_until_free(address)
        counts = read_metrics(address)
        run.drafted, run.accepted = (int(counts.get(x, 0)) for x in (DRAFTED, ACCEPTED))
        run.afterwards = clients.ask_once()
        run.status = server.end()
        run.tracebacks = server.printed().count("Traceback")
        if not run.is_clean:
            log(f"{method}: the server printed, at the end:\n{server.printed()[-4000:]}")
    log(f"{method}: {len(run.tally.answers)} answers, {run.seconds:.0f} s")
    return run


def server_arguments(given: argparse.Namespace, method: str) -> list[str]:
    """For `skipopt serve`."""
    found = [given.model, "--dtype", "float32", "--threads", str(given.threads)]
    found += ["--max-queue", str(given.max_queue or 2 * given.clients)]
    if given.profile is not None and method != PLAIN:
        found += ["--profile", str(given.profile)]
    return found if method == PROFILE else [*found, "--method", method]


def offline(target: Any, questions: Iterable[Question], tokens: int) -> dict[Question, str]:
    """The texts of plain greedy decoding, without special tokens, as servers give them."""
    import skipopt

    found = {}
    for question in questions:
        made = skipopt.complete(target, question.content, method=PLAIN, max_new_tokens=tokens)
        found[question] = target.tokenizer.decode(made.tokens, skip_special_tokens=True)
    return found


def differences(answers: Iterable[Answer], texts: Mapping[Question, str]) -> list[dict[str, Any]]:
    """The answers that are not the texts that were decoded offline."""
    return [
        {**asdict(answer), "expected": texts[answer.request.question]}
        for answer in answers
        if not is_same(answer, texts[answer.request.question])
    ]


def is_same(answer: Answer, expected: str) -> bool:
    """Whether the answer is the text; a stream may lack its last, unfinished character."""
    if answer.request.streamed:
        return answer.text.rstrip(UNFINISHED) == expected.rstrip(UNFINISHED)
    return answer.text == expected


def middle_and_high(values: Sequence[float]) -> dict[str, float] | None:
    """The median and the 95th percentile; None without values."""
    if not values:
        return None
    high = quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]
    return {"median": median(values), "p95": high}


def row_of(run: Run, texts: Mapping[Question, str]) -> dict[str, Any]:
    """One method, for JSON."""
    tally, answers = run.tally, run.tally.answers
    different = differences([*answers, *run.afterwards.answers], texts)
    tokens = sum(answer.tokens for answer in answers)
    return {
        "method": run.method,
        "answered": len(answers),
        "streamed": sum(answer.request.streamed for answer in answers),
        "chats": sum(answer.request.question.chat for answer in answers),
        "by_category": Counter(str(answer.request.question.category) for answer in answers),
        "left": tally.left,
        "refused": tally.refused,
        "errors": tally.errors + run.afterwards.errors,
        "seconds": run.seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / run.seconds,
        "first_text": middle_and_high([a.first for a in answers if a.first is not None]),
        "request": middle_and_high([answer.seconds for answer in answers]),
        "drafted": run.drafted,
        "accepted": run.accepted,
        "different": len(different),
        "differences": different[:MOST_TOLD],
        "free_after": run.free_after,
        "answered_afterwards": bool(run.afterwards.answers),
        "status": run.status,
        "tracebacks": run.tracebacks,
        "clean": run.is_clean and not different,
    }


def page(record: Mapping[str, Any]) -> Iterator[str]:
    """The results in Markdown."""
    yield from page_head("Concurrent clients of the server", record)
    yield f"- {record['clients']} clients, {record['questions']} distinct prompts"
    yield ""
    yield (
        "Tokens/s: of complete answers, from the first request to the last answer. Seconds to the "
        "first text of a stream, and of a request, are the client's and include waiting: "
        "median (95th percentile). Different: answers that are not the text of plain decoding "
        "offline. Free: seconds until no request ran or waited after the last client."
    )
    yield ""
    yield (
        "| method | answered | streamed | left by the client | refused: queue full | errors "
        "| tokens/s | first text, s | request, s | accepted / drafted | different | free, s "
        "| status of SIGTERM | tracebacks |"
    )
    yield "|---" + "|--:" * 13 + "|"
    for row in record["rows"]:
        yield f"| {' | '.join(cells(row))} |"
    for row in record["rows"]:
        yield from told(row)


def cells(row: Mapping[str, Any]) -> Iterator[str]:
    """Of one method in the table."""
    yield row["method"]
    yield from (str(row[key]) for key in ("answered", "streamed", "left", "refused"))
    yield str(sum(row["errors"].values()))
    yield f"{row['tokens_per_second']:.1f}"
    yield from (_seconds(row[key]) for key in ("first_text", "request"))
    yield f"{row['accepted']} / {row['drafted']}"
    yield str(row["different"])
    yield "never" if row["free_after"] is None else f"{row['free_after']:.1f}"
    yield "did not end" if row["status"] is None else str(row["status"])
    yield str(row["tracebacks"])


def _seconds(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{found['median']:.2f} ({found['p95']:.2f})"


def told(row: Mapping[str, Any]) -> Iterator[str]:
    """Errors and differences of one method."""
    if not row["answered_afterwards"]:
        yield f"\n{row['method']}: no answer after the clients had gone"
    for kind, count in row["errors"].items():
        yield f"\n{row['method']}: {count} × {kind}"
    for each in row["differences"]:
        asked = each["request"]
        form = ("chat" if asked["question"]["chat"] else "completion") + (
            ", streamed" if asked["streamed"] else ""
        )
        yield f"\n{row['method']}, {form}: {asked['question']['text']!r}"
        yield f"\n- answered: {each['text']!r}\n- offline: {each['expected']!r}"


def main() -> None:
    """Let clients ask a server of each method, and write the results."""
    given = arguments()
    prompts = load_prompts(model_id=given.model).held_out[: given.prompts]
    questions = list(questions_of(prompts))
    runs = [serve_and_ask(given, method, questions) for method in given.methods.split(",")]
    record = make_record(given, runs)
    write_results(given.output, record, list(page(record)))
    sys.exit(not all(row["clean"] for row in record["rows"]))


def make_record(given: argparse.Namespace, runs: Sequence[Run]) -> dict[str, Any]:
    """Decode offline what was answered, and compare."""
    import torch

    import skipopt
    from skipopt.environment import package_version
    from skipopt.measurement.provenance import environment_of

    torch.set_num_threads(given.threads)
    answers = (a for run in runs for a in (*run.tally.answers, *run.afterwards.answers))
    asked = dict.fromkeys(answer.request.question for answer in answers)
    target = skipopt.load(given.model, dtype="float32", on_notice=log)
    log(f"offline: {len(asked)} texts")
    texts = offline(target, asked, given.tokens)
    versions = {name: package_version(name) for name in ("openai", "fastapi", "uvicorn")}
    return {
        "command": command(given),
        "environment": {**environment_of(target), **versions},
        "clients": given.clients,
        "questions": len(asked),
        "rows": [row_of(run, texts) for run in runs],
    }


def command(given: argparse.Namespace) -> str:
    """The command that makes the same results."""
    found = f"python -m benchmarks.server_clients {shown_path(Path(given.model))}"
    found += f" --profile {shown_path(given.profile)}" if given.profile else ""
    found += f" --methods {given.methods} --clients {given.clients} --seconds {given.seconds:g}"
    found += f" --prompts {given.prompts} --tokens {given.tokens} --threads {given.threads}"
    found += f" --max-queue {given.max_queue}" if given.max_queue else ""
    return f"{found} --seed {given.seed} --output {shown_path(given.output)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--profile", type=Path)
    parser.add_argument(
        "--methods", help=f"a server for each; {PROFILE}: the profile's (default: {PROFILE},plain)"
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=180.0, help="in which requests are sent")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="most of an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-queue", type=int, help="of the server (default: 2 × clients)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/server-clients"))
    given = parser.parse_args()
    given.methods = given.methods or (f"{PROFILE},{PLAIN}" if given.profile else PLAIN)
    if given.profile is None and PROFILE in given.methods.split(","):
        parser.error(f"the method {PROFILE!r} needs --profile")
    return given


if __name__ == "__main__":
    main()
