"""Error rates of `skipopt check`'s verdict, simulated on noise of real measurements.

A simulated run takes the mean times of a result file's texts, and adds to them:

- residuals of that file's own repeats, in stretches of a few texts in a row, each from texts that
  ran in the same order (plain decoding first, or the method);
- drift: the machine's speed moves over the run, and drafts by a share of it more;
- bursts: single texts take twice as long;
- a difference of the run as a whole, in the speedup;
- in `states`, a machine that changes between two states as one in `results/default-search.json`
  did: plain decoding a fifth faster, drafts a twentieth slower.

A baseline and a run with a planted change are made in this way and judged by `SpeedRule.look`, as
`check` does, block by block until decided or the blocks are used up.

    python -m benchmarks.gate --output results/gate
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

from benchmarks.result_files import log, page_head, shown_path, write_results
from skipopt.environment import environment_record
from skipopt.measurement import speed_verdict
from skipopt.measurement.paired_texts import Pair
from skipopt.measurement.speed_verdict import RUN_ERROR, SpeedRule
from skipopt.stats import ratio_interval

SOURCES = (
    ("check", "layer-skip"),
    ("methods-native", "layer-skip"),
    ("methods-stock", "cascade:quant=int8"),
    ("methods-stock", "layer-skip:quant=int8"),
    ("default-search-first", "cascade"),
    ("default-search", "cascade"),
    ("suffix-stock", "suffix"),
    ("suffix-gemma", "suffix"),
)
CHANGES = (0.0, -0.05, -0.10, -0.15, -0.20, -0.30)
TOLERANCES = (0.05, 0.10, 0.20)
MIDDLE = 0.10  # the tolerance of the smaller tables
VERDICTS = ("pass", "fail", "inconclusive")
STRETCH = 4  # texts in a row whose residuals stay together; even, so that orders agree
DRIFT = 0.15  # largest change of ln(seconds) over a run, common to both
DRIFT_SHARE = 0.1  # of it that drafts do not share
BURSTS = 0.03  # share of texts that take twice as long
STATE_CHANGES = 1 / 100  # for each text
STATE = (-0.2, 0.05)  # ln(seconds) of plain decoding and of the method, in the other state
STATE_TIME = 1 / 3  # share of the time in it

NO_FLOOR = 1e-9

Texts = Mapping[str, Mapping[int, Pair]]  # seconds, by text and repeat
Times = Mapping[int, Mapping[int, Pair]]  # ln(seconds), by prompt and repeat


@dataclass(frozen=True, slots=True)
class Source:
    """Real times of one method in one result file.

    Attributes:
        means: of ln(seconds) for each text.
        residuals: of each repeat, by order (0: plain decoding first on text 0), in the order of
            texts; widened for the mean that was taken out of few repeats.
    """

    name: str
    means: Sequence[Pair]
    residuals: tuple[Sequence[Pair], ...]

    @classmethod
    def load(cls, file: str, method: str) -> Source:
        times = read_times(Path("results") / f"{file}.json", method)
        means = [mean_pair(list(repeats.values())) for repeats in times.values()]
        count = min(len(repeats) for repeats in times.values())
        widened = math.sqrt(count / (count - 1))
        residuals = tuple(
            [
                Pair(*(widened * (t - m) for t, m in zip(repeats[r], mean, strict=True)))
                for mean, repeats in zip(means, times.values(), strict=True)
            ]
            for r in range(count)
        )
        return cls(f"{file}: {method}", means, residuals)


def read_times(path: Path, method: str) -> Times:
    """From the samples of `check --json` or `bench --json`."""
    document = json.loads(path.read_text(encoding="utf-8"))
    samples = document.get("samples") or [
        {"method": each["name"], **sample}
        for each in document["methods"]
        for sample in each["samples"]
    ]
    seconds = {
        (s["method"], s["prompt"], s["repeat"]): math.log(s["total_seconds"]) for s in samples
    }
    found: dict[int, dict[int, Pair]] = defaultdict(dict)
    for name, prompt, repeat in sorted(seconds):
        if name == method:
            plain = seconds["plain", prompt, repeat]
            found[prompt][repeat] = Pair(plain, seconds[name, prompt, repeat])
    return found


def mean_pair(pairs: Sequence[Pair]) -> Pair:
    return Pair(fmean(p.plain for p in pairs), fmean(p.method for p in pairs))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a run meets beside the noise of repeats."""

    name: str
    description: str
    run_error: float
    bursts: float = BURSTS
    drift: float = DRIFT
    states: bool = False


COMMON = Scenario(
    "common",
    f"residuals; {BURSTS:.0%} of texts take twice as long; drift within {DRIFT:.0%}, of which "
    f"drafts take {DRIFT_SHARE:.0%} more; runs differ by a standard deviation of {RUN_ERROR:.1%}",
    RUN_ERROR,
)
SCENARIOS = (
    COMMON,
    Scenario("repeats", "residuals alone", 0.0, bursts=0.0, drift=0.0),
    Scenario("runs", "as `common`, and runs differ twice as much", 2 * RUN_ERROR),
    Scenario("states", "as `common`, on a machine of two states", RUN_ERROR, states=True),
)


def simulate_run(
    source: Source, scenario: Scenario, change: float, blocks: int, rng: Random
) -> Iterator[Texts]:
    """The times of a run up to the end of each block, in one growing table.

    Args:
        change: planted in the speedup, -0.1 for a tenth less.
    """
    shift = rng.gauss(0, scenario.run_error) + math.log(1 + change)
    conditions = _conditions(scenario, rng, 2 * blocks * len(source.means))
    found: dict[str, dict[int, Pair]] = {str(i): {} for i in range(len(source.means))}
    for repeat in range(2 * blocks):
        residuals = _residuals(source, repeat, rng)
        for prompt, (mean, residual) in enumerate(zip(source.means, residuals, strict=True)):
            state = next(conditions)
            found[str(prompt)][repeat] = Pair(
                math.exp(mean.plain + residual.plain + state.plain),
                math.exp(mean.method + residual.method + state.method - shift),
            )
        if repeat % 2:
            yield found


def simulate_baseline(source: Source, scenario: Scenario, blocks: int, rng: Random) -> Texts:
    """The times of a whole run without a change."""
    *_, last = simulate_run(source, scenario, 0.0, blocks, rng)
    return last


def _residuals(source: Source, repeat: int, rng: Random) -> list[Pair]:
    """Stretches from repeats of the same order, one after the other."""
    orders = source.residuals[repeat % 2 :: 2]
    count = len(source.means)
    found: list[Pair] = []
    while len(found) < count:
        start = 2 * rng.randrange(count // 2)
        drawn = rng.choice(orders)
        found += [drawn[(start + i) % count] for i in range(STRETCH)]
    return found[:count]


def _conditions(scenario: Scenario, rng: Random, texts: int) -> Iterator[Pair]:
    """ln(seconds) that the machine adds to each text of a run, plainly and by the method."""
    level, slope = (rng.uniform(-1, 1) * scenario.drift / 2 for _ in range(2))
    other = scenario.states and rng.random() < STATE_TIME
    for index in range(texts):
        if scenario.states and rng.random() < STATE_CHANGES:
            other = rng.random() < STATE_TIME
        speed = level + slope * (2 * index / texts - 1)
        added = STATE if other else (0.0, 0.0)
        plain, method = (math.log(2) if rng.random() < scenario.bursts else 0.0 for _ in range(2))
        yield Pair(plain + speed + added[0], method + (1 + DRIFT_SHARE) * speed + added[1])


class TextsRule:
    """The verdict of `check` against the texts of a baseline; its floor is far away."""

    def __init__(self, baseline: Texts) -> None:
        self.baseline = baseline

    def look(self, now: Texts, number: int, is_last: bool) -> Callable[[float], str]:
        """The verdict by tolerance."""

        def verdict(tolerance: float) -> str:
            rule = SpeedRule(NO_FLOOR, baseline=self.baseline, tolerance=tolerance)
            return rule.look(now, number, is_last).verdict

        return verdict


class MediansRule:
    """The rule before: the interval of this run's median against the baseline's median."""

    def __init__(self, baseline: Texts) -> None:
        self.before = median(median(each) for each in _log_speedups(baseline))

    def look(self, now: Texts, number: int, is_last: bool) -> Callable[[float], str]:
        """The verdict by tolerance."""
        interval = ratio_interval(_log_speedups(now))
        verdicts = {"above": "pass", "below": "fail", "straddles": "inconclusive"}
        return lambda lost: verdicts[interval.side_of(math.exp(self.before) * (1 - lost))]


Rule = TextsRule | MediansRule
RULES: dict[str, type[TextsRule] | type[MediansRule]] = {
    "texts": TextsRule,
    "medians": MediansRule,
}


def judge(rule: Rule, run: Iterator[Texts], blocks: int) -> dict[float, tuple[str, int]]:
    """The verdict at each tolerance, and after how many blocks."""
    found: dict[float, tuple[str, int]] = {}
    for number, now in enumerate(run, start=1):
        verdict = rule.look(now, number, number == blocks)
        for tolerance in (each for each in TOLERANCES if each not in found):
            if (given := verdict(tolerance)) != "inconclusive" or number == blocks:
                found[tolerance] = given, number
        if len(found) == len(TOLERANCES):
            break
    return found


def _log_speedups(texts: Texts) -> list[list[float]]:
    return [[pair.log_speedup for pair in repeats.values()] for repeats in texts.values()]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many runs are simulated, and how long baselines and runs are at most, in blocks."""

    runs: int
    baseline_blocks: int
    blocks: int


def rates(
    sources: Sequence[Source], scenario: Scenario, change: float, plan: Plan, rule: str
) -> list[dict[str, Any]]:
    """Shares of verdicts, for each tolerance; the same runs are judged at all of them."""
    rng = Random(f"{scenario.name} {change}")
    judged: dict[float, list[tuple[str, int]]] = defaultdict(list)
    for run in range(plan.runs):
        source = sources[run % len(sources)]
        baseline = simulate_baseline(source, scenario, plan.baseline_blocks, rng)
        looks = simulate_run(source, scenario, change, plan.blocks, rng)
        for tolerance, found in judge(RULES[rule](baseline), looks, plan.blocks).items():
            judged[tolerance].append(found)
    common = {"scenario": scenario.name, "rule": rule, "change": change, "runs": plan.runs}
    return [
        {**common, "tolerance": tolerance, **_summary(found)}
        for tolerance, found in judged.items()
    ]


def _summary(judged: Sequence[tuple[str, int]]) -> dict[str, float]:
    counts = Counter(verdict for verdict, _ in judged)
    shares = {verdict: counts[verdict] / len(judged) for verdict in VERDICTS}
    return {**shares, "median_blocks": median(blocks for _, blocks in judged)}


def measure(plan: Plan, medians: int) -> dict[str, list[dict[str, Any]]]:
    """Every table; the old rule, whose bootstrap is slow, is simulated in `medians` runs."""
    sources = [Source.load(*each) for each in SOURCES]
    scenarios: list[dict[str, Any]] = []
    fewer = replace(plan, runs=max(1, plan.runs // 4))
    for scenario in SCENARIOS:
        log(scenario.name)
        for change in CHANGES:
            chosen = plan if scenario is COMMON else fewer
            scenarios += rates(sources, scenario, change, chosen, "texts")
    old = [
        each
        for change in CHANGES
        for each in rates(sources, COMMON, change, replace(plan, runs=medians), "medians")
    ]
    each_source = [
        {"source": source.name, "texts_of_source": len(source.means), **found}
        for source in sources
        for change in (0.0, -0.2)
        for found in rates([source], COMMON, change, fewer, "texts")
        if found["tolerance"] == MIDDLE
    ]
    one_block = [
        found
        for change in (0.0, -0.2)
        for found in rates(sources, COMMON, change, replace(plan, baseline_blocks=1), "texts")
        if found["tolerance"] == MIDDLE
    ]
    return {"scenarios": scenarios, "medians": old, "sources": each_source, "one_block": one_block}


def page(record: Mapping[str, Any]) -> list[str]:
    """The Markdown page of a record."""
    tables = record["tables"]
    common = [each for each in tables["scenarios"] if each["scenario"] == COMMON.name]
    others = [
        each
        for each in tables["scenarios"]
        if each["scenario"] != COMMON.name and each["tolerance"] == MIDDLE
    ]
    return [
        *page_head("Error rates of the gate", record),
        "",
        *_description(record),
        "",
        f"## Noise of repeats, drift, bursts and runs (`{COMMON.name}`)",
        "",
        *_table(common, ("tolerance", "change")),
        "",
        "## The rule before: the interval of the median, and the baseline's median",
        "",
        *_table(tables["medians"], ("tolerance", "change")),
        "",
        "## Other noise, at a tolerance of 10 %",
        "",
        *_table(others, ("scenario", "change")),
        "",
        "## Each source, at a tolerance of 10 %",
        "",
        *_table(tables["sources"], ("source", "change")),
        "",
        "## With a baseline of one block, at a tolerance of 10 %",
        "",
        *_table(tables["one_block"], ("change",)),
    ]


def _description(record: Mapping[str, Any]) -> list[str]:
    plan, constants = record["plan"], record["constants"]
    return [
        f"{plan['runs']} simulated runs a row; a quarter of them in other noise and of each "
        f"source, {plan['medians']} of the rule before. Baselines of {plan['baseline_blocks']} "
        f"blocks, runs of {plan['blocks']} at most. A block is two repeats of all texts.",
        "",
        *(f"- {name}: {value}" for name, value in constants.items()),
        *(f"- `{s.name}`: {s.description}" for s in SCENARIOS),
    ]


def _table(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    head = [*keys, *VERDICTS, "median blocks"]
    lines = ["| " + " | ".join(head) + " |", "|" + "--:|" * len(head)]
    for each in sorted(rows, key=lambda row: [str(row[key]) for key in keys[:-1]]):
        cells = [_cell(each[key]) for key in (*keys, *VERDICTS)]
        lines.append("| " + " | ".join([*cells, f"{each['median_blocks']:g}"]) + " |")
    return lines


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{100 * value:.3g} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=240)
    parser.add_argument("--medians", type=int, default=32, help="runs of the rule before")
    parser.add_argument("--baseline-blocks", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("results/gate"))
    arguments = parser.parse_args()
    plan = Plan(arguments.runs, arguments.baseline_blocks, arguments.blocks)
    record = {
        "command": f"python -m benchmarks.gate --output {shown_path(arguments.output)}",
        "environment": environment_record("cpu", "float32", "none", 1),
        "plan": {**asdict(plan), "medians": arguments.medians},
        "constants": {
            "ERROR_RATE": speed_verdict.ERROR_RATE,
            "RUN_ERROR": speed_verdict.RUN_ERROR,
            "STATE_SHARE": speed_verdict.STATE_SHARE,
            "SAME_STATE": speed_verdict.SAME_STATE,
        },
        "tables": measure(plan, arguments.medians),
    }
    write_results(arguments.output, record, page(record))


if __name__ == "__main__":
    main()
