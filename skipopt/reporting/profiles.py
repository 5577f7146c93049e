"""A profile in a few lines, with a picture of its mask. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from skipopt.profile import DraftSettings, Interval, Predicted, Profile
from skipopt.reporting.cost_lines import cost_lines
from skipopt.reporting.masks import mask_picture, mask_rows
from skipopt.reporting.report import Report, TableData
from skipopt.reporting.tables import counted_threads

UNKNOWN = "–"
LABEL_WIDTH = 11
STANDINGS = {"ahead": "ahead on average", "tied": "tied", "behind": "surely behind"}


def profile_text(profile: Profile) -> Text:
    """Everything a person asks first: on or off, the mask, the speed."""
    text = Text()
    for label, words in profile_lines(profile):
        text.append(f"{label:<{LABEL_WIDTH}} ", style="bold")
        text.append(f"{words}\n")
    text.rstrip()
    return text


def profile_report(profile: Profile) -> Report:
    """The same with a figure of the mask and the speedups."""
    from skipopt.reporting.plots import draw_profile

    rows: list[tuple[str, str]] = []
    for label, words in profile_lines(profile):
        if label:
            rows.append((label, words))
        else:  # goes on from the line above
            before, begun = rows.pop()
            rows.append((before, f"{begun}\n{words}"))
    mask = profile.skip_mask
    told = f"{mask} skipped while drafting; all figures are in the table"
    sheet = TableData((), tuple(rows), frozenset((0, 1)))
    title = f"Profile of {profile.model.id}"
    return Report(title, lambda: draw_profile(profile), told, sheet)


def profile_lines(profile: Profile) -> Iterator[tuple[str, str]]:
    """(label, words) line by line; the picture's lines have no label."""
    drafting, model, mask = profile.drafting, profile.model, profile.skip_mask
    yield "profile", "enabled" if profile.enabled else f"off: {profile.reason}"
    yield "model", f"{model.id} ({model.architecture}, {model.layers} layers)"
    draft_config = f", {profile.draft_config}" if profile.draft_config else ""
    yield (
        "drafting",
        f"{drafting.method}, γ = {drafting.gamma}, τ = {drafting.tau:g}{draft_config}",
    )
    yield "mask", f"{mask} ({len(mask.skipped)} of {2 * mask.layers} sublayers)"
    yield from (("", line) for line in mask_picture(mask).splitlines())
    for way, bucket in zip(profile.draftways[1:], profile.contexts, strict=True):
        yield from _bucket_lines(way, bucket.predicted)
    yield from _figures(profile)


def _bucket_lines(way: DraftSettings, predicted: Predicted | None) -> Iterator[tuple[str, str]]:
    """What drafts from a length on; the ruler stands below the first mask."""
    promise = f" · predicted {predicted.speedup:.2f}×" if predicted else ""
    yield f"from {way.start}", f"tokens on: γ = {way.gamma}, τ = {way.tau:g}{promise}"
    yield "", f"{way.mask} ({len(way.mask.skipped)} of {2 * way.mask.layers} sublayers)"
    yield from (("", line) for line in mask_rows(way.mask))


def _figures(profile: Profile) -> Iterator[tuple[str, str]]:
    if (predicted := profile.predicted) is not None:
        yield (
            "predicted",
            f"{predicted.speedup:.2f}× · acceptance rate {_share(predicted.acceptance_rate)}"
            f" · matchness {_share(predicted.matchness)}",
        )
    if (measured := profile.measured) is not None:
        yield "measured", f"{interval(measured.speedup)} · lossless: {measured.lossless}"
        yield (
            "",
            f"{measured.plain_tokens_per_second:.1f} → {measured.tokens_per_second:.1f} tokens/s"
            f" · acceptance rate {_share(measured.acceptance_rate)}"
            f" · block efficiency {measured.mean_acceptance_length:.2f}",
        )
        standings = measured.standings or {}
        for method, speedup in (measured.others or {}).items():
            stands = f", {STANDINGS[standings[method]]}" if method in standings else ""
            yield "", f"{method} in its place: {interval(speedup)}{stands}"
    yield from _origin(profile)


def _origin(profile: Profile) -> Iterator[tuple[str, str]]:
    if (costs := profile.costs) is not None:
        yield from cost_lines(costs, _gain(profile))
    if (found := profile.search) is not None:
        after = found.breaks_even_after_tokens
        even = "never breaks even" if after is None else f"breaks even after {after} tokens"
        yield (
            "search",
            f"{found.sampler}, {found.objective}, {found.trials} trials in {found.seconds:.0f} s, "
            f"seed {found.seed} · {even}",
        )
    if (where := profile.environment) is not None:
        yield (
            "measured on",
            f"{where.device}, {where.dtype}, {where.runtime}, {counted_threads(where.threads)}",
        )
        if where.memory is not None:
            yield "memory", str(where.memory.memory)


def _gain(profile: Profile) -> float:
    """By what its decoding is faster than plain decoding, as far as is known."""
    if not profile.enabled:
        return 1.0
    if profile.measured is not None:
        return profile.measured.speedup.median
    return profile.predicted.speedup if profile.predicted else 1.0


def interval(found: Interval) -> str:
    """`1.39× (1.35–1.43)`."""
    return f"{found.median:.2f}× ({found.low:.2f}–{found.high:.2f})"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
