"""Layer skipping tuned while it writes: the same text, its share of time, and when it drafts.

On a clock that every forward advances by what it runs, so that nothing depends on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.chances import LEAST_P
from support.distributions import p_value, right_answer
from support.table_engine import PROCESSED, sample, table_engine
from support.tiny import tiny_llama, tiny_prompts, tiny_target
from torch import Tensor

from skipopt.decoding import loop
from skipopt.decoding.api import generate_rounds, make_decoding, new_online_state, resolve_method
from skipopt.decoding.loop import Limits, decode
from skipopt.drafting.tuned import TunedDrafter
from skipopt.errors import ProfileError, UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.online.candidates import CandidateGenerator
from skipopt.online.comparison import DraftParameters
from skipopt.online.config import OnlineConfig
from skipopt.online.state import OnlineState
from skipopt.online.swift_search import alternating
from skipopt.online.tuner import OnlineTuner
from skipopt.profile import Profile
from skipopt.repetition import repeats_from
from skipopt.rounds import Round
from skipopt.runtime.engine import StepRows
from skipopt.sampling import SamplingOptions
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import Metered, Watched, emitted
from skipopt.verification.match import Match

GREEDY = SamplingOptions()
FREE = SamplingOptions(temperature=1.0, seed=1)  # greedy text of such models runs in circles
PROMPT = tiny_prompts(1)[0]
DEPTH = 4


@pytest.fixture(scope="module")
def target() -> Target:
    """Masks that skip much of it are refused often."""
    return tiny_target(tiny_llama(layers=DEPTH, context=2048))


@pytest.fixture(scope="module")
def obliging() -> Target:
    """Sublayers hardly matter, so that skipping more is always better."""
    return tiny_target(tiny_llama(layers=DEPTH, context=2048, gain=0.05))


class Clock:
    """Seconds of this machine.

    Attributes:
        fixed: share of a plain step that is no sublayer's.
        row: of a plain step, what one row more costs.
    """

    def __init__(self, fixed: float = 0.1, row: float = 0.01) -> None:
        self.now = 0.0
        self.fixed, self.row = fixed, row

    def __call__(self) -> float:
        return self.now

    def forward(self, target: Target, rows: int) -> None:
        kept = sum(_kept(layer) for layer in target.layers) / (2 * target.depth)
        self.now += self.fixed + (1 - self.fixed) * kept + self.row * (rows - 1)


def _kept(layer: Any) -> int:
    """Sublayers of a layer that are not patched away at present."""
    if "forward" in vars(layer.block.module):
        return 0
    kinds = [layer.branches("attention"), layer.branches("mlp")]
    return sum(all("forward" not in vars(b.module) for b in branches) for branches in kinds)


class Timed(Metered):
    """An engine whose forwards advance a clock."""

    clock = Clock()

    def forward(self, rows: StepRows, *args: Any, **options: Any) -> Tensor:
        self.clock.forward(self.target, len(rows.inputs))
        return super().forward(rows, *args, **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=made))
    monkeypatch.setattr(Timed, "clock", made)
    return made


NEVER = float("inf")
# Every candidate is adopted, and rolled back if the rounds that follow are slower.
SWITCHING = OnlineConfig(overhead=1.0, win_errors=-1e9, rollback_rounds=6)


def learning(
    target: Target,
    profile: Profile | None = None,
    method: str | None = None,
    **settings: Any,
) -> OnlineState:
    """All of the time may be spent on tuning, unless the settings say otherwise."""
    config = OnlineConfig(**{"overhead": 1.0, **settings})
    return new_online_state(target, profile=profile, method=method, config=config)


def switching(target: Target, profile: Profile | None = None) -> OnlineState:
    return new_online_state(target, profile=profile, config=SWITCHING)


def tuner_of(learned: OnlineState) -> OnlineTuner:
    assert learned.tuner is not None
    return learned.tuner


class Given(CandidateGenerator):
    """Proposes one candidate again and again."""

    def __init__(self, candidate: DraftParameters) -> None:
        super().__init__(DEPTH, 16, OnlineConfig())
        self.candidate = candidate

    def propose(self, current: DraftParameters) -> DraftParameters:
        return self.candidate


def decoded(
    target: Target,
    learned: OnlineState,
    clock: Clock,
    count: int = 120,
    options: SamplingOptions = FREE,
    prompt: list[int] = PROMPT,
    fresh: bool = False,
) -> list[Round]:
    """One text, its cache, patches and drafts looked at in every round."""
    drafter = TunedDrafter(target, learned, clock)
    engine = Timed(target, len(prompt) + count + drafter.max_extra_rows)
    limits = Limits(count, target.context_limit)
    return list(decode(engine, prompt, Watched(drafter, fresh), options, limits, Match()))


def text_of(*args: Any, **options: Any) -> list[int]:
    return emitted(decoded(*args, **options))


def plain(target: Target, count: int = 120, options: SamplingOptions = FREE) -> list[int]:
    return contract.plain(target, tuple(PROMPT), count, options)


def by_hand(target: Target, gamma: int = 4, tau: float = 0.0) -> Profile:
    return Profile.by_hand(target, attention=[1, 2], mlp=[2], gamma=gamma, tau=tau)


# --- without loss


@pytest.mark.parametrize("gamma", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_switches_change_no_text(target: Target, clock: Clock, gamma: int, tau: float) -> None:
    learned = switching(target, by_hand(target, gamma, tau))
    rounds = decoded(target, learned, clock, 200, GREEDY)
    assert emitted(rounds) == plain(target, 200, GREEDY)
    assert tuner_of(learned).switches >= 2
    assert any(each.accepted for each in rounds), "some stand"
    assert any(each.accepted < len(each.drafted) for each in rounds), "some fall"


@pytest.mark.parametrize("options", contract.SAMPLED)
def test_switches_change_no_sampled_text(
    target: Target, clock: Clock, options: SamplingOptions
) -> None:
    learned = switching(target, by_hand(target))
    text = text_of(target, learned, clock, 200, options)
    assert text == plain(target, 200, options)
    assert tuner_of(learned).switches >= 3


def test_the_cache_is_as_prefilled_after_every_round(target: Target, clock: Clock) -> None:
    learned = switching(target, by_hand(target))
    assert text_of(target, learned, clock, 100, fresh=True) == plain(target, 100)
    assert tuner_of(learned).switches > 0


def test_by_rejection_the_one_possible_token_is_emitted(target: Target) -> None:
    only = SamplingOptions(temperature=1.0, top_k=1)
    learned = switching(target)
    rounds = generate_rounds(
        target,
        PROMPT,
        method="layer-skip:verify=rejection",
        max_new_tokens=200,
        options=only,
        online_state=learned,
    )
    assert emitted(rounds) == plain(target, 200, GREEDY)


@pytest.mark.slow
def test_by_rejection_pairs_are_sampled_as_the_target_samples_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Switches depend on the text, and γ and τ change: the distribution stays the same."""
    # Four masks need no Gaussian process, and drafting is never paused.
    config = replace(SWITCHING, suggest_every=10**9, gate_errors=NEVER)
    tables = table_engine(monkeypatch)
    learned = new_online_state(tables.target, method="layer-skip:tau=0.3", config=config)
    tokens, rounds = sample(tables, TunedDrafter(tables.target, learned), PROCESSED, 12_000)
    assert tuner_of(learned).switches > 50
    assert {each.accepted for each in rounds} >= {0, 1, 2, 3}
    assert p_value(tokens, right_answer(tables, PROCESSED)) > LEAST_P


def test_drafts_are_matched_unless_rejection_is_asked_for(target: Target) -> None:
    learned, options = learning(target), SamplingOptions(temperature=1.0)
    coupled = [
        make_decoding(
            target, resolve_method(None, method, tuning=True), None, options, learned
        ).verifier.coupled
        for method in (None, "layer-skip", "layer-skip:verify=rejection")
    ]
    assert coupled == [True, True, False]


class Breaking(contract.Failing, Timed):
    """Fails while a mask is scored; `spared` forwards of scoring go well."""

    spared = 0

    def step_tree(self, *args: Any) -> Tensor:
        self.left = 10**9 if self.spared else 0
        self.spared -= 1
        return super().step_tree(*args)


@pytest.mark.parametrize("spared", [0, 1, 2])
def test_scoring_that_fails_leaves_no_patch(target: Target, clock: Clock, spared: int) -> None:
    before = contract.patches(target.model)
    learned = learning(target)
    drafter = TunedDrafter(target, learned, clock)
    engine = Breaking(target, len(PROMPT) + 300 + drafter.max_extra_rows)
    engine.spared = spared
    limits = Limits(300, target.context_limit)
    with pytest.raises(MemoryError):
        list(decode(engine, PROMPT, Watched(drafter), FREE, limits, Match()))
    assert contract.patches(target.model) == before
    assert text_of(target, learned, clock) == plain(target)


# --- what is learned


def test_more_is_skipped_where_that_costs_nothing(obliging: Target, clock: Clock) -> None:
    profile = Profile.by_hand(obliging, attention=[1], gamma=4)
    learned = learning(obliging, profile)
    rounds = decoded(obliging, learned, clock, 1800)
    assert emitted(rounds) == plain(obliging, 1800)
    now = tuner_of(learned).parameters
    assert tuner_of(learned).switches > 2
    assert len(now.mask.skipped) > 3
    assert learned.gate.loss is None


def test_what_was_learned_goes_from_text_to_text(obliging: Target, clock: Clock) -> None:
    """No text alone is long enough to decide on a candidate."""
    learned = learning(obliging, Profile.by_hand(obliging, attention=[1], gamma=4))
    scored = []
    for prompt in tiny_prompts(12):
        decoded(obliging, learned, clock, 60, prompt=prompt)
        scored.append(tuner_of(learned).scored_tokens)
    assert scored == sorted(set(scored))
    assert tuner_of(learned).switches > 0
    mask = tuner_of(learned).parameters.mask
    assert mask != SkipMask.of(DEPTH, [1])
    assert tuner_of(TunedDrafter(obliging, learned, clock).online_state).parameters.mask == mask


def test_a_text_shorter_than_the_window_is_not_scored(target: Target, clock: Clock) -> None:
    learned = learning(target)
    decoded(target, learned, clock, tuner_of(learned).window)
    assert tuner_of(learned).scored_tokens == 0


def test_text_that_only_repeats_itself_is_not_scored(obliging: Target, clock: Clock) -> None:
    learned = learning(obliging)
    rounds = decoded(obliging, learned, clock, 300, GREEDY)
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


# --- the share


@pytest.mark.parametrize("share", [0.01, 0.03])
def test_the_overhead_is_kept_to(target: Target, clock: Clock, share: float) -> None:
    learned = learning(target, by_hand(target), overhead=share)
    for _ in range(2):
        decoded(target, learned, clock, 900)
        assert 0.4 * share < learned.overhead <= share
    assert tuner_of(learned).scored_tokens > 0


def test_time_of_tuning_does_not_count_as_that_of_drafts(target: Target, clock: Clock) -> None:
    rates = []
    for share in (1.0, 1e-6):
        learned = learning(target, by_hand(target), overhead=share, win_errors=NEVER)
        decoded(target, learned, clock, 300)
        rates.append((learned.verify.plain, learned.drafted.per_second, learned.decode_seconds))
    assert rates[0] == pytest.approx(rates[1])


# --- when it drafts


def drafted(rounds: list[Round]) -> str:
    return "".join("d" if each.drafted else "." for each in rounds)


def test_drafting_that_loses_is_given_up_and_tried_again(target: Target, clock: Clock) -> None:
    clock.fixed = 0.9  # skipping saves next to nothing
    learned = learning(target, by_hand(target))
    rounds = decoded(target, learned, clock, 300)
    assert emitted(rounds) == plain(target, 300)
    shown = drafted(rounds)
    assert learned.gate.pauses >= 2
    assert learned.gate.loss is not None
    assert shown.count(".") > shown.count("d")
    assert "." * 16 + "d" in shown, "a trial after a pause"


def test_drafting_is_taken_up_again_where_it_pays(obliging: Target, clock: Clock) -> None:
    learned = learning(obliging, by_hand(obliging), overhead=1e-6)
    clock.fixed = 0.99
    decoded(obliging, learned, clock, 300)
    assert learned.gate.loss is not None
    clock.fixed = 0.05  # the next text is as if on another machine
    rounds = decoded(obliging, learned, clock, 300)
    assert learned.gate.loss is None
    assert drafted(rounds).endswith("d" * 8)


def test_a_mask_that_promises_to_pay_ends_a_pause(obliging: Target, clock: Clock) -> None:
    """The search goes on while drafting is off."""
    pause = {"first_pause": 10**9, "longest_pause": 10**9}  # no trial after a pause
    learned = learning(obliging, Profile.by_hand(obliging, attention=[1], gamma=1), **pause)
    learned.gate.observe_plain(1.0)
    while learned.gate.enabled:
        learned.gate.observe_drafted(1, 9.0)
    drafter = TunedDrafter(obliging, learned, clock)
    engine = Timed(obliging, len(PROMPT) + 1500 + drafter.max_extra_rows)
    limits = Limits(1500, obliging.context_limit)
    rounds = list(decode(engine, PROMPT, drafter, FREE, limits, Match()))
    assert tuner_of(learned).switches > 0
    assert drafted(rounds).startswith("." * 60)
    assert "d" in drafted(rounds)
    assert emitted(rounds) == plain(obliging, 1500)


def test_profile_of_another_model_is_refused(target: Target, obliging: Target) -> None:
    with pytest.raises(ProfileError, match="another model"):
        new_online_state(target, profile=by_hand(obliging))


def test_setting_of_small_models_starts_with_nothing_skipped() -> None:
    """Two layers are both first or last; flips find what there is to skip."""
    small = tiny_target(tiny_llama(layers=2, gain=0.05))
    learned = learning(small)
    assert tuner_of(learned).parameters.mask == SkipMask.empty(2)
    rounds = generate_rounds(small, PROMPT, max_new_tokens=200, options=FREE, online_state=learned)
    assert emitted(rounds) == plain(small, 200)
    assert tuner_of(learned).scored_tokens > 0


def test_drafts_are_made_with_the_adopted_parameters(target: Target, clock: Clock) -> None:
    """A mask that skips nothing is adopted: from then on every draft is accepted."""
    learned = learning(target, by_hand(target), win_errors=-1e9)
    tuner = tuner_of(learned)
    whole = replace(tuner.parameters, mask=SkipMask.empty(DEPTH), gamma=3)
    tuner.candidates = Given(whole)
    rounds = decoded(target, learned, clock, 80)
    assert tuner.parameters == whole
    late = [each for each in rounds[len(rounds) // 2 : -1] if each.drafted]
    assert late
    assert {(len(each.drafted), each.accepted) for each in late} == {(3, 3)}


def test_a_mask_that_slows_decoding_is_rolled_back(target: Target, clock: Clock) -> None:
    """Long drafts that are mostly rejected are adopted; then the former parameters return."""
    clock.row = 0.3
    profile = Profile.by_hand(target, mlp=[2], gamma=2)
    learned = learning(target, profile, win_errors=-1e9, gate_errors=NEVER)
    tuner = tuner_of(learned)
    every = range(DEPTH)
    slow = replace(tuner.parameters, mask=SkipMask.of(DEPTH, every, every), gamma=12)

    class Once(Given):
        def propose(self, current: DraftParameters) -> DraftParameters:
            tuner.config = replace(tuner.config, overhead=1e-9)
            return super().propose(current)

    tuner.candidates = Once(slow)
    rounds = decoded(target, learned, clock, 200)
    assert tuner.rollbacks == 1
    assert emitted(rounds) == plain(target, 200)
    lengths = [len(each.drafted) for each in rounds]
    assert max(lengths) == 12
    assert 2 in lengths[lengths.index(12) :], "drafts are made as before again"
