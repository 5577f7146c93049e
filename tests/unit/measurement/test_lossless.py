"""Texts are compared with plain decoding: exact, within the margin of rounding, or wrong."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from support.native import needs_native
from support.timing_fakes import tiny_prompts, tiny_target

from skipopt.decoding.api import generate
from skipopt.measurement import lossless
from skipopt.measurement.lossless import ComparedText, LosslessReport, bounded_margin, check_texts
from skipopt.models.target import Target
from skipopt.runtime.load import make_target


def plain_text(target: Target, prompt: list[int], count: int = 16) -> tuple[int, ...]:
    return tuple(token.id for token in generate(target, prompt, max_new_tokens=count))


@pytest.fixture
def text() -> ComparedText:
    prompt = tiny_prompts(1)[0]
    reference = plain_text(tiny_target(), prompt)
    return ComparedText(tuple(prompt), reference, reference)


def runner_up(target: Target, text: ComparedText, position: int) -> tuple[int, float]:
    """The second choice at a position, and its distance from the best one in logits."""
    before = torch.tensor([[*text.prompt, *text.reference[:position]]])
    logits = target.model(before).logits[0, -1].detach().float()
    best = logits.topk(2)
    return int(best.indices[1]), float(best.values[0] - best.values[1])


def replaced(target: Target, text: ComparedText, position: int) -> ComparedText:
    """A text that takes the second choice at a position and is plain again after it."""
    second, _ = runner_up(target, text, position)
    kept = [*text.reference[:position], second]
    rest = plain_text(target, [*text.prompt, *kept], len(text.reference) - len(kept))
    return text._replace(emitted=(*kept, *rest))


def test_the_same_tokens_are_exact(text: ComparedText) -> None:
    found = check_texts(tiny_target(), [text, text])
    assert found == LosslessReport(exact=1, within_margin=0, failed=0, margin=None)
    assert found.verdict == "exact"


def test_one_wrong_token_fails(text: ComparedText) -> None:
    target = tiny_target()
    found = check_texts(target, [text, replaced(target, text, 5)])
    assert (found.exact, found.within_margin, found.failed) == (1, 0, 1)
    assert found.verdict == "failed"
    assert found.margin is not None
    assert found.margin < 1e-4 < runner_up(target, text, 5)[1]


def test_a_near_tie_passes_within_the_margin(
    text: ComparedText, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tiny_target()
    gap = runner_up(target, text, 5)[1]
    for margin, verdict in ((1.01 * gap, "within-margin"), (0.99 * gap, "failed")):
        monkeypatch.setattr(lossless, "measured_margin", lambda *_, m=margin: m)
        found = check_texts(target, [replaced(target, text, 5)])
        assert (found.verdict, found.margin) == (verdict, margin)


def test_an_error_after_a_near_tie_still_fails(
    text: ComparedText, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tiny_target()
    first = min(range(8), key=lambda i: runner_up(target, text, i)[1])
    tie = replaced(target, text, first)
    after = tie._replace(reference=tie.emitted)
    worst = max(range(first + 1, 16), key=lambda i: runner_up(target, after, i)[1])
    margin = 1.01 * runner_up(target, text, first)[1]
    assert runner_up(target, after, worst)[1] > margin
    monkeypatch.setattr(lossless, "measured_margin", lambda *_: margin)
    twice = replaced(target, after, worst)._replace(reference=text.reference)
    assert check_texts(target, [tie]).verdict == "within-margin"
    assert check_texts(target, [twice]).verdict == "failed"


@pytest.mark.parametrize("emitted", [slice(0, 12), slice(0, 0)])
def test_a_text_cut_short_fails(text: ComparedText, emitted: slice) -> None:
    short = text._replace(emitted=text.emitted[emitted])
    assert check_texts(tiny_target(), [short]).verdict == "failed"


def test_margin_is_measured_on_the_model(text: ComparedText) -> None:
    """The margin is positive, and thousands of times larger in bfloat16."""
    margins = {
        name: lossless.measured_margin(tiny_target(name), text.prompt, text.reference)
        for name in ("float32", "bfloat16")
    }
    assert 0 < margins["float32"] < 1e-3
    assert margins["bfloat16"] > 100 * margins["float32"]


@needs_native
def test_the_margin_of_native_steps_knows_other_kernels(
    text: ComparedText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Native steps compute a row alike in every block; the modules round otherwise."""
    modules = tiny_target("bfloat16")
    native = make_target(deepcopy(modules.model), None, runtime="native")
    one, block = (
        torch.cat(list(lossless.teacher_forced(native, text.prompt, text.reference, size)))
        for size in (1, 8)
    )
    by_modules = torch.cat(
        list(lossless.teacher_forced(native, text.prompt, text.reference, 8, captured=False))
    )
    assert torch.equal(one, block)
    difference = float((one - by_modules).abs().max())
    assert difference > 0
    monkeypatch.setattr(lossless, "MAX_ROUNDING_STEPS", 1e6)
    found = lossless.measured_margin(native, text.prompt, text.reference)
    assert found == pytest.approx(max(2 * difference, 2.0**-7 * float(one.abs().max())))


@needs_native
def test_a_bfloat16_text_of_the_modules_does_not_fail_on_native_steps() -> None:
    """And a wrong token still does."""
    modules = tiny_target("bfloat16")
    native = make_target(deepcopy(modules.model), None, runtime="native")
    texts = []
    for prompt in tiny_prompts(12):
        emitted = plain_text(modules, prompt)
        texts.append(ComparedText(tuple(prompt), plain_text(native, prompt), emitted))
    assert check_texts(native, texts).verdict != "failed"
    wrong = [replaced(native, each._replace(emitted=each.reference), 5) for each in texts[:3]]
    assert check_texts(native, wrong).failed > 0


def test_margin_is_bounded_by_what_rounding_can_explain() -> None:
    step = 2.0**-23 * 10
    assert bounded_margin(0.0, 10.0, "float32") == step
    assert bounded_margin(5 * step, 10.0, "float32") == 5 * step
    assert bounded_margin(3.0, 10.0, "float32") == 16 * step


def test_json(text: ComparedText) -> None:
    assert check_texts(tiny_target(), [text]).to_json() == {
        "verdict": "exact",
        "exact": 1,
        "within_margin": 0,
        "failed": 0,
        "margin": None,
    }


def test_reports_of_several_texts_add_up() -> None:
    reports = [
        LosslessReport(1, 0, 0),
        LosslessReport(0, 1, 0, 0.25),
        LosslessReport(0, 0, 1, 0.5),
    ]
    assert LosslessReport.sum_of(reports) == LosslessReport(1, 1, 1, 0.5)
    assert LosslessReport.sum_of(reports[:1]) == LosslessReport(1, 0, 0)
