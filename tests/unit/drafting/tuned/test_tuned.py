"""Tuned layer skipping changes no text and leaves no patch.

The clock advances with every forward by a known cost, so that nothing depends on the machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.chances import LEAST_P
from support.distributions import p_value, right_answer
from support.kernel_timings import prefer_quantized
from support.table_engine import PROCESSED, sample, table_engine
from support.tuned import (
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
from torch import Tensor

from skipopt.decoding.api import generate_rounds, new_online_state, resolve_method
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.decoding.setup import make_decoding
from skipopt.draft_config import DraftConfig
from skipopt.drafting.tuned import TunedDrafter
from skipopt.models.target import Target
from skipopt.online.config import OnlineConfig
from skipopt.online.state import OnlineState
from skipopt.profile import Profile
from skipopt.sampling import SamplingOptions
from skipopt.study.tuned_profile import tuned_profile
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import emitted
from skipopt.testing.watched import Watched, patches
from skipopt.verification.match import Match

# Every candidate is adopted, and rolled back if the rounds that follow are slower. Pauses are
# short.
SWITCHING = OnlineConfig(
    overhead=1.0, win_errors=-1e9, rollback_rounds=6, early_rounds=8, longest_pause=16
)


def switching(target: Target, profile: Profile | None = None) -> OnlineState:
    return new_online_state(target, profile=profile, config=SWITCHING)


def text_of(*args: Any, **options: Any) -> list[int]:
    return emitted(decoded(*args, **options))


@pytest.mark.parametrize("gamma", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_switches_change_no_text(target: Target, clock: Clock, gamma: int, tau: float) -> None:
    learned = switching(target, by_hand(target, gamma, tau))
    rounds = decoded(target, learned, clock, 200, GREEDY)
    assert emitted(rounds) == plain(target, 200, GREEDY)
    assert tuner_of(learned).switches >= 2
    assert any(each.accepted for each in rounds), "some drafts are accepted"
    assert any(each.accepted < len(each.drafted) for each in rounds), "some drafts are rejected"


@pytest.mark.slow
@pytest.mark.parametrize("options", contract.SAMPLED)
def test_switches_change_no_sampled_text(
    target: Target, clock: Clock, options: SamplingOptions
) -> None:
    learned = switching(target, by_hand(target))
    text = text_of(target, learned, clock, 200, options)
    assert text == plain(target, 200, options)
    assert tuner_of(learned).switches >= 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["layer-skip:quant=int8:vocab=40", "layer-skip:window=5"])
def test_tuning_with_a_draft_config_changes_no_text(
    target: Target, clock: Clock, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It begins without a mask, skips sublayers, and keeps the config and its tokens."""
    prefer_quantized(monkeypatch)
    learned = new_online_state(target, method=method, config=SWITCHING)
    first = tuner_of(learned).parameters
    assert not first.mask.skipped
    rounds = decoded(target, learned, clock, 120, FREE, fresh=True)
    assert emitted(rounds) == plain(target, 120)
    assert tuner_of(learned).switches > 0
    now = tuner_of(learned).parameters.draft_config
    assert replace(now, vocabulary=None) == first.draft_config != DraftConfig()
    assert (now.vocabulary is None) == (now.vocab_size is None)
    saved = tuned_profile(target, learned, PROMPT)
    assert Profile.parse(saved.to_yaml(), "p.yaml").draft_config == now


def test_the_cache_equals_a_fresh_prefill_after_every_round(target: Target, clock: Clock) -> None:
    learned = switching(target, by_hand(target))
    assert text_of(target, learned, clock, 100, fresh=True) == plain(target, 100)
    assert tuner_of(learned).switches > 0


def test_rejection_with_tuning_emits_the_only_possible_token(target: Target) -> None:
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
def test_rejection_with_tuning_samples_pairs_as_the_target_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The distribution is unchanged although masks, γ and τ change with the text."""
    # Four masks need no Gaussian process, and drafting is never paused.
    config = replace(SWITCHING, suggest_every=10**9, gate_errors=NEVER)
    tables = table_engine(monkeypatch)
    learned = new_online_state(tables.target, method="layer-skip:tau=0.3", config=config)
    tokens, rounds = sample(tables, TunedDrafter(tables.target, learned), PROCESSED, 5000)
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
    """Fails while a mask is scored, after `spared` forwards."""

    spared = 0

    def step_tree(self, *args: Any) -> Tensor:
        self.left = 10**9 if self.spared else 0
        self.spared -= 1
        return super().step_tree(*args)


@pytest.mark.parametrize("spared", [0, 1, 2])
def test_scoring_that_fails_leaves_no_patch(target: Target, clock: Clock, spared: int) -> None:
    before = patches(target.model)
    learned = learning(target)
    drafter = TunedDrafter(target, learned, clock)
    engine = Breaking(target, len(PROMPT) + 300 + drafter.max_extra_rows)
    engine.spared = spared
    limits = Limits(300, target.context_limit)
    with pytest.raises(MemoryError):
        list(decode(engine, PROMPT, Watched(drafter), FREE, limits, Match()))
    assert patches(target.model) == before
    assert text_of(target, learned, clock) == plain(target)
