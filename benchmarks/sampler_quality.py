"""How close samplers come to the best mask, and how soon.

    python -m benchmarks.sampler_quality --subspace [MODEL]
    python -m benchmarks.sampler_quality --full [MODEL] --seconds 60

`--subspace`: 12 sublayers are free. All 4096 masks are scored once and kept in a table
(PREFIX-table.json; a second run reads it and loads no model), and every sampler is replayed from
the table: which share of the best value it reaches, and after how many trials 99 % of it.

`--full`: all sublayers are free. Every sampler searches for a number of seconds or trials, and the
best value so far is recorded over trials and over seconds (of the sampler and of scoring).
Samplers take turns, seed by seed, so that a machine that slows down slows all of them.

Writes PREFIX.json, PREFIX.md and, for `--full`, PREFIX.png. Values are predicted speedups.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.result_files import environment_lines, write_file, write_results
from skipopt.masks import MaskSpace, SkipMask
from skipopt.samplers.base import BaseSampler
from skipopt.samplers.registry import NEED_CONTEXT, SAMPLERS, make_sampler

FREE = 12  # sublayers of the subspace: those in the middle
BATCH = 8
NEAR = 0.99  # of the best
POSITIONS = 128
LONGEST_DRAFT = 8
EXCLUDED = {"exhaustive"}  # it visits masks in a fixed order


def main() -> None:
    given = arguments()
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    prefix = Path(given.output or ("search-quality" if given.subspace else "search-full"))
    if given.subspace:
        subspace(given, prefix)
    else:
        full(given, prefix)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--subspace", action="store_true", help="12 sublayers, from a table")
    what.add_argument("--full", action="store_true", help="every sublayer, with the model")
    parser.add_argument("--samplers", help="names with commas; default: all that can")
    parser.add_argument("--seeds", type=int, help="default: 10 for --subspace, 5 for --full")
    parser.add_argument("--trials", type=int, help="default: 150 for --subspace, no limit else")
    parser.add_argument("--seconds", type=float, help="for each search of --full; default: 60")
    parser.add_argument("--positions", type=int, default=POSITIONS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", metavar="PREFIX")
    return parser.parse_args()


# --- the subspace ---------------------------------------------------------------------------


def subspace(given: argparse.Namespace, prefix: Path) -> None:
    table = read_table(Path(f"{prefix}-table.json"), given)
    values: dict[str, float] = table["values"]
    depth, free = table["layers"], table["free"]
    space = MaskSpace(depth, frozenset(range(2 * depth)) - frozenset(free))
    # Without a model `dp` cannot run, and `auto` runs without its dynamic programs.
    names = chosen(given.samplers, EXCLUDED | NEED_CONTEXT)
    trials, seeds = given.trials or 150, given.seeds or 10
    best = max(values.values())
    rows = {}
    for name in names:
        runs = [replayed(make_sampler(name, space, s), values, trials) for s in range(seeds)]
        rows[name] = summary(runs, best)
        print(f"{name}: {rows[name]}", flush=True)
    facts = {key: table[key] for key in ("model", "positions", "free", "environment")}
    facts |= {"best": best, "best_mask": max(values, key=values.__getitem__)}
    facts |= {"empty": values["none"], "trials": trials, "seeds": seeds}
    near = sum(value >= NEAR * best for value in values.values())
    facts |= {"masks": len(values), "masks_near_best": near}
    write_results(prefix, {**facts, "samplers": rows}, subspace_text(facts, rows))


def replayed(sampler: BaseSampler, values: dict[str, float], trials: int) -> list[float]:
    """The best value so far after each trial."""
    found: list[float] = []
    while len(found) < trials and (masks := sampler.ask(min(BATCH, trials - len(found)))):
        for mask in masks:
            value = values[str(mask)]
            sampler.tell(mask, value)
            found.append(max(value, found[-1] if found else value))
    return found


def summary(runs: Sequence[Sequence[float]], best: float) -> dict[str, Any]:
    shares = [run[-1] / best for run in runs]
    soon = [next((n for n, v in enumerate(run, 1) if v >= NEAR * best), None) for run in runs]
    arrived = [n for n in soon if n is not None]
    return {
        "reached": len(arrived),
        "lowest_share": min(shares),
        "median_share": median(shares),
        # None unless all seeds reach it: a median of some would favor samplers that fail.
        "median_trials": median(arrived) if len(arrived) == len(runs) else None,
        "most_trials": max(arrived) if len(arrived) == len(runs) else None,
    }


def subspace_text(facts: dict[str, Any], rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        f"# {facts['masks']} masks of {facts['model']}, searched with {facts['trials']} trials\n",
        f"Free: sublayers {facts['free'][0]} to {facts['free'][-1]}, "
        f"scored at {facts['positions']} positions. Best predicted speedup "
        f"{facts['best']:.3f} (`{facts['best_mask']}`), nothing skipped {facts['empty']:.3f}; "
        f"{facts['masks_near_best']} masks reach {NEAR:.0%} of the best.\n",
        *environment_lines(facts["environment"]),
        f"\n| sampler | reaches {NEAR:.0%} | share, lowest | share, median | trials, median "
        "| trials, most |\n|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        counts = [row["median_trials"], row["most_trials"]]
        cells = ["–" if n is None else f"{n:g}" for n in counts]
        lines.append(
            f"| {name} | {row['reached']}/{facts['seeds']} | {row['lowest_share']:.2%} "
            f"| {row['median_share']:.2%} | {cells[0]} | {cells[1]} |"
        )
    return lines


def read_table(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The value of every mask, from the file or scored now."""
    if path.exists():
        table: dict[str, Any] = json.loads(path.read_text())
        if table["model"] != given.model:
            raise SystemExit(f"{path} is for {table['model']}; give another --output")
        print(f"values from {path}")
        return table
    bench = Bench.of(given.model, given.positions)
    depth = bench.target.depth
    first = max(0, depth - FREE // 2)
    free = list(range(2 * depth))[first : first + FREE]
    masks = [
        SkipMask(depth, frozenset(i for i, bit in zip(free, bits, strict=True) if bit))
        for bits in product((0, 1), repeat=len(free))
    ]
    values: dict[str, float] = {}
    for start in range(0, len(masks), 64):
        chunk = masks[start : start + 64]
        values |= {str(mask): value for mask, value in bench.scored(chunk)}
        print(f"\r{len(values)} of {len(masks)} masks scored", end="", flush=True)
    print()
    table = {
        "model": given.model,
        "layers": depth,
        "free": free,
        "positions": bench.scorer.positions,
        "environment": bench.environment(),
        "values": values,
    }
    write_file(path, json.dumps(table))
    return table


# --- the full space -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """One search: after each trial, the seconds spent and the best value so far."""

    sampler: str
    seed: int
    seconds: list[float]
    best: list[float]

    def at_seconds(self, moment: float) -> float:
        """Best value by then; 1, the value of plain decoding, before there is any."""
        known = [v for t, v in zip(self.seconds, self.best, strict=True) if t <= moment]
        return known[-1] if known else 1.0

    def at_trials(self, count: int) -> float:
        return self.best[min(count, len(self.best)) - 1]


def full(given: argparse.Namespace, prefix: Path) -> None:
    bench = Bench.of(given.model, given.positions)
    names = chosen(given.samplers, EXCLUDED)
    seconds = given.seconds or (None if given.trials else 60.0)
    runs = []
    for seed in range(given.seeds or 5):
        for name in names:
            runs.append(searched(bench, name, seed, given.trials, seconds))
            print(f"{name}, seed {seed}: {runs[-1].best[-1]:.3f}", flush=True)
    moments, counts = checkpoints(runs, seconds)
    facts = {"model": given.model, "positions": bench.scorer.positions, "seeds": given.seeds or 5}
    facts |= {"seconds": seconds, "trials": given.trials, "environment": bench.environment()}
    rows = {name: medians([r for r in runs if r.sampler == name], moments) for name in names}
    text = full_text(facts, moments, rows, behind(rows))
    curves = [
        {"sampler": r.sampler, "seed": r.seed, "seconds": r.seconds, "best": r.best} for r in runs
    ]
    write_results(prefix, {**facts, "moments": moments, "medians": rows, "runs": curves}, text)
    draw(prefix.with_name(prefix.name + ".png"), runs, names, moments, counts)


def searched(bench: Bench, name: str, seed: int, trials: int | None, seconds: float | None) -> Run:
    """One search; its time includes making the sampler."""
    run = Run(name, seed, [], [])
    began = time.perf_counter()
    sampler = bench.sampler(name, seed)
    while (trials is None or len(run.best) < trials) and (
        seconds is None or time.perf_counter() - began < seconds
    ):
        count = BATCH if trials is None else min(BATCH, trials - len(run.best))
        masks = sampler.ask(count)
        if not masks:
            break
        for mask, value in bench.scored(masks):
            sampler.tell(mask, value)
            run.best.append(max(value, run.best[-1] if run.best else value))
            run.seconds.append(time.perf_counter() - began)
    return run


def checkpoints(runs: Sequence[Run], seconds: float | None) -> tuple[list[float], list[int]]:
    """Ten moments and ten trial counts to compare at."""
    end = seconds or min(run.seconds[-1] for run in runs)
    most = max(len(run.best) for run in runs)
    return [end * n / 10 for n in range(1, 11)], [max(1, most * n // 10) for n in range(1, 11)]


def medians(runs: Sequence[Run], moments: Sequence[float]) -> dict[str, Any]:
    return {
        "trials": median(len(run.best) for run in runs),
        "best": [median(run.at_seconds(moment) for run in runs) for moment in moments],
    }


def behind(rows: dict[str, dict[str, Any]]) -> list[tuple[int, str, float]]:
    """Where a median is above that of `auto`: (checkpoint, sampler, difference)."""
    if "auto" not in rows:
        return []
    own = rows["auto"]["best"]
    pairs = ((n, name, row["best"][n] - own[n]) for name, row in rows.items() for n in range(10))
    return [(n, name, gap) for n, name, gap in pairs if gap > 0]


def full_text(
    facts: dict[str, Any],
    moments: Sequence[float],
    rows: dict[str, dict[str, Any]],
    ahead: Sequence[tuple[int, str, float]],
) -> list[str]:
    head = " | ".join(f"{moment:.3g} s" for moment in moments)
    lines = [
        f"# Best predicted speedup so far, every sublayer of {facts['model']} free\n",
        f"Medians over {facts['seeds']} seeds; seconds of the sampler and of scoring at "
        f"{facts['positions']} positions.\n",
        *environment_lines(facts["environment"]),
        f"\n| sampler | trials | {head} |\n|---|---|{'---|' * len(moments)}",
    ]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["best"][-1]):
        cells = " | ".join(f"{value:.3f}" for value in row["best"])
        lines.append(f"| {name} | {row['trials']:g} | {cells} |")
    if "auto" in rows:
        lines.append(f"\nThe median of `auto` is behind another at {len(ahead)} of the moments.")
    lines += [f"- {name} by {gap:.3f} at {moments[n]:.3g} s" for n, name, gap in ahead]
    return lines


def draw(
    path: Path,
    runs: Sequence[Run],
    names: Sequence[str],
    moments: Sequence[float],
    counts: Sequence[int],
) -> None:
    """Two panels: medians against seconds and against trials."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for name in names:
        own = [run for run in runs if run.sampler == name]
        style = {"label": name, "linewidth": 2.5 if name == "auto" else 1.2}
        left.plot(moments, [median(r.at_seconds(m) for r in own) for m in moments], **style)
        right.plot(counts, [median(r.at_trials(c) for r in own) for c in counts], **style)
    left.set(xlabel="seconds of the sampler and of scoring", ylabel="best predicted speedup")
    right.set(xlabel="trials")
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


# --- shared -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bench:
    """A model, and what is needed to score its masks."""

    target: Any
    texts: tuple[Any, ...]
    costs: Any
    scorer: Any

    @classmethod
    def of(cls, model: str, positions: int) -> Bench:
        import skipopt
        from skipopt.detokenizer import encode_prompt
        from skipopt.measurement.cost_measurement import measure_costs
        from skipopt.prompts import load_prompts
        from skipopt.scoring import Scorer
        from skipopt.study.calibration import calibrate

        target = skipopt.load(model)
        prompts = load_prompts().calibration[:24]
        ids = [encode_prompt(target.tokenizer, text=p.text, messages=None) for p in prompts]
        texts: list[Any] = []
        for text in calibrate(target, ids, 40, lambda: None).texts:
            if sum(len(t.continuation) for t in texts) < positions:
                texts.append(text)
        longest = LONGEST_DRAFT + 1
        costs = measure_costs(target, texts[0].tokens[: target.context_limit - longest], longest)
        return cls(target, tuple(texts), costs, Scorer(target, texts))

    def scored(self, masks: Sequence[SkipMask]) -> Iterator[tuple[SkipMask, float]]:
        """Masks and their predicted speedups."""
        from skipopt.cost_model.replay import best_prediction

        for mask, trace in zip(masks, self.scorer.score(masks), strict=True):
            yield mask, best_prediction(trace, mask, self.costs).speedup

    def sampler(self, name: str, seed: int) -> BaseSampler:
        """As a study makes it: with the sampler context, without masks that cannot win."""
        from skipopt.samplers.context import SamplerContext
        from skipopt.samplers.upper_bound import speed_bound

        context = SamplerContext(self.target, self.texts, self.costs)
        bound = speed_bound(self.costs)
        return make_sampler(name, MaskSpace(self.target.depth), seed, context, bound)

    def environment(self) -> dict[str, Any]:
        from skipopt.measurement.provenance import environment_of

        return dict(environment_of(self.target))


def chosen(names: str | None, without: set[str] | frozenset[str]) -> list[str]:
    if names is None:
        return [name for name in SAMPLERS if name not in without]
    unknown = set(names.split(",")) - (SAMPLERS.keys() - without)
    if unknown:
        raise SystemExit(f"no such sampler here: {', '.join(sorted(unknown))}")
    return names.split(",")


if __name__ == "__main__":
    main()
