"""Matching emits the target's own choices; only their number depends on the draft tree."""

from __future__ import annotations

from random import Random

import pytest
import torch
from support.text_table import (
    CPU,
    GREEDY,
    SAMPLED,
    VOCABULARY,
    Table,
    coupled,
    emitted,
    random_tree,
)

from skipopt import sampling
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.sampling import PositionNoise, SamplingOptions, TokenSampler
from skipopt.verification.base import VerifyResult
from skipopt.verification.match import Match
from skipopt.verification.registry import make_verifier, split_options
from skipopt.verification.target_rows import TargetRows


def plain(table: Table, sampler: TokenSampler, count: int, position: int) -> list[int]:
    text: list[int] = []
    for i in range(count):
        text += sampler.choose(table.row(text)[None], [position + i])
    return text


@pytest.mark.parametrize(
    ("drafted", "verdict"),
    [
        ((), VerifyResult((), 3)),
        ((3, 1, 2), VerifyResult((0, 1, 2), 0)),
        ((3, 0, 2), VerifyResult((0,), 1)),
        ((0, 1, 2), VerifyResult((), 3)),
    ],
)
def test_greedy_takes_the_agreeing_prefix_and_the_targets_next(
    drafted: tuple[int, ...], verdict: VerifyResult
) -> None:
    logits = torch.eye(4)[[3, 1, 2, 0]][: len(drafted) + 1]
    assert Match()(DraftTree.chain(drafted), TargetRows(logits), coupled(GREEDY), 7) == verdict


def test_greedy_descends_to_the_child_that_is_right() -> None:
    tree = DraftTree((1, 2, 0, 3, 3), (-1, -1, 0, 1, 3))
    logits = torch.eye(4)[[2, 0, 3, 1, 3, 0]]
    assert Match()(tree, TargetRows(logits), coupled(GREEDY), 7) == VerifyResult((1, 3, 4), 0)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_any_tree_gives_the_tokens_of_plain_decoding(options: SamplingOptions) -> None:
    rng, lengths = Random(0), set()
    for seed in range(300):
        table, position = Table(seed), rng.randrange(1000)
        tree = random_tree(rng, rng.randrange(40))
        verdict = Match()(tree, TargetRows(table.rows(tree)), coupled(options), position)
        found = emitted(tree, verdict)
        assert found == plain(table, coupled(options), len(found), position)
        assert all(
            tree.parents[i] == before
            for before, i in zip((-1, *verdict.path), verdict.path, strict=False)
        )
        lengths.add(len(found))
    assert {1, 2, 3, 4} <= lengths


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_drafts_equal_to_plain_decoding_are_accepted_whole(options: SamplingOptions) -> None:
    for seed in range(50):
        table = Table(seed)
        text = plain(table, coupled(options), 5, 10)
        wrong = [(text[0] + 1) % VOCABULARY, (text[0] + 2) % VOCABULARY]
        tree = DraftTree((*wrong, *text[:4]), (-1, -1, -1, 2, 3, 4))
        verdict = Match()(tree, TargetRows(table.rows(tree)), coupled(options), 10)
        assert verdict == VerifyResult((2, 3, 4, 5), text[4])


def test_wrong_tokens_are_never_accepted() -> None:
    for seed in range(50):
        table = Table(seed)
        right = plain(table, coupled(SAMPLED), 1, 3)[0]
        others = [token for token in range(VOCABULARY) if token != right]
        tree = DraftTree(tuple(others), (-1,) * len(others))
        assert Match()(tree, TargetRows(table.rows(tree)), coupled(SAMPLED), 3) == VerifyResult(
            (), right
        )


def test_drafts_from_the_targets_logits_are_always_accepted() -> None:
    sampler, table = coupled(SAMPLED), Table(0)
    for position in range(100):
        token, row = sampler.draft(table.row(()), position)
        assert [token] == coupled(SAMPLED).choose(table.row(())[None], [position])
        assert row is None, "a point mass"


def test_choices_repeat_in_any_order_and_differ_by_seed() -> None:
    rows = torch.stack([Table(0).row(())] * 200)
    forwards = coupled(SAMPLED).choose(rows, range(200))
    backwards = coupled(SAMPLED).choose(rows, range(199, -1, -1))
    other = TokenSampler(SamplingOptions(temperature=0.8, top_k=4, seed=6), CPU, coupled=True)
    assert forwards == backwards[::-1]
    assert forwards != other.choose(rows, range(200))


def test_fresh_draws_do_not_disturb_the_choices() -> None:
    sampler = coupled(SAMPLED)
    first = sampler.choose(Table(1).row(())[None], [4])
    sampler.uniform()
    sampler.gumbel((3, 3))
    assert sampler.choose(Table(1).row(())[None], [4]) == first


def test_tokens_that_are_cut_are_never_chosen() -> None:
    row = Table(2).row(())
    allowed = set(row.topk(4).indices.tolist())
    assert set(coupled(SAMPLED).choose(torch.stack([row] * 500), range(500))) == allowed


def test_noise_is_reproduced_after_eviction_from_the_cache() -> None:
    noise = PositionNoise(3, CPU)
    first = noise.at(0, 10).clone()
    for position in range(1, 2 * PositionNoise.CACHED_POSITIONS):
        noise.at(position, 10)
    assert torch.equal(noise.at(0, 10), first)
    assert not torch.equal(noise.at(1, 10), first)


def test_zero_noise_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite noise would choose a token that is cut."""
    monkeypatch.setattr(
        sampling, "_exponential", lambda seed, size, device: torch.zeros(size).double()
    )
    assert PositionNoise(3, CPU).at(0, 10).isfinite().all()


@pytest.mark.parametrize("is_coupled", [True, False])
def test_where_the_device_has_no_float64_the_cpu_samples(is_coupled: bool) -> None:
    there, here = (TokenSampler(SAMPLED, torch.device(at), is_coupled) for at in ("mps", "cpu"))
    row = Table(1).row(())
    assert there.draft(row, 4)[0] == here.draft(row, 4)[0]
    assert there.uniform() == here.uniform()
    assert torch.equal(there.gumbel((3, 3)), here.gumbel((3, 3)))
    assert there.probabilities(row[None]).device == CPU


@pytest.mark.parametrize("is_coupled", [True, False])
def test_a_row_without_numbers_is_drawn_from_all_the_same(is_coupled: bool) -> None:
    """It may be of a draft, which the target then rejects."""
    sampler = TokenSampler(SAMPLED, CPU, is_coupled)
    for value in (float("nan"), float("inf"), -float("inf")):
        row = torch.full((7,), value)
        assert 0 <= sampler.draft(row, 4)[0] < 7
        assert sampler.probabilities(row[None]).isfinite().all()


# --- the verifier of a request


def test_greedy_rejection_is_matching() -> None:
    assert make_verifier({"verify": "rejection"}, "match", GREEDY).name == "match"
    assert make_verifier({}, "rejection", GREEDY).coupled
    assert make_verifier({}, "rejection", SAMPLED).name == "rejection"
    assert make_verifier({"verify": "match"}, "rejection", SAMPLED) == Match()


def test_an_unknown_verifier_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="unknown verifier 'no-such'") as refusal:
        make_verifier({"verify": "no-such"}, "match", GREEDY)
    assert "rejection" in str(refusal.value.hint)


def test_options_are_the_verifiers_or_the_drafters() -> None:
    options = {"verify": "relaxed-top", "top": "5", "gamma": "3"}
    assert split_options(options) == ({"verify": "relaxed-top", "top": "5"}, {"gamma": "3"})
    assert split_options({"top": "5"}) == ({}, {"top": "5"})


def test_the_last_token_is_recovered_after_a_rejection_and_else_a_bonus() -> None:
    tree = DraftTree((1, 2, 3), (-1, -1, 0))
    assert VerifyResult((), 0).last_is(tree) == "recovered"
    assert VerifyResult((0,), 0).last_is(tree) == "recovered"
    assert VerifyResult((0, 2), 0).last_is(tree) == "bonus"
    assert VerifyResult((1,), 0).last_is(tree) == "bonus"
    assert VerifyResult((), 0).last_is(DraftTree()) == "bonus"
