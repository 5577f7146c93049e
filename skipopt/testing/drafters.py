"""The contract of a drafter as checks to run on any method.

    from skipopt.testing.drafters import CHECKS, Case

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_drafter(check):
        check(Case(target, "my-drafter:gamma=3"))

The checks pass when the text is that of plain decoding, greedy and sampled, ends where it should,
and every draft leaves cache, engine and model as they were. Every round of every run is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import pytest
from torch import Tensor

from skipopt.decoding.api import generate_rounds, resolve_method
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.decoding.setup import make_decoding
from skipopt.drafting.base import DraftState
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.testing.watched import Metered, Watched, patches

GREEDY = SamplingOptions()
PENALIZED = SamplingOptions(repetition_penalty=1.4, no_repeat_ngram_size=3)
SAMPLED = (
    SamplingOptions(temperature=0.7, seed=1),
    SamplingOptions(temperature=1.0, top_k=8, seed=2),
    SamplingOptions(temperature=1.3, top_p=0.8, seed=3),
    SamplingOptions(0.5, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.3, seed=4),
)
LENGTH = 16


def random_prompts(count: int, shortest: int = 4, longest: int = 9) -> list[list[int]]:
    """Prompts of random tokens below 64, always the same."""
    rng = Random(0)
    sizes = [rng.randint(shortest, longest) for _ in range(count)]
    return [[rng.randrange(64) for _ in range(size)] for size in sizes]


PROMPTS = [*random_prompts(19), [7]]


@dataclass(frozen=True)
class Case:
    """A method on a model.

    Attributes:
        target: the model; its vocabulary has 64 tokens or more.
        method: as a user writes it, options included.
        profile: where its mask comes from.
    """

    target: Target
    method: str
    profile: Profile | None = None

    def matched(self) -> Case:
        """The same with the verifier `match`."""
        return replace(self, method=f"{self.method}:verify=match")


@dataclass(frozen=True)
class End:
    """Where a text ends: after so many tokens, or at one of these."""

    count: int = LENGTH
    eos: frozenset[int] = frozenset()


def run(
    case: Case,
    prompt: Sequence[int],
    end: End = End(),
    options: SamplingOptions = GREEDY,
    fresh: bool = False,
) -> list[Round]:
    """Decode in a cache of the size that the drafter asks for, and check every round.

    Args:
        fresh: compare the next logits with those of a fresh prefill before every round.
    """
    way = make_decoding(
        case.target, resolve_method(case.profile, case.method), case.profile, options
    )
    limits = Limits(end.count, case.target.context_limit, end.eos)
    longest = min(limits.context_limit, len(prompt) + end.count)
    engine = Metered(case.target, longest + way.drafter.max_extra_rows)
    watched = Watched(way.drafter, fresh)
    return list(decode(engine, list(prompt), watched, options, limits, way.verifier))


def emitted(rounds: Iterable[Round]) -> list[int]:
    """The tokens of the text."""
    return [token for each in rounds for token in each.emitted]


def text_of(case: Case, prompt: Sequence[int], end: End = End()) -> list[int]:
    """The greedy text of a case."""
    return emitted(run(case, prompt, end))


@cache
def plain(
    target: Target,
    prompt: tuple[int, ...],
    count: int = LENGTH,
    options: SamplingOptions = GREEDY,
) -> list[int]:
    """The text of plain decoding."""
    return emitted(run(Case(target, "plain"), prompt, End(count), options))


# --- the checks


def check_greedy_text(case: Case, prompts: Sequence[list[int]] = PROMPTS) -> None:
    """The greedy text is that of plain decoding."""
    for prompt in prompts:
        assert text_of(case, prompt) == plain(case.target, tuple(prompt)), prompt


def check_public_way(case: Case) -> None:
    """The same with `generate_rounds`, which makes the cache itself."""
    for prompt in PROMPTS[:2]:
        method, profile = case.method, case.profile
        rounds = generate_rounds(
            case.target, prompt, method=method, profile=profile, max_new_tokens=LENGTH
        )
        assert emitted(rounds) == plain(case.target, tuple(prompt))


def check_penalized_text(case: Case) -> None:
    """The same with penalties, which depend on the tokens before."""
    for prompt in PROMPTS[:3]:
        rounds = run(case, prompt, options=PENALIZED)
        assert emitted(rounds) == plain(case.target, tuple(prompt), options=PENALIZED)


def check_sampled_text(case: Case, prompts: Sequence[list[int]] = PROMPTS[:2]) -> None:
    """The same when sampling, if drafts are matched."""
    for options in SAMPLED:
        for prompt in prompts:
            rounds = run(case.matched(), prompt, options=options)
            expected = plain(case.target, tuple(prompt), options=options)
            assert emitted(rounds) == expected, options


def check_rejection(case: Case) -> None:
    """With top-k 1, rejection sampling gives the greedy text."""
    only = SamplingOptions(temperature=1.0, top_k=1)
    by_rejection = replace(case, method=f"{case.method}:verify=rejection")
    for prompt in PROMPTS[:2]:
        assert emitted(run(by_rejection, prompt, options=only)) == plain(
            case.target, tuple(prompt)
        )


def check_drawn_rounds(case: Case) -> None:
    """When sampling with the default verifier, drafts, rows and cache are right."""
    for options in SAMPLED:
        rounds = run(case, PROMPTS[9], options=options, fresh=True)
        assert len(emitted(rounds)) == LENGTH
        assert rounds[-1].stop == "length"


def check_end_of_text(case: Case) -> None:
    """An end-of-text token ends the text at any position of a draft."""
    prompt = PROMPTS[0]
    whole = plain(case.target, tuple(prompt))
    for place in first_occurrences(whole):
        rounds = run(case, prompt, End(eos=frozenset({whole[place]})))
        assert emitted(rounds) == whole[: place + 1]
        assert [each.stop for each in rounds] == [None] * (len(rounds) - 1) + ["eos"]


def first_occurrences(text: Sequence[int]) -> list[int]:
    """Positions of tokens that do not occur before."""
    return [i for i, token in enumerate(text) if token not in text[:i]]


def check_budget(case: Case) -> None:
    """The text has exactly the number of tokens asked for."""
    prompt = PROMPTS[1]
    for count in range(1, 10):
        rounds = run(case, prompt, End(count))
        assert emitted(rounds) == plain(case.target, tuple(prompt))[:count]
        assert [each.stop for each in rounds] == [None] * (len(rounds) - 1) + ["length"]


def check_context_end(case: Case, reach: int = 8) -> None:
    """A text ends at the last position of the model."""
    limit = case.target.context_limit
    for room in range(1, reach):
        prompt = [(5 * i * i + i) % 64 for i in range(limit - room)]
        rounds = run(case, prompt, End(2 * room))
        assert emitted(rounds) == plain(case.target, tuple(prompt), 2 * room)
        assert len(emitted(rounds)) == room
        assert rounds[-1].stop == "context"


def check_commit(case: Case, prompts: Sequence[list[int]] = PROMPTS[:3]) -> None:
    """After every round the cache equals that of a new prefill."""
    for prompt in prompts:
        expected = plain(case.target, tuple(prompt))
        assert emitted(run(case, prompt, fresh=True)) == expected


def check_limits(case: Case) -> None:
    """Drafts are no deeper than the limit; 0 allows none."""
    options = SamplingOptions(temperature=0.8, seed=5)
    for chosen in (GREEDY, options):
        for limit in range(4):
            spec = resolve_method(case.profile, case.method)
            way = make_decoding(case.target, spec, case.profile, chosen)
            sampler = TokenSampler(chosen, case.target.device, way.verifier.coupled)
            tokens = list(PROMPTS[2])
            engine = Metered(case.target, len(tokens) + way.drafter.max_extra_rows)
            engine.prefill(tokens[:-1])
            draft = Watched(way.drafter).propose(DraftState(tokens, engine, sampler), limit)
            assert limit or not draft.tokens


def check_failure(case: Case) -> None:
    """After a failure in any forward no patch or hook is left, and the engine is rewound."""
    before = patches(case.target.model)
    for left in range(6):
        spec = resolve_method(case.profile, case.method)
        way = make_decoding(case.target, spec, case.profile, GREEDY)
        engine = Failing(case.target, 200 + way.drafter.max_extra_rows)
        engine.left = left + 1  # the prefill succeeds
        limits = Limits(3 * LENGTH, case.target.context_limit)
        rounds = decode(engine, PROMPTS[3], Watched(way.drafter), GREEDY, limits, way.verifier)
        with pytest.raises(MemoryError):
            list(rounds)
        assert patches(case.target.model) == before
    check_greedy_text(case, PROMPTS[3:4])


class Failing(Metered):
    """Fails in the middle of the n-th forward from now."""

    left = 10**9

    def forward(self, *args: Any, **options: Any) -> Tensor:
        self.left -= 1
        logits = super().forward(*args, **options)
        if self.left < 0:
            raise MemoryError("no more")
        return logits


Check = Callable[[Case], None]

CHECKS: tuple[Check, ...] = (
    check_greedy_text,
    check_public_way,
    check_penalized_text,
    check_sampled_text,
    check_rejection,
    check_drawn_rounds,
    check_end_of_text,
    check_budget,
    check_commit,
    check_limits,
    check_failure,
)
