"""What every drafter keeps to, as checks to run on any method: `for check in CHECKS: check(case)`.

The checks know no drafter: a method is the text that a user writes. `Watched` looks at every
round of every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipopt.decoding.api import generate_rounds, make_decoding, resolve_method
from skipopt.decoding.loop import Limits, decode
from skipopt.detokenizer import decode_text
from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.tree import DraftTree
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler
from support.tiny import byte_tokenizer, tiny_llama, tiny_prompts, tiny_target

GREEDY = SamplingOptions()
SAMPLED = (
    SamplingOptions(temperature=0.7, seed=1),
    SamplingOptions(temperature=1.0, top_k=8, seed=2),
    SamplingOptions(temperature=1.3, top_p=0.8, seed=3),
    SamplingOptions(temperature=0.5, top_k=20, top_p=0.9, seed=4),
)
CLOSE = 1e-4
LENGTH = 16
PROMPTS = [*tiny_prompts(19), [7]]


@dataclass(frozen=True)
class Case:
    """A method on a model.

    Attributes:
        method: as a user writes it, options included.
        profile: where its mask comes from.
    """

    target: Target
    method: str
    profile: Profile | None = None

    def matched(self) -> Case:
        return replace(self, method=f"{self.method}:verify=match")


@dataclass(frozen=True)
class End:
    """Where a text ends, as in `Limits`; the context is the model's own."""

    count: int = LENGTH
    eos: frozenset[int] = frozenset()


def run(
    case: Case,
    prompt: Sequence[int],
    end: End = End(),
    options: SamplingOptions = GREEDY,
    fresh: bool = False,
) -> list[Round]:
    """Decode in a cache that is as large as the drafter says, and watch every round.

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
    return [token for each in rounds for token in each.emitted]


def text_of(case: Case, prompt: Sequence[int], end: End = End()) -> list[int]:
    return emitted(run(case, prompt, end))


@cache
def plain(
    target: Target,
    prompt: tuple[int, ...],
    count: int = LENGTH,
    options: SamplingOptions = GREEDY,
) -> list[int]:
    """What one ordinary step after the other says."""
    return emitted(run(Case(target, "plain"), prompt, End(count), options))


# --- what is looked at in every round


class Metered(Engine):
    """An engine that counts its forwards, and remembers how far its cache was ever filled."""

    forwards = 0
    peak = 0

    def _forward(self, *args: Any) -> Tensor:
        logits = super()._forward(*args)
        self.forwards += 1
        self.peak = max(self.peak, self.position)
        return logits


class Watched(Drafter):
    """Hands every call on to a drafter, and checks what it leaves behind and what it proposes."""

    def __init__(self, drafter: Drafter, fresh: bool = False) -> None:
        self.drafter = drafter
        self.max_extra_rows = drafter.max_extra_rows
        self.wants_hidden = drafter.wants_hidden
        self.fresh = fresh
        self.engine: Metered | None = None
        self.start = 0

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        assert isinstance(state.engine, Metered)
        self.engine, self.start = state.engine, state.engine.position
        assert self.start == len(state.tokens) - 1
        if self.fresh:
            assert_as_prefilled(state)
        state.engine.peak = self.start
        spent = -state.engine.forwards
        before = Trace(state)
        try:
            draft = self.drafter.propose(state, limit)
        finally:
            before.assert_unchanged(state)
        spent += state.engine.forwards
        assert draft.forwards <= spent, "says more forwards than there were"
        check_draft(draft, limit, self.max_extra_rows, state)
        return draft

    def observe(self, outcome: RoundOutcome) -> None:
        assert self.engine is not None
        used = self.engine.peak - self.start - 1
        assert used <= self.max_extra_rows, (
            f"{used} rows beside the current token, said {self.max_extra_rows}"
        )
        if self.wants_hidden:
            assert outcome.hidden is not None
            assert len(outcome.hidden) == len(outcome.logits)
        self.drafter.observe(outcome)


class Trace:
    """What a drafter must leave as it was."""

    def __init__(self, state: DraftState) -> None:
        self.tokens = list(state.tokens)
        self.position = state.engine.position
        self.held = [each.clone() for each in held(state.engine)]
        self.patches = patches(state.engine.target.model)

    def assert_unchanged(self, state: DraftState) -> None:
        assert state.engine.position == self.position, "the engine was not rewound"
        assert state.tokens == self.tokens, "the text was changed"
        assert patches(state.engine.target.model) == self.patches, "a patch is still in force"
        # A cache that nothing was ever written to has no layers yet.
        pairs = zip(held(state.engine), self.held, strict=bool(self.position))
        assert all(torch.equal(*pair) for pair in pairs), "committed keys or values were changed"


def held(engine: Engine) -> list[Tensor]:
    """Committed keys and values of every layer."""
    end = engine.position
    return [part[:, :, :end] for pair in engine.cache.contents() for part in pair]


def patches(model: nn.Module) -> dict[str, Any]:
    """By module, a `forward` of its own and the hooks that were put there."""
    return {
        name: (vars(module).get("forward"), *module._forward_pre_hooks, *module._forward_hooks)
        for name, module in model.named_modules()
    }


def check_draft(draft: DraftTree, limit: int, rows: int, state: DraftState) -> None:
    """What can be said of any draft, whoever made it."""
    vocabulary = state.engine.target.model.config.vocab_size
    side = 0 if draft.extra_rows is None else len(draft.extra_rows.depths)
    assert max(draft.depths(), default=0) <= limit, "deeper than the limit"
    assert len(draft.tokens) + side <= rows, "more rows than it said"
    assert len(draft.sources) in (0, len(draft.tokens))
    assert all(type(token) is int and 0 <= token < vocabulary for token in draft.tokens)
    for parent, siblings in draft.children().items():
        tokens = [draft.tokens[i] for i in siblings]
        if draft.kind != "independent":
            assert len(set(tokens)) == len(tokens), "a sibling twice"
        if draft.kind != "point":
            row = draft.draft_probs[parent]
            assert row.dtype == torch.float32
            assert float(row.sum()) == pytest.approx(1.0, abs=1e-4)
            assert all(float(row[token]) > 0 for token in tokens), "cannot have been drawn"


@torch.inference_mode()
def assert_as_prefilled(state: DraftState) -> None:
    """The next logits are those of a model that reads the whole text anew."""
    ours = state.engine.step([state.tokens[-1]])[0]
    state.engine.rewind(len(state.tokens) - 1)
    ids = torch.tensor([state.tokens])
    theirs = state.engine.target.model(input_ids=ids, use_cache=False).logits[0, -1]
    worst = float((ours - theirs).abs().max())
    assert worst < CLOSE, f"the next logits are {worst} off after {len(state.tokens)} tokens"


# --- the checks


def check_greedy_text(case: Case, prompts: Sequence[list[int]] = PROMPTS) -> None:
    """Token for token the text of plain decoding."""
    for prompt in prompts:
        assert text_of(case, prompt) == plain(case.target, tuple(prompt)), prompt


def check_public_way(case: Case) -> None:
    """The same by the door that users take, which makes the cache itself."""
    for prompt in PROMPTS[:2]:
        rounds = generate_rounds(
            case.target,
            prompt,
            method=case.method,
            profile=case.profile,
            max_new_tokens=LENGTH,
        )
        assert emitted(rounds) == plain(case.target, tuple(prompt))


def check_sampled_text(case: Case, prompts: Sequence[list[int]] = PROMPTS[:2]) -> None:
    """The same where tokens are drawn, if drafts are matched."""
    for options in SAMPLED:
        for prompt in prompts:
            rounds = run(case.matched(), prompt, options=options)
            expected = plain(case.target, tuple(prompt), options=options)
            assert emitted(rounds) == expected, options


def check_rejection(case: Case) -> None:
    """With one possible token at each place, rejection sampling says that token, too."""
    only = SamplingOptions(temperature=1.0, top_k=1)
    by_rejection = replace(case, method=f"{case.method}:verify=rejection")
    for prompt in PROMPTS[:2]:
        assert emitted(run(by_rejection, prompt, options=only)) == plain(
            case.target, tuple(prompt)
        )


def check_drawn_rounds(case: Case) -> None:
    """Whatever verifies by default: drafts, rows and cache are right where tokens are drawn."""
    for options in SAMPLED:
        rounds = run(case, PROMPTS[9], options=options, fresh=True)
        assert len(emitted(rounds)) == LENGTH
        assert rounds[-1].stop == "length"


def check_end_of_text(case: Case) -> None:
    """An end-of-text token ends the text wherever in a draft it stands."""
    prompt = PROMPTS[0]
    whole = plain(case.target, tuple(prompt))
    for place in first_occurrences(whole):
        rounds = run(case, prompt, End(eos=frozenset({whole[place]})))
        assert emitted(rounds) == whole[: place + 1]
        assert [each.stop for each in rounds] == [None] * (len(rounds) - 1) + ["eos"]


def first_occurrences(text: Sequence[int]) -> list[int]:
    return [i for i, token in enumerate(text) if token not in text[:i]]


def check_budget(case: Case) -> None:
    """Never a token too many or too few, however deep the draft."""
    prompt = PROMPTS[1]
    for count in range(1, 10):
        rounds = run(case, prompt, End(count))
        assert emitted(rounds) == plain(case.target, tuple(prompt))[:count]
        assert [each.stop for each in rounds] == [None] * (len(rounds) - 1) + ["length"]


def check_context_end(case: Case, reach: int = 8) -> None:
    """A text goes on to the last position of the model, and not beyond."""
    limit = case.target.context_limit
    for room in range(1, reach):
        prompt = [(5 * i * i + i) % 64 for i in range(limit - room)]
        rounds = run(case, prompt, End(2 * room))
        assert emitted(rounds) == plain(case.target, tuple(prompt), 2 * room)
        assert len(emitted(rounds)) == room
        assert rounds[-1].stop == "context"


def check_commit(case: Case, prompts: Sequence[list[int]] = PROMPTS[:3]) -> None:
    """After every round the cache is as if the text had been read from the start."""
    for prompt in prompts:
        expected = plain(case.target, tuple(prompt))
        assert emitted(run(case, prompt, fresh=True)) == expected


def check_limits(case: Case) -> None:
    """A limit of 0 leaves no room for a draft; any other is kept to."""
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
    """Whichever forward fails: no patch, no hook stays, and a drafter has rewound the engine."""
    before = patches(case.target.model)
    for left in range(6):
        spec = resolve_method(case.profile, case.method)
        way = make_decoding(case.target, spec, case.profile, GREEDY)
        engine = Failing(case.target, 200 + way.drafter.max_extra_rows)
        engine.left = left + 1  # the prefill goes well
        limits = Limits(3 * LENGTH, case.target.context_limit)
        rounds = decode(engine, PROMPTS[3], Watched(way.drafter), GREEDY, limits, way.verifier)
        with pytest.raises(MemoryError):
            list(rounds)
        assert patches(case.target.model) == before
    check_greedy_text(case, PROMPTS[3:4])


class Failing(Metered):
    """Fails in the middle of the n-th forward from now."""

    left = 10**9

    def _forward(self, *args: Any) -> Tensor:
        self.left -= 1
        logits = super()._forward(*args)
        if self.left < 0:
            raise MemoryError("no more")
        return logits


def check_stop_strings(case: Case) -> None:
    """A stop string ends the text where it is complete, also in the middle of a draft.

    The case's model must have the vocabulary of `byte_tokenizer`.
    """
    tokenizer, prompt = byte_tokenizer(), PROMPTS[4]
    whole = written(tokenizer, run(Case(case.target, "plain"), prompt))
    for stop in (whole[0][2], *(whole[0][i : i + 2] for i in (1, 3, 5, 6))):
        expected = written(tokenizer, run(Case(case.target, "plain"), prompt), stop)
        assert written(tokenizer, run(case, prompt), stop) == expected
        assert expected[2] == "stop"


def written(tokenizer: Any, rounds: list[Round], *stops: str) -> tuple[str, list[int], str | None]:
    """The text, its tokens and why it ended."""
    parts = list(decode_text(tokenizer, rounds, stops))
    tokens = emitted(part.round for part in parts)
    return "".join(part.text for part in parts), tokens, parts[-1].round.stop


Check = Callable[[Case], None]

# On any model.
CHECKS: tuple[Check, ...] = (
    check_greedy_text,
    check_public_way,
    check_sampled_text,
    check_rejection,
    check_drawn_rounds,
    check_end_of_text,
    check_budget,
    check_commit,
    check_limits,
    check_failure,
)


def small_target(context: int = 256, vocabulary: int = 64) -> Target:
    """Three layers: a search for masks never skips the first or the last."""
    return tiny_target(tiny_llama(layers=3, context=context, vocabulary=vocabulary))
