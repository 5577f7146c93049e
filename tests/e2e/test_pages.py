"""Every command and Python block of the README and of the pages runs as it stands.

Flags that a page leaves out are set short by variables, which flags override. Searches and checks
get as much time as they need on a slow machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command_line import Cli
from support.pages import NEEDS, PAGES, ROOT, RUN, Block, blocks

import skipopt
from skipopt.profile import Profile

SHORT = {
    "SKIPOPT_MAX_NEW_TOKENS": "16",
    "SKIPOPT_NUM_PROMPTS": "2",
    "SKIPOPT_REPEATS": "2",
}
SECONDS = {"check": 20, "search": 75}  # the least for a search on two busy cores is about 40
# A check of a few short texts may end either way.
CODES = {"check": {0, 3, 4}}
RELAXED = 5  # `run --compare` with a relaxed verifier tells that tokens differ
EXTRAS = re.compile(r"skipopt\[(\w+)\]")

pytestmark = pytest.mark.timeout(1800)


class Reader:
    """Follows a page: runs its blocks in order, in one folder and one namespace."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.namespace: dict[str, Any] = {}
        self.ran = 0

    def follow(self, block: Block) -> None:
        if block.language == "python":
            code = _shortened(_filled(block.text))
            exec(compile(code, f"{block.page}:{block.line}", "exec"), self.namespace)
            self.ran += 1
        elif block.language == "yaml":
            self._read_yaml(block)
        else:
            for words in block.commands:
                self._run(block, words)

    def _read_yaml(self, block: Block) -> None:
        """Steps of a workflow: their commands run, and their inputs are those of the action."""
        content = yaml.safe_load(block.text)
        for step in content if isinstance(content, list) else ():
            if "run" in step:
                command = Block(block.page, block.line, "sh", step["run"], None)
                for words in command.commands:
                    self._run(block, words)
            if "/skipopt@" in step.get("uses", ""):
                self._check_inputs(step.get("with", {}))

    def _check_inputs(self, given: dict[str, Any]) -> None:
        action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
        assert given.keys() <= action["inputs"].keys()
        required = {name for name, each in action["inputs"].items() if each.get("required")}
        assert required <= given.keys()
        self.ran += 1

    def _run(self, block: Block, words: Sequence[str], stdin: bytes = b"") -> None:
        if "|" in words:
            end = words.index("|")
            done = subprocess.run(words[:end], capture_output=True, check=True)
            self._run(block, words[end + 1 :], done.stdout)
            return
        if words[0] != "skipopt":
            _check_other_command(words)
            return
        words = [_filled(each) for each in words[1:]]
        words, file = (words[:-2], words[-1]) if ">" in words else (words, None)
        ended = self.cli(*_with_short_times(words), stdin=stdin)
        allowed = CODES.get(words[0], {0})
        if any("verify=relaxed" in word for word in words) and "--compare" in words:
            allowed = {0, RELAXED}
        assert ended.code in allowed, (block.page, block.line, words, ended.err)
        if file is not None:
            Path(file).write_text(ended.out)
        self.ran += 1


def _filled(text: str) -> str:
    """With a model for the placeholder."""
    return re.sub(r"\bMODEL\b", "builtin", text)


def _shortened(code: str) -> str:
    return re.sub(r"timeout=\d+", f"timeout={SECONDS['search']}", code)


def _with_short_times(words: Sequence[str]) -> list[str]:
    """The last one counts of an option that is given twice."""
    seconds = SECONDS.get(words[0])
    return [*words, *(["--timeout", str(seconds)] if seconds else [])]


def _check_other_command(words: Sequence[str]) -> None:
    """What is no command of skipopt is not run; what it names must be there."""
    command = " ".join(words)
    if words[:2] == ["python", "-m"]:
        path = words[2].replace(".", "/")
        assert words[2] in ("pytest", "pip") or any(
            (ROOT / each).exists() for each in (f"{path}.py", f"{path}/__init__.py")
        ), command
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets), command
    elif words[:2] == ["pip", "install"]:
        extras = (ROOT / "pyproject.toml").read_text().partition("optional-dependencies")[2]
        for extra in EXTRAS.findall(command):
            assert re.search(rf"^{extra} = ", extras, re.M), command
    else:
        assert shutil.which(words[0]), command


@pytest.fixture
def reader(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """In a folder with a profile and prompts, as a reader has who comes from the tutorial."""
    for name, value in SHORT.items():
        monkeypatch.setenv(name, value)
    Profile.load("builtin").save("profile.yaml")
    Profile.load("builtin").save("earlier-profile.yaml")
    names = (f"def function_{number}(self, value):" for number in range(12))
    Path("prompts.txt").write_text("\n\n".join(names))
    return Reader(cli)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, reader: Reader) -> None:
    found = [each for each in blocks(page) if each.language in RUN and each.needs is None]
    if not found:
        pytest.skip("no block to run")
    for block in found:
        reader.follow(block)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_that_are_not_run_say_why(page: str) -> None:
    assert {each.needs for each in blocks(page)} <= NEEDS | {None}


def test_most_blocks_are_run() -> None:
    every = [each for page in PAGES for each in blocks(page) if each.language in RUN]
    assert len(every) > 50
    assert sum(each.needs is None for each in every) > 0.7 * len(every)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            place = link.partition("#")[0]
            if place and "://" not in place:
                assert (ROOT / page).parent.joinpath(place).exists(), (page, link)


def test_a_block_that_is_wrong_fails(reader: Reader) -> None:
    """The reader itself: commands, Python, inputs of the action, and targets of make."""
    wrong = [
        ("console", "$ skipopt run builtin --no-such-option\n", AssertionError),
        ("python", "skipopt.no_such_name\n", NameError),
        ("yaml", "- uses: a/skipopt@v1\n  with: {profiles: x}\n", AssertionError),
        ("console", "$ make no-such-target\n", AssertionError),
        ("console", '$ pip install "skipopt[nothing]"\n', AssertionError),
    ]
    for language, text, error in wrong:
        with pytest.raises(error):
            reader.follow(Block("page.md", 1, language, text, None))


def test_the_client_of_the_serve_page_gets_the_text_of_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its Python block as it stands, against a server; the address alone is another."""
    pytest.importorskip("openai")
    pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    from support.servers import serving

    target = skipopt.load("builtin")
    [block] = [each for each in blocks("docs/how-to/serve.md") if each.language == "python"]
    with serving(target, Profile.load("builtin")) as address:
        code = block.text.replace("http://127.0.0.1:8000", address)
        exec(compile(code, "serve.md", "exec"), {})
    text = skipopt.complete(target, "def main():", max_new_tokens=64).text
    assert capsys.readouterr().out == text
