"""With draft trees of the built-in model, three tokens in a row have their joint distribution.

The vocabulary is cut to the likeliest tokens, so that all texts of three tokens can be listed and
their probabilities computed exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.chances import LEAST_P, chi_square, total_variation
from torch import Tensor
from transformers import PreTrainedConfig

import skipopt
from skipopt.decoding import loop
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits
from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.registry import make_drafter
from skipopt.drafting.rsd_s import BeamTreeDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.models.loading import builtin_folder
from skipopt.models.patch import Patch
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.engine import Engine
from skipopt.runtime.rope_borders import RopeBorders
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.verification.base import Verifier, VerifyResult
from skipopt.verification.rejection import Rejection, reject
from skipopt.verification.target_rows import TargetRows

Text = tuple[int, ...]

LENGTH = 3
KEPT = 3  # tokens that may follow
PROMPT = "def area(width, height):\n    return"
TREES = ("rsd-c:branching=2-2", "rsd-s:width=3:depth=2")


@pytest.fixture(scope="module")
def target() -> Target:
    if not (Path(builtin_folder()) / "model.safetensors").exists():
        pytest.skip("the built-in model has not been trained")
    return skipopt.load("builtin")


@pytest.fixture(scope="module")
def profile() -> Profile:
    return Profile.load(Path(__file__).parents[2] / "results" / "earlier-profile.yaml")


@pytest.fixture(scope="module")
def prompt(target: Target) -> list[int]:
    ids: list[int] = target.tokenizer(PROMPT)["input_ids"]
    return ids


def options_of(seed: int) -> SamplingOptions:
    return SamplingOptions(temperature=1.0, top_k=KEPT, seed=seed)


@pytest.fixture(scope="module")
def expected(target: Target, prompt: list[int]) -> dict[Text, float]:
    """Exact probability of every text."""
    sampler = TokenSampler(options_of(0), target.device, coupled=False)
    found: dict[Text, float] = {(): 1.0}
    for _ in range(LENGTH):
        longer: dict[Text, float] = {}
        for text, chance in found.items():
            row = sampler.probabilities(read(target, [*prompt, *text])[None])[0].double()
            for token in row.nonzero().flatten().tolist():
                longer[*text, token] = chance * float(row[token])
        found = longer
    return found


@torch.inference_mode()
def read(target: Target, tokens: Sequence[int]) -> Tensor:
    """Logits after a text, without a cache.  # (V,)"""
    logits: Tensor = target.model(input_ids=torch.tensor([tokens]), use_cache=False).logits
    return logits[0, -1]


def test_the_texts_are_many_and_their_probabilities_sum_to_one(
    expected: dict[Text, float],
) -> None:
    assert len(expected) == KEPT**LENGTH
    assert sum(expected.values()) == pytest.approx(1.0)
    assert sum(chance > 0.005 for chance in expected.values()) > 10


class RowEngine:
    """Logit rows of the real model, full or under a mask, each computed once.

    A row depends on the committed text and on its path of draft tokens, so it is computed as a
    chain by an engine that holds the text.
    """

    keeps_hidden = False
    hidden = None
    rope_borders = RopeBorders(SimpleNamespace(config=PreTrainedConfig()))

    def __init__(self, target: Target, prompt: Sequence[int]) -> None:
        self.target = target
        self._prompt = tuple(prompt)
        self._known: dict[tuple[Text, Text, bool], Tensor] = {}
        self._engines: dict[Text, Engine] = {}
        self._lines: list[Text] = []  # drop rows after the committed text
        self._committed: Text = ()
        self.prefill(prompt[:-1])

    @property
    def position(self) -> int:
        return len(self._committed) + len(self._lines)

    def prefill(self, tokens: Sequence[int]) -> None:
        self._committed, self._lines = tuple(tokens), []
        if self._committed not in self._engines:
            engine = Engine(self.target, len(tokens) + 8)
            engine.prefill(tokens)
            self._engines[self._committed] = engine

    def draft_mode(self, mask: SkipMask, config: DraftConfig = UNCHANGED) -> Patch:
        assert not config
        return skipping(self.target, mask)

    def rewind(self, position: int) -> None:
        del self._lines[position - len(self._committed) :]

    def commit(self, start: int, kept: Sequence[int]) -> None:
        last = self._lines[kept[-1]]
        assert [self._lines[i] for i in kept] == [last[: n + 1] for n in range(len(kept))]
        self.prefill([*self._committed, *last])

    def step(self, tokens: Sequence[int]) -> Tensor:
        for token in tokens:
            self._lines.append((*(self._lines[-1] if self._lines else ()), token))
        return torch.stack([self._row(line) for line in self._lines[-len(tokens) :]])

    def step_tree(self, tokens: Sequence[int], depths: Sequence[int], attends: Tensor) -> Tensor:
        before = len(self._lines)
        written = [*(line[-1] for line in self._lines), *tokens]
        for row in attends:
            self._lines.append(tuple(written[i] for i in row.nonzero().flatten().tolist()))
        return torch.stack([self._row(line) for line in self._lines[before:]])

    def _row(self, line: Text) -> Tensor:
        skips = any("forward" in vars(module) for module in self.target.model.modules())
        key = (self._committed, line, skips)
        if key not in self._known:
            engine = self._engines[self._committed]
            start = engine.position
            self._known[key] = torch.cat([engine.step([token]) for token in line])[-1].clone()
            engine.rewind(start)
        return self._known[key]


class TextSampler:
    """Generates texts of three tokens from one prompt, each with a seed of its own."""

    def __init__(self, engine: Any, target: Target, profile: Profile, prompt: list[int]) -> None:
        self._engine, self._target, self._profile, self._prompt = engine, target, profile, prompt
        self.accepted = 0

    def run(
        self, make: Callable[[], Any], count: int, verifier: Verifier | None = None
    ) -> Counter[Text]:
        seen: Counter[Text] = Counter()
        for seed in range(count):
            self._start()
            rounds = decode(
                self._engine,
                self._prompt,
                make(),
                options_of(seed),
                Limits(LENGTH, self._target.context_limit),
                verifier or Rejection(),
            )
            text: Text = ()
            for each in rounds:
                text += each.emitted
                self.accepted += each.accepted
            seen[text] += 1
        return seen

    def by_name(self, method: str) -> Callable[[], Any]:
        return lambda: make_drafter(self._target, parse_method(method), self._profile)

    def _start(self) -> None:
        if isinstance(self._engine, RowEngine):
            self._engine.prefill(self._prompt[:-1])
        else:
            self._engine.rewind(len(self._prompt) - 1)


@pytest.fixture
def prefilled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "prefill", lambda engine, prompt: None)


@pytest.fixture(scope="module")
def rows(target: Target, prompt: list[int]) -> RowEngine:
    return RowEngine(target, prompt)


@pytest.fixture
def text_sampler(
    rows: RowEngine, target: Target, profile: Profile, prompt: list[int], prefilled_once: None
) -> TextSampler:
    return TextSampler(rows, target, profile, prompt)


@pytest.mark.slow
@pytest.mark.parametrize("method", TREES)
def test_three_tokens_have_their_joint_distribution(
    text_sampler: TextSampler, expected: dict[Text, float], method: str
) -> None:
    seen = text_sampler.run(text_sampler.by_name(method), 1000)
    assert chi_square(seen, expected) > LEAST_P
    assert total_variation(seen, expected) < 0.08
    assert text_sampler.accepted > 300, "some drafts must be accepted"


@pytest.mark.slow
@pytest.mark.parametrize("method", TREES)
def test_three_tokens_have_their_joint_distribution_on_one_cache(
    target: Target,
    profile: Profile,
    prompt: list[int],
    expected: dict[Text, float],
    prefilled_once: None,
    method: str,
) -> None:
    engine = Engine(target, len(prompt) + LENGTH + 6)
    engine.prefill(prompt[:-1])
    text_sampler = TextSampler(engine, target, profile, prompt)
    seen = text_sampler.run(text_sampler.by_name(method), 150)
    assert chi_square(seen, expected) > LEAST_P


# --- the same check, with known mistakes


class NoResidual(Rejection):
    """The token after a rejection comes from q."""

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        q = sampler.probabilities(logits.every())
        path = reject(draft, q, sampler).path
        return VerifyResult(path, sampler.draw(q[path[-1] + 1 if path else 0]))


class Unordered(Rejection):
    """Siblings are tried in the order of their probability, not in the order they were drawn."""

    def __call__(
        self, draft: DraftTree, logits: TargetRows, sampler: TokenSampler, position: int
    ) -> VerifyResult:
        order = sorted(range(len(draft.tokens)), key=lambda i: self._rank(draft, i))
        place = {old: new for new, old in enumerate(order)} | {-1: -1}
        changed = DraftTree(
            tuple(draft.tokens[i] for i in order),
            tuple(place[draft.parents[i]] for i in order),
            draft.kind,
            {place[parent]: row for parent, row in draft.draft_probs.items()},
        )
        q = sampler.probabilities(logits.every()[[0, *(1 + i for i in order)]])
        verdict = reject(changed, q, sampler)
        return VerifyResult(tuple(order[i] for i in verdict.path), verdict.last_token)

    def _rank(self, draft: DraftTree, i: int) -> tuple[int, float]:
        return draft.depths()[i], -float(draft.draft_probs[draft.parents[i]][draft.tokens[i]])


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [NoResidual(), Unordered()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("method", TREES)
def test_check_rejects_a_wrong_rule(
    text_sampler: TextSampler, expected: dict[Text, float], method: str, mutant: Verifier
) -> None:
    seen = text_sampler.run(text_sampler.by_name(method), 700, mutant)
    assert chi_square(seen, expected) < LEAST_P


class LikelierOfTwo(BeamTreeDrafter):
    """Two tokens are drawn, and only the likelier one is proposed."""

    def propose(self, state: Any, limit: int) -> DraftTree:
        draft = super().propose(state, min(limit, 1))
        if not draft.tokens:
            return draft
        token = max(draft.tokens, key=lambda token: float(draft.draft_probs[-1][token]))
        return DraftTree((token,), (-1,), draft.kind, draft.draft_probs)


@pytest.mark.slow
def test_check_rejects_a_tree_cut_by_probability(
    text_sampler: TextSampler, expected: dict[Text, float], target: Target, profile: Profile
) -> None:
    seen = text_sampler.run(lambda: LikelierOfTwo(target, profile.skip_mask, 2, 1), 700)
    assert chi_square(seen, expected) < LEAST_P
