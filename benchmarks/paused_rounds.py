"""What a paused method costs: its rounds without a draft beside steps of plain decoding.

    python -m benchmarks.paused_rounds MODEL --threads 2 --output results/paused-rounds

Every method that can pause, and every one that may find nothing to draft, decodes the same text
as plain decoding, in step with it: none begins a round before all others have reached its first
token. So a round is compared with a plain step that made the same token within the same moments.
Drafts of the model skip every sublayer but those of the first layers, which never pays, so that
the methods pause. Rounds with a draft are not compared; the ratio of whole texts has them too,
and shows what it costs until a method pauses.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

import skipopt
from benchmarks.held_out import digits, held_out_workload
from benchmarks.result_files import log, page_head, shown_path, write_results
from skipopt.decoding.api import generate_rounds, new_online_state
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.timing import Clock, run_order
from skipopt.models.target import Target
from skipopt.online.state import OnlineState
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.stats import ratio_interval

PLAIN = "plain"
METHODS = (
    "cascade",
    "cascade:recycle=yes",
    "swift:tune_mask=no",
    "token-recycling",
    "suffix",
    "prompt-lookup",
)
TUNED = "layer-skip, tuned"
KEPT = 2  # first layers that drafts keep


class Way(NamedTuple):
    """How to decode: a method, or a profile that is tuned meanwhile."""

    name: str
    method: str | None
    profile: Profile | None = None
    online_state: OnlineState | None = None


@dataclass(slots=True)
class Text:
    """A text that is being decoded, one round at a time.

    Attributes:
        rounds: with the seconds of each; those of the first have the prefill in them.
        tokens: the new ones.
        stopped: the last round is over.
    """

    made: Iterator[Round]
    rounds: list[tuple[Round, float]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False

    def advance(self, clock: Clock) -> None:
        """Decode one round."""
        began = clock()
        made = next(self.made)
        self.rounds.append((made, clock() - began))
        self.tokens += made.emitted
        self.stopped = made.stop is not None

    @property
    def seconds(self) -> float:
        """Of all rounds but the first."""
        return sum(seconds for _, seconds in self.rounds[1:])

    def undrafted_seconds(self) -> dict[int, float]:
        """By number of new tokens before it, the seconds of each later round without a draft."""
        found, count = dict[int, float](), 0
        for made, seconds in self.rounds:
            if count and not made.drafted:
                found[count] = seconds
            count += len(made.emitted)
        return found


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    target = skipopt.load(given.model, on_notice=log)
    load = held_out_workload(target, given.prompts, given.tokens)
    ways = list(ways_of(target))
    decode_all(target, ways, load.prompts[:1], load.lengths[:1])  # records steps, makes copies
    found = decode_all(target, ways, load.prompts, load.lengths)
    plain = found.pop(PLAIN)
    record = {
        "command": command_of(given),
        "environment": environment_of(target),
        "workload": load.to_json(),
        "methods": {name: compared(texts, plain) for name, texts in found.items()},
    }
    write_results(given.output, record, list(report(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--name", help="of the model in the results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=8, help="held-out prompts")
    parser.add_argument("--tokens", type=int, default=128, help="of each text")
    parser.add_argument("--output", type=Path, default=Path("results/paused-rounds"))
    return parser.parse_args()


def command_of(given: argparse.Namespace) -> str:
    name = given.name or Path(given.model).name
    options = f"--threads {given.threads} --prompts {given.prompts} --tokens {given.tokens}"
    return (
        f"python -m benchmarks.paused_rounds {name} {options} --output {shown_path(given.output)}"
    )


def ways_of(target: Target) -> Iterator[Way]:
    """Plain decoding, and the methods with drafts that never pay."""
    skipped = range(KEPT, target.depth)
    profile = Profile.by_hand(target, attention=skipped, mlp=skipped)
    yield Way(PLAIN, PLAIN)
    yield from (Way(method, method, profile) for method in METHODS)
    yield Way(TUNED, None, profile, new_online_state(target, profile=profile))


def decode_all(
    target: Target, ways: Sequence[Way], prompts: Sequence[Sequence[int]], lengths: Sequence[int]
) -> dict[str, list[Text]]:
    """By way, its decoding of every text."""
    found: dict[str, list[Text]] = {way.name: [] for way in ways}
    clock = target.runtime.clock_without_capture(time.perf_counter)
    for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        log(f"text {number + 1} of {len(prompts)}")
        texts = [
            Text(
                generate_rounds(
                    target,
                    prompt,
                    profile=way.profile,
                    method=way.method,
                    max_new_tokens=length,
                    online_state=way.online_state,
                )
            )
            for way in ways
        ]
        with target.runtime.capture_immediately():
            in_step(texts, clock)
        for way, text in zip(ways, texts, strict=True):
            found[way.name].append(text)
    return found


def in_step(texts: Sequence[Text], clock: Clock) -> None:
    """Decode all to their ends: the next rounds are those of the texts with fewest tokens."""
    turn = 0
    while unfinished := [text for text in texts if not text.stopped]:
        fewest = min(len(text.tokens) for text in unfinished)
        behind = [text for text in unfinished if len(text.tokens) == fewest]
        for index in run_order(len(behind), turn, 0):
            behind[index].advance(clock)
        turn += 1


def compared(texts: Sequence[Text], plain: Sequence[Text]) -> dict[str, Any]:
    """A method's texts beside the plain ones; ratios are plain seconds ÷ the method's.

    Raises:
        SystemExit: a text differs from the plain one.
    """
    pairs = list(zip(texts, plain, strict=True))
    if any(own.tokens != other.tokens for own, other in pairs):
        raise SystemExit("a text differs from that of plain decoding")
    ratios = [ratio for own, other in pairs if (ratio := paused_ratio(own, other)) is not None]
    whole = [[math.log(other.seconds / own.seconds)] for own, other in pairs]
    return {
        "rounds": sum(len(own.rounds) for own in texts),
        "without_draft": sum(len(own.undrafted_seconds()) for own in texts),
        "round": ratio_interval([[ratio] for ratio in ratios]).to_json() if ratios else None,
        "text": ratio_interval(whole).to_json(),
    }


def paused_ratio(own: Text, plain: Text) -> float | None:
    """Logarithm of plain ÷ own seconds: the median over rounds without a draft, if any."""
    steps = plain.undrafted_seconds()
    ratios = [
        math.log(steps[count] / seconds) for count, seconds in own.undrafted_seconds().items()
    ]
    return median(ratios) if ratios else None


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head("What a paused method costs", record)
    yield ""
    prompts = record["workload"]["num_timed"]
    yield f"{prompts} held-out prompts; all texts are those of plain decoding."
    yield ""
    yield "| method | rounds without a draft | such a round | whole texts |"
    yield "|---|--:|--:|--:|"
    for name, found in record["methods"].items():
        share = f"{found['without_draft']} of {found['rounds']}"
        yield f"| {name} | {share} | {fine_digits(found['round'])} | {digits(found['text'])} |"
    yield ""
    yield (
        "Speed, in that of plain decoding: medians over texts with 95 % bootstrap intervals. "
        "*Such a round* is compared with the plain step that made the same token in the same "
        "moments."
    )


def fine_digits(interval: Mapping[str, float] | None) -> str:
    """`0.998 (0.991–1.002)` of an interval's JSON; a dash for None."""
    if interval is None:
        return "–"
    return f"{interval['median']:.3f} ({interval['low']:.3f}–{interval['high']:.3f})"


if __name__ == "__main__":
    main()
