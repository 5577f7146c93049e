"""Several workers on one search: with a PostgreSQL server, with a killed worker, and by
`--workers`.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import distributed_worker
from support.command_line import Cli, expect_error
from support.distributed_worker import IDENTITY, MASKS, locate
from support.tiny import byte_tokenizer, tiny_llama, tiny_target

from skipopt.errors import SearchError, UsageError
from skipopt.masks import SkipMask
from skipopt.reporting.studies import load_study
from skipopt.storage.backends import open_storage
from skipopt.storage.base import Trial
from skipopt.storage.optuna_storage import OptunaStorage
from skipopt.storage.study_key import StudyLocation, study_key
from skipopt.storage.workers import DistributedConfig
from skipopt.study.config import SearchConfig
from skipopt.study.study import search

PASSWORD = "not-for-the-log"
STUDY = "night"


# --- a database server


class Server:
    """A PostgreSQL server in a temporary folder, run by the user postgres if we are root."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        # Not a folder of pytest: the user postgres cannot read those.
        self.folder = Path(tempfile.mkdtemp(prefix="skipopt-postgres-"))
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, password: str = PASSWORD, database: str = "postgres") -> str:
        return f"postgresql://skipopt:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data = self.folder / "data"
        initdb = (
            "-D", data, "-U", "skipopt", "-A", "scram-sha-256", f"--pwfile={secret}",
            "-E", "UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        subprocess.run(self._as_user("initdb", *initdb), check=True, capture_output=True)
        options = ("-p", self.port, "-k", self.folder, "-h", "127.0.0.1", "-F")
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self._as_user("postgres", "-D", data, *options), stdout=log, stderr=log
            )
        ready = self._as_user("pg_isready", "-h", "127.0.0.1", "-p", self.port)
        end = time.monotonic() + 60
        while subprocess.run(ready, capture_output=True).returncode:
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            stop = self._as_user("pg_ctl", "stop", "-D", self.folder / "data", "-m", "immediate")
            subprocess.run(stop, capture_output=True)
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _as_user(self, program: str, *arguments: object) -> list[str]:
        prefix = ["runuser", "-u", self.user, "--"] if self.user else []
        return [*prefix, str(self.programs / program), *map(str, arguments)]


def find_programs() -> Path | None:
    """The folder of the server's programs, which Debian does not put on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="no driver: pip install 'skipopt[storage]'")
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    if os.geteuid() == 0 and not shutil.which("runuser"):
        pytest.skip("PostgreSQL refuses to run as root, and there is no runuser")
    server = Server(programs)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def start_worker(url: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, distributed_worker.__file__, url, STUDY, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_four_workers_on_one_server_and_one_is_killed(server: Server) -> None:
    doomed = start_worker(server.url(), 60.0)
    assert doomed.stdout is not None
    in_flight = doomed.stdout.readline().removeprefix("at ").strip()
    others = [start_worker(server.url(), 0.05) for _ in range(3)]
    time.sleep(0.5)
    os.kill(doomed.pid, signal.SIGKILL)
    for other in others:
        _, errors = other.communicate(timeout=200)
        assert other.returncode == 0, errors
    with closing(OptunaStorage(locate(server.url(), STUDY))) as storage:
        found = {str(trial.mask) for trial in storage.trials()}
    assert {str(mask) for mask in MASKS} - found <= {in_flight}


@pytest.mark.slow
def test_a_refusal_of_the_server_is_one_line_without_the_password(server: Server) -> None:
    wrong = {
        server.url(password="secret-guess"): "refused the user or the password",
        server.url(database="nothing"): "has no such database",
    }
    for url, words in wrong.items():
        with pytest.raises(SearchError, match=words) as refused:
            open_storage(url)
        message = f"{refused.value} {refused.value.hint}"
        assert "\n" not in message
        assert "secret-guess" not in message
        assert PASSWORD not in message
        assert refused.value.__cause__ is None


@pytest.mark.slow
def test_searches_of_the_same_kind_share_a_study_and_others_do_not(
    server: Server, tiny: Path, prompts: Path, tmp_path: Path, cli: Cli
) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        """The number of trials in the study, and stderr."""
        common = ("search", tiny, "--prompts", prompts, "--search-space", "skip", "--json")
        ended = cli(*common, "--storage", server.url(), "--study", "both", *arguments)
        assert ended.code == 0, ended.err
        assert PASSWORD not in ended.out + ended.err
        return json.loads(ended.out)["search"]["trials"], ended.err

    trials, notes = run("--trials", 8, "-o", "one.yaml")
    assert trials == 8
    assert "0 trials so far" in notes
    trials, notes = run("--trials", 12, "-o", "two.yaml")
    assert trials == 12
    assert "8 trials so far" in notes
    trials, notes = run("--trials", 4, "-o", "three.yaml", "--dtype", "bfloat16")
    assert trials == 4
    assert "0 trials so far; separate from 1 more of that name: other dtype" in notes
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.slow
def test_a_study_on_a_server_is_shown(server: Server, cli: Cli) -> None:
    for dtype in ("float32", "bfloat16"):
        identity = replace(IDENTITY, layers=4, dtype=dtype)
        name = study_key("seen", identity)
        with closing(OptunaStorage(StudyLocation(server.url(), name, identity, True))) as storage:
            storage.append(Trial(SkipMask.of(4, [1]), 1.25))
    ended = cli("show", "--storage", server.url(), "--study", name)
    assert ended.code == 0, ended.err
    assert "the best 1 of 1 trials" in ended.out
    assert "attn 1" in ended.out
    ended = cli("show", "--storage", server.url(), "--study", "seen")
    expect_error(ended, 1, "2 studies", "dtype float32", f"{name} (dtype bfloat16)")
    assert PASSWORD not in ended.err
    refused = cli("show", "--storage", server.url(password="secret-guess"))
    expect_error(refused, 1, "refused the user or the password")
    assert "secret-guess" not in refused.err


# --- the command line


@pytest.mark.slow
def test_two_workers_search_together(
    tiny: Path, prompts: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipopt.cli.search_progress import SearchProgress

    show_progress = SearchProgress.__call__

    def wait(self: SearchProgress, progress: Any) -> None:
        """After the first batch, wait until the second process has scored a mask too."""
        show_progress(self, progress)
        if progress.phase == "search" and progress.trials:
            end = time.monotonic() + 200
            while len(workers_in("profile.yaml.journal")) < 2 and time.monotonic() < end:
                time.sleep(0.05)

    monkeypatch.setattr(SearchProgress, "__call__", wait)
    monkeypatch.setattr("skipopt.storage.workers.usable_cores", lambda: 2)
    # 70 masks; the number that could be fastest depends on this machine's measured costs
    space = ("--objective", "matchness", "--skip-ratio", 0.5)
    common = ("search", tiny, "--prompts", prompts, "--json", *space)
    ended = cli(*common, "--trials", 30, "--workers", 2)
    assert ended.code == 0, ended.err
    assert "died" not in ended.err
    count = json.loads(ended.out)["search"]["trials"]
    assert 30 <= count <= 30 + 2 * SearchConfig().batch_size  # the other worker finishes its batch
    trials = load_study("profile.yaml.journal").trials
    assert len({trial.mask for trial in trials}) == len(trials) == count
    assert len({trial.worker for trial in trials}) == 2

    monkeypatch.setattr(SearchProgress, "__call__", show_progress)
    again = cli(*common, "--trials", count + 2, "--resume", "-q")
    assert json.loads(again.out)["search"]["trials"] == count + 2
    assert f"best 3 of {count + 2} trials" in cli("show", "profile.yaml.journal", "--limit", 3).out


def workers_in(journal: str) -> set[object]:
    """The workers whose trials are in a journal."""
    return {trial.worker for trial in load_study(journal).trials}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "0"], "workers"),
        (["--storage", "sqlite:///x.db"], "SQLite cannot be shared"),
        (["--storage", "redis://host"], "'redis'"),
        (["--study", "night"], "--storage"),
        (["--storage", "x.journal", "--study", " "], "characters"),
        (["--storage", "x.journal", "--overwrite"], "--overwrite"),
    ],
)
def test_unusable_options_are_refused_before_a_model_is_loaded(
    options: list[str], words: str, tmp_path: Path, cli: Cli
) -> None:
    expect_error(cli("search", "/no/such/model", *options), 2, words)
    assert not list(tmp_path.iterdir())


def test_workers_that_cannot_work_together_are_refused_before_anything_is_done() -> None:
    target = tiny_target(tiny_llama(vocabulary=257), byte_tokenizer())
    texts = [f"{word} and {word} again" for word in "abcdefgh"]
    sharing = DistributedConfig(workers=2)
    with pytest.raises(UsageError, match="loads the model"):
        search(target, texts, trials=4, distributed=sharing, on_progress=pytest.fail)
