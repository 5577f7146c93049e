"""Jacobi decoding: fixed-point iterations of the target, or of the model under a mask."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support.drafter_contract import small_target
from support.tiny import tiny_prompts
from torch import Tensor

from skipopt.decoding.api import generate_rounds
from skipopt.drafting.base import DraftState, RoundOutcome
from skipopt.drafting.jacobi import JacobiDrafter
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.testing.watched import Metered

GREEDY = SamplingOptions()
SAMPLED = SamplingOptions(temperature=0.9, top_k=20, seed=3)
BLOCK = 7


@pytest.fixture(scope="module")
def target() -> Target:
    return small_target()


def state_of(
    target: Target, tokens: Sequence[int], options: SamplingOptions, coupled: bool = True
) -> DraftState:
    engine = Metered(target, 100)
    engine.prefill(tokens[:-1])
    return DraftState(list(tokens), engine, TokenSampler(options, target.device, coupled))


def text_of(target: Target, prompt: Sequence[int], count: int, options: SamplingOptions) -> tuple:
    rounds = generate_rounds(target, prompt, max_new_tokens=count, options=options)
    return tuple(token for each in rounds for token in each.emitted)


def right(draft: Sequence[int], text: Sequence[int]) -> int:
    """Number of leading draft tokens that are right."""
    pairs = enumerate(zip(draft, text, strict=True))
    return next((i for i, (a, b) in pairs if a != b), len(draft))


# --- the iteration


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "frozen noise"])
@pytest.mark.parametrize("prompt", tiny_prompts(4), ids=str)
def test_the_fixed_point_is_the_models_own_text(
    target: Target, prompt: list[int], options: SamplingOptions
) -> None:
    """With an empty mask, the first n tokens are right after n passes."""
    nothing = SkipMask.empty(target.depth)
    text = text_of(target, prompt, BLOCK, options)
    state = state_of(target, prompt, options)
    drafts = [
        JacobiDrafter(target, nothing, BLOCK, passes).propose(state, BLOCK)
        for passes in range(BLOCK + 2)
    ]
    prefixes = [right(draft.tokens, text) for draft in drafts]
    assert all(prefix >= passes for passes, prefix in enumerate(prefixes[:-1]))
    assert prefixes == sorted(prefixes)
    assert prefixes[0] < BLOCK, "the first guesses must not be right by themselves"
    assert drafts[BLOCK].tokens == drafts[BLOCK + 1].tokens == text
    assert set(drafts[BLOCK + 1].sources) == {"kept"}


def test_passes_end_where_nothing_changes(target: Target) -> None:
    state = state_of(target, tiny_prompts(1)[0], GREEDY)
    assert isinstance(state.engine, Metered)
    before = state.engine.forwards
    draft = JacobiDrafter(target, SkipMask.empty(target.depth), 3, 50).propose(state, 3)
    assert draft.forwards == state.engine.forwards - before
    assert draft.forwards <= 4  # three passes to converge, one to detect it
    assert state.engine.position == len(state.tokens) - 1


def test_passes_under_a_mask_converge_to_the_draft_models_text(target: Target) -> None:
    mask = SkipMask.of(target.depth, [1], [0])
    state = state_of(target, tiny_prompts(1)[0], GREEDY)
    chain = LayerSkipDrafter(target, mask, BLOCK).propose(state, BLOCK)
    refined = JacobiDrafter(target, mask, BLOCK, BLOCK).propose(state, BLOCK)
    whole = JacobiDrafter(target, SkipMask.empty(target.depth), BLOCK, BLOCK)
    assert refined.tokens == chain.tokens
    assert refined.tokens != whole.propose(state, BLOCK).tokens


def test_passes_under_a_mask_raise_the_tokens_per_round(target: Target) -> None:
    profile = Profile.by_hand(target, mlp=[1])
    yields = [
        Statistics.of(
            each
            for prompt in tiny_prompts(4)
            for each in generate_rounds(
                target,
                prompt,
                method=f"jacobi:draft_iterations={n}",
                profile=profile,
                max_new_tokens=30,
            )
        )
        for n in (0, 2)
    ]
    assert yields[1].mean_acceptance_length > yields[0].mean_acceptance_length + 0.2
    assert yields[0].draft_forwards == 0
    assert 0 < yields[1].draft_forwards <= 2 * yields[1].target_forwards


# --- from one round to the next


def logits_for(tokens: Sequence[int]) -> Tensor:
    """Logits whose argmax is these tokens, shape (n, V)."""
    return 9.0 * torch.eye(64)[list(tokens)]


def test_the_next_block_starts_with_the_tokens_of_verification(target: Target) -> None:
    """11 is accepted and 40 recovered; the next positions hold 13 and 14, then new tokens."""
    drafter = JacobiDrafter(target, block=4)
    draft = DraftTree.chain([11, 12, 13, 14])
    drafter.observe(RoundOutcome(draft, (0,), (11, 40), logits_for([11, 40, 13, 50, 51])))
    after = drafter.propose(state_of(target, [1, 2, 11, 40], GREEDY), 9)
    assert after.tokens[:3] == (13, 50, 51)
    assert after.tokens[3] in (1, 2, 11, 40)
    assert after.sources == ("kept", "refined", "refined", "guessed")
    assert after.is_chain
    assert not after.forwards


def test_a_fully_accepted_block_carries_nothing_over(target: Target) -> None:
    drafter = JacobiDrafter(target, block=2)
    drafter.observe(
        RoundOutcome(DraftTree.chain([5, 6]), (0, 1), (5, 6, 7), logits_for([5, 6, 7]))
    )
    after = drafter.propose(state_of(target, [3, 5, 6, 7], GREEDY), 9)
    assert after.sources == ("guessed", "guessed")
    assert set(after.tokens) <= {3, 5, 6, 7}


def test_the_first_block_comes_from_the_prompt_and_is_reproducible(target: Target) -> None:
    drafts = [JacobiDrafter(target).propose(state_of(target, [8, 9], GREEDY), 8) for _ in "ab"]
    assert drafts[0] == drafts[1]
    assert len(drafts[0].tokens) == 8
    assert set(drafts[0].tokens) <= {8, 9}


def test_drafting_uses_positional_noise_only_where_verification_does(target: Target) -> None:
    flat = 0.01 * logits_for([20, 21, 22])  # the noise decides
    options = SamplingOptions(temperature=1.0, seed=1)
    blocks = []
    for coupled in (True, False):
        drafter = JacobiDrafter(target, block=2)
        drafter.observe(RoundOutcome(DraftTree.chain([1, 2]), (), (20,), flat))
        state = state_of(target, [3, 20], options, coupled)
        blocks.append(drafter.propose(state, 2).tokens)
        if coupled:
            assert list(blocks[0]) == state.sampler.choose(flat[1:], [2, 3])
    assert blocks[1] == (21, 22)
    assert blocks[0] != blocks[1]


# --- invalid options


@pytest.mark.parametrize("options", [{"block": 0}, {"draft_iterations": -1}])
def test_impossible_options(target: Target, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="or more"):
        JacobiDrafter(target, **options)


def test_refining_without_a_mask_is_refused(target: Target) -> None:
    with pytest.raises(UsageError, match="needs a mask") as refusal:
        generate_rounds(target, [1, 2], method="jacobi:draft_iterations=1")
    assert "--profile" in str(refusal.value.hint)
