"""What every drafter keeps to, whatever it drafts with; and that breaking it is noticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from support import architectures, drafter_contract
from support.tiny import tiny_gpt2, tiny_target
from torch import Tensor, nn

import skipopt.drafting
from skipopt.decoding import loop
from skipopt.decoding.loop import Limits, decode
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.checkpoints.heads import (
    FeedForwardSettings,
    MedusaSettings,
    make_heads,
    save_heads,
)
from skipopt.drafting.checkpoints.mask_tokens import make_mask_tokens, save_mask_tokens
from skipopt.drafting.registry import drafter_class, make_drafter
from skipopt.drafting.tree import DraftTree
from skipopt.errors import PromptError, UsageError
from skipopt.masks import SkipMask
from skipopt.methods import METHODS, MethodSpec, parse_method
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round, Statistics
from skipopt.runtime.load import make_target
from skipopt.sampling import TokenSampler
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import GREEDY, LENGTH, PROMPTS, Case, End, run
from skipopt.verification.match import Match

# Of each method, what is run on everything, then what is run on a few prompts only. Words in
# braces are artefacts: see `artefacts`.
SETTINGS: dict[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "layer-skip": (
        "layer-skip:gamma=4",
        *(f"layer-skip:gamma={gamma}" for gamma in (1, 2, 3, 5, 6, 7, 8)),
        "layer-skip:gamma=8:tau=0.3",
        "layer-skip:gamma=6:tau=0.5:adaptive_tau=yes",
        "layer-skip:gamma=3:exit_layer=1",
        "layer-skip:gamma=3:exit_layer=1:reuse_exit_state=yes",
    ),
    "swift": (
        "swift:max_depth=5:tau=0.3:cost_aware=no:score_tokens=4:search_overhead=1.0:auto_disable=no",
        "swift",
        "swift:max_depth=3:siblings=1-2-3-4:tune_mask=no",
    ),
    "prompt-lookup": ("prompt-lookup", "prompt-lookup:gamma=3:max_ngram=1"),
    "jacobi": (
        "jacobi",
        "jacobi:block=1",
        "jacobi:block=4:draft_iterations=2",
        "jacobi:draft_iterations=20",
    ),
    "lookahead": (
        "lookahead",
        "lookahead:window=7:ngram=5:guesses=7",
        "lookahead:window=1:ngram=2:guesses=1",
        "lookahead:window=2:ngram=6:prompt_pool=yes",
    ),
    "blockwise": (
        "blockwise:checkpoint={ffn}:min_path_prob=0.0",
        "blockwise:checkpoint={medusa}:max_nodes=9:min_path_prob=0.0",
        "blockwise:checkpoint={ffn}",
    ),
    "spec-drafter": (
        "spec-drafter:checkpoint={whole}:min_path_prob=0.0",
        "spec-drafter:checkpoint={skipped}:min_path_prob=0.0:max_nodes=7",
        "spec-drafter:checkpoint={whole}:fused=yes:min_path_prob=0.0",
        "spec-drafter:checkpoint={following}:fused=yes:min_path_prob=0.0:max_nodes=2",
    ),
    "rsd-c": ("rsd-c", "rsd-c:branching=3-2", "rsd-c:branching=1-1-1-1", "rsd-c:tau=0.4"),
    "rsd-s": ("rsd-s", "rsd-s:width=2:depth=5", "rsd-s:width=9:depth=2:tau=0.4"),
    "cascade": (
        "cascade:auto_disable=no",
        "cascade",
        "cascade:exit_layer=1:max_copy=3:gamma=2:tau=0.3",
    ),
}
ARTEFACTS = ("ffn", "medusa", "whole", "following", "skipped")
MAIN = tuple(settings[0] for settings in SETTINGS.values())
OTHERS = tuple(text for settings in SETTINGS.values() for text in settings[1:])
DRAFTING = tuple(text for text in MAIN if text != "plain")

every_method = pytest.mark.parametrize("method", MAIN)
every_drafting = pytest.mark.parametrize("method", DRAFTING)
every_other_setting = pytest.mark.parametrize("method", OTHERS)


def artefacts(target: Target, folder: Path) -> dict[str, str]:
    """Untrained heads and [M] tokens of this model, by the words of `SETTINGS`."""
    names = {word: str(folder / f"{word}.safetensors") for word in ARTEFACTS}
    for settings in (FeedForwardSettings(3, 8), MedusaSettings(3, 1)):
        heads = make_heads(settings, target)
        scatter(heads, 0.3)
        save_heads(names[settings.shape], heads, target, {})
    depth = target.depth
    for word, rank, body in (
        ("whole", 0, SkipMask.empty(depth)),
        ("following", 2, SkipMask.empty(depth)),
        ("skipped", 0, SkipMask.of(depth, [1])),
    ):
        tokens = make_mask_tokens(target, 3, rank, body)
        scatter(tokens, 1.0)
        save_mask_tokens(names[word], tokens, target, {})
    return names


def scatter(module: nn.Module, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = size * torch.randn(parameter.shape, generator=generator)


class Bench:
    """A model with a mask that is often wrong, and artefacts that nearly always are."""

    def __init__(self, target: Target, folder: Path, gamma: int = 4) -> None:
        self.target = target
        self.profile = Profile.by_hand(target, attention=[1], gamma=gamma)
        self._names = artefacts(target, folder)

    def case(self, method: str) -> Case:
        return Case(self.target, method.format(**self._names), self.profile)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(drafter_contract.small_target(), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The same weights; every step is captured at once."""
    return Bench(tiny_target(runtime="captured"), tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(drafter_contract.small_target(vocabulary=257), tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    target = tiny_target(tiny_gpt2(layers=3, context=24))
    return Bench(target, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(drafter_contract.small_target(context=14), tmp_path_factory.mktemp("short"))


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    target = make_target(architectures.build("mistral"), None, runtime="eager")
    return Bench(target, tmp_path_factory.mktemp("mistral"))


# --- every method


@every_method
def test_greedy_text_is_that_of_plain_decoding(llama: Bench, method: str) -> None:
    contract.check_greedy_text(llama.case(method))


@every_method
def test_captured_steps_change_no_token(graphs: Bench, llama: Bench, method: str) -> None:
    case = graphs.case(method)
    for prompt in PROMPTS[:6]:
        expected = contract.plain(llama.target, tuple(prompt))
        assert contract.text_of(case, prompt) == expected
    contract.check_sampled_text(case, PROMPTS[:3])
    contract.check_end_of_text(case)
    contract.check_commit(case)
    assert graphs.target.runtime.name == "captured", (
        graphs.target.runtime.step_caches.unsupported_reason
    )
    assert graphs.target.runtime.step_caches.num_captured


@every_method
def test_cache_that_users_get_is_large_enough(llama: Bench, method: str) -> None:
    contract.check_public_way(llama.case(method))


@every_other_setting
def test_greedy_text_is_the_same_with_other_settings(llama: Bench, method: str) -> None:
    contract.check_greedy_text(llama.case(method), PROMPTS[:4])


@every_method
def test_sampled_text_is_that_of_plain_sampling_when_drafts_are_matched(
    llama: Bench, method: str
) -> None:
    contract.check_sampled_text(llama.case(method))


@every_other_setting
def test_sampled_text_is_the_same_with_other_settings(llama: Bench, method: str) -> None:
    contract.check_sampled_text(llama.case(method), PROMPTS[5:6])


@every_method
def test_rejection_says_the_only_possible_token(llama: Bench, method: str) -> None:
    contract.check_rejection(llama.case(method))


@every_method
def test_rounds_of_drawn_text_are_in_order(llama: Bench, method: str) -> None:
    contract.check_drawn_rounds(llama.case(method))


@every_method
def test_end_of_text_ends_it_inside_a_draft(llama: Bench, method: str) -> None:
    contract.check_end_of_text(llama.case(method))


@every_method
def test_stop_strings_end_the_text_inside_a_draft(bytes_model: Bench, method: str) -> None:
    drafter_contract.check_stop_strings(bytes_model.case(method))


@every_method
def test_budget_is_met_exactly(llama: Bench, method: str) -> None:
    contract.check_budget(llama.case(method))


@every_method
def test_text_goes_on_to_the_end_of_the_context(short: Bench, method: str) -> None:
    contract.check_context_end(short.case(method))


@every_method
def test_cache_is_as_freshly_prefilled_after_every_round(llama: Bench, method: str) -> None:
    contract.check_commit(llama.case(method))


@every_other_setting
def test_cache_is_as_freshly_prefilled_with_other_settings(llama: Bench, method: str) -> None:
    contract.check_commit(llama.case(method), PROMPTS[6:7])


@every_method
def test_drafts_keep_to_the_limit(llama: Bench, method: str) -> None:
    contract.check_limits(llama.case(method))


@every_other_setting
def test_drafts_keep_to_the_limit_with_other_settings(llama: Bench, method: str) -> None:
    contract.check_limits(llama.case(method))


@every_method
def test_failure_leaves_no_trace(llama: Bench, method: str) -> None:
    contract.check_failure(llama.case(method))


@every_method
def test_numbers_out_of_range_are_refused(llama: Bench, method: str) -> None:
    """A seed may be any number."""
    case = llama.case(method)
    spec = parse_method(case.method)
    parameters = signature(drafter_class(spec)).parameters.values()
    counts = [p.name for p in parameters if str(p.annotation) == "int" and p.name != "seed"]
    for name in counts:
        wrong = MethodSpec(spec.name, {**spec.options, name: "-1"})
        with pytest.raises(UsageError):
            make_drafter(case.target, wrong, case.profile)


# --- other models


@every_drafting
def test_learned_positions_up_to_the_last_one(gpt2: Bench, method: str) -> None:
    """A row beyond the last position of a GPT-2 would be an index error."""
    contract.check_context_end(gpt2.case(method), reach=6)
    contract.check_commit(gpt2.case(method), PROMPTS[7:8])


@every_drafting
def test_sliding_window(mistral: Bench, method: str) -> None:
    """The text is several windows long; some drafts lie across a window's edge."""
    prompt = [(7 * i * i + 3) % 64 for i in range(2 * architectures.WINDOW)]
    contract.check_commit(mistral.case(method), [prompt, PROMPTS[8]])


# --- that the checks see what they are to see


@every_drafting
def test_drafts_are_made_and_some_rejected(llama: Bench, method: str) -> None:
    rounds = [each for p in PROMPTS[:4] for each in run(llama.case(method), p)]
    assert Statistics.of(rounds).accepted < Statistics.of(rounds).drafted


@pytest.mark.parametrize(
    "name", ["layer-skip", "swift", "jacobi", "lookahead", "rsd-c", "rsd-s", "cascade"]
)
def test_drafts_are_accepted_too(llama: Bench, name: str) -> None:
    case = llama.case(SETTINGS[name][0])
    rounds = [each for prompt in PROMPTS[:6] for each in run(case, prompt)]
    assert Statistics.of(rounds).accepted > 0


def test_some_texts_end_inside_a_draft(llama: Bench) -> None:
    prompt = PROMPTS[0]
    whole = contract.plain(llama.target, tuple(prompt))
    ends = [
        run(llama.case("rsd-c"), prompt, End(eos=frozenset({whole[place]})))[-1]
        for place in contract.first_occurrences(whole)
    ]
    assert any(len(each.emitted) < each.accepted for each in ends)


def test_some_accepted_paths_are_not_the_first_rows(llama: Bench) -> None:
    """Else keys would never have to be moved."""
    rounds = [each for p in PROMPTS[:9] for each in run(llama.case("rsd-c:branching=3-2"), p)]
    assert any(each.path != tuple(range(len(each.path))) for each in rounds)


# --- drafters made for the test


class Scripted(Drafter):
    """Drafts chains, or trees, that are right or wrong as it is told.

    Args:
        text: prompt and continuation as they will be.
        depth: of the draft.
        right: so many tokens of it are right.
        wrong: siblings that each right token has before it.
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


def knowing(target: Target, prompt: Sequence[int], **settings: int) -> Scripted:
    return Scripted([*prompt, *contract.plain(target, tuple(prompt))], **settings)


def run_drafter(
    target: Target,
    drafter: Drafter,
    prompt: Sequence[int] = PROMPTS[0],
    fresh: bool = False,
) -> list[Round]:
    """As `run`, with a drafter that has no name."""
    limits = Limits(LENGTH, target.context_limit)
    engine = contract.Metered(target, len(prompt) + LENGTH + drafter.max_extra_rows)
    watched = contract.Watched(drafter, fresh)
    return list(decode(engine, list(prompt), watched, GREEDY, limits, Match()))


@pytest.mark.parametrize("wrong", [0, 2])
def test_always_wrong_drafter_gives_one_token_a_forward(llama: Bench, wrong: int) -> None:
    drafter = knowing(llama.target, PROMPTS[0], depth=4, right=0, wrong=wrong)
    rounds = run_drafter(llama.target, drafter, fresh=True)
    assert [len(each.emitted) for each in rounds] == [1] * LENGTH
    assert contract.emitted(rounds) == contract.plain(llama.target, tuple(PROMPTS[0]))


@pytest.mark.parametrize("wrong", [0, 2])
@pytest.mark.parametrize("gamma", [1, 3, 7])
def test_oracle_gives_gamma_and_one_more_a_forward(llama: Bench, gamma: int, wrong: int) -> None:
    drafter = knowing(llama.target, PROMPTS[0], depth=gamma, wrong=wrong)
    rounds = run_drafter(llama.target, drafter, fresh=True)
    assert {len(each.emitted) for each in rounds[:-1]} == {gamma + 1}
    assert contract.emitted(rounds) == contract.plain(llama.target, tuple(PROMPTS[0]))


# --- mutants: what the checks must notice


class Broken(Drafter):
    """Layer skipping in some wrong way."""

    max_extra_rows = 3

    def __init__(self, target: Target) -> None:
        self._skipping = skipping(target, SkipMask.of(target.depth, [1]))

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        start = state.engine.position
        tokens = self.draft(state, min(3, limit))
        self.leave(state, start)
        return DraftTree.chain(tokens)

    def draft(self, state: DraftState, count: int) -> list[int]:
        tokens = [state.tokens[-1]]
        with self._skipping:
            for _ in range(count):
                tokens.append(int(state.engine.step(tokens[-1:])[0].argmax()))
        return tokens[1:]

    def leave(self, state: DraftState, start: int) -> None:
        state.engine.rewind(start)


class NeverRewinds(Broken):
    def leave(self, state: DraftState, start: int) -> None:
        return


class LeavesItsPatch(Broken):
    def leave(self, state: DraftState, start: int) -> None:
        super().leave(state, start)
        self._skipping.__enter__()


class WritesIntoTheContext(Broken):
    def draft(self, state: DraftState, count: int) -> list[int]:
        state.engine.rewind(state.engine.position - 1)
        return super().draft(state, count)

    def leave(self, state: DraftState, start: int) -> None:
        state.engine.rewind(start)


class ChangesTheText(Broken):
    def leave(self, state: DraftState, start: int) -> None:
        super().leave(state, start)
        state.tokens[0] += 1


class TooDeep(Broken):
    def draft(self, state: DraftState, count: int) -> list[int]:
        return super().draft(state, 3)


class SaysTooFewRows(Broken):
    max_extra_rows = 2


MUTANTS = {
    NeverRewinds: "not rewound",
    LeavesItsPatch: "patch is still active",
    WritesIntoTheContext: "committed keys or values",
    ChangesTheText: "text was changed",
    TooDeep: "deeper than the limit",
    SaysTooFewRows: r"do not fit|more rows|extra rows, but",
}


@pytest.mark.parametrize(("mutant", "complaint"), MUTANTS.items(), ids=lambda m: str(m)[:40])
def test_broken_drafter_is_noticed(mutant: type[Broken], complaint: str) -> None:
    target = drafter_contract.small_target()  # of its own: one of them leaves a patch
    with pytest.raises((AssertionError, PromptError), match=complaint):
        run_drafter(target, mutant(target))


def test_unbroken_drafter_is_not(llama: Bench) -> None:
    rounds = run_drafter(llama.target, Broken(llama.target), fresh=True)
    assert contract.emitted(rounds) == contract.plain(llama.target, tuple(PROMPTS[0]))


def keeps_first_rows(state: DraftState, path: Sequence[int], emitted: Sequence[int]) -> None:
    """`commit` that keeps the keys of the first siblings, whichever were accepted."""
    kept = range(min(len(path) + 1, len(emitted)))
    state.engine.commit(len(state.tokens) - 1, list(kept))
    state.tokens.extend(emitted)


def forgets_the_last(state: DraftState, path: Sequence[int], emitted: Sequence[int]) -> None:
    """`commit` that shifts every accepted key by one place."""
    kept = [0, *path][: len(emitted)]
    state.engine.commit(len(state.tokens) - 1, kept)
    state.tokens.extend(emitted)


@pytest.mark.parametrize("mutant", [keeps_first_rows, forgets_the_last])
def test_commit_of_the_wrong_keys_is_noticed(
    llama: Bench, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., None]
) -> None:
    drafter = knowing(llama.target, PROMPTS[0], depth=3, wrong=1)
    monkeypatch.setattr(loop, "commit", mutant)
    with pytest.raises(AssertionError, match="next logits"):
        run_drafter(llama.target, drafter, fresh=True)


def siblings_see_each_other(tree: DraftTree) -> Tensor:
    count = 1 + len(tree.tokens)
    return torch.ones(count, count, dtype=torch.bool).tril()


def stand_where_they_are_stored(tree: DraftTree) -> list[int]:
    return list(range(1, 1 + len(tree.tokens)))


@pytest.mark.parametrize(
    ("name", "mutant"),
    [("attends", siblings_see_each_other), ("depths", stand_where_they_are_stored)],
)
def test_wrong_tree_is_noticed(
    llama: Bench, monkeypatch: pytest.MonkeyPatch, name: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(DraftTree, name, mutant)
    with pytest.raises(AssertionError):
        contract.check_commit(llama.case("rsd-c:branching=3-2"))


def test_side_rows_seen_by_the_draft_are_noticed(
    llama: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pad = torch.nn.functional.pad

    def seen_by_all(tensor: Tensor, widths: tuple[int, int], *rest: Any) -> Tensor:
        assert tensor.dtype == torch.bool, "meant for what rows see"
        return pad(tensor, widths, value=True)

    monkeypatch.setattr(torch.nn.functional, "pad", seen_by_all)
    with pytest.raises(AssertionError):
        contract.check_commit(llama.case("lookahead"))


class OneNoiseForAll(TokenSampler):
    """Noise that does not depend on the position."""

    def choose(self, logits: Tensor, positions: Sequence[int]) -> list[int]:
        first = list(positions)[:1]
        return super().choose(logits, first * len(logits))


def test_noise_of_the_wrong_position_is_noticed(
    llama: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = llama.case("layer-skip:gamma=4")
    contract.check_sampled_text(case)  # what plain decoding says is known from now on
    monkeypatch.setattr(loop, "TokenSampler", OneNoiseForAll)
    with pytest.raises(AssertionError):
        contract.check_sampled_text(case)


# --- all of them


def test_every_method_is_covered() -> None:
    """A new line in `METHODS` needs settings here, and a class that can be imported."""
    assert set(SETTINGS) == set(METHODS)
    for name, settings in SETTINGS.items():
        assert issubclass(drafter_class(parse_method(name)), Drafter)
        assert {text.split(":")[0] for text in settings} == {name}


def test_no_drafter_file_is_long() -> None:
    files = Path(skipopt.drafting.__file__).parent.glob("*.py")
    lengths = {each.name: len(each.read_text("utf-8").splitlines()) for each in files}
    assert not {name: lines for name, lines in lengths.items() if lines > 200}
