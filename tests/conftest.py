"""What every test runs with: the support modules, and an environment without options."""

from __future__ import annotations

import os
import signal

import pytest

pytest.register_assert_rewrite("skipopt.testing", "support")

# A suite that was started in the background may have been told to ignore these; what it tests, and
# the processes that it starts, must not.
for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
    if signal.getsignal(number) is signal.SIG_IGN:
        default = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)

# Nothing is fetched: huggingface_hub reads this when it is imported, which is later.
os.environ["HF_HUB_OFFLINE"] = "1"

# Options of the shell that starts the suite must not reach the command lines under test.
# SKIPOPT_TEST_* are settings of the suite itself.
for name in [name for name in os.environ if name.startswith("SKIPOPT_")]:
    if not name.startswith("SKIPOPT_TEST_"):
        del os.environ[name]


@pytest.fixture(scope="session")
def plots() -> None:
    """Skip the test where the extra `plots` is not installed."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
