"""What tuned layer skipping adopts, measures and pauses, and how much time that takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.tiny import tiny_llama, tiny_prompts, tiny_target
from support.tuned import (
    DEPTH,
    FREE,
    GREEDY,
    NEVER,
    PROMPT,
    Clock,
    Timed,
    by_hand,
    decoded,
    learning,
    plain,
    tuner_of,
)

from skipopt.decoding.api import generate_rounds, new_online_state
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.draft_config import DraftConfig
from skipopt.drafting.tuned import TunedDrafter
from skipopt.errors import ProfileError, UsageError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.models.target import Target
from skipopt.online.candidates import CandidateGenerator
from skipopt.online.comparison import DraftParameters
from skipopt.online.config import OnlineConfig
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import alternating
from skipopt.profile import Profile
from skipopt.repetition import repeats_from
from skipopt.rounds import Round
from skipopt.testing.drafters import emitted
from skipopt.verification.match import Match


@pytest.fixture(scope="module")
def insensitive() -> Target:
    """A target whose sublayers hardly matter, so that skipping more is always better."""
    return tiny_target(tiny_llama(layers=DEPTH, context=2048, gain=0.05))


class FixedCandidate(CandidateGenerator):
    """Proposes the same candidate repeatedly."""

    def __init__(self, candidate: DraftParameters) -> None:
        super().__init__(MaskSpace(DEPTH), 16, OnlineConfig())
        self.candidate = candidate

    def propose(self, current: DraftParameters) -> DraftParameters:
        return self.candidate


@pytest.mark.slow
def test_more_is_skipped_where_skipping_loses_nothing(insensitive: Target, clock: Clock) -> None:
    profile = Profile.by_hand(insensitive, attention=[1], gamma=4)
    learned = learning(insensitive, profile)
    rounds = decoded(insensitive, learned, clock, 1800)
    assert emitted(rounds) == plain(insensitive, 1800)
    now = tuner_of(learned).parameters
    assert tuner_of(learned).switches > 2
    assert len(now.mask.skipped) > 3
    assert learned.gate.loss is None


@pytest.mark.slow
def test_measurements_carry_over_to_the_next_text(insensitive: Target, clock: Clock) -> None:
    """No single text is long enough to decide on a candidate."""
    learned = learning(insensitive, Profile.by_hand(insensitive, attention=[1], gamma=4))
    scored = []
    for prompt in tiny_prompts(12):
        decoded(insensitive, learned, clock, 60, prompt=prompt)
        scored.append(tuner_of(learned).scored_tokens)
    assert scored == sorted(set(scored))
    assert tuner_of(learned).switches > 0
    mask = tuner_of(learned).parameters.mask
    assert mask != SkipMask.of(DEPTH, [1])
    assert tuner_of(TunedDrafter(insensitive, learned, clock).online_state).parameters.mask == mask


def test_a_text_shorter_than_the_window_is_not_scored(target: Target, clock: Clock) -> None:
    learned = learning(target)
    decoded(target, learned, clock, tuner_of(learned).window)
    assert tuner_of(learned).scored_tokens == 0


def test_text_that_only_repeats_itself_is_not_scored(insensitive: Target, clock: Clock) -> None:
    learned = learning(insensitive)
    rounds = decoded(insensitive, learned, clock, 300, GREEDY)
    start = repeats_from(emitted(rounds))
    assert start is not None
    assert tuner_of(learned).scored_tokens <= start


def test_the_first_setting_is_that_of_profile_and_options(target: Target) -> None:
    profile = by_hand(target, gamma=6, tau=0.4)
    now = tuner_of(learning(target, profile)).parameters
    assert (now.mask, now.gamma, now.tau) == (profile.skip_mask, 6, 0.4)
    now = tuner_of(learning(target, profile, method="layer-skip:gamma=2")).parameters
    assert (now.gamma, now.tau) == (2, 0.4)
    now = tuner_of(learning(target)).parameters
    assert now.mask == alternating(DEPTH)
    nothing = Profile.by_hand(target, gamma=5)
    assert tuner_of(learning(target, nothing)).parameters.mask == alternating(DEPTH)


def test_the_first_draft_config_is_that_of_profile_and_options(target: Target) -> None:
    config = DraftConfig(attention_window=5)
    profile = Profile.build(target, SkipMask.empty(DEPTH), gamma=2, tau=0, draft_config=config)
    now = tuner_of(learning(target, profile)).parameters
    assert (now.mask, now.draft_config) == (SkipMask.empty(DEPTH), config)
    now = tuner_of(learning(target, profile, method="layer-skip:window=7")).parameters
    assert now.draft_config == DraftConfig(attention_window=7)
    now = tuner_of(learning(target, profile, method="layer-skip:window=none")).parameters
    assert (now.mask, now.draft_config) == (alternating(DEPTH), DraftConfig())


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("swift", "swift cannot be tuned"),
        ("plain", "plain cannot be tuned"),
        ("layer-skip:exit_layer=2", "exit_layer leaves nothing to tune"),
        ("layer-skip:adaptive_tau=yes", "adaptive_tau leaves nothing to tune"),
        ("layer-skip:gamma=0", "gamma must be 1 or more"),
        ("layer-skip:tau=2", "tau must lie in"),
    ],
)
def test_methods_that_cannot_be_tuned(target: Target, method: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        new_online_state(target, method=method)


def test_an_adaptation_of_another_kind_is_refused(target: Target) -> None:
    with pytest.raises(UsageError, match="nothing to tune"):
        TunedDrafter(target, OnlineState())


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.03])
def test_tuning_stays_within_the_overhead(target: Target, clock: Clock, share: float) -> None:
    learned = learning(target, by_hand(target), overhead=share)
    for _ in range(2):
        decoded(target, learned, clock, 900)
        assert 0.4 * share < learned.overhead <= share
    assert tuner_of(learned).scored_tokens > 0


@pytest.mark.slow
def test_time_of_tuning_does_not_count_as_drafting_time(target: Target, clock: Clock) -> None:
    rates = []
    for share in (1.0, 1e-6):
        learned = learning(target, by_hand(target), overhead=share, win_errors=NEVER)
        decoded(target, learned, clock, 300)
        rates.append((learned.verify.plain, learned.drafted.per_second, learned.decode_seconds))
    assert rates[0] == pytest.approx(rates[1])


def drafted(rounds: list[Round]) -> str:
    return "".join("d" if each.drafted else "." for each in rounds)


@pytest.mark.slow
def test_drafting_that_loses_is_paused_and_retried(target: Target, clock: Clock) -> None:
    clock.fixed = 0.9  # skipping saves little
    learned = learning(target, by_hand(target))
    rounds = decoded(target, learned, clock, 300)
    assert emitted(rounds) == plain(target, 300)
    shown = drafted(rounds)
    assert learned.gate.pauses >= 2
    assert learned.gate.loss is not None
    assert shown.count(".") > shown.count("d")
    assert "." * 16 + "d" in shown, "a trial after a pause"


def test_drafting_resumes_where_it_pays(insensitive: Target, clock: Clock) -> None:
    learned = learning(insensitive, by_hand(insensitive), overhead=1e-6)
    clock.fixed = 0.99
    decoded(insensitive, learned, clock, 300)
    assert learned.gate.loss is not None
    clock.fixed = 0.05  # the next text has other costs, like on another machine
    rounds = decoded(insensitive, learned, clock, 300)
    assert learned.gate.loss is None
    assert drafted(rounds).endswith("d" * 8)


@pytest.mark.slow
def test_a_mask_predicted_to_pay_ends_a_pause(insensitive: Target, clock: Clock) -> None:
    """The search continues while drafting is paused."""
    pause = {"first_pause": 10**9, "longest_pause": 10**9}  # no trial after a pause
    learned = learning(insensitive, Profile.by_hand(insensitive, attention=[1], gamma=1), **pause)
    learned.gate.observe_plain(1.0)
    while learned.gate.enabled:
        learned.gate.observe_drafted(1, 9.0)
    drafter = TunedDrafter(insensitive, learned, clock)
    engine = Timed(insensitive, len(PROMPT) + 1500 + drafter.max_extra_rows)
    limits = Limits(1500, insensitive.context_limit)
    rounds = list(decode(engine, PROMPT, drafter, FREE, limits, Match()))
    assert tuner_of(learned).switches > 0
    assert drafted(rounds).startswith("." * 60)
    assert "d" in drafted(rounds)
    assert emitted(rounds) == plain(insensitive, 1500)


def test_profile_of_another_model_is_refused(target: Target, insensitive: Target) -> None:
    with pytest.raises(ProfileError, match="another model"):
        new_online_state(target, profile=by_hand(insensitive))


def test_setting_of_small_models_starts_with_nothing_skipped() -> None:
    """Both of two layers are first or last; flips find what can be skipped."""
    small = tiny_target(tiny_llama(layers=2, gain=0.05))
    learned = learning(small)
    assert tuner_of(learned).parameters.mask == SkipMask.empty(2)
    rounds = generate_rounds(small, PROMPT, max_new_tokens=200, options=FREE, online_state=learned)
    assert emitted(rounds) == plain(small, 200)
    assert tuner_of(learned).scored_tokens > 0


def test_drafts_are_made_with_the_adopted_parameters(target: Target, clock: Clock) -> None:
    """The adopted mask skips nothing: from then on every draft is accepted."""
    learned = learning(target, by_hand(target), win_errors=-1e9)
    tuner = tuner_of(learned)
    whole = replace(tuner.parameters, mask=SkipMask.empty(DEPTH), gamma=3)
    tuner.candidates = FixedCandidate(whole)
    rounds = decoded(target, learned, clock, 80)
    assert tuner.parameters == whole
    late = [each for each in rounds[len(rounds) // 2 : -1] if each.drafted]
    assert late
    assert {(len(each.drafted), each.accepted) for each in late} == {(3, 3)}


def test_a_mask_that_slows_decoding_is_rolled_back(target: Target, clock: Clock) -> None:
    """Long drafts are adopted and mostly rejected; then the former parameters return."""
    clock.row = 0.3
    profile = Profile.by_hand(target, mlp=[2], gamma=2)
    learned = learning(target, profile, win_errors=-1e9, gate_errors=NEVER)
    tuner = tuner_of(learned)
    every = range(DEPTH)
    slow = replace(tuner.parameters, mask=SkipMask.of(DEPTH, every, every), gamma=12)

    class FirstOnly(FixedCandidate):
        def propose(self, current: DraftParameters) -> DraftParameters:
            tuner.config = replace(tuner.config, overhead=1e-9)
            return super().propose(current)

    tuner.candidates = FirstOnly(slow)
    rounds = decoded(target, learned, clock, 200)
    assert tuner.rollbacks == 1
    assert emitted(rounds) == plain(target, 200)
    lengths = [len(each.drafted) for each in rounds]
    assert max(lengths) == 12
    assert 2 in lengths[lengths.index(12) :], "drafts are made as before again"
