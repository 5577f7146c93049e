"""The contract suite of drafters fails for drafters with known faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import drafter_contract
from support.drafters import SETTINGS, Bench
from torch import Tensor

import skipopt.drafting
from skipopt.decoding import loop
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.registry import drafter_class
from skipopt.drafting.tree import DraftTree
from skipopt.errors import PromptError
from skipopt.masks import SkipMask
from skipopt.methods import METHODS, parse_method
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.rounds import Round
from skipopt.sampling import TokenSampler
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import GREEDY, LENGTH, PROMPTS
from skipopt.testing.watched import Metered, Watched
from skipopt.verification.match import Match


class Scripted(Drafter):
    """Drafts chains, or trees, with a given number of right tokens.

    Args:
        text: prompt and expected continuation.
        depth: of the draft.
        right: number of right tokens at its start.
        wrong: number of wrong siblings before each right token.
    """

    def __init__(self, text: Sequence[int], depth: int, right: int = 99, wrong: int = 0) -> None:
        self._text, self._depth, self._right, self._wrong = list(text), depth, right, wrong
        self.max_extra_rows = depth * (1 + wrong)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        coming = self._text[len(state.tokens) :][: min(self._depth, limit)]
        tokens: list[int] = []
        parents: list[int] = []
        parent = -1
        for i, token in enumerate(coming):
            siblings = [(token + 1 + shift) % 64 for shift in range(self._wrong)]
            siblings.append(token if i < self._right else (token + 9) % 64)
            tokens += siblings
            parents += [parent] * len(siblings)
            parent = len(tokens) - 1
        return DraftTree(tuple(tokens), tuple(parents))


def scripted(target: Target, prompt: Sequence[int], **settings: int) -> Scripted:
    return Scripted([*prompt, *contract.plain(target, tuple(prompt))], **settings)


def run_drafter(
    target: Target,
    drafter: Drafter,
    prompt: Sequence[int] = PROMPTS[0],
    fresh: bool = False,
) -> list[Round]:
    """Like `run`, for a drafter that is not in the registry."""
    limits = Limits(LENGTH, target.context_limit)
    engine = Metered(target, len(prompt) + LENGTH + drafter.max_extra_rows)
    watched = Watched(drafter, fresh)
    return list(decode(engine, list(prompt), watched, GREEDY, limits, Match()))


@pytest.mark.parametrize("wrong", [0, 2])
def test_an_always_wrong_drafter_emits_one_token_per_forward(llama: Bench, wrong: int) -> None:
    drafter = scripted(llama.target, PROMPTS[0], depth=4, right=0, wrong=wrong)
    rounds = run_drafter(llama.target, drafter, fresh=True)
    assert [len(each.emitted) for each in rounds] == [1] * LENGTH
    assert contract.emitted(rounds) == contract.plain(llama.target, tuple(PROMPTS[0]))


@pytest.mark.parametrize("wrong", [0, 2])
@pytest.mark.parametrize("gamma", [1, 3, 7])
def test_an_oracle_emits_gamma_plus_one_tokens_per_forward(
    llama: Bench, gamma: int, wrong: int
) -> None:
    drafter = scripted(llama.target, PROMPTS[0], depth=gamma, wrong=wrong)
    rounds = run_drafter(llama.target, drafter, fresh=True)
    assert {len(each.emitted) for each in rounds[:-1]} == {gamma + 1}
    assert contract.emitted(rounds) == contract.plain(llama.target, tuple(PROMPTS[0]))


class Broken(Drafter):
    """Layer skipping with a fault."""

    max_extra_rows = 3

    def __init__(self, target: Target) -> None:
        self._skipping = skipping(target, SkipMask.of(target.depth, [1]))

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        start = state.engine.position
        tokens = self.draft(state, min(3, limit))
        self.clean_up(state, start)
        return DraftTree.chain(tokens)

    def draft(self, state: DraftState, count: int) -> list[int]:
        tokens = [state.tokens[-1]]
        with self._skipping:
            for _ in range(count):
                tokens.append(int(state.engine.step(tokens[-1:])[0].argmax()))
        return tokens[1:]

    def clean_up(self, state: DraftState, start: int) -> None:
        state.engine.rewind(start)


class NeverRewinds(Broken):
    def clean_up(self, state: DraftState, start: int) -> None:
        return


class KeepsItsPatch(Broken):
    def clean_up(self, state: DraftState, start: int) -> None:
        super().clean_up(state, start)
        self._skipping.__enter__()


class WritesIntoTheContext(Broken):
    def draft(self, state: DraftState, count: int) -> list[int]:
        state.engine.rewind(state.engine.position - 1)
        return super().draft(state, count)

    def clean_up(self, state: DraftState, start: int) -> None:
        state.engine.rewind(start)


class ChangesTheText(Broken):
    def clean_up(self, state: DraftState, start: int) -> None:
        super().clean_up(state, start)
        state.tokens[0] += 1


class TooDeep(Broken):
    def draft(self, state: DraftState, count: int) -> list[int]:
        return super().draft(state, 3)


class ReportsTooFewRows(Broken):
    max_extra_rows = 2


MUTANTS = {
    NeverRewinds: "not rewound",
    KeepsItsPatch: "patch is still active",
    WritesIntoTheContext: "committed keys or values",
    ChangesTheText: "text was changed",
    TooDeep: "deeper than the limit",
    ReportsTooFewRows: r"do not fit|more rows|extra rows, but",
}


@pytest.mark.parametrize(("mutant", "complaint"), MUTANTS.items(), ids=lambda m: str(m)[:40])
def test_a_broken_drafter_fails_the_contract(mutant: type[Broken], complaint: str) -> None:
    target = drafter_contract.small_target()  # its own, because one mutant keeps a patch
    with pytest.raises((AssertionError, PromptError), match=complaint):
        run_drafter(target, mutant(target))


def test_the_correct_drafter_passes_the_contract(llama: Bench) -> None:
    rounds = run_drafter(llama.target, Broken(llama.target), fresh=True)
    assert contract.emitted(rounds) == contract.plain(llama.target, tuple(PROMPTS[0]))


def keeps_first_rows(state: DraftState, path: Sequence[int], emitted: Sequence[int]) -> None:
    """`commit` that keeps the keys of the first siblings, whichever ones were accepted."""
    kept = range(min(len(path) + 1, len(emitted)))
    state.engine.commit(len(state.tokens) - 1, list(kept))
    state.tokens.extend(emitted)


def shifts_every_key(state: DraftState, path: Sequence[int], emitted: Sequence[int]) -> None:
    """`commit` that shifts every accepted key by one position."""
    kept = [0, *path][: len(emitted)]
    state.engine.commit(len(state.tokens) - 1, kept)
    state.tokens.extend(emitted)


@pytest.mark.parametrize("mutant", [keeps_first_rows, shifts_every_key])
def test_committing_the_wrong_keys_fails_the_contract(
    llama: Bench, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., None]
) -> None:
    drafter = scripted(llama.target, PROMPTS[0], depth=3, wrong=1)
    monkeypatch.setattr(loop, "commit", mutant)
    with pytest.raises(AssertionError, match="next logits"):
        run_drafter(llama.target, drafter, fresh=True)


def siblings_see_each_other(tree: DraftTree) -> Tensor:
    count = 1 + len(tree.tokens)
    return torch.ones(count, count, dtype=torch.bool).tril()


def depths_by_storage_order(tree: DraftTree) -> list[int]:
    return list(range(1, 1 + len(tree.tokens)))


@pytest.mark.parametrize(
    ("name", "mutant"),
    [("attends", siblings_see_each_other), ("depths", depths_by_storage_order)],
)
def test_a_wrong_tree_fails_the_contract(
    llama: Bench, monkeypatch: pytest.MonkeyPatch, name: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(DraftTree, name, mutant)
    with pytest.raises(AssertionError):
        contract.check_commit(llama.case("rsd-c:branching=3-2"))


def test_side_rows_visible_to_the_draft_fail_the_contract(
    llama: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pad = torch.nn.functional.pad

    def visible_to_all(tensor: Tensor, widths: tuple[int, int], *rest: Any) -> Tensor:
        assert tensor.dtype == torch.bool, "expected a tree mask"
        return pad(tensor, widths, value=True)

    monkeypatch.setattr(torch.nn.functional, "pad", visible_to_all)
    with pytest.raises(AssertionError):
        contract.check_commit(llama.case("lookahead"))


class OneNoiseForTwo(TokenSampler):
    """Noise of the wrong position, for every other one."""

    def choose(self, logits: Tensor, positions: Sequence[int]) -> list[int]:
        return super().choose(logits, [each - each % 2 for each in positions])


def test_noise_of_the_wrong_position_fails_the_contract(
    llama: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = llama.case("layer-skip:gamma=4")
    contract.check_sampled_text(case)  # from now on the text of plain decoding is cached
    monkeypatch.setattr(loop, "TokenSampler", OneNoiseForTwo)
    with pytest.raises(AssertionError):
        contract.check_sampled_text(case)


def test_every_method_is_covered() -> None:
    """Every entry of `METHODS` has settings here and a class that can be imported."""
    assert set(SETTINGS) == set(METHODS)
    for name, settings in SETTINGS.items():
        assert issubclass(drafter_class(parse_method(name)), Drafter)
        assert {text.split(":")[0] for text in settings} == {name}


def test_no_drafter_file_is_long() -> None:
    files = Path(skipopt.drafting.__file__).parent.glob("*.py")
    lengths = {each.name: len(each.read_text("utf-8").splitlines()) for each in files}
    assert not {name: lines for name, lines in lengths.items() if lines > 200}
