"""Print constraints that pin every dependency to the lowest release that pyproject.toml allows.

python -m tools.floors > floors.txt && pip install -c floors.txt .
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w-]+)(?:\[[\w,]+\])?>=(?P<floor>[\d.]+)")


def main() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    for line in floors(project["dependencies"]):
        print(line)


def floors(requirements: Iterable[str]) -> Iterator[str]:
    """`numpy>=2.0` → `numpy==2.0.*`; `rich>=14` → `rich==14.0.*`.

    Raises:
        ValueError: a requirement has no lowest release.
    """
    for each in requirements:
        found = REQUIREMENT.fullmatch(each)
        if found is None:
            raise ValueError(f"{each} has no lowest release")
        parts = [*found["floor"].split("."), "0"][:3]
        digits = parts if found["floor"].count(".") == 2 else [*parts[:2], "*"]
        yield f"{found['name']}=={'.'.join(digits)}"


if __name__ == "__main__":
    main()
