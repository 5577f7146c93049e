"""A profile as lines of text, with its mask drawn in characters."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from skipopt.masks import SkipMask
from skipopt.profile import (
    AblationSection,
    CandidateSection,
    DraftSettings,
    ExpectedSection,
    IntervalSection,
    PredictedSection,
    Profile,
)
from skipopt.reporting.cost_lines import cost_lines
from skipopt.reporting.masks import mask_picture, mask_rows
from skipopt.reporting.report import Report, TableData
from skipopt.reporting.tables import counted_threads

UNKNOWN = "–"
PARTS = {
    "quant": "weight bits",
    "vocab": "vocabulary",
    "all": "all together",
    "all_with_copies": "all, with copies",
}
LABEL_WIDTH = 11
VS_WINNER = {
    "ahead": "ahead on these prompts",
    "tied": "not significantly different",
    "behind": "significantly slower",
}


def profile_text(profile: Profile) -> Text:
    """The profile for a terminal, a bold label before each line."""
    text = Text()
    for label, words in profile_lines(profile):
        text.append(f"{label:<{LABEL_WIDTH}} ", style="bold")
        text.append(f"{words}\n")
    text.rstrip()
    return text


def profile_report(profile: Profile) -> Report:
    """The same as a report, with a figure of the masks and the speedups."""
    from skipopt.reporting.plots import draw_profile

    rows: list[tuple[str, str]] = []
    for label, words in profile_lines(profile):
        if label:
            rows.append((label, words))
        else:  # continues the line above
            before, begun = rows.pop()
            rows.append((before, f"{begun}\n{words}"))
    mask = profile.skip_mask
    alt_text = f"{mask} skipped while drafting; all figures are in the table"
    table = TableData((), tuple(rows), frozenset((0, 1)))
    title = f"Profile of {profile.model.id}"
    return Report(title, lambda: draw_profile(profile), alt_text, table)


def profile_lines(profile: Profile) -> Iterator[tuple[str, str]]:
    """(label, words) of each line; a line without a label continues the one before."""
    model = profile.model
    yield "profile", "enabled" if profile.enabled else f"off: {profile.reason}"
    yield "model", f"{model.id} ({model.architecture}, {model.layers} layers)"
    yield "drafting", f"{profile.drafting.method}{_limits(profile)}"
    if profile.mask is not None:
        yield from _mask_lines("mask", profile.skip_mask)
    for settings, bucket in zip(profile.draft_settings[1:], profile.contexts, strict=True):
        yield from _bucket_lines(settings, bucket.predicted)
    yield from _figures(profile)
    if profile.candidate is not None:
        yield from _candidate_lines(profile.candidate, profile.model.layers)


def _limits(profile: Profile) -> str:
    """γ, τ and draft config, where the method uses a mask."""
    if profile.mask is None:
        return ""
    drafting = profile.drafting
    config = f", {profile.draft_config}" if profile.draft_config else ""
    return f", γ = {drafting.gamma}, τ = {drafting.tau:g}{config}"


def _mask_lines(label: str, mask: SkipMask) -> Iterator[tuple[str, str]]:
    yield label, f"{mask} ({len(mask.skipped)} of {2 * mask.layers} sublayers)"
    yield from (("", line) for line in mask_picture(mask).splitlines())


def _candidate_lines(candidate: CandidateSection, layers: int) -> Iterator[tuple[str, str]]:
    """The best mask found, or the best drafts without one, which the profile does not use."""
    mask = SkipMask.of(layers, candidate.attention, candidate.mlp)
    yield from _mask_lines("candidate", mask)
    predicted = candidate.predicted
    speedup = f", predicted {predicted.speedup:.2f}×" if predicted else ""
    config = f", {candidate.draft_config}" if candidate.draft_config else ""
    limits = f"γ = {candidate.gamma}, τ = {candidate.tau:g}{config}"
    what = "mask" if mask.skipped else "drafts"
    yield "", f"best {what} found, not used: {limits}{speedup}"


def _bucket_lines(
    settings: DraftSettings, predicted: PredictedSection | None
) -> Iterator[tuple[str, str]]:
    """The mask of a context bucket; the layer numbers stand below the first mask."""
    speedup = f" · predicted {predicted.speedup:.2f}×" if predicted else ""
    yield (
        f"from {settings.min_context}",
        f"tokens on: γ = {settings.gamma}, τ = {settings.tau:g}{speedup}",
    )
    mask = settings.mask
    yield "", f"{mask} ({len(mask.skipped)} of {2 * mask.layers} sublayers)"
    yield from (("", line) for line in mask_rows(mask))


def _figures(profile: Profile) -> Iterator[tuple[str, str]]:
    if (predicted := profile.predicted) is not None:
        yield (
            "predicted",
            f"{predicted.speedup:.2f}× · acceptance rate {_share(predicted.acceptance_rate)}"
            f" · matchness {_share(predicted.matchness)}",
        )
    if (expected := profile.expected) is not None:
        first = f" · first text {expected.first_text:.2f}×" if expected.first_text else ""
        yield (
            "expected",
            f"{interval(expected)} end to end on other text{first}",
        )
    if (measured := profile.measured) is not None:
        total = measured.end_to_end
        promise = f"{interval(total)} end to end · " if total else ""
        yield (
            "measured",
            f"{promise}{interval(measured.speedup)} decoding · lossless: {measured.lossless}",
        )
        yield (
            "",
            f"{measured.plain_tokens_per_second:.1f} → {measured.tokens_per_second:.1f} tokens/s"
            f" · acceptance rate {_share(measured.acceptance_rate)}"
            f" · {measured.mean_acceptance_length:.2f} tokens per target forward",
        )
        vs_winner = measured.vs_winner or {}
        for method, speedup in (measured.baselines or {}).items():
            compared = f", {VS_WINNER[vs_winner[method]]}" if method in vs_winner else ""
            yield "", f"also measured: {method} {interval(speedup)}{compared}"
    if profile.ablation is not None:
        yield from _gains(profile.ablation)
    yield from _provenance(profile)


def _gains(ablation: AblationSection) -> Iterator[tuple[str, str]]:
    """What each part of the drafts gains alone, decoding only."""
    label = "parts"
    for name, gain in ablation.gains.items():
        yield label, f"{PARTS.get(name, name)} {gain.speedup:.2f}× ({gain.source})"
        label = ""


def _provenance(profile: Profile) -> Iterator[tuple[str, str]]:
    if (costs := profile.costs) is not None:
        yield from cost_lines(costs, _speedup(profile))
    if (found := profile.search) is not None:
        after = found.breaks_even_after_tokens
        even = "never breaks even" if after is None else f"breaks even after {after} tokens"
        yield (
            "search",
            f"{found.sampler}, {found.objective}, {found.trials} trials in {found.seconds:.0f} s, "
            f"seed {found.seed}{f' · {even}' if profile.enabled else ''}",
        )
    if (where := profile.environment) is not None:
        yield (
            "measured on",
            f"{where.device}, {where.dtype}, {where.runtime}, {counted_threads(where.threads)}",
        )
        if where.memory is not None:
            yield "memory", str(where.memory.memory)


def _speedup(profile: Profile) -> float:
    """The measured speedup of decoding, else the predicted one, else 1."""
    if not profile.enabled:
        return 1.0
    if profile.measured is not None:
        return profile.measured.speedup.median
    return profile.predicted.speedup if profile.predicted else 1.0


def interval(found: IntervalSection | ExpectedSection) -> str:
    """`1.39× (1.35–1.43)`."""
    middle = found.median if isinstance(found, IntervalSection) else found.speedup
    return f"{middle:.2f}× ({found.low:.2f}–{found.high:.2f})"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
