"""Draft configurations are scored as decoding drafts with them, each with its own costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.kernel_timings import prefer_quantized
from support.tiny import byte_tokenizer, hf_greedy, tiny_llama, tiny_prompts, tiny_target

import skipopt
from skipopt.cost_model.costs import Costs
from skipopt.cost_model.prediction import Prediction
from skipopt.decoding.api import generate
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import DraftConfigWarning, UsageError
from skipopt.kernels import quantized_linear
from skipopt.masks import SkipMask
from skipopt.measurement import cost_measurement
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime import draft_mode
from skipopt.runtime.draft_mode import draft_weight_bytes
from skipopt.runtime.engine import Engine
from skipopt.sampling import confidence
from skipopt.scoring import ScoredText, Scorer, TextContexts
from skipopt.stats import Interval
from skipopt.storage.base import Trial
from skipopt.study import validation
from skipopt.study.config import SearchConfig
from skipopt.study.draft_config_search import (
    Candidate,
    DraftConfigSearch,
    best_per_draft_config,
    still_winning,
)
from skipopt.study.expected_speedup import Expected
from skipopt.study.objective import Objective
from skipopt.study.rescoring import TimeToScore
from skipopt.study.time_plan import Deadline, Pace
from skipopt.study.to_profile import SearchCost, SearchResult, UsedPrompts, to_profile
from skipopt.study.validation import Validated
from skipopt.testing.costs import FixedCosts

STEPS = 3
UNLIMITED = TimeToScore()
INT8, SHORT, BOTH = (
    DraftConfig(weight_bits=8),
    DraftConfig(attention_window=4),
    DraftConfig(weight_bits=8, attention_window=4),
)


@pytest.fixture(autouse=True)
def quantized_wins(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Reference: `steps` draft steps from each position, fed with the text."""
    engine = Engine(target, len(text.tokens))
    engine.prefill(text.tokens[: text.scored_from - 1])
    found = []
    for place in range(text.scored_from - 1, len(text.tokens) - 1):
        draft = []
        with engine.draft_mode(mask, draft_config):
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
def test_scores_are_those_of_drafts_with_the_same_config(
    target: Target, texts: list[ScoredText], draft_config: DraftConfig
) -> None:
    """Quantized products round to bfloat16, so confidences differ in the last digits, and tokens
    with nearly equal logits may swap.
    """
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


# --- costs


def test_costs_are_those_of_drafts_with_the_same_config(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[DraftConfig] = []
    draft_mode = Engine.draft_mode

    def watched(self: Engine, mask: SkipMask, draft_config: DraftConfig = UNCHANGED) -> Any:
        used.append(draft_config)
        return draft_mode(self, mask, draft_config)

    monkeypatch.setattr(Engine, "draft_mode", watched)
    found = cost_measurement.measure_costs(target, [5, 6, 7, 8], 3, seconds=0.0, draft_config=BOTH)
    assert set(used) == {BOTH}
    assert len(found.verify) == 3


# --- candidates


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("skip",), []),
        (("skip", "int8"), [INT8]),
        (("int8", "int8"), [INT8]),
        (("skip", "window"), [DraftConfig(attention_window=256)]),
        (("skip", "int8", "window=4"), [INT8, SHORT, BOTH]),
        (("int4", "int8"), [DraftConfig(weight_bits=4), INT8]),
        (("skip", "experts"), [DraftConfig(experts=1)]),
        (
            ("int8", "experts=0"),
            [INT8, DraftConfig(experts=0), DraftConfig(weight_bits=8, experts=0)],
        ),
    ],
)
def test_each_quantization_and_window_alone_and_in_pairs(
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
def test_impossible_search_spaces_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as refused:
        SearchConfig(**options)
    assert refused.value.hint is not None


COSTS = {UNCHANGED: 1.0, INT8: 0.5, SHORT: 0.9, BOTH: 0.4}


def cheaper_drafts(context: int, longest: int, draft_config: DraftConfig) -> Costs:
    """Drafting is expensive, and every draft configuration makes it cheaper."""
    share = COSTS[draft_config]
    verify = (6.4, *(6.6 + 0.1 * n for n in range(longest - 1)))
    return Costs(0.1 * share, share, share, 0.1 * share, verify)


def try_alone(
    target: Target,
    texts: list[ScoredText],
    config: SearchConfig,
    on_note: Callable[[str], None] = pytest.fail,
    time: TimeToScore = UNLIMITED,
) -> list[Candidate]:
    search = DraftConfigSearch(
        TextContexts(target), config, FixedCosts(cheaper_drafts), (1, 2, 3), time, on_note
    )
    return search.try_alone(texts)


def test_each_is_scored_alone_with_its_own_costs(target: Target, texts: list[ScoredText]) -> None:
    space = ("skip", "int8", "window=4")
    config = SearchConfig(search_space=space, gamma=2, tau=0.0, max_gamma=3)
    found = try_alone(target, texts, config)
    assert {each.trial.draft_config for each in found} == {INT8, SHORT, BOTH}
    values = [each.trial.value for each in found]
    assert values == sorted(values, reverse=True)
    best, costs = found[0].trial, found[0].costs
    assert best.draft_config in (INT8, BOTH), "nearly always accepted, at half the cost"
    assert not any(each.trial.mask.skipped for each in found)
    assert costs.attention == COSTS[best.draft_config]
    objective = Objective(config, costs, best.draft_config)
    (trace,) = Scorer(target, texts, draft_config=best.draft_config).score([best.mask])
    assert objective.evaluate(best.mask, trace) == best


def test_nothing_is_tried_where_only_masks_are_searched(
    target: Target, texts: list[ScoredText]
) -> None:
    assert try_alone(target, texts, SearchConfig(search_space=("skip",))) == []


def test_unsupported_draft_configs_are_noted_once_and_left_out(
    target: Target, texts: list[ScoredText], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_linear, "measure_seconds", lambda *_: 1.0)
    bare = tiny_target(target.model, target.tokenizer)
    notes: list[str] = []
    config = SearchConfig(search_space=("skip", "int8", "window=99"))
    assert try_alone(bare, texts, config, notes.append) == []
    assert len(notes) == 2
    assert "int8 is not tried: int8 does not pay here" in notes[0]
    assert "window=99 is not tried: the calibration texts have" in notes[1]
    assert SearchConfig().for_target(bare).search_space == ("skip",)


@pytest.mark.parametrize("bits", [(), (8,), (8, 4)])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_by_default_is_tried_what_the_machine_has_kernels_for(
    target: Target, monkeypatch: pytest.MonkeyPatch, bits: tuple[int, ...], share: float
) -> None:
    def reasons(_: Target, draft_config: DraftConfig) -> dict[DraftConfig, str]:
        return {} if draft_config.weight_bits in bits else {draft_config: "no kernel"}

    monkeypatch.setattr(draft_mode, "unsupported_reasons", reasons)
    monkeypatch.setattr(draft_mode, "head_share", lambda _: share)
    tried = ["skip", *(f"int{each}" for each in bits), *(["vocab"] if share > 0.5 else [])]
    assert SearchConfig().for_target(target).search_space == tuple(tried)
    fixed = {"skip_ratio": 0.5, "objective": "matchness"}
    assert SearchConfig(**fixed).for_target(target).search_space == ("skip",)
    given = SearchConfig(search_space=("skip", "int4"))
    assert given.for_target(target) == given


def test_the_share_of_the_output_projection(target: Target) -> None:
    sizes = {name: each.numel() for name, each in target.model.named_parameters()}
    head = target.model.get_output_embeddings().weight.numel()
    assert draft_mode.head_share(target) == head / sum(sizes.values())


def test_without_time_the_first_is_tried_and_the_others_are_noted(
    target: Target, texts: list[ScoredText]
) -> None:
    notes: list[str] = []
    config = SearchConfig(search_space=("skip", "int8", "window=4"))
    late = TimeToScore(Deadline(0.0), Pace(1.0, 1.0))
    found = try_alone(target, texts, config, notes.append, late)
    assert len(found) == 1
    first, *others = config.draft_configs
    assert found[0].trial.draft_config == first
    assert notes == [f"{each} is not tried: no time is left for it" for each in others]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ((1.8, 1.7, 1.5, 0.9), (1.8, 1.7)),
        ((1.05, 1.02, 0.98), (1.05, 1.02)),
        ((0.9, 0.89), (0.9,)),
    ],
)
def test_only_what_can_still_win_is_validated(
    values: tuple[float, ...], kept: tuple[float, ...]
) -> None:
    costs = cheaper_drafts(3, 4, UNCHANGED)
    every = [Candidate(Trial(SkipMask.empty(3), value), costs) for value in values]
    found = still_winning(every, SearchConfig())
    assert tuple(each.trial.value for each in found) == kept


def test_the_best_of_every_draft_config_is_kept() -> None:
    costs = cheaper_drafts(3, 4, UNCHANGED)

    def candidate(value: float, draft_config: DraftConfig) -> Candidate:
        return Candidate(Trial(SkipMask.empty(3), value, draft_config=draft_config), costs)

    many = [candidate(2 - i / 10, INT8) for i in range(7)]
    others = [candidate(0.5, SHORT), candidate(0.4, SHORT), candidate(0.3, UNCHANGED)]
    kept = best_per_draft_config([*others, *many], 5)
    assert kept == [*many[:5], others[0], others[2]]


def test_drafts_without_a_mask_are_kept_beside_better_masks() -> None:
    costs = cheaper_drafts(3, 4, UNCHANGED)
    masks = [SkipMask.of(3, [layer], mlp) for layer in range(3) for mlp in ([0], [1], [2])]
    masked = [Candidate(Trial(m, 1.5, draft_config=INT8), costs) for m in masks]
    alone = Candidate(Trial(SkipMask.empty(3), 1.45, draft_config=INT8), costs)
    assert best_per_draft_config([*masked, alone], 5) == [*masked[:5], alone]


# --- a whole search


WORDS = ("alpha", "beta", "gamma", "delta", "eta", "theta", "iota", "mu")
TEXTS = [f"{word} and {word} again" for word in WORDS]
CONFIG = SearchConfig(calibration_tokens=12, max_gamma=3)
search = partial(skipopt.search, config=CONFIG, cost_source=FixedCosts(cheaper_drafts))


@pytest.fixture
def quantized_draft_wins(monkeypatch: pytest.MonkeyPatch) -> list[Profile]:
    """Replace validation: a quantized draft wins. Returns the candidates it was given."""
    seen: list[Profile] = []

    def validate(target: Target, candidates: Sequence[Profile], *_: Any) -> list[Validated]:
        seen.extend(candidates)
        interval = Interval(1.3, 1.2, 1.4)
        measured = (interval, interval, 0.9, 3.0, 100.0, 130.0, "exact")
        index = next(i for i, each in enumerate(candidates) if each.draft_config.weight_bits)
        gains = (Expected(0.26, 0.02), 0.26, False, True)
        winner = Validated(index, "layer-skip", *gains, *measured)  # type: ignore[arg-type]
        others = [i for i, each in enumerate(candidates) if not each.draft_config]
        return [winner, *(replace(winner, index=i) for i in others)]

    monkeypatch.setattr(validation, "validate", validate)
    return seen


def test_a_search_writes_the_draft_config_that_won(
    target: Target, quantized_draft_wins: list[Profile]
) -> None:
    found = search(target, TEXTS, trials=4, search_space=("skip", "int8", "window=4"))
    tried = {each.draft_config for each in quantized_draft_wins}
    assert tried & {INT8, BOTH}
    assert UNCHANGED not in tried, "masks are searched with the best of the others"
    assert found.draft_config.weight_bits == 8
    assert found.enabled
    assert found.costs is not None
    assert found.costs.attention == COSTS[found.draft_config]
    assert found.measured is not None
    again = Profile.parse(found.to_yaml(), "again")
    assert again == found
    texts = [
        [token.id for token in generate(target, [1, 2, 3], profile=p, max_new_tokens=12)]
        for p in (None, again)
    ]
    assert texts[0] == texts[1]


def test_a_profile_counts_the_quantized_weights_that_its_drafts_read(
    target: Target, quantized_draft_wins: list[Profile]
) -> None:
    found = search(target, TEXTS, trials=4, search_space=("skip", "int8"))
    assert found.environment is not None
    assert found.environment.memory is not None
    assert (
        0
        < draft_weight_bytes(target, [found.skip_mask], found.draft_config).quantized_weights
        == found.environment.memory.quantized_weights
    )
    assert target.memory.quantized_weights >= found.environment.memory.quantized_weights
    trial = Trial(found.skip_mask, 1.1, Prediction(1.1, (1.1,), 2, 0.0, 0.9, 0.9))
    cost, result = SearchCost(1, 1.0), SearchResult(trial)
    without = to_profile(target, SearchConfig(), UsedPrompts("sha256:0"), cost, result)
    assert without.environment is not None
    assert without.environment.memory is not None
    assert without.environment.memory.quantized_weights == 0 < target.memory.quantized_weights


def test_a_search_without_skip_scores_no_mask(
    target: Target, quantized_draft_wins: list[Profile]
) -> None:
    found = search(target, TEXTS, search_space=("int8",))
    assert [each.draft_config for each in quantized_draft_wins] == [INT8]
    assert not found.skip_mask.skipped
    assert found.draft_config == INT8
    assert found.search is not None
    assert found.search.trials == 0


def test_longer_texts_have_the_same_draft_config(
    target: Target, quantized_draft_wins: list[Profile]
) -> None:
    found = search(target, TEXTS, search_space=("int8",), context_lengths=[60])
    assert all(each.draft_config == INT8 for each in found.draft_settings)
