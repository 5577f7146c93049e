"""Drafts of mixed kinds: which are chosen, and how predictions of them are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.ablation import Parts
from benchmarks.drafts import spread
from benchmarks.prediction_accuracy import accuracy
from benchmarks.result_files import earlier_record
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.masks import SkipMask

DEPTH = 4
MASK = SkipMask.of(DEPTH, [1], [2])
INT8, VOCAB = DraftConfig(weight_bits=8), DraftConfig(vocab_size=100)


def test_masks_are_spread_over_the_values_down_to_the_least() -> None:
    values = (1.5, 1.45, 1.3, 1.25, 1.21, 0.4)
    masks = [(SkipMask(DEPTH, frozenset({i})), value) for i, value in enumerate(values)]
    chosen = spread(masks, 3, least=0.8)  # 1.5, 1.35 and 1.2 are wanted
    assert [masks[i][0] for i in (0, 2, 4)] == chosen
    assert len(set(spread(masks, 6, least=0.0))) == 6


def test_errors_are_relative_to_what_was_measured() -> None:
    found = accuracy([1.1, 1.2, 1.02, 2.0], [1.0, 1.0, 1.0, 2.0])
    assert found.median_error == pytest.approx(0.06)
    assert found.bias == pytest.approx(0.06)
    assert found.within == 2
    assert accuracy([0.9, 1.0, 1.1], [1.0, 1.1, 1.2]).rank_correlation == pytest.approx(1.0)
    assert accuracy([0.9], [1.0]).bias == pytest.approx(-0.1)


def test_an_ablation_has_each_part_alone_and_all_together() -> None:
    rows = {each.name: each for each in Parts(MASK, INT8, VOCAB, UNCHANGED).rows()}
    assert list(rows) == [
        "mask",
        "weight bits",
        "vocabulary",
        "mask and weight bits",
        "all",
        "all, with copies",
        "weight bits, with copies",
        "copies",
    ]
    assert (rows["mask"].mask, rows["mask"].draft_config) == (MASK, UNCHANGED)
    assert rows["weight bits"].draft_config == INT8
    assert not rows["vocabulary"].mask.skipped
    both = DraftConfig(weight_bits=8, vocab_size=100)
    assert (rows["all"].mask, rows["all"].draft_config) == (MASK, both)
    assert (rows["all, with copies"].method, rows["copies"].method) == ("cascade", "suffix")


def test_an_ablation_leaves_out_parts_that_nothing_has() -> None:
    rows = [each.name for each in Parts(MASK, UNCHANGED, UNCHANGED, UNCHANGED).rows()]
    assert rows == ["mask", "all", "all, with copies", "copies"]


def test_only_the_same_command_goes_on_with_earlier_results(tmp_path: Path) -> None:
    prefix = tmp_path / "out"
    assert earlier_record(prefix, "a") is None
    (tmp_path / "out.json").write_text(json.dumps({"command": "a", "rows": [1]}))
    record = earlier_record(prefix, "a")
    assert record is not None
    assert record["rows"] == [1]
    with pytest.raises(SystemExit, match="is of another command: a"):
        earlier_record(prefix, "b")
