"""Tokens that are run before they are drafted change what a draft takes, and not the draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from support.architectures import FORMS, build
from support.kernel_timings import prefer_quantized
from support.tiny import tiny_llama, tiny_target

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.base import DraftState
from skipopt.drafting.draft_model import DraftModel
from skipopt.drafting.guessed_steps import Expects, GuessedSteps
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.sampling import SamplingOptions, TokenSampler
from tools.tiny_models import tiny_model

TEXT = [(7 * i * i + 3) % 64 for i in range(13)]  # longer than a sliding window
LONGEST, AHEAD = 6, 3
SAMPLED = SamplingOptions(temperature=1.0, seed=3)
CLOSE = 1e-4
# Options, and whether the sampler is coupled.
SAMPLERS = {
    "greedy": (SamplingOptions(), True),
    "drawn": (SAMPLED, False),
    "coupled": (SAMPLED, True),
}
Guesser = Callable[[DraftTree], Expects]


def right(draft: DraftTree) -> Expects:
    return lambda drafted, most: draft.tokens[len(drafted) :][: min(most, AHEAD)]


def wrong(draft: DraftTree) -> Expects:
    def expects(drafted: Sequence[int], most: int) -> list[int]:
        return [(token + 1) % 64 for token in right(draft)(drafted, most)]

    return expects


def half_right(draft: DraftTree) -> Expects:
    """The first of them, and none of the others."""

    def expects(drafted: Sequence[int], most: int) -> list[int]:
        return [*right(draft)(drafted, most)[:1], *wrong(draft)(drafted, most)[1:]]

    return expects


# Forwards of a draft of six tokens, and how many they run ahead of it.
GUESSERS = {"right": (right, 2, 4), "wrong": (wrong, 6, 12), "half right": (half_right, 3, 7)}


def made(
    target: Target,
    sampler: str = "greedy",
    expects: Expects | None = None,
    config: DraftConfig = UNCHANGED,
) -> tuple[DraftTree, torch.Tensor]:
    """A draft, and the logits of the whole model after it."""
    options, coupled = SAMPLERS[sampler]
    mask = SkipMask.of(target.depth, [1], [1]) if not config else None
    drafter = LayerSkipDrafter(target, mask, gamma=LONGEST, draft_config=config)
    drafter.expects = expects
    engine = Engine(target, 48)
    engine.prefill(TEXT[:-1])
    chooser = TokenSampler(options, target.device, coupled)
    draft = drafter.propose(DraftState(list(TEXT), engine, chooser), LONGEST)
    assert engine.position == len(TEXT) - 1
    return draft, engine.step([TEXT[-1], *draft.tokens])


def check_same(
    target: Target, guesser: Guesser, sampler: str = "greedy", config: DraftConfig = UNCHANGED
) -> DraftTree:
    """Check that a draft is the same with guesses; that draft."""
    plain, after = made(target, sampler, config=config)
    draft, after_draft = made(target, sampler, guesser(plain), config)
    assert draft.tokens == plain.tokens
    assert len(draft.tokens) == LONGEST
    assert draft.margins == pytest.approx(plain.margins, abs=CLOSE)
    assert draft.draft_probs.keys() == plain.draft_probs.keys()
    for parent, probs in plain.draft_probs.items():
        torch.testing.assert_close(draft.draft_probs[parent], probs, atol=CLOSE, rtol=0)
    torch.testing.assert_close(after_draft, after, atol=CLOSE, rtol=0)
    assert (plain.forwards, plain.guessed) == (LONGEST, 0)
    return draft


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(layers=4))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guesser", GUESSERS)
def test_a_draft_is_the_same_and_takes_fewer_forwards(
    target: Target, guesser: str, sampler: str
) -> None:
    guess, forwards, guessed = GUESSERS[guesser]
    draft = check_same(target, guess, sampler)
    assert (draft.forwards, draft.guessed) == (forwards, guessed)


def test_nothing_is_read_ahead_through_a_window(target: Target) -> None:
    draft = check_same(target, right, config=DraftConfig(attention_window=2))
    assert (draft.forwards, draft.guessed) == (LONGEST, 0)


@pytest.mark.parametrize("native", [True, False])
def test_quantized_weights_are_read_ahead_where_kernels_multiply_several_rows(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """Torch's unpack all weights for more than one row."""
    prefer_quantized(monkeypatch)
    target = tiny_target(tiny_llama(layers=4))
    target.runtime.quantized.multiplies_rows = native
    draft = check_same(target, right, config=DraftConfig(weight_bits=8))
    assert bool(draft.guessed) is native


@pytest.mark.parametrize("name", FORMS)
def test_a_draft_of_every_kind_of_model_is_the_same(name: str) -> None:
    target = make_target(build(name), None, runtime="eager")
    draft = check_same(target, half_right)
    assert bool(draft.guessed) is not target.keeps_states


def test_a_draft_that_ends_early_has_no_tokens_beyond_its_end(target: Target) -> None:
    plain, _ = made(target)
    drafter = LayerSkipDrafter(target, SkipMask.of(4, [1], [1]), gamma=LONGEST)
    asked: list[float | None] = []

    def goes_on(margin: float | None) -> bool:
        asked.append(margin)
        return len(asked) < 2

    drafter.expects, drafter.goes_on = right(plain), goes_on
    engine = Engine(target, 48)
    engine.prefill(TEXT[:-1])
    chooser = TokenSampler(SamplingOptions(), target.device, coupled=True)
    draft = drafter.propose(DraftState(list(TEXT), engine, chooser), LONGEST)
    assert draft.tokens == plain.tokens[:2]
    assert (draft.forwards, draft.guessed) == (1, AHEAD)


def test_no_more_is_guessed_than_there_is_room_for(target: Target) -> None:
    asked = []

    def expects(drafted: Sequence[int], most: int) -> list[int]:
        asked.append((len(drafted), most))
        return []

    made(target, expects=expects)
    assert asked == [(n, LONGEST - 1 - n) for n in range(LONGEST)]


def test_without_guesses_tokens_stay_where_they_are(target: Target) -> None:
    """On a GPU, reading one would wait for the forward before."""
    seen: list[object] = []
    engine = Engine(target, 48)
    steps = GuessedSteps(engine, lambda tokens: seen.append(tokens) or [0], None, LONGEST)
    token = torch.tensor([5])
    steps(token)
    assert seen[0] is token


@pytest.mark.parametrize(("name", "reads_ahead"), [("llama", True), ("qwen3_next", False)])
def test_nothing_is_read_ahead_where_layers_keep_states(name: str, reads_ahead: bool) -> None:
    target = make_target(tiny_model(name), None, runtime="eager")
    mask = SkipMask.of(target.depth, mlp=[1])
    assert DraftModel(target, mask).reads_ahead is reads_ahead
