"""Predicted and promised against measured speedups, for drafts of mixed kinds.

    python -m benchmarks.prediction_accuracy MODEL --threads 2

The drafts: masks, quantized weights, a part of the vocabulary, an attention window, combinations
of these, several γ, cascade and copies. Each is predicted as a search predicts it, from
the calibration prompts, and decodes some validation prompts, from which a search's *promise*
follows (`expected` in a profile). Then it decodes held-out prompts, paired and interleaved with
plain decoding. Results are written after each; with the same `--output`, what is there already is
not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import skipopt
from benchmarks.drafts import Drafts, Predicted, Predictor, spread
from benchmarks.held_out import digits, held_out_workload, result_of, timed
from benchmarks.result_files import earlier_record, log, page_head, save_results, write_results
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.measurement.metrics import prefill_share
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import PLAIN
from skipopt.measurement.workload import Workload
from skipopt.models.target import Target
from skipopt.study.config import LAYER_SKIP
from skipopt.study.elimination import Elimination, Entry, predicted_end_to_end
from skipopt.study.time_plan import NEVER

LEAST_MASK = 0.8  # of the best mask's predicted speedup, for the other masks
WINDOW = 64  # tokens; shorter than the texts
COPIES = "suffix"
VOCAB_SHARE = 4  # of the vocabulary: one in so many
INT8, INT4 = DraftConfig(weight_bits=8), DraftConfig(weight_bits=4)

Row = dict[str, Any]


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    known = earlier_record(given.output, command_of(given)) or {"drafts": [], "masks": []}
    rows, masks = known["drafts"], known["masks"]
    target = skipopt.load(given.model, on_notice=log)
    predictor = Predictor(target, given.tokens, given.texts, log)
    if not masks:
        masks = [str(mask) for mask in spread(predictor.masks(), 3, LEAST_MASK)]
    chosen = mixed_drafts(predictor, [SkipMask.parse(mask, target.depth) for mask in masks])
    chosen = chosen[: given.drafts]
    texts = predictor.validation(given.validation)
    load = held_out_workload(target, given.prompts, given.tokens)
    done = {row["name"] for row in rows}
    for number, drafts in enumerate(chosen, 1):
        if drafts.name in done:
            continue
        print(f"[{number}/{len(chosen)}] {drafts.name}", flush=True)
        rows.append(measured(target, predictor.predict(drafts), texts, load, given.repeats))
        print(f"  {summary(rows[-1])}", flush=True)
        record = record_of(given, target, load, masks, rows)
        save_results(given.output, record, list(report(record)))
    record = record_of(given, target, load, masks, rows)
    write_results(given.output, record, list(report(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--name", help="of the model in the results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--drafts", type=int, default=20, help="most that are measured")
    parser.add_argument("--texts", type=int, help="calibration texts; as many as a search's")
    parser.add_argument("--validation", type=int, default=8, help="validation prompts")
    parser.add_argument("--prompts", type=int, default=16, help="held-out prompts")
    parser.add_argument("--tokens", type=int, default=40, help="of each text")
    parser.add_argument("--repeats", type=int, default=1, help="on held-out prompts")
    parser.add_argument("--output", type=Path, default=Path("results/prediction-accuracy"))
    return parser.parse_args()


def command_of(given: argparse.Namespace) -> str:
    name = given.name or Path(given.model).name
    options = f"--threads {given.threads} --drafts {given.drafts} --validation {given.validation}"
    options += f" --prompts {given.prompts} --tokens {given.tokens} --repeats {given.repeats}"
    return f"python -m benchmarks.prediction_accuracy {name} {options}"


def mixed_drafts(predictor: Predictor, masks: Sequence[SkipMask]) -> list[Drafts]:
    """Drafts of all kinds that this machine supports, in an order in which kinds alternate.

    Args:
        masks: three, best first.
    """
    depth = predictor.target.depth
    empty = SkipMask.empty(depth)
    vocab = DraftConfig(vocab_size=predictor.target.vocab_size // VOCAB_SHARE)
    window = DraftConfig(attention_window=WINDOW)
    configs = [INT8, INT4, vocab, window, int8_with(vocab), int8_with(window)]
    supported = {each for each in configs if predictor.supports(each)}

    def kinds() -> Iterator[tuple[str, str, SkipMask, DraftConfig, int | None]]:
        best, middle, worst = masks
        yield "int8", LAYER_SKIP, empty, INT8, None
        yield "suffix", COPIES, empty, UNCHANGED, None
        yield "best mask", LAYER_SKIP, best, UNCHANGED, None
        yield "cascade of int8", "cascade", empty, INT8, None
        yield "int8 + vocabulary", LAYER_SKIP, empty, int8_with(vocab), None
        yield "int4", LAYER_SKIP, empty, INT4, None
        yield "best mask + int8", LAYER_SKIP, best, INT8, None
        yield "vocabulary", LAYER_SKIP, empty, vocab, None
        yield "int8 + window", LAYER_SKIP, empty, int8_with(window), None
        yield "int8, γ = 2", LAYER_SKIP, empty, INT8, 2
        yield "middle mask", LAYER_SKIP, middle, UNCHANGED, None
        yield "cascade of best mask + int8", "cascade", best, INT8, None
        yield "window", LAYER_SKIP, empty, window, None
        yield "int4, γ = 2", LAYER_SKIP, empty, INT4, 2
        yield "middle mask + int8", LAYER_SKIP, middle, INT8, None
        yield "int8, γ = 4", LAYER_SKIP, empty, INT8, 4
        yield "worst mask", LAYER_SKIP, worst, UNCHANGED, None
        yield "cascade of int4", "cascade", empty, INT4, None
        yield "worst mask + int8", LAYER_SKIP, worst, INT8, None
        yield "best mask + int4", LAYER_SKIP, best, INT4, None
        yield "int8 + vocabulary, γ = 3", LAYER_SKIP, empty, int8_with(vocab), 3
        yield "best mask + int8 + vocabulary", LAYER_SKIP, best, int8_with(vocab), None

    return [
        Drafts(name, method, mask, predictor.with_vocabulary(config), gamma)
        for name, method, mask, config, gamma in kinds()
        if config in {UNCHANGED, *supported}
    ]


def int8_with(other: DraftConfig) -> DraftConfig:
    """Int8 weights, with the vocabulary or window of another configuration."""
    return DraftConfig(8, other.attention_window, vocab_size=other.vocab_size)


def measured(
    target: Target, predicted: Predicted, texts: Workload, load: Workload, repeats: int
) -> Row:
    """Decode validation and held-out prompts.

    Args:
        texts: the validation prompts, decoded once.
        load: the held-out prompts.
    """
    runner = predicted.runner(target)
    timer = timed(target, [runner], texts, 1)
    entries = {runner.name: Entry("", predicted.prediction)}
    config = skipopt.SearchConfig()
    validation = Elimination(timer, entries, config, NEVER, lambda: None, texts.categories)
    promised = validation.expected()[runner.name].interval
    prefill = prefill_share(timer.samples, PLAIN)
    drafts, held_out = predicted.drafts, timed(target, [runner], load, repeats)
    return {
        "name": drafts.name,
        "method": drafts.method,
        "mask": str(drafts.mask),
        "draft_config": str(drafts.draft_config),
        "gamma": predicted.gamma,
        "tau": predicted.tau,
        "predicted_decoding": predicted.prediction.median_speedup,
        "predicted": predicted_end_to_end(predicted.prediction, prefill),
        "predicted_acceptance_rate": predicted.prediction.acceptance_rate,
        "promised": promised.to_json(),
        "held_out": result_of(target, held_out, runner.name, load).to_json(),
    }


def summary(row: Row) -> str:
    found = row["held_out"]
    return (
        f"predicted {row['predicted']:.2f}, promised {row['promised']['median']:.2f}, held out "
        f"{found['mean']:.2f} in the mean, {digits(found['speedup'])}, {found['lossless']}"
    )


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well predictions meet measurements: errors and bias are relative.

    Attributes:
        median_error: of the absolute errors.
        bias: median of the errors; positive where predictions are too high.
        within: number of drafts whose error is at most 5 %.
        rank_correlation: Spearman's; None with fewer than three drafts.
    """

    median_error: float
    bias: float
    within: int
    rank_correlation: float | None


def accuracy(predicted: Sequence[float], measured: Sequence[float]) -> Accuracy:
    from scipy.stats import spearmanr

    errors = [p / m - 1 for p, m in zip(predicted, measured, strict=True)]
    rank = float(spearmanr(predicted, measured).statistic) if len(errors) > 2 else None
    within = sum(abs(error) <= 0.05 for error in errors)
    return Accuracy(median(map(abs, errors)), median(errors), within, rank)


def accuracies(rows: Sequence[Row]) -> dict[str, Accuracy]:
    """For each pair of a prediction and a measurement."""
    held_out = [row["held_out"] for row in rows]
    mean = [each["mean"] for each in held_out]
    promised = [row["promised"]["median"] for row in rows]
    return {
        "promised, end to end, against the mean": accuracy(promised, mean),
        "promised, end to end, against the median": accuracy(
            promised, [each["speedup"]["median"] for each in held_out]
        ),
        "predicted, end to end, against the mean": accuracy(
            [row["predicted"] for row in rows], mean
        ),
        "predicted, decoding alone, against the median": accuracy(
            [row["predicted_decoding"] for row in rows],
            [each["decoding"]["median"] for each in held_out],
        ),
    }


def record_of(
    given: argparse.Namespace,
    target: Target,
    load: Workload,
    masks: Sequence[str],
    rows: Sequence[Row],
) -> dict[str, Any]:
    return {
        "command": command_of(given),
        "environment": environment_of(target),
        "workload": load.to_json(),
        "masks": list(masks),
        "drafts": list(rows),
    }


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    rows = record["drafts"]
    yield from page_head("Predicted and promised against measured speedup", record)
    yield ""
    yield f"{len(rows)} drafts, {record['workload']['num_timed']} held-out prompts."
    yield ""
    yield "| | median error | bias | within 5 % | rank correlation |"
    yield "|---|--:|--:|--:|--:|"
    for name, each in accuracies(rows).items():
        rank = "" if each.rank_correlation is None else f"{each.rank_correlation:.2f}"
        within = f"{each.within} of {len(rows)}"
        yield f"| {name} | {each.median_error:.1%} | {each.bias:+.1%} | {within} | {rank} |"
    yield ""
    yield (
        "| drafts | γ | τ | predicted | promised | held out: mean | median | promised ÷ mean "
        "| decoding alone: predicted | held out | text |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    for row in rows:
        yield f"| {' | '.join(cells(row))} |"
    yield ""
    yield (
        "Speedups over plain decoding, end to end unless said otherwise. *Predicted*: from costs "
        "and calibration texts. *Promised*: the same with some validation prompts decoded, as "
        "`expected` in a profile. Means are geometric, over prompts; intervals are 95 % bootstrap "
        "intervals over prompts."
    )


def cells(row: Row) -> list[str]:
    found = row["held_out"]
    return [
        row["name"],
        *(["–", "–"] if row["method"] == COPIES else [str(row["gamma"]), f"{row['tau']:g}"]),
        f"{row['predicted']:.2f}",
        digits(row["promised"]),
        f"{found['mean']:.2f}",
        digits(found["speedup"]),
        f"{row['promised']['median'] / found['mean']:.2f}",
        f"{row['predicted_decoding']:.2f}",
        digits(found["decoding"]),
        found["lossless"],
    ]


if __name__ == "__main__":
    main()
