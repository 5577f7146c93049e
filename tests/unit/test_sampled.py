"""Sampled decoding has the target's distribution, bonus tokens and pairs of tokens included.

The real loop, drafters, sampler and verification run on an engine whose logits depend on the
last token alone and are looked up in a table; so the right distribution is known, and a few
hundred thousand tokens take seconds. Only the processing of logits, a pure function, remembers
its results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from skipopt import decoding
from skipopt.decoding import Limits, decode
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.prompt_lookup import PromptLookupDrafter
from skipopt.drafting.protocol import Drafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.models.sublayers import Branch, DecoderLayer
from skipopt.rounds import Round, Statistics
from skipopt.sampling import Sampler, SamplingOptions
from skipopt.verifying.chain import Verdict, reject_sampled, residual

VOCABULARY = 8
PAIRS = 100_000
LEAST_P = 1e-6
LEAST_EXPECTED = 10  # of a cell of the chi-square test
PROCESSED = SamplingOptions(temperature=0.7, top_k=6, top_p=0.92, seed=1)


Counts = NDArray[np.float64]


class Remembering(Sampler):
    """A sampler that processes equal logits once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known: dict[bytes, Tensor] = {}

    def probabilities(self, logits: Tensor) -> Tensor:
        key = logits.numpy().tobytes()
        if key not in self._known:
            self._known[key] = super().probabilities(logits)
        return self._known[key]


class TableEngine:
    """Logits by the last token: of the target, or of the draft while the layer is skipped."""

    def __init__(self, whole: Tensor, thinned: Tensor) -> None:
        self.whole = whole
        self.thinned = thinned
        self.position = 0
        self.layer = nn.Identity()
        branch = Branch(self.layer, 0, 1)
        layer = DecoderLayer(0, branch, (branch,), (branch,), {"attention": (), "mlp": ()})
        self.target: Any = SimpleNamespace(layers=(layer,), device=torch.device("cpu"))

    def prefill(self, tokens: Sequence[int]) -> None:
        self.position += len(tokens)

    def rewind(self, position: int) -> None:
        self.position = position

    def step(self, tokens: Sequence[int]) -> Tensor:
        self.position += len(tokens)
        table = self.thinned if "forward" in self.layer.__dict__ else self.whole
        return table[list(tokens)]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> TableEngine:
    monkeypatch.setattr(decoding, "Sampler", Remembering)
    generator = torch.Generator().manual_seed(0)
    whole, noise = torch.randn(2, VOCABULARY, VOCABULARY, generator=generator)
    return TableEngine(whole, 0.5 * whole + noise)


def layer_skip(engine: TableEngine, gamma: int = 3, tau: float = 0.0) -> LayerSkipDrafter:
    return LayerSkipDrafter(engine.target, SkipMask.of(1, [0], [0]), gamma, tau)


def sample(
    engine: TableEngine, drafter: Drafter, options: SamplingOptions, pairs: int
) -> tuple[list[int], list[Round]]:
    """The first token and `pairs` pairs after it."""
    limits = Limits(2 * pairs, 4 * pairs)
    rounds = list(decode(engine, [0], drafter, options, limits))  # type: ignore[arg-type]
    return [0, *(token for r in rounds for token in r.emitted)], rounds


def p_value(tokens: Sequence[int], right: Tensor) -> float:
    """Chi-square of disjoint pairs (b, c), each given the token a before it.

    # right: (V, V), row a = the distribution after a
    """
    q = right.double().numpy()
    before, first, second = (
        np.array(part) for part in (tokens[:-2:2], tokens[1:-1:2], tokens[2::2])
    )
    seen = np.zeros((VOCABULARY,) * 3)
    np.add.at(seen, (before, first, second), 1)
    expected = seen.sum((1, 2))[:, None, None] * q[:, :, None] * q[None]
    if seen[expected == 0].any():
        return 0.0
    return _chi_square(seen, expected)


def _chi_square(seen: Counts, expected: Counts) -> float:
    """Rare pairs after one token count together."""
    statistic, freedom = 0.0, 0
    rows = zip(seen.reshape(len(seen), -1), expected.reshape(len(seen), -1), strict=True)
    for observed, wanted in rows:
        order = np.argsort(wanted)
        groups = np.cumsum(wanted[order]) // LEAST_EXPECTED
        observed = np.bincount(groups.astype(int), observed[order])
        wanted = np.bincount(groups.astype(int), wanted[order])
        filled = wanted > 0
        statistic += float(((observed - wanted)[filled] ** 2 / wanted[filled]).sum())
        freedom += int(filled.sum()) - 1
    return float(stats.chi2.sf(statistic, freedom))


def right_answer(engine: TableEngine, options: SamplingOptions) -> Tensor:
    return Sampler(options, torch.device("cpu")).probabilities(engine.whole)


def test_engine_of_tables_drafts_by_its_own_table(engine: TableEngine) -> None:
    """Else every draft would be accepted, and the tests below would say nothing."""
    assert torch.equal(engine.step([3]), engine.whole[[3]])
    with layer_skip(engine)._skipping:
        assert torch.equal(engine.step([3]), engine.thinned[[3]])
    assert torch.equal(engine.step([3]), engine.whole[[3]])


@pytest.mark.slow
@pytest.mark.parametrize(("gamma", "tau"), [(2, 0.0), (3, 0.5)])
def test_layer_skip_samples_pairs_as_the_target_does(
    engine: TableEngine, gamma: int, tau: float
) -> None:
    tokens, rounds = sample(engine, layer_skip(engine, gamma, tau), PROCESSED, PAIRS)
    rate = Statistics.of(rounds).acceptance_rate
    assert rate is not None
    assert 0.1 < rate < 0.7, "drafts should be rejected often, and accepted often"
    assert p_value(tokens, right_answer(engine, PROCESSED)) > LEAST_P


@pytest.mark.slow
def test_prompt_lookup_samples_pairs_as_the_target_does(engine: TableEngine) -> None:
    drafter = PromptLookupDrafter(gamma=3)
    tokens, rounds = sample(engine, drafter, PROCESSED, PAIRS)
    rate = Statistics.of(rounds).acceptance_rate
    assert rate is not None
    assert 0.1 < rate < 0.7
    assert p_value(tokens, right_answer(engine, PROCESSED)) > LEAST_P


# --- the same check, with known mistakes


Rule = Callable[[DraftTree, Tensor, Sampler], Verdict]


def raw_bonus(draft: DraftTree, logits: Tensor, sampler: Sampler) -> Verdict:
    """The token after a draft accepted whole comes from the logits as they are."""
    verdict = reject_sampled(draft, sampler.probabilities(logits), sampler)
    if verdict.accepted < len(draft.tokens):
        return verdict
    return Verdict(verdict.accepted, sampler.draw(logits[-1].softmax(-1)))


def no_residual(draft: DraftTree, logits: Tensor, sampler: Sampler) -> Verdict:
    """The token after a rejection comes from q."""
    q = sampler.probabilities(logits)
    verdict = reject_sampled(draft, q, sampler)
    if verdict.accepted == len(draft.tokens):
        return verdict
    return Verdict(verdict.accepted, sampler.draw(q[verdict.accepted]))


def raw_draft_rows(draft: DraftTree, logits: Tensor, sampler: Sampler) -> Verdict:
    """The p of the ratio is not the one that was drawn from."""
    flat = tuple(p.sqrt() / p.sqrt().sum() for p in draft.rows)
    changed = DraftTree(draft.tokens, draft.kind, flat)
    return reject_sampled(changed, sampler.probabilities(logits), sampler)


def one_u_a_round(draft: DraftTree, logits: Tensor, sampler: Sampler) -> Verdict:
    """One u judges all drafts of a round: each token alone is nearly right, the pair is not."""
    q, u = sampler.probabilities(logits), sampler.uniform()
    for i, token in enumerate(draft.tokens):
        if not u < float(q[i, token] / draft.rows[i][token]):
            return Verdict(i, sampler.draw(residual(q[i], draft.rows[i], token)))
    return Verdict(len(draft.tokens), sampler.draw(q[len(draft.tokens)]))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [raw_bonus, no_residual, raw_draft_rows, one_u_a_round])
def test_check_rejects_a_wrong_rule(
    engine: TableEngine, monkeypatch: pytest.MonkeyPatch, mutant: Rule
) -> None:
    monkeypatch.setattr(decoding, "verify_chain", mutant)
    tokens, _ = sample(engine, layer_skip(engine), PROCESSED, PAIRS // 8)
    assert p_value(tokens, right_answer(engine, PROCESSED)) < LEAST_P


class DropsUnlikely:
    """A drafter that does not propose the token it is unsure of, though it was drawn."""

    def __init__(self, drafter: LayerSkipDrafter) -> None:
        self._drafter = drafter

    def propose(self, state: Any, limit: int) -> DraftTree:
        draft = self._drafter.propose(state, limit)
        pairs = enumerate(zip(draft.tokens, draft.rows, strict=True))
        end = next((i for i, (token, p) in pairs if float(p[token]) < 0.3), len(draft.tokens))
        return DraftTree(draft.tokens[:end], draft.kind, draft.rows[:end])

    def observe(self, accepted: int, drafted: int) -> None:
        return None


@pytest.mark.slow
def test_check_rejects_a_drafter_that_drops_drawn_tokens(engine: TableEngine) -> None:
    tokens, _ = sample(engine, DropsUnlikely(layer_skip(engine)), PROCESSED, PAIRS // 8)
    assert p_value(tokens, right_answer(engine, PROCESSED)) < LEAST_P


def test_tokens_cut_by_top_k_are_never_said(engine: TableEngine) -> None:
    options = SamplingOptions(temperature=1.5, top_k=2, seed=3)
    allowed = right_answer(engine, options) > 0
    tokens, _ = sample(engine, layer_skip(engine), options, 1000)
    assert all(allowed[a, b] for a, b in zip(tokens, islice(tokens, 1, None), strict=False))
