"""Relaxed verification accepts tokens near the best one, by two rules."""

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
from support.tiny import tiny_prompts, tiny_target
from torch import Tensor

from skipopt.decoding.api import generate_rounds
from skipopt.decoding.setup import make_decoding
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.base import Verifier, VerifyResult
from skipopt.verification.match import Match
from skipopt.verification.registry import VERIFIERS, make_verifier
from skipopt.verification.relaxed import RelaxedTop, RelaxedTypical
from skipopt.verification.target_rows import TargetRows

ROW = (0.0, 3.0, 2.5, 1.0)  # token 1 is the argmax


def judged(
    verifier: Verifier, draft: DraftTree, logits: Tensor, sampler: TokenSampler
) -> VerifyResult:
    return verifier(draft, TargetRows(logits), sampler, 5)


def standing(verifier: Verifier, row: tuple[float, ...] = ROW, greedy: bool = True) -> set[int]:
    """Which tokens are accepted."""
    options = GREEDY if greedy else SamplingOptions(temperature=1.0)
    sampler, logits = TokenSampler(options, CPU, coupled=True), torch.tensor([row, row])
    drafts = {token: DraftTree.chain([token]) for token in range(len(row))}
    return {
        token for token, draft in drafts.items() if judged(verifier, draft, logits, sampler).path
    }


# --- the best β within τ


@pytest.mark.parametrize(
    ("top", "margin", "expected"),
    [
        (1, 9.0, {1}),
        (2, 9.0, {1, 2}),
        (3, 9.0, {1, 2, 3}),
        (4, 9.0, {0, 1, 2, 3}),
        (4, 0.0, {1}),
        (4, 0.5, {1, 2}),
        (4, 0.49, {1}),
        (4, 2.0, {1, 2, 3}),
        (2, 2.0, {1, 2}),
        (4, float("inf"), {0, 1, 2, 3}),
    ],
)
def test_a_draft_is_accepted_among_the_best_tokens_within_the_margin(
    top: int, margin: float, expected: set[int]
) -> None:
    assert standing(RelaxedTop(top, margin)) == expected


@pytest.mark.parametrize("strict", [RelaxedTop(1, 3.0), RelaxedTop(VOCABULARY, 0.0)])
def test_with_one_token_or_no_margin_it_is_matching(strict: RelaxedTop) -> None:
    rng = Random(0)
    for seed in range(200):
        table, tree = Table(seed), random_tree(rng, rng.randrange(30))
        ours = judged(strict, tree, table.rows(tree), coupled(GREEDY))
        theirs = judged(Match(), tree, table.rows(tree), coupled(GREEDY))
        # Of siblings with the same token, matching takes the first, and relaxing the longest.
        shorter = emitted(tree, theirs)
        assert emitted(tree, ours)[: len(shorter)] == shorter


def test_exactly_equal_logits() -> None:
    """A margin of 0 accepts both; one token accepts only the greedy choice."""
    tied = (1.0, 4.0, 0.0, 4.0)
    assert standing(RelaxedTop(4, 0.0), tied) == {1, 3}
    assert standing(RelaxedTop(1, 3.0), tied) == {int(torch.tensor(tied).argmax())} == {1}


# --- typical


def test_the_typical_threshold_is_epsilon_or_lower_for_flat_rows() -> None:
    sure = tuple(torch.tensor([0.85, 0.1, 0.04, 0.01]).log().tolist())
    assert standing(RelaxedTypical(0.09, 1.0), sure) == {0, 1}
    assert standing(RelaxedTypical(0.3, 1.0), sure) == {0}
    flat = tuple(torch.tensor([0.28, 0.26, 0.24, 0.22]).log().tolist())
    assert standing(RelaxedTypical(0.5, 1.0), flat) == {0, 1}, "exp(-H) is 0.2507"
    assert standing(RelaxedTypical(0.5, 0.9), flat) == {0, 1, 2}
    assert standing(RelaxedTypical(0.27, 1.0), flat) == {0, 1}
    assert standing(RelaxedTypical(0.23, 1.0), flat) == {0, 1, 2}


@pytest.mark.parametrize("delta", [0.3, 0.99])
def test_the_likeliest_token_is_always_typical(delta: float) -> None:
    for seed in range(200):
        row = Table(seed).row(())
        found = standing(RelaxedTypical(0.9, delta), tuple(row.tolist()))
        assert int(row.argmax()) in found


def test_temperature_zero_judges_at_temperature_one() -> None:
    for seed in range(50):
        row = tuple(Table(seed).row(()).tolist())
        assert standing(RelaxedTypical(), row) == standing(RelaxedTypical(), row, greedy=False)


def test_temperature_changes_typical_tokens_but_not_the_targets_token() -> None:
    table, cold, hot = Table(0), SamplingOptions(0.1), SamplingOptions(5.0)
    logits = table.row(())[None]
    for options in (cold, hot):
        verdict = judged(RelaxedTypical(), DraftTree(), logits, coupled(options))
        assert verdict == VerifyResult((), int(logits.argmax()))
    drafts = [DraftTree.chain([token]) for token in range(VOCABULARY)]
    stand = {
        options: sum(
            bool(judged(RelaxedTypical(), each, logits.repeat(2, 1), coupled(options)).path)
            for each in drafts
        )
        for options in (cold, hot)
    }
    assert stand[cold] == 1 < stand[hot]


# --- trees


def test_the_longest_accepted_path_is_taken() -> None:
    rows = torch.tensor([ROW] * 6)
    #  1 (best) and then a wrong token; 2 (second best) and then two that stand
    tree = DraftTree((1, 2, 0, 1, 2), (-1, -1, 0, 1, 3))
    verdict = judged(RelaxedTop(2, 1.0), tree, rows, coupled(GREEDY))
    assert verdict == VerifyResult((1, 3, 4), 1)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_equally_long_paths_the_target_chooses(order: tuple[int, int]) -> None:
    tree = DraftTree((*order, 1, 1), (-1, -1, 0, 1))
    verdict = judged(RelaxedTop(2, 1.0), tree, torch.tensor([ROW] * 5), coupled(GREEDY))
    first = order.index(1)
    assert verdict == VerifyResult((first, 2 + first), 1)


def test_tokens_below_a_rejected_token_are_ignored() -> None:
    tree = DraftTree((0, 1, 1, 1), (-1, 0, 1, -1))
    verdict = judged(RelaxedTop(1, 0.0), tree, torch.tensor([ROW] * 5), coupled(GREEDY))
    assert verdict == VerifyResult((3,), 1)


@pytest.mark.parametrize("verifier", [RelaxedTop(3, 2.0), RelaxedTypical()])
def test_no_tree_is_accepted_less_far_than_by_matching(verifier: Verifier) -> None:
    rng, gains = Random(1), 0
    for seed in range(200):
        table, tree = Table(seed), random_tree(rng, 30)
        ours = judged(verifier, tree, table.rows(tree), coupled(GREEDY))
        strict = judged(Match(), tree, table.rows(tree), coupled(GREEDY))
        assert len(ours.path) >= len(strict.path)
        gains += len(ours.path) > len(strict.path)
    assert gains > 20


def test_nothing_drafted_gives_the_likeliest_token() -> None:
    for verifier in (RelaxedTop(), RelaxedTypical()):
        verdict = judged(verifier, DraftTree(), torch.tensor([ROW]), coupled(GREEDY))
        assert verdict == VerifyResult((), 1)


# --- in use


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


@pytest.fixture(scope="module")
def profile(target: Target) -> Profile:
    return Profile.by_hand(target, attention=[1], gamma=4)


def decode(target: Target, profile: Profile, method: str) -> tuple[list[int], Statistics]:
    prompt = tiny_prompts(1)[0]
    rounds = list(
        generate_rounds(target, prompt, profile=profile, method=method, max_new_tokens=40)
    )
    return [token for r in rounds for token in r.emitted], Statistics.of(rounds)


def test_relaxed_rounds_are_longer_and_change_the_text(target: Target, profile: Profile) -> None:
    plain, _ = decode(target, profile, "plain")
    strict, exact = decode(target, profile, "layer-skip")
    assert strict == plain
    for method in ("relaxed-top:top=5:margin=3", "relaxed-typical:epsilon=0.05:delta=0.2"):
        text, statistics = decode(target, profile, f"layer-skip:verify={method}")
        assert text != plain
        assert len(text) == 40
        assert statistics.mean_acceptance_length > exact.mean_acceptance_length


def test_relaxed_without_slack_gives_plain_decoding(target: Target, profile: Profile) -> None:
    plain, _ = decode(target, profile, "plain")
    for method in ("layer-skip", "rsd-s", "rsd-c", "prompt-lookup"):
        for options in ("top=1", "margin=0"):
            assert decode(target, profile, f"{method}:verify=relaxed-top:{options}")[0] == plain


def test_every_relaxed_verifier_has_relaxed_in_its_name() -> None:
    made = {name: make_verifier({"verify": name}, "match", GREEDY) for name in VERIFIERS}
    assert {name for name in made if name.startswith("relaxed")} == {
        "relaxed-top",
        "relaxed-typical",
    }
    assert all(verifier.name == name for name, verifier in made.items() if name != "rejection")
    for name in ("relaxed-top", "relaxed-typical"):
        assert "not exact" in str(type(made[name]).__doc__).lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("relaxed-top:top=0", "relaxed-top: top must be 1 or more, not 0"),
        ("relaxed-top:top=2.5", "top is '2.5', expected a whole number"),
        ("relaxed-top:margin=-1", "relaxed-top: margin must be 0 or more, not -1.0"),
        ("relaxed-top:margin=nan", "relaxed-top: margin must be 0 or more, not nan"),
        ("relaxed-top:margin=much", "margin is 'much', expected a number"),
        ("relaxed-typical:epsilon=0", r"relaxed-typical: epsilon must lie in \(0, 1\], not 0.0"),
        ("relaxed-typical:delta=1.5", r"relaxed-typical: delta must lie in \(0, 1\], not 1.5"),
        ("relaxed-typical:delta=nan", r"relaxed-typical: delta must lie in \(0, 1\], not nan"),
        ("relaxed-typical:top=3", "has no option 'top'"),
    ],
)
def test_impossible_settings_are_one_clear_error(
    target: Target, profile: Profile, options: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        make_decoding(target, parse_method(f"layer-skip:verify={options}"), profile, GREEDY)
    assert "\n" not in str(refusal.value)


def test_relaxed_top_does_not_sample() -> None:
    with pytest.raises(UsageError, match=r"relaxed-top is for greedy.*temperature is 0\.8"):
        make_verifier({"verify": "relaxed-top"}, "match", SAMPLED)
    assert make_verifier({"verify": "relaxed-typical"}, "match", SAMPLED).coupled
