"""Checks of every round: what a drafter proposes, and what it leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.tree import DraftTree
from skipopt.runtime.engine import Engine

# Of the largest logit, if that is above 1. A step of linear attention and a forward over the whole
# text follow different formulas: 3e-4 apart in plain decoding of a tiny qwen3_next.
CLOSE = 1e-3


class Metered(Engine):
    """An engine that counts its forwards and the most positions its cache ever held."""

    forwards = 0
    peak = 0

    def forward(self, *args: Any, **options: Any) -> Tensor:
        logits = super().forward(*args, **options)
        self.forwards += 1
        self.peak = max(self.peak, self.position)
        return logits


class Watched(Drafter):
    """Passes every call to a drafter, and checks what it proposes and leaves behind."""

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
        before = Snapshot(state)
        try:
            draft = self.drafter.propose(state, limit)
        finally:
            before.assert_unchanged(state)
        spent += state.engine.forwards
        assert draft.forwards <= spent, "reports more forwards than there were"
        check_draft(draft, limit, self.max_extra_rows, state)
        return draft

    def observe(self, outcome: RoundOutcome) -> None:
        assert self.engine is not None
        used = self.engine.peak - self.start - 1
        assert used <= self.max_extra_rows, (
            f"{used} extra rows, but max_extra_rows is {self.max_extra_rows}"
        )
        if self.wants_hidden:
            assert outcome.hidden is not None
            assert len(outcome.hidden) == len(outcome.logits)
        self.drafter.observe(outcome)


class Snapshot:
    """What a drafter must not change."""

    def __init__(self, state: DraftState) -> None:
        self.tokens = list(state.tokens)
        self.position = state.engine.position
        self.held = [each.clone() for each in held(state.engine)]
        self.patches = patches(state.engine.target.model)

    def assert_unchanged(self, state: DraftState) -> None:
        assert state.engine.position == self.position, "the engine was not rewound"
        assert state.tokens == self.tokens, "the text was changed"
        assert patches(state.engine.target.model) == self.patches, "a patch is still active"
        # A cache that nothing was ever written to has no layers yet.
        pairs = zip(held(state.engine), self.held, strict=bool(self.position))
        assert all(torch.equal(*pair) for pair in pairs), "committed keys or values were changed"


def held(engine: Engine) -> list[Tensor]:
    """Committed keys and values of every layer, and keys of an index."""
    end = engine.position
    return [part[..., :end, :] for parts in engine.cache.contents() for part in parts]


def patches(model: nn.Module) -> dict[str, Any]:
    """By module, its own `forward`, if any, and its hooks."""
    return {
        name: (vars(module).get("forward"), *module._forward_pre_hooks, *module._forward_hooks)
        for name, module in model.named_modules()
    }


def check_draft(draft: DraftTree, limit: int, rows: int, state: DraftState) -> None:
    """Check what holds for every draft."""
    vocabulary = state.engine.target.model.config.vocab_size
    side = 0 if draft.extra_rows is None else len(draft.extra_rows.depths)
    assert max(draft.depths(), default=0) <= limit, "deeper than the limit"
    assert len(draft.tokens) + side <= rows, "more rows than max_extra_rows"
    assert len(draft.sources) in (0, len(draft.tokens))
    assert all(type(token) is int and 0 <= token < vocabulary for token in draft.tokens)
    for parent, siblings in draft.children().items():
        tokens = [draft.tokens[i] for i in siblings]
        if draft.kind != "independent":
            assert len(set(tokens)) == len(tokens), "the same sibling twice"
        if draft.kind != "point":
            row = draft.draft_probs[parent]
            assert row.dtype == torch.float32
            assert float(row.sum()) == pytest.approx(1.0, abs=1e-4)
            assert all(float(row[token]) > 0 for token in tokens), "a token of probability 0"


@torch.inference_mode()
def assert_as_prefilled(state: DraftState) -> None:
    """Check that the next logits are those of a new forward over the whole text."""
    ours = state.engine.step([state.tokens[-1]])[0]
    state.engine.rewind(len(state.tokens) - 1)
    ids = torch.tensor([state.tokens])
    theirs = state.engine.target.model(input_ids=ids, use_cache=False).logits[0, -1]
    worst = float((ours - theirs).abs().max())
    most = CLOSE * max(1.0, float(theirs.abs().max()))
    assert worst < most, f"the next logits are {worst} off after {len(state.tokens)} tokens"
