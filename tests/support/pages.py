"""The code blocks of the README and of the pages in docs/, and how they are run.

A block is run unless a comment above it says what it needs that a test has not:

    <!-- needs: a network -->
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")))
# What a block may need instead of being run.
NEEDS = {"a network", "a GPU", "a server", "a large model", "peers", "a place in the package"}
BLOCK = re.compile(
    r"(?:^<!-- needs: (?P<needs>[^>]+?) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
RUN = {"console", "python", "sh", "yaml"}


@dataclass(frozen=True, slots=True)
class Block:
    """A code block.

    Attributes:
        needs: what it needs that a test has not; None: nothing.
    """

    page: str
    line: int
    language: str
    text: str
    needs: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command line of a `console` or `sh` block, without comments."""
        text = self.text.replace("\\\n", " ")
        prompt = "$ " if self.language == "console" else ""
        found: list[str] = []
        for line in text.splitlines():
            if found and _is_open(found[-1]):
                found[-1] += f"\n{line}"
            elif line.startswith(prompt):
                found.append(line.removeprefix(prompt))
        return [words for each in found if (words := shlex.split(each, comments=True))]


def _is_open(command: str) -> bool:
    """Whether a quotation goes on in the next line."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


def blocks(page: str) -> Iterator[Block]:
    """All code blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(page, line, found["language"], found["text"], found["needs"])
