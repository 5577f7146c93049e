"""The end of `make demo`: what was found, how sure that is, and what to do next.

python -m tools.demo_summary demo-profile.yaml demo-check.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skipopt.profile import Profile


def main() -> None:
    profile, check = sys.argv[1:]
    for line in summary(Profile.load(profile), read_check(Path(check)), profile):
        print(line)


def read_check(path: Path) -> dict[str, Any] | None:
    """The document of `check --json`; None where the command failed before it printed one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not text.strip():
        return None
    document: dict[str, Any] = json.loads(text)
    return document


def summary(profile: Profile, check: Mapping[str, Any] | None, name: str) -> Iterator[str]:
    """Lines of at most 80 columns."""
    yield ""
    yield f"Found:      {_found(profile)}"
    for line in _how_sure(profile, check):
        yield f"How sure:   {line}"
    for line in _what_next(profile, check, name):
        yield f"What next:  {line}"


def _found(profile: Profile) -> str:
    if not profile.enabled:
        return f"nothing faster than plain decoding here: {profile.reason}"
    parts = [profile.drafting.method]
    if config := str(profile.draft_config or ""):
        parts.append(f"drafts with {config}")
    if profile.mask is not None and profile.skip_mask.skipped:
        parts.append(f"{len(profile.skip_mask.skipped)} of {2 * profile.model.layers} skipped")
    return ", ".join(parts)


def _how_sure(profile: Profile, check: Mapping[str, Any] | None) -> Iterator[str]:
    if profile.expected is not None:
        low, high = profile.expected.low, profile.expected.high
        yield f"the search expects {profile.expected.speedup:.2f}× ({low:.2f}–{high:.2f})"
    if check is None or check["end_to_end"] is None:
        yield "not measured on other prompts"
        return
    found, verdict = check["end_to_end"], check["verdict"]
    yield (
        f"{found['median']:.2f}× ({found['low']:.2f}–{found['high']:.2f}) on "
        f"{len(check['texts'])} other prompts, end to end"
    )
    lossless = check["lossless"]["verdict"] if check["lossless"] else "not compared"
    yield f"text: {lossless}; the check says: {verdict}"


def _what_next(profile: Profile, check: Mapping[str, Any] | None, name: str) -> Iterator[str]:
    if not profile.enabled:
        yield "skipopt search YOUR-MODEL -o profile.yaml"
        return
    if check is not None and check["verdict"] == "inconclusive":
        yield f"skipopt check -p {name} --timeout 300   (undecided)"
    yield f"skipopt show {name} -o profile.html"
    yield "skipopt search YOUR-MODEL -o profile.yaml; docs/README.md"


if __name__ == "__main__":
    main()
