"""A profile as lines of text, with its mask drawn in characters."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from skipopt.masks import SkipMask
from skipopt.profile import (
    AblationSection,
    CandidateSection,
    DraftSettings,
    ExpectedSection,
    PredictedSection,
    Profile,
)
from skipopt.reporting.cells import counted_threads
from skipopt.reporting.cost_lines import cost_lines
from skipopt.reporting.intervals import interval
from skipopt.reporting.lines import LabeledLines, Line, labeled
from skipopt.reporting.masks import LEGEND, mask_picture
from skipopt.reporting.report import Report, TableData
from skipopt.stats import Interval
from skipopt.study.time_plan import NAMES

if TYPE_CHECKING:
    from skipopt.profile.result_sections import MeasuredSection

UNKNOWN = "–"
PARTS = {
    "quant": "weight bits",
    "vocab": "vocabulary",
    "all": "all together",
    "all_with_copies": "all, with copies",
}
VS_WINNER = {
    "ahead": "faster on these prompts, not expected to be on other text, or not lossless",
    "tied": "not significantly different",
    "behind": "significantly slower",
}


def profile_text(profile: Profile) -> LabeledLines:
    """The profile for a terminal."""
    return LabeledLines(tuple(profile_lines(profile)))


def profile_table(profile: Profile) -> TableData:
    """The same as a table of two columns."""
    rows: list[tuple[str, str]] = []
    for line in profile_lines(profile):
        words = line.words if line.mask is None else mask_picture(line.mask)
        if line.label:
            rows.append((line.label, words))
        else:  # continues the line above
            before, begun = rows.pop()
            rows.append((before, f"{begun}\n{words}"))
    return TableData((), tuple(rows), frozenset((0, 1)))


def profile_report(profile: Profile) -> Report:
    """The same as a report, with figures."""
    from skipopt.reporting.profile_figures import profile_figures

    title = f"Profile of {profile.model.id}"
    return Report(title, profile_figures(profile), profile_table(profile))


def profile_lines(profile: Profile) -> Iterator[Line]:
    """Each line; one without a label continues the one before."""
    model = profile.model
    yield Line("profile", "enabled" if profile.enabled else f"off: {profile.reason}")
    yield Line("model", f"{model.id} ({model.architecture}, {model.layers} layers)")
    yield Line("drafting", f"{profile.drafting.method}{_limits(profile)}")
    if profile.mask is not None:
        yield from _mask_lines("mask", profile.skip_mask)
    for settings, bucket in zip(profile.draft_settings[1:], profile.contexts, strict=True):
        yield from _bucket_lines(settings, bucket.predicted)
    if profile.mask is not None and any(each.mask.skipped for each in profile.draft_settings):
        yield Line("", LEGEND)
    yield from _figures(profile)
    if profile.candidate is not None:
        yield from _candidate_lines(profile.candidate, profile.model.layers)
    yield from _provenance(profile)


def _limits(profile: Profile) -> str:
    """γ, τ and draft config, where the method uses a mask."""
    if profile.mask is None:
        return ""
    drafting = profile.drafting
    config = f", {profile.draft_config}" if profile.draft_config else ""
    return f", γ = {drafting.gamma}, τ = {drafting.tau:g}{config}"


def _mask_lines(label: str, mask: SkipMask) -> Iterator[Line]:
    """A mask that skips nothing is not drawn."""
    yield Line(label, _counted(mask))
    if mask.skipped:
        yield Line("", mask=mask)


def _counted(mask: SkipMask) -> str:
    return f"{mask} ({len(mask.skipped)} of {2 * mask.layers} sublayers)"


def _candidate_lines(candidate: CandidateSection, layers: int) -> Iterator[Line]:
    """The best mask found, or the best drafts without one, which the profile does not use."""
    mask = SkipMask.of(layers, candidate.attention, candidate.mlp)
    predicted = candidate.predicted
    speedup = f", predicted {predicted.speedup:.2f}×" if predicted else ""
    config = f", {candidate.draft_config}" if candidate.draft_config else ""
    limits = f"γ = {candidate.gamma}, τ = {candidate.tau:g}{config}"
    what = "mask" if mask.skipped else "drafts"
    yield Line("candidate", f"best {what} found, not used: {limits}{speedup}: {_counted(mask)}")


def _bucket_lines(settings: DraftSettings, predicted: PredictedSection | None) -> Iterator[Line]:
    """The mask of a context bucket."""
    speedup = f" · predicted {predicted.speedup:.2f}×" if predicted else ""
    limits = f"γ = {settings.gamma}, τ = {settings.tau:g}"
    yield Line(f"from {settings.min_context}", f"tokens on: {limits}{speedup}")
    yield from _mask_lines("", settings.mask)


def _figures(profile: Profile) -> Iterator[Line]:
    if (predicted := profile.predicted) is not None:
        yield Line(
            "predicted",
            f"{predicted.speedup:.2f}× · acceptance rate {_share(predicted.acceptance_rate)}"
            f" · matchness {_share(predicted.matchness)}",
        )
    if (expected := profile.expected) is not None:
        first = f" · first text {expected.first_text:.2f}×" if expected.first_text else ""
        yield Line("expected", f"{expected_interval(expected)} end to end on other text{first}")
    if (measured := profile.measured) is not None:
        yield from _measured_lines(measured)
        yield from _choice_lines(measured, profile.drafting.method)
    if profile.ablation is not None:
        yield from _gains(profile.ablation)


def _measured_lines(measured: MeasuredSection) -> Iterator[Line]:
    total = measured.end_to_end
    promise = f"{interval(total)} end to end · " if total else ""
    decoding = f"{interval(measured.speedup)} decoding"
    yield Line("measured", f"{promise}{decoding} · lossless: {measured.lossless}")
    yield Line(
        "",
        f"{measured.plain_tokens_per_second:.1f} → {measured.tokens_per_second:.1f} tokens/s"
        f" · acceptance rate {_share(measured.acceptance_rate)}"
        f" · mean acceptance length {measured.mean_acceptance_length:.2f}",
    )


def _choice_lines(measured: MeasuredSection, method: str) -> Iterator[Line]:
    """Why this method, and what the others did on the same prompts, decoding alone."""
    others, vs_winner = measured.baselines or {}, measured.vs_winner or {}
    if not others:
        return
    count = f"{len(others)} other{'s' if len(others) > 1 else ''}"
    yield Line(
        "chosen",
        f"{method}: of all that decoded the same prompts ({count}) the one that is expected to be "
        "fastest on other text, by what was predicted and what was measured",
    )
    for name, speedup in others.items():
        compared = f", {VS_WINNER[vs_winner[name]]}" if name in vs_winner else ""
        yield Line("", f"also measured: {name} {interval(speedup)}{compared}")


def _gains(ablation: AblationSection) -> Iterator[Line]:
    """What each part of the drafts gains alone, decoding only."""
    label = "parts"
    for name, gain in ablation.gains.items():
        yield Line(label, f"{part_name(name)} {gain.speedup:.2f}× ({gain.source})")
        label = ""


def part_name(name: str) -> str:
    """A part of the drafts in words."""
    return PARTS.get(name, name)


def _provenance(profile: Profile) -> Iterator[Line]:
    if (costs := profile.costs) is not None:
        yield from (Line(*each) for each in cost_lines(costs, _speedup(profile)))
    if (found := profile.search) is not None:
        yield Line(
            "search",
            f"{found.sampler}, {found.objective}, {found.trials} trials in {found.seconds:.0f} s, "
            f"seed {found.seed}",
        )
        if found.seconds_by_phase:
            yield Line("", _phases(found.seconds_by_phase))
        if profile.enabled:
            yield Line("", _break_even(found.breaks_even_after_tokens))
    if (where := profile.environment) is not None:
        yield Line(
            "measured on",
            f"{where.device}, {where.dtype}, {where.runtime}, {counted_threads(where.threads)}",
        )
        if where.memory is not None:
            yield Line("memory", str(where.memory.memory))


def phase_name(phase: str) -> str:
    """A phase of a search in words."""
    return {str(known): words for known, words in NAMES.items()}.get(phase, phase)


def _phases(seconds: Mapping[str, float]) -> str:
    """`20 s texts, 15 s costs, 80 s trials, 30 s validation`."""
    return ", ".join(f"{value:.0f} s {phase_name(name)}" for name, value in seconds.items())


def _break_even(tokens: int | None) -> str:
    if tokens is None:
        return "the search never pays for itself"
    return f"the search pays for itself after {tokens} generated tokens"


def _speedup(profile: Profile) -> float:
    """The measured speedup of decoding, else the predicted one, else 1."""
    if not profile.enabled:
        return 1.0
    if profile.measured is not None:
        return profile.measured.speedup.median
    return profile.predicted.speedup if profile.predicted else 1.0


def expected_interval(expected: ExpectedSection) -> str:
    """`1.39× (1.35–1.43)`."""
    return interval(Interval(expected.speedup, expected.low, expected.high))


def next_steps(profile: Profile, path: str) -> LabeledLines:
    """The commands to type after a search that wrote `path`."""
    model = shlex.quote(profile.model.id)
    if not profile.enabled:
        return labeled(
            [
                ("next", "with this profile `run` decodes plainly; to see every method:"),
                ("", f"skipopt bench {model}"),
            ]
        )
    given = f"-p {shlex.quote(path)}"
    return labeled(
        [
            ("next", "the speedup on a text of your own:"),
            ("", f'skipopt run {model} {given} --prompt "…" --compare'),
            ("", "whether it stands on other prompts:"),
            ("", f"skipopt check {model} {given}"),
        ]
    )


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
