"""The generated part of the reference is that of the code."""

from __future__ import annotations

import skipopt
from tools.make_reference import api_page, json_page, pages, schemas


def test_the_generated_pages_are_up_to_date() -> None:
    """`make reference` writes them."""
    for path, text in pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: make reference"


def test_the_api_page_has_every_public_name_with_its_arguments() -> None:
    page = api_page()
    for name in skipopt.__all__:
        assert f"## {name}\n" in page
    section = page.partition("## check\n")[2].partition("\n## ")[0]
    assert "against: Profile | None = None" in section
    assert "- UsageError: " in section
    assert " at 0x" not in page, "an address differs from run to run"


def test_the_page_of_documents_names_every_key() -> None:
    page = json_page()
    for name in ("run", "bench", "check"):
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        for key in schemas()[name]["properties"]:
            assert f"| `{key}` | " in section
