"""Logits processors on the rows of a draft tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation import logits_process

from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.logits_processing import (
    IDS_AND_SCORES,
    SCORES_ONLY,
    UNSUPPORTED,
    AfterPadding,
    LogitsProcessing,
)
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.match import Match
from skipopt.verification.rejection import Rejection
from skipopt.verification.target_rows import TargetRows

CPU = torch.device("cpu")
TEXT = [3, 5, 1]
TREE = DraftTree((2, 4, 6, 7), (-1, 0, -1, 2))


def rows(count: int = 5, width: int = 8) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def penalty(value: float = 1.7) -> Any:
    return RepetitionPenaltyLogitsProcessor(value)


def test_every_row_is_processed_with_its_own_path() -> None:
    logits = rows()
    target = TargetRows(logits, LogitsProcessing([penalty()]), TREE, TEXT)
    paths: list[list[int]] = [[], [2], [2, 4], [6], [6, 7]]
    for row, path in enumerate(paths):
        ids = torch.tensor([[*TEXT, *path]])
        expected = penalty()(ids, logits[row][None].clone())[0]
        assert target[row].tolist() == expected.tolist()
    assert target.every().tolist() == [target[row].tolist() for row in range(5)]
    drafted = LogitsProcessing([penalty()]).draft_rows(logits, TEXT, paths)
    assert drafted.tolist() == target.every().tolist()


def test_the_text_may_grow_between_calls() -> None:
    processing, logits, text = LogitsProcessing([penalty()]), rows(), list(TEXT)
    for token in (4, 2, 7):
        found = processing.target_row(logits[0], text, [0])
        expected = penalty()(torch.tensor([[*text, 0]]), logits[:1].clone())[0]
        assert found.tolist() == expected.tolist()
        text.append(token)
    past = processing.past_rows(logits, [*TEXT, 4, 2], 2)
    for i, row in enumerate(past[:3]):
        ids = torch.tensor([[*TEXT, 4, 2][: 2 + i]])
        assert row.tolist() == penalty()(ids, logits[i][None].clone())[0].tolist()


def test_a_row_of_which_nothing_is_left_stays_in_drafts() -> None:
    everything: Any = SuppressTokensLogitsProcessor(list(range(8)))
    logits = rows()
    assert LogitsProcessing([everything]).draft_rows(logits, TEXT, [[]] * 5).tolist() == (
        logits.tolist()
    )


def test_processors_of_the_caller_do_not_see_drafts() -> None:
    def never(ids: Any, scores: Any) -> Any:
        raise AssertionError

    processing = LogitsProcessing([never])
    assert processing.draft_rows(rows(), TEXT, [[]] * 5).tolist() == rows().tolist()
    assert not processing.changes_drafts
    assert processing.reads_ids


@pytest.mark.parametrize("verifier", [Match(), Rejection()])
def test_only_rows_of_accepted_tokens_are_processed(verifier: Any) -> None:
    seen: list[list[int]] = []

    def watches(ids: Any, scores: Any) -> Any:
        seen.append(ids[0, len(TEXT) :].tolist())
        likeliest = torch.full_like(scores, -100.0)
        likeliest[0, {0: 6, 1: 7}.get(len(seen) - 1, 1)] = 100.0
        return likeliest

    sampler = TokenSampler(SamplingOptions(1.0), CPU, verifier.coupled)
    target = TargetRows(rows(), LogitsProcessing([watches]), TREE, TEXT)
    result = verifier(TREE, target, sampler, len(TEXT))
    assert (result.path, result.last_token) == ((2, 3), 1)
    assert seen == [[], [6], [6, 7]]


def test_nothing_is_processed_after_the_end_of_a_text() -> None:
    seen: list[int] = []

    def watches(ids: Any, scores: Any) -> Any:
        seen.append(ids.shape[1])
        return scores

    target = TargetRows(rows(), LogitsProcessing([watches]), TREE, TEXT, ends={6})
    assert target[4].tolist() == rows()[4].tolist()
    assert not seen


def test_scores_alone_are_processed_all_at_once() -> None:
    processing = LogitsProcessing([TemperatureLogitsWarper(0.5), TopKLogitsWarper(2)])
    assert not processing.reads_ids
    target = TargetRows(rows(), processing)
    assert not target.on_demand
    assert target.every().isfinite().sum(-1).tolist() == [2] * 5


def test_a_processor_may_change_scores_in_place() -> None:
    def changes(ids: Any, scores: Any) -> Any:
        scores[:, 0] = -torch.inf
        return scores

    with torch.inference_mode():
        logits = rows()
    found = LogitsProcessing([changes]).target_row(logits[0], TEXT, [])
    assert found[0] == -torch.inf
    assert logits.isfinite().all()


def test_padding_counts_as_text_on_the_left() -> None:
    seen: list[list[int]] = []

    def watches(ids: Any, scores: Any) -> Any:
        seen.append(ids[0].tolist())
        return scores

    processing = LogitsProcessing([AfterPadding(watches, [0, 0])])
    processing.target_row(rows()[0], TEXT, [9])
    assert seen == [[0, 0, *TEXT, 9]]


class MoreThanTwo(LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any, unknown: Any) -> Any:  # type: ignore[override]
        return scores


def test_what_cannot_be_called_with_one_text_is_refused() -> None:
    guidance = object.__new__(UnbatchedClassifierFreeGuidanceLogitsProcessor)
    with pytest.raises(UsageError, match="UnbatchedClassifierFreeGuidance"):
        LogitsProcessing([guidance])
    with pytest.raises(UsageError, match="MoreThanTwo needs unknown"):
        LogitsProcessing([MoreThanTwo()])
    with pytest.raises(UsageError, match="callable, not int"):
        LogitsProcessing([3])  # type: ignore[list-item]


def test_the_lists_name_classes_of_transformers() -> None:
    """A class that was renamed would be treated as one of the caller."""
    assert not UNSUPPORTED & (SCORES_ONLY | IDS_AND_SCORES)
    remembers = {
        "AlternatingCodebooksLogitsProcessor", "BarkEosPrioritizerLogitsProcessor",
        "LogitsProcessor", "LogitsProcessorList", "PrefixConstrainedLogitsProcessor",
        "SynthIDTextWatermarkLogitsProcessor", "WhisperTimeStampLogitsProcessor",
    }  # fmt: skip
    made = {
        name
        for name, value in vars(logits_process).items()
        if isinstance(value, type)
        and value.__module__ == logits_process.__name__
        and issubclass(value, LogitsProcessor | list)
    }
    assert made == SCORES_ONLY | IDS_AND_SCORES | UNSUPPORTED | remembers


@pytest.mark.parametrize(
    "options",
    [
        {"min_p": 1.5},
        {"typical_p": 0.0},
        {"epsilon_cutoff": 1.0},
        {"eta_cutoff": -0.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
        {"no_repeat_ngram_size": -1},
        {"min_new_tokens": -1},
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(UsageError, match=name):
        SamplingOptions(**options)


@pytest.mark.parametrize(
    ("option", "warper"),
    [
        ({"top_k": 3}, TopKLogitsWarper(3)),
        ({"top_p": 0.6}, TopPLogitsWarper(0.6)),
        ({"min_p": 0.2}, MinPLogitsWarper(0.2)),
        ({"typical_p": 0.4}, TypicalLogitsWarper(0.4)),
        ({"epsilon_cutoff": 0.05}, EpsilonLogitsWarper(0.05)),
        ({"eta_cutoff": 0.3}, EtaLogitsWarper(0.3)),
    ],
)
def test_an_option_shapes_the_distribution_as_in_transformers(
    option: dict[str, Any], warper: Any
) -> None:
    logits = 2 * torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    sampler = TokenSampler(
        SamplingOptions(temperature=0.7, **option), torch.device("cpu"), coupled=False
    )
    found = sampler.probabilities(logits)
    torch.testing.assert_close(found, warper(None, logits / 0.7).softmax(-1))
    assert not torch.allclose(found, (logits / 0.7).softmax(-1))
