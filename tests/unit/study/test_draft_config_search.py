"""Levers are scored as decoding drafts with them, priced apart, and tried beside the finalists."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.kernel_timings import prefer_quantized
from support.tiny import byte_tokenizer, hf_greedy, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.bench import cost_measurement
from skipopt.cost_model.costs import Costs
from skipopt.cost_model.prediction import Prediction
from skipopt.decoding.api import generate
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import DraftConfigWarning, UsageError
from skipopt.kernels import quantized_linear
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.draft_mode import quantized_bytes
from skipopt.runtime.engine import Engine
from skipopt.sampling import confidence
from skipopt.scoring import ScoredText, Scorer
from skipopt.stats import Interval
from skipopt.storage.base import Trial
from skipopt.study import validation
from skipopt.study.config import SearchConfig
from skipopt.study.draft_config_search import DraftConfigSearch, best_of_each
from skipopt.study.objective import Objective
from skipopt.study.to_profile import SearchCost, profile_of
from skipopt.study.validation import Validated

STEPS = 3
INT8, SHORT, BOTH = (
    DraftConfig(weight_bits=8),
    DraftConfig(attention_window=4),
    DraftConfig(weight_bits=8, attention_window=4),
)


@pytest.fixture(autouse=True)
def quantised_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer_quantized(monkeypatch)
    warnings.simplefilter("error", DraftConfigWarning)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(3, vocabulary=257, gain=2.0), byte_tokenizer())


@pytest.fixture(scope="module")
def texts(target: Target) -> list[ScoredText]:
    return [
        ScoredText((*prompt, *hf_greedy(target, prompt, count)), len(prompt))
        for prompt, count in zip(tiny_prompts(3, 4, 12), (20, 14, 3), strict=True)
    ]


# --- scores


@torch.inference_mode()
def drafted(
    target: Target, text: ScoredText, mask: SkipMask, draft_config: DraftConfig
) -> list[list[Any]]:
    """The definition: from each place so many steps, fed with the text's tokens."""
    engine = Engine(target, len(text.tokens))
    engine.prefill(text.tokens[: text.scored_from - 1])
    found = []
    for place in range(text.scored_from - 1, len(text.tokens) - 1):
        draft = []
        with engine.under(mask, draft_config):
            for here in range(place, min(place + STEPS, len(text.tokens) - 1)):
                logits = engine.step([text.tokens[here]])[0]
                right = int(logits.argmax()) == text.tokens[here + 1]
                draft.append((right, float(confidence(logits))))
        found.append(draft)
        engine.rewind(place)
        engine.step([text.tokens[place]])
    return found


@pytest.mark.parametrize(
    "draft_config",
    [
        INT8,
        DraftConfig(weight_bits=4),
        SHORT,
        BOTH,
        DraftConfig(attention_window=1),
        DraftConfig(attention_window=2),
    ],
    ids=str,
)
def test_scores_are_those_of_drafts_made_with_levers(
    target: Target, texts: list[ScoredText], draft_config: DraftConfig
) -> None:
    """Rows are rounded to bfloat16 on the way, so confidences are not the same to the last digit,
    and a choice between two near equals may differ."""
    masks = [SkipMask.empty(3), SkipMask.of(3, [1], []), SkipMask.of(3, [], [0, 2])]
    differ, seen, off = 0, set(), 0.0
    for mask, trace in zip(
        masks, Scorer(target, texts, STEPS, draft_config=draft_config).score(masks), strict=True
    ):
        for s, text in enumerate(texts):
            for place, draft in enumerate(drafted(target, text, mask, draft_config)):
                matched, sure = zip(*draft, strict=True)
                found = trace.matched[s, place, : len(draft)].tolist()
                differ += sum(a != b for a, b in zip(found, matched, strict=True))
                seen |= set(matched)
                off = max(
                    off, float(np.abs(trace.confidence[s, place, : len(draft)] - sure).max())
                )
    assert off < (0.05 if draft_config.weight_bits else 1e-4)
    assert differ <= (2 if draft_config.weight_bits else 0)
    assert seen == {True, False}


def test_a_window_longer_than_the_texts_hides_nothing(
    target: Target, texts: list[ScoredText]
) -> None:
    masks = [SkipMask.of(3, [1], [])]
    (plain,) = Scorer(target, texts).score(masks)
    (wide,) = Scorer(target, texts, draft_config=DraftConfig(attention_window=40)).score(masks)
    assert np.array_equal(plain.matched, wide.matched)
    assert np.array_equal(plain.confidence, wide.confidence)


# --- prices


def test_prices_are_those_of_drafts_with_the_levers(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[DraftConfig] = []
    under = Engine.under

    def watched(self: Engine, mask: SkipMask, draft_config: DraftConfig = UNCHANGED) -> Any:
        used.append(draft_config)
        return under(self, mask, draft_config)

    monkeypatch.setattr(Engine, "under", watched)
    found = cost_measurement.measure_costs(target, [5, 6, 7, 8], 3, seconds=0.0, draft_config=BOTH)
    assert set(used) == {BOTH}
    assert len(found.verify) == 3


# --- which are tried


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("skip",), []),
        (("skip", "int8"), [INT8]),
        (("int8", "int8"), [INT8]),
        (("skip", "window"), [DraftConfig(attention_window=256)]),
        (("skip", "int8", "window=4"), [INT8, SHORT, BOTH]),
        (("int4", "int8"), [DraftConfig(weight_bits=4), INT8]),
    ],
)
def test_each_lever_alone_and_a_width_with_a_window(
    names: tuple[str, ...], expected: list[DraftConfig]
) -> None:
    assert SearchConfig(search_space=names).draft_configs == expected
    assert SearchConfig(search_space=names).searches_masks == ("skip" in names)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"search_space": ("skip", "int3")}, "unknown draft setting 'int3'"),
        ({"search_space": ("window=0",)}, "window must be 1 or more"),
        ({"search_space": ()}, "search space is empty"),
        (
            {"search_space": ("int8",), "objective": "matchness", "skip_ratio": 0.5},
            "without quantization",
        ),
    ],
)
def test_plans_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as refused:
        SearchConfig(**options)
    assert refused.value.hint is not None


COSTS = {UNCHANGED: 1.0, INT8: 0.5, SHORT: 0.9, BOTH: 0.4}


def made_up(
    target: Target,
    context: Sequence[int],
    longest: int,
    *_: Any,
    draft_config: DraftConfig = UNCHANGED,
) -> Costs:
    """Drafting is dear, and every lever makes it cheaper."""
    share = COSTS[draft_config]
    verify = (6.4, *(6.6 + 0.1 * n for n in range(longest - 1)))
    return Costs(0.1 * share, share, share, 0.1 * share, verify)


def pulled(
    target: Target,
    texts: list[ScoredText],
    plan: SearchConfig,
    notes: list[str],
    late: bool = False,
) -> tuple[DraftConfigSearch, list[Trial]]:
    judge = Objective(plan, made_up(target, (), 4))
    pulling = DraftConfigSearch(target, plan, judge, 4, lambda: late, lambda: None, notes.append)
    masks = [SkipMask.of(3, [1], []), SkipMask.of(3, [], [1])]
    finalists = [
        judge.evaluate(m, t)
        for m, t in zip(masks, Scorer(target, texts, 3).score(masks), strict=True)
    ]
    return pulling, pulling.extend(finalists, texts, (1, 2, 3))


def test_variants_of_finalists_and_of_no_mask_are_judged_at_their_own_prices(
    target: Target, texts: list[ScoredText], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_measurement, "measure_costs", made_up)
    notes: list[str] = []
    plan = SearchConfig(search_space=("skip", "int8", "window=4"), gamma=2, tau=0.0)
    pulling, found = pulled(target, texts, plan, notes)
    assert notes == []
    assert set(pulling.judges) == {UNCHANGED, INT8, SHORT, BOTH}
    assert {trial.draft_config for trial in found} == {UNCHANGED, INT8, SHORT, BOTH}
    assert [t.value for t in found] == sorted((t.value for t in found), reverse=True)
    best = found[0]
    assert best.draft_config in (INT8, BOTH), "what is nearly right and costs half of it"
    assert not best.mask.skipped
    scorer = Scorer(target, texts, 3, draft_config=best.draft_config)
    expected = pulling.judges[best.draft_config].evaluate(best.mask, scorer.score([best.mask])[0])
    assert expected == best


def test_without_levers_the_finalists_stay_as_they_are(
    target: Target, texts: list[ScoredText]
) -> None:
    pulling, found = pulled(target, texts, SearchConfig(gamma=2), [])
    assert len(found) == 2
    assert set(pulling.judges) == {UNCHANGED}


def test_what_is_not_to_be_had_is_left_out_and_told_once(
    target: Target, texts: list[ScoredText], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_measurement, "measure_costs", made_up)
    monkeypatch.setattr(quantized_linear, "measure_seconds", lambda *_: 1.0)
    bare = tiny_target(target.model, target.tokenizer)
    notes: list[str] = []
    pulling, _ = pulled(
        bare, texts, SearchConfig(search_space=("skip", "int8", "window=99")), notes
    )
    assert set(pulling.judges) == {UNCHANGED}
    assert len(notes) == 2
    assert "int8 is not tried: int8 does not pay here" in notes[0]
    assert "window=99 is not tried: the calibration texts have" in notes[1]


def test_no_more_is_tried_once_the_time_is_up(target: Target, texts: list[ScoredText]) -> None:
    notes: list[str] = []
    pulling, found = pulled(
        target, texts, SearchConfig(search_space=("skip", "int8")), notes, late=True
    )
    assert set(pulling.judges) == {UNCHANGED}
    assert len(found) == 2
    assert notes == ["int8 is not tried: the time for it is up"]


def test_the_best_of_every_combination_is_decoded_with() -> None:
    def trial(value: float, draft_config: DraftConfig) -> Trial:
        return Trial(SkipMask.empty(3), value, draft_config=draft_config)

    many = [trial(2 - i / 10, INT8) for i in range(7)]
    others = [trial(0.5, SHORT), trial(0.4, SHORT), trial(0.3, UNCHANGED)]
    kept = best_of_each([*others, *many])
    assert kept == [*many[:5], others[0], others[2]]


# --- a whole search


WORDS = ("alpha", "beta", "gamma", "delta", "eta", "theta", "iota", "mu")
TEXTS = [f"{word} and {word} again" for word in WORDS]
SHORT_SEARCH = SearchConfig(calibration_tokens=12, max_gamma=3)


@pytest.fixture
def first_with_levers_wins(monkeypatch: pytest.MonkeyPatch) -> list[Profile]:
    """What was to be decoded with, as the last of a race that int8 won."""
    seen: list[Profile] = []

    def race(target: Target, candidates: Sequence[Profile], *_: Any) -> list[Validated]:
        seen.extend(candidates)
        surely = Interval(1.3, 1.2, 1.4)
        measured = (0.26, True, surely, 0.9, 3.0, 100.0, 130.0, "exact")
        index = next(i for i, each in enumerate(candidates) if each.draft_config.weight_bits)
        won = Validated(index, "layer-skip", *measured)  # type: ignore[arg-type]
        lost = [i for i, each in enumerate(candidates) if not each.draft_config]
        return [won, *(replace(won, index=i) for i in lost)]

    monkeypatch.setattr(validation, "validate", race)
    monkeypatch.setattr(cost_measurement, "measure_costs", made_up)
    return seen


def test_a_search_writes_the_levers_that_won(
    target: Target, first_with_levers_wins: list[Profile]
) -> None:
    found = skipopt.search(
        target, TEXTS, SHORT_SEARCH, trials=4, search_space=("skip", "int8", "window=4")
    )
    assert {each.draft_config for each in first_with_levers_wins} == set(COSTS)
    assert found.draft_config.weight_bits == 8
    assert found.enabled
    assert found.costs is not None
    assert found.costs.attention == COSTS[found.draft_config]
    assert found.measured is not None
    assert list(found.measured.others or {}) == ["layer-skip"]
    again = Profile.parse(found.to_yaml(), "again")
    assert again == found
    texts = [
        [token.id for token in generate(target, [1, 2, 3], profile=p, max_new_tokens=12)]
        for p in (None, again)
    ]
    assert texts[0] == texts[1]


def test_a_profile_counts_the_coarser_copies_that_its_own_drafts_read(
    target: Target, first_with_levers_wins: list[Profile]
) -> None:
    found = skipopt.search(target, TEXTS, SHORT_SEARCH, trials=4, search_space=("skip", "int8"))
    assert found.environment is not None
    assert found.environment.memory is not None
    assert (
        0
        < quantized_bytes(target, [found.skip_mask], 8)
        == found.environment.memory.quantized_weights
    )
    assert target.memory.quantized_weights >= found.environment.memory.quantized_weights
    trial = Trial(found.skip_mask, 1.1, Prediction(1.1, (1.1,), 2, 0.0, 0.9, 0.9))
    without = profile_of(target, SearchConfig(), "sha256:0", SearchCost(1, 1.0), trial)
    assert without.environment is not None
    assert without.environment.memory is not None
    assert without.environment.memory.quantized_weights == 0 < target.memory.quantized_weights


def test_a_search_for_levers_alone_scores_no_mask(
    target: Target, first_with_levers_wins: list[Profile]
) -> None:
    found = skipopt.search(target, TEXTS, SHORT_SEARCH, search_space=("int8",))
    assert [each.draft_config for each in first_with_levers_wins] == [INT8]
    assert not found.skip_mask.skipped
    assert found.draft_config == INT8
    assert found.search is not None
    assert found.search.trials == 0


def test_levers_hold_for_longer_texts_too(
    target: Target, first_with_levers_wins: list[Profile]
) -> None:
    found = skipopt.search(
        target, TEXTS, SHORT_SEARCH, search_space=("int8",), context_lengths=[60]
    )
    assert all(each.draft_config == INT8 for each in found.draft_settings)
