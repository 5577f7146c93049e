"""Sampled decoding has the target's distribution, for pairs of tokens and bonus tokens too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from support.chances import LEAST_P
from support.distributions import p_value, right_answer
from support.table_engine import MASK, PROCESSED, VOCABULARY, TableEngine, sample, table_engine

from skipopt.draft_config import UNCHANGED
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.plain import NoDrafter
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.drafting.rsd_c import ConstantTreeDrafter
from skipopt.drafting.rsd_s import BeamTreeDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.rounds import Round, Statistics
from skipopt.sampling import SamplingOptions, TokenSampler, largest
from skipopt.verification.base import VerifyResult
from skipopt.verification.match import Match
from skipopt.verification.rejection import Rejection, reject, residual
from skipopt.verification.target_rows import TargetRows

PAIRS = 5000  # the wrong rules below are rejected with as many

Counts = NDArray[np.float64]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> TableEngine:
    return table_engine(monkeypatch)


def layer_skip(engine: TableEngine, gamma: int = 3, tau: float = 0.0) -> LayerSkipDrafter:
    return LayerSkipDrafter(engine.target, MASK, gamma, tau)


def assert_mixed(rounds: Sequence[Round]) -> None:
    """Check that drafts were both rejected and accepted often."""
    rate = Statistics.of(rounds).acceptance_rate
    assert rate is not None
    assert 0.1 < rate < 0.7


def test_the_table_engine_drafts_from_its_draft_table(engine: TableEngine) -> None:
    """Otherwise every draft would be accepted, and the tests below would prove nothing."""
    assert torch.equal(engine.step([3]), engine.whole[[3]])
    with engine.draft_mode(MASK, UNCHANGED):
        assert torch.equal(engine.step([3]), engine.draft[[3]])
    assert torch.equal(engine.step([3]), engine.whole[[3]])


# --- by rejection: every draw is fresh


@pytest.mark.slow
@pytest.mark.parametrize(("gamma", "tau"), [(2, 0.0), (3, 0.5)])
def test_layer_skip_samples_pairs_as_the_target_does(
    engine: TableEngine, gamma: int, tau: float
) -> None:
    tokens, rounds = sample(engine, layer_skip(engine, gamma, tau), PROCESSED, PAIRS)
    assert_mixed(rounds)
    assert p_value(tokens, right_answer(engine, PROCESSED)) > LEAST_P


@pytest.mark.slow
@pytest.mark.parametrize(("drafter", "tau"), [("rsd-c", 0.5), ("rsd-s", 0.0)])
def test_trees_sample_pairs_as_the_target_does(
    engine: TableEngine, drafter: str, tau: float
) -> None:
    made: Drafter = BeamTreeDrafter(engine.target, MASK, width=3, depth=2, tau=tau)
    if drafter == "rsd-c":
        made = ConstantTreeDrafter(engine.target, MASK, branching=(2, 2), tau=tau)
    tokens, rounds = sample(engine, made, PROCESSED, PAIRS)
    assert {len(r.path) for r in rounds} == {0, 1, 2}
    assert p_value(tokens, right_answer(engine, PROCESSED)) > LEAST_P


@pytest.mark.slow
def test_prompt_lookup_by_rejection_samples_pairs_as_the_target_does(engine: TableEngine) -> None:
    tokens, rounds = sample(engine, PromptLookupDrafter(gamma=3), PROCESSED, PAIRS)
    assert_mixed(rounds)
    assert p_value(tokens, right_answer(engine, PROCESSED)) > LEAST_P


# --- by matching: noise belongs to positions


@pytest.mark.slow
def test_plain_decoding_samples_pairs_by_the_noise_of_positions(engine: TableEngine) -> None:
    tokens, _ = sample(engine, NoDrafter(), PROCESSED, PAIRS, Match())
    assert p_value(tokens, right_answer(engine, PROCESSED)) > LEAST_P


@pytest.mark.slow
def test_prompt_lookup_by_matching_samples_pairs_as_the_target_does(engine: TableEngine) -> None:
    tokens, rounds = sample(engine, PromptLookupDrafter(gamma=3), PROCESSED, PAIRS, Match())
    assert_mixed(rounds)
    assert p_value(tokens, right_answer(engine, PROCESSED)) > LEAST_P


@pytest.mark.slow
def test_every_drafter_gives_the_tokens_of_plain_decoding(engine: TableEngine) -> None:
    plain, _ = sample(engine, NoDrafter(), PROCESSED, 500, Match())
    for drafter in (
        layer_skip(engine),
        PromptLookupDrafter(gamma=3),
        ConstantTreeDrafter(engine.target, MASK),
        BeamTreeDrafter(engine.target, MASK),
    ):
        tokens, rounds = sample(engine, drafter, PROCESSED, 500, Match())
        assert tokens == plain
        assert 0 < Statistics.of(rounds).accepted < Statistics.of(rounds).drafted


def test_noise_of_neighboring_positions_and_seeds_is_independent() -> None:
    """Pairs of choices from one uniform row at distances of 1, 2 and 7, and with two seeds."""
    count, row = 8000, torch.zeros(VOCABULARY)
    rows = row.expand(count, -1)
    texts = {
        seed: TokenSampler(SamplingOptions(1.0, seed=seed), torch.device("cpu"), True).choose(
            rows, range(count)
        )
        for seed in (0, 1)
    }
    pairs = [(texts[0][:-lag], texts[0][lag:]) for lag in (1, 2, 7)]
    pairs += [(texts[0], texts[1]), (texts[0][1:], texts[1][:-1]), (texts[0][:-1], texts[1][1:])]
    for first, second in pairs:
        seen = np.zeros((VOCABULARY, VOCABULARY))
        np.add.at(seen, (np.array(first), np.array(second)), 1)
        expected = np.full_like(seen, seen.sum() / seen.size)
        assert stats.chisquare(seen.ravel(), expected.ravel()).pvalue > LEAST_P


# --- the same check, with known mistakes


@dataclass(frozen=True)
class Mutant:
    """A verifier that uses fresh noise."""

    name: str = "mutant"
    coupled: bool = False

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        raise NotImplementedError


class RawBonus(Mutant):
    """The token after a fully accepted draft comes from unprocessed logits."""

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        verdict = reject(draft, sampler.probabilities(logits.every()), sampler)
        if len(verdict.path) < len(draft.tokens):
            return verdict
        return VerifyResult(verdict.path, sampler.draw(logits.every()[-1].softmax(-1)))


class NoResidual(Mutant):
    """The token after a rejection comes from q."""

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        q = sampler.probabilities(logits.every())
        verdict = reject(draft, q, sampler)
        return VerifyResult(verdict.path, sampler.draw(q[len(verdict.path)]))


class RawDraftRows(Mutant):
    """The p of the ratio is not the distribution the token was drawn from."""

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        flat = {parent: p.sqrt() / p.sqrt().sum() for parent, p in draft.draft_probs.items()}
        q = sampler.probabilities(logits.every())
        return reject(replace(draft, draft_probs=flat), q, sampler)


class OneUARound(Mutant):
    """One u for all drafts of a round: single tokens are nearly right, pairs are not."""

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        q, u = sampler.probabilities(logits.every()), sampler.uniform()
        for i, token in enumerate(draft.tokens):
            p = draft.draft_probs[i - 1]
            if not u < float(q[i, token] / p[token]):
                return VerifyResult(tuple(range(i)), sampler.draw(residual(q[i], p, token)))
        return VerifyResult(tuple(range(len(draft.tokens))), sampler.draw(q[len(draft.tokens)]))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [RawBonus, NoResidual, RawDraftRows, OneUARound])
def test_check_rejects_a_wrong_rule(engine: TableEngine, mutant: type[Mutant]) -> None:
    tokens, _ = sample(engine, layer_skip(engine), PROCESSED, PAIRS, mutant())
    assert p_value(tokens, right_answer(engine, PROCESSED)) < LEAST_P


class OneNoise(Match):
    """The noise of a position is used again two positions later."""

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        return VerifyResult((), sampler.choose(logits.every()[:1], [position % 2])[0])


@pytest.mark.slow
def test_check_rejects_repeated_noise(engine: TableEngine) -> None:
    tokens, _ = sample(engine, NoDrafter(), PROCESSED, PAIRS, OneNoise())
    assert p_value(tokens, right_answer(engine, PROCESSED)) < LEAST_P


class DrawsAgain(Mutant):
    """After a mismatch, the target draws again instead of emitting its first draw."""

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        q = sampler.probabilities(logits.every())
        for i, token in enumerate(draft.tokens):
            if sampler.draw(q[i]) != token:
                return VerifyResult(tuple(range(i)), sampler.draw(q[i]))
        return VerifyResult(tuple(range(len(draft.tokens))), sampler.draw(q[len(draft.tokens)]))


@pytest.mark.slow
def test_check_rejects_a_second_draw_after_a_mismatch(engine: TableEngine) -> None:
    tokens, _ = sample(engine, layer_skip(engine), PROCESSED, PAIRS, DrawsAgain())
    assert p_value(tokens, right_answer(engine, PROCESSED)) < LEAST_P


class DropsUnlikely(Drafter):
    """A drafter that drops a drawn token of low confidence."""

    def __init__(self, drafter: LayerSkipDrafter) -> None:
        self._drafter = drafter

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        draft = self._drafter.propose(state, limit)
        shares = [float(draft.draft_probs[i - 1][token]) for i, token in enumerate(draft.tokens)]
        end = next((i for i, share in enumerate(shares) if share < 0.3), len(shares))
        return DraftTree.chain(draft.tokens[:end], [draft.draft_probs[i - 1] for i in range(end)])


@pytest.mark.slow
def test_check_rejects_a_drafter_that_drops_drawn_tokens(engine: TableEngine) -> None:
    tokens, _ = sample(engine, DropsUnlikely(layer_skip(engine)), PROCESSED, PAIRS)
    assert p_value(tokens, right_answer(engine, PROCESSED)) < LEAST_P


class LikeliestChild(ConstantTreeDrafter):
    """Proposes only the likeliest of the drawn children."""

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        draft = super().propose(state, min(1, limit))
        if not draft.tokens:
            return draft
        p = draft.draft_probs[-1]
        likeliest = max(draft.tokens, key=lambda token: float(p[token]))
        return DraftTree((likeliest,), (-1,), draft.kind, draft.draft_probs)


@pytest.mark.slow
def test_check_rejects_a_tree_cut_by_probability(engine: TableEngine) -> None:
    drafter = LikeliestChild(engine.target, MASK, branching=(3,))
    tokens, _ = sample(engine, drafter, PROCESSED, PAIRS)
    assert p_value(tokens, right_answer(engine, PROCESSED)) < LEAST_P


@pytest.mark.slow
def test_tokens_cut_by_top_k_are_never_emitted(engine: TableEngine) -> None:
    options = SamplingOptions(temperature=1.5, top_k=2, seed=3)
    allowed = right_answer(engine, options) > 0
    drafters: list[Drafter] = [layer_skip(engine), BeamTreeDrafter(engine.target, MASK)]
    for drafter in drafters:
        for verifier in (Rejection(), Match()):
            tokens, _ = sample(engine, drafter, options, 500, verifier)
            assert all(allowed[a, b] for a, b in pairwise(tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_of_equal_scores_the_first_is_taken(dtype: torch.dtype) -> None:
    scores = torch.zeros(3, 50_000, dtype=dtype)
    scores[0, [7, 40_000]] = 2.0
    scores[1, 49_999] = 1.0
    assert largest(scores) == [7, 49_999, 0]
