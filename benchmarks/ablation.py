"""What each part of the drafts gains on held-out prompts: mask, weight bits, vocabulary, copies.

    python -m benchmarks.ablation MODEL --profile profile.yaml --threads 2

The parts are those of the profile. A mask, weight bits or a vocabulary that it has not (or without
a profile) is chosen here, by prediction on the calibration prompts, so that the table always has
the same rows: each part alone, all together, all with copies (`cascade`) and copies alone. Every
row has the γ and τ that are best for it by prediction; the profile decodes with its own. Each row
decodes the held-out prompts in turn with plain decoding. Results are written after each; with the
same `--output`, what is there already is not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import skipopt
from benchmarks.drafts import Drafts, Predictor
from benchmarks.held_out import digits, held_out_workload, result_of, timed
from benchmarks.result_files import (
    earlier_record,
    log,
    page_head,
    save_results,
    shown_path,
    write_results,
)
from skipopt.decoding.api import resolve_method
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.measurement.runners import SkipoptRunner
from skipopt.measurement.workload import Workload
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.study.config import LAYER_SKIP, VOCAB_PARTS

PROFILE = "the profile"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the drafts are made of.

    Attributes:
        chosen: names of the parts that are not the profile's.
    """

    mask: SkipMask
    bits: DraftConfig
    vocab: DraftConfig
    window: DraftConfig
    chosen: tuple[str, ...] = ()

    @property
    def together(self) -> DraftConfig:
        """The draft configuration of all parts."""
        return replace(
            self.bits,
            vocab_size=self.vocab.vocab_size,
            vocabulary=self.vocab.vocabulary,
            attention_window=self.window.attention_window,
        )

    def rows(self) -> Iterator[Drafts]:
        """Each part alone and combinations, by name; without the parts that nothing has."""
        empty = SkipMask.empty(self.mask.layers)
        if self.mask.skipped:
            yield Drafts("mask", LAYER_SKIP, self.mask)
        for name, config in (
            ("weight bits", self.bits),
            ("vocabulary", self.vocab),
            ("window", self.window),
        ):
            if config:
                yield Drafts(name, LAYER_SKIP, empty, config)
        if self.mask.skipped and self.bits:
            yield Drafts("mask and weight bits", LAYER_SKIP, self.mask, self.bits)
        yield Drafts("all", LAYER_SKIP, self.mask, self.together)
        yield Drafts("all, with copies", "cascade", self.mask, self.together)
        if self.bits:
            yield Drafts("weight bits, with copies", "cascade", empty, self.bits)
        yield Drafts("copies", "suffix", empty)


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    record = earlier_record(given.output, command_of(given)) or {"rows": []}
    target = skipopt.load(given.model, on_notice=log)
    profile = Profile.load(given.profile) if given.profile else None
    if profile is not None:
        profile.check_model(target)
    predictor = Predictor(target, given.tokens, given.texts, log)
    parts = parts_of(profile, predictor, record.get("parts", {}))
    load = held_out_workload(target, given.prompts, given.tokens)
    record = {**record, **facts(given, target, load, parts)}
    for row in measured_rows(given, profile, predictor, parts, load, record["rows"]):
        record["rows"].append(row)
        print(f"  {digits(row['held_out']['speedup'])}, {row['held_out']['lossless']}", flush=True)
        save_results(given.output, record, list(report(record)))
    write_results(given.output, record, list(report(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--name", help="of the model in the results")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, help="calibration texts; as many as a search's")
    parser.add_argument("--prompts", type=int, default=24, help="held-out prompts")
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/ablation"))
    return parser.parse_args()


def command_of(given: argparse.Namespace) -> str:
    name = given.name or Path(given.model).name
    options = f"--profile {shown_path(given.profile)} " if given.profile else ""
    options += f"--threads {given.threads} --prompts {given.prompts} --tokens {given.tokens}"
    return f"python -m benchmarks.ablation {name} {options} --repeats {given.repeats}"


def parts_of(profile: Profile | None, predictor: Predictor, known: Mapping[str, str]) -> Parts:
    """The profile's parts, and the best others by prediction where it has none.

    Args:
        known: texts of the parts of an earlier run, which are not chosen again.
    """
    depth = predictor.target.depth
    own = profile.draft_config if profile else UNCHANGED
    bits = replace(own, vocab_size=None, vocabulary=None, attention_window=None)
    vocab = DraftConfig(vocab_size=own.vocab_size, vocabulary=own.vocabulary)
    mask = profile.skip_mask if profile else SkipMask.empty(depth)
    chosen: list[str] = []
    if not bits and predictor.supports(DraftConfig(weight_bits=8)):
        bits = DraftConfig(weight_bits=8)
        chosen.append("weight bits")
    if not vocab:
        vocab = chosen_vocabulary(predictor, bits, known.get("vocabulary"))
        chosen += ["vocabulary"] if vocab else []
    if not mask.skipped:
        mask = chosen_mask(predictor, bits, known.get("mask"))
        chosen.append("mask")
    window = DraftConfig(attention_window=own.attention_window)
    return Parts(mask, bits, vocab, window, tuple(chosen))


def chosen_vocabulary(predictor: Predictor, bits: DraftConfig, known: str | None) -> DraftConfig:
    """The size with the best prediction together with the weight bits; none if unsupported."""
    if known is not None:
        return predictor.with_vocabulary(DraftConfig.parse(known))
    tokens, empty = predictor.target.vocab_size, SkipMask.empty(predictor.target.depth)
    found: list[tuple[float, DraftConfig]] = []
    for share in VOCAB_PARTS:
        alone = DraftConfig(vocab_size=tokens // share)
        if not predictor.supports(alone):
            continue
        both = predictor.with_vocabulary(replace(bits, vocab_size=alone.vocab_size))
        predicted = predictor.predict(Drafts("vocabulary", LAYER_SKIP, empty, both))
        log(f"{both}: {predicted.prediction.speedup:.2f} predicted")
        found.append((predicted.prediction.speedup, replace(alone, vocabulary=both.vocabulary)))
    return max(found, key=lambda each: each[0])[1] if found else UNCHANGED


def chosen_mask(predictor: Predictor, bits: DraftConfig, known: str | None) -> SkipMask:
    """The mask with the best prediction together with the weight bits."""
    if known is not None:
        return SkipMask.parse(known, predictor.target.depth)
    return predictor.masks(bits)[0][0]


def measured_rows(
    given: argparse.Namespace,
    profile: Profile | None,
    predictor: Predictor,
    parts: Parts,
    load: Workload,
    done: Sequence[Row],
) -> Iterator[Row]:
    """The rows that are not there yet, each after it was measured."""
    target, names = predictor.target, {row["name"] for row in done}
    if profile is not None and profile.enabled and PROFILE not in names:
        print(PROFILE, flush=True)
        runner = SkipoptRunner(target, resolve_method(profile, None), profile, name=PROFILE)
        settings = ", ".join(f"{key} {value}" for key, value in runner.settings.items())
        yield decoded(target, runner, load, given.repeats, f"{runner.spec}, {settings}", None)
    for drafts in parts.rows():
        if drafts.name not in names:
            print(drafts.name, flush=True)
            found = predictor.predict(drafts)
            made_of = f"{drafts.mask}; {drafts.draft_config}; γ = {found.gamma}, τ = {found.tau:g}"
            if drafts.method == "suffix":
                made_of = "–"
            predicted = found.prediction.median_speedup
            runner = found.runner(target)
            yield decoded(target, runner, load, given.repeats, made_of, predicted)


def decoded(
    target: Target,
    runner: SkipoptRunner,
    load: Workload,
    repeats: int,
    made_of: str,
    predicted: float | None,
) -> Row:
    """Decode the held-out prompts with one runner, and plainly."""
    timer = timed(target, [runner], load, repeats)
    found = result_of(target, timer, runner.name, load)
    return {
        "name": runner.name,
        "method": str(runner.spec),
        "drafts": made_of,
        "predicted_decoding": predicted,
        "held_out": found.to_json(),
    }


def facts(
    given: argparse.Namespace, target: Target, load: Workload, parts: Parts
) -> dict[str, Any]:
    """What the record has besides its rows."""
    return {
        "command": command_of(given),
        "environment": environment_of(target),
        "workload": load.to_json(),
        "parts": {
            "mask": str(parts.mask),
            "weight bits": str(parts.bits),
            **({"vocabulary": str(parts.vocab)} if parts.vocab else {}),
        },
        "chosen": list(parts.chosen),
    }


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head("What each part of the drafts gains", record)
    yield ""
    yield f"{record['workload']['num_timed']} held-out prompts."
    if record["chosen"]:
        yield f"Not the profile's, but chosen here: {', '.join(record['chosen'])}."
    yield ""
    yield (
        "| part | mask; draft configuration; γ, τ | end to end | decoding alone | predicted "
        "| accepted | text |"
    )
    yield "|---|---|--:|--:|--:|--:|---|"
    for row in record["rows"]:
        found, predicted = row["held_out"], row["predicted_decoding"]
        rate = found["acceptance_rate"]
        cells = (
            row["name"],
            row["drafts"],
            digits(found["speedup"]),
            digits(found["decoding"]),
            "" if predicted is None else f"{predicted:.2f}",
            "" if rate is None else f"{rate:.0%}",
            found["lossless"],
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "Speedups over plain decoding: medians of paired ratios with 95 % bootstrap intervals "
        "over prompts. *End to end* includes the prefill; *predicted* is of decoding alone."
    )


if __name__ == "__main__":
    main()
