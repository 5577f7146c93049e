"""Searches that are told to end at random moments: what is lost, and what is left running.

    python -m benchmarks.kills --kills 50 --workers 1,4 --output results/kills

Without a MODEL, a Llama of 12 layers and width 64 with random weights is searched: its
phases are short, so that kills meet all of them. The searches have no end of their own
(`--objective matchness`), and every process computes with one thread.

For each signal and number of workers, one search is killed again and again, and each time goes on
with `--resume`; at the end it may finish. A kill is sent to the command alone or, every other
time, to its process group as a terminal does; every third is followed by a second one at once. A
search that ends before its kill begins anew, and does not count.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.loading import save_random
from benchmarks.result_files import log, page_head, write_results

SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP}
LAYERS, WIDTH = 12, 64
ENDLESS = ("--objective", "matchness", "--skip-ratio", "0.4", "--threads", "1")
TRIAL = b'"op_code":4,'
PATIENCE = 300.0  # seconds in which a command that is told to end must have ended
LEFT = 5.0  # seconds in which its processes must have ended after it


@dataclass(slots=True)
class Kills:
    """What happened to one search.

    Attributes:
        kills: how many signals it got.
        seconds: from a signal to the end of the command.
        lost_trials: lines of the journal that were there before a kill, and not after.
        lost_profiles: ends with trials but without a profile.
        unreadable: journals that `--resume` did not go on with.
        wrong_status: ends with another exit status than that of the signal.
        tracebacks: ends that printed one.
        processes_left: processes that ran on.
        trials: in the finished search.
    """

    signal: str
    workers: int
    kills: int = 0
    seconds: list[float] = field(default_factory=list)
    lost_trials: int = 0
    lost_profiles: int = 0
    unreadable: int = 0
    wrong_status: int = 0
    tracebacks: int = 0
    processes_left: int = 0
    trials: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost or left."""
        return not any(getattr(self, name) for name in MISTAKES)


MISTAKES = (
    "lost_trials", "lost_profiles", "unreadable", "wrong_status", "tracebacks", "processes_left",
)  # fmt: skip


class Search:
    """One search in a folder of its own."""

    def __init__(self, folder: Path, arguments: Sequence[str], workers: int) -> None:
        self.journal = folder / "profile.yaml.journal"
        self.profile = folder / "profile.yaml"
        self._command = [
            sys.executable, "-m", "skipopt", "search", *arguments, "-o", str(self.profile),
            "--workers", str(workers), "--resume",
        ]  # fmt: skip

    def start(self, trials: int) -> subprocess.Popen[str]:
        """A process, the first of a session, that searches until there are so many trials."""
        return subprocess.Popen(
            [*self._command, "--trials", str(trials)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def forget(self) -> None:
        """Delete what it has found."""
        self.journal.unlink(missing_ok=True)
        self.profile.unlink(missing_ok=True)

    def trials(self) -> list[bytes]:
        """The lines of finished trials."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_bytes().splitlines(keepends=True)
        return [line for line in lines if TRIAL in line and line.endswith(b"\n")]


def kill_once(search: Search, found: Kills, number: int, after: float, count: int) -> None:
    """Start the search, kill it after some seconds, and note what is wrong then."""
    process = search.start(10**9)
    try:
        _, err = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        before, began = search.trials(), time.monotonic()
        send = os.killpg if count % 2 else os.kill
        for _ in range(1 + (count % 3 == 0)):
            send(process.pid, number)
            time.sleep(0.2)
        _, err = process.communicate(timeout=PATIENCE)
        found.seconds.append(time.monotonic() - began)
        found.kills += 1
        note_mistakes(search, found, process, number, before, err)
        return
    if process.returncode:
        found.unreadable += 1
        log(f"{found.signal}, {found.workers} workers: cannot go on: {err[-800:]}")
    search.forget()


def note_mistakes(
    search: Search,
    found: Kills,
    process: subprocess.Popen[str],
    number: int,
    before: Sequence[bytes],
    err: str,
) -> None:
    """Count what an ended command has lost or left."""
    after = search.trials()
    lost = len(set(before) - set(after))
    status = process.returncode not in (128 + number, -number)  # −: before anything was done
    profile = bool(after) and process.returncode > 0 and not search.profile.exists()
    left = list(processes_of(process.pid))
    found.lost_trials += lost
    found.wrong_status += status
    found.lost_profiles += profile
    found.tracebacks += "Traceback" in err
    found.processes_left += len(left)
    if lost or status or profile or left or "Traceback" in err:
        log(f"{found.signal}, {found.workers} workers: status {process.returncode}: {err[:4000]}")


def processes_of(session: int) -> Iterator[int]:
    """Processes of a session that run on although it has ended a while ago."""
    end = time.monotonic() + LEFT
    while time.monotonic() < end and any(_running(session)):
        time.sleep(0.1)
    yield from _running(session)


def _running(session: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:  # it has ended
            continue
        if int(its_session) == session and state != "Z":
            yield int(stat.parent.name)


def finish(search: Search, found: Kills) -> None:
    """Let the search end with a few more trials, and check that it goes on with the earlier."""
    before = search.trials()
    process = search.start(len(before) + 8)
    _, err = process.communicate()
    found.trials = len(search.trials())
    if process.returncode or set(before) - set(search.trials()):
        found.unreadable += 1
        log(f"{found.signal}, {found.workers} workers: cannot go on: {err[-800:]}")


def table(rows: Sequence[Kills]) -> Iterator[str]:
    """The rows in Markdown."""
    names = ("signal", "workers", "kills", *MISTAKES, "trials")
    yield f"| {' | '.join(name.replace('_', ' ') for name in names)} | slowest end |"
    yield "|" + " --: |" * (len(names) + 1)
    for row in rows:
        cells = [str(getattr(row, name)) for name in names]
        yield f"| {' | '.join(cells)} | {max(row.seconds, default=0.0):.1f} s |"


def stop_ignoring() -> None:
    """Let the searches receive the signals: `nohup` and `&` in a script pass on ignored ones."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def main() -> None:
    """Run all kills, and write the results."""
    from skipopt.environment import environment_record

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--kills", type=int, default=50, help="of each signal and worker count")
    parser.add_argument("--workers", default="1,4")
    parser.add_argument("--signals", default="INT,TERM,HUP")
    parser.add_argument("--seconds", type=float, default=20.0, help="latest moment of a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("kills"))
    options = parser.parse_args()
    stop_ignoring()
    with tempfile.TemporaryDirectory(prefix="skipopt-kills-") as folder:
        if options.model is None:
            save_random(folder, LAYERS, WIDTH)
        rows = list(run(options, [options.model or folder, *ENDLESS]))
    command = f"python -m benchmarks.kills {' '.join(sys.argv[1:])}"
    environment = environment_record("cpu", "float32", "auto", 1)
    record = {"command": command, "environment": environment, "rows": [asdict(r) for r in rows]}
    lines = [*page_head("Searches that are killed at random moments", record), "", *table(rows)]
    write_results(options.output, record, lines)
    sys.exit(not all(row.is_clean for row in rows))


def run(options: argparse.Namespace, search: Sequence[str]) -> Iterator[Kills]:
    """All kills of one search, by number of workers and signal."""
    moments = random.Random(options.seed)
    for workers in map(int, options.workers.split(",")):
        for name in options.signals.split(","):
            found = Kills(name, workers)
            with tempfile.TemporaryDirectory(prefix="skipopt-kills-") as folder:
                each = Search(Path(folder), search, workers)
                while found.kills < options.kills and not found.unreadable:
                    after = moments.uniform(0.3, options.seconds)
                    kill_once(each, found, SIGNALS[name], after, found.kills)
                finish(each, found)
            log(f"{name}, {workers} workers: {'clean' if found.is_clean else asdict(found)}")
            yield found


if __name__ == "__main__":
    main()
