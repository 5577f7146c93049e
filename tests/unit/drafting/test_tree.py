"""Draft trees as values, trees grown by a model, and engines that run and commit them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import architectures
from support.tiny import hf_greedy, tiny_gpt2, tiny_prompts, tiny_target
from torch import Tensor

from skipopt.decoding.api import generate_rounds
from skipopt.decoding.loop import run_target
from skipopt.drafting.base import DraftState
from skipopt.drafting.tree import DraftKind, DraftTree, ExtraRows
from skipopt.drafting.tree_builder import ROOT, TreeBuilder
from skipopt.errors import ModelError, PromptError
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.sampling import SamplingOptions, TokenSampler

CLOSE = 1e-4
TEXT = [5, 61, 17, 33, 2, 9]
#  -1 ┬ 0 ┬ 2 ─ 5
#     │   └ 3
#     └ 1 ─ 4
TREE = DraftTree((1, 2, 3, 4, 5, 6), (-1, -1, 0, 0, 1, 2))


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


def state_of(engine: Engine, tokens: Sequence[int] = TEXT) -> DraftState:
    sampler = TokenSampler(SamplingOptions(), engine.target.device, coupled=True)
    return DraftState(list(tokens), engine, sampler)


def prefilled(target: Target, capacity: int = 64, text: Sequence[int] = TEXT) -> Engine:
    engine = Engine(target, capacity)
    engine.prefill(text[:-1])
    return engine


@torch.inference_mode()
def read(target: Target, tokens: Sequence[int]) -> Tensor:
    """Logits of a text without a KV cache, shape (n, V)."""
    logits: Tensor = target.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < CLOSE


def random_tree(rng: Random, size: int) -> DraftTree:
    parents = tuple(rng.randrange(-1, i) if i else -1 for i in range(size))
    return DraftTree(tuple(rng.randrange(64) for _ in range(size)), parents)


def line_of(tree: DraftTree, node: int) -> list[int]:
    """The path from the root to a node."""
    line: list[int] = []
    while node >= 0:
        line.insert(0, node)
        node = tree.parents[node]
    return line


# --- values


def test_a_chain_is_a_tree_of_width_one() -> None:
    row = torch.tensor([0.5, 0.5])
    chain = DraftTree.chain([4, 5, 6], forwards=3, sources=["a", "b", "c"])
    assert (chain.tokens, chain.parents, chain.kind) == ((4, 5, 6), (-1, 0, 1), "point")
    assert (chain.forwards, chain.sources, chain.draft_probs) == (3, ("a", "b", "c"), {})
    assert chain.is_chain
    assert DraftTree().is_chain
    assert not TREE.is_chain
    drawn = DraftTree.chain([0, 1], [row, row])
    assert drawn.kind == "independent"
    assert set(drawn.draft_probs) == {-1, 0}


def test_depths_children_and_the_tree_mask() -> None:
    assert TREE.depths() == [1, 1, 2, 2, 2, 3]
    assert TREE.children() == {-1: [0, 1], 0: [2, 3], 1: [4], 2: [5]}
    rng = Random(0)
    for size in range(12):
        tree = random_tree(rng, size)
        attends = tree.attends()
        assert attends.shape == (1 + size, 1 + size)
        assert attends[0].tolist() == [True] + [False] * size
        for node in range(size):
            line = line_of(tree, node)
            assert set(attends[node + 1].nonzero().flatten().tolist()) == {
                0,
                *(i + 1 for i in line),
            }
            assert tree.depths()[node] == len(line)


@pytest.mark.parametrize(
    ("parents", "kind", "rows", "complaint"),
    [
        ((-1,), "point", {}, "2 tokens need as many parents"),
        ((0, -1), "point", {}, "before its children"),
        ((-1, 1), "point", {}, "before its children"),
        ((-1, -2), "point", {}, "before its children"),
        ((-1, 0), "independent", {-1: None}, "every parent needs the prob"),
        ((-1, -1), "without-replacement", {}, "every parent needs the prob"),
        ((-1, 0), "point", {-1: None}, "no draft probabilities"),
    ],
)
def test_impossible_trees_are_refused(
    parents: tuple[int, ...], kind: DraftKind, rows: dict[int, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        DraftTree((1, 2), parents, kind, rows)


# --- the engine


def test_rows_of_random_trees_attend_to_their_own_paths_only(target: Target) -> None:
    rng = Random(1)
    for size in (0, 1, 5, 13):
        tree = random_tree(rng, size)
        found = run_target(state_of(prefilled(target)), tree)
        assert found.shape == (1 + size, 64)
        for node in range(-1, size):
            path = [tree.tokens[i] for i in line_of(tree, node)]
            assert_close(found[node + 1], read(target, [*TEXT, *path])[-1])


def test_any_path_can_be_kept(target: Target) -> None:
    rng = Random(2)
    tree = random_tree(rng, 12)
    for node in range(-1, 12):
        engine = prefilled(target)
        run_target(state_of(engine), tree)
        line = line_of(tree, node)
        engine.commit(len(TEXT) - 1, [0, *(1 + i for i in line)])
        text = [*TEXT, *(tree.tokens[i] for i in line)]
        assert engine.position == len(text)
        assert_close(engine.step([50, 51]), read(target, [*text, 50, 51])[-2:])


def test_committing_part_of_a_path_drops_the_rest(target: Target) -> None:
    """A text may end in the middle of an accepted path."""
    engine = prefilled(target)
    run_target(state_of(engine), TREE)
    engine.commit(len(TEXT) - 1, [0, 1])
    assert engine.position == len(TEXT) + 1
    assert_close(engine.step([50]), read(target, [*TEXT, 1, 50])[-1:])
    engine.commit(len(TEXT) - 1, [])
    assert engine.position == len(TEXT) - 1
    assert_close(engine.step(TEXT[-1:]), read(target, TEXT)[-1:])


def test_tree_after_tree_after_chain(target: Target) -> None:
    """Rows are moved repeatedly, and dropped rows never reappear."""
    rng, engine, text = Random(3), prefilled(target), list(TEXT)
    for size in (7, 3, 9, 0, 5, 8):
        tree = random_tree(rng, size)
        found = run_target(state_of(engine, text), tree)
        assert_close(found[0], read(target, text)[-1])
        line = line_of(tree, size - 1)
        engine.commit(len(text) - 1, [0, *(1 + i for i in line)])
        text += [*(tree.tokens[i] for i in line), rng.randrange(64)]


def test_hidden_rows_are_the_inputs_of_the_head(target: Target) -> None:
    engine = prefilled(target)
    engine.step([1])
    assert engine.hidden is None
    engine.rewind(len(TEXT) - 1)
    engine.keeps_hidden = True
    logits = run_target(state_of(engine), TREE)
    assert engine.hidden is not None
    assert engine.hidden.shape == (7, 32)
    with torch.inference_mode():
        assert_close(target.model.get_output_embeddings()(engine.hidden), logits)


def test_side_rows_change_nothing_for_the_draft(target: Target) -> None:
    alone = run_target(state_of(prefilled(target)), TREE)
    attends = torch.zeros(2, 9, dtype=torch.bool)
    attends[:, [0, 7]] = attends[1, 8] = True
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(4):
        ids = torch.randint(64, (2,), generator=generator)
        side = ExtraRows(ids, (1, 2), attends)
        tree = DraftTree(TREE.tokens, TREE.parents, extra_rows=side)
        found.append(run_target(state_of(prefilled(target)), tree))
        assert_close(found[-1][:7], alone)
        assert_close(found[-1][7:], read(target, [*TEXT, *ids.tolist()])[-2:])
    assert float((found[0][7:] - found[1][7:]).abs().max()) > 0.1


def test_a_tree_that_does_not_fit_is_refused(target: Target) -> None:
    engine = prefilled(target, len(TEXT) + 3)
    with pytest.raises(PromptError, match="12 tokens do not fit in a cache of 9"):
        run_target(state_of(engine), TREE)
    assert engine.position == len(TEXT) - 1


# --- growth


def test_nodes_are_numbered_in_order_of_addition() -> None:
    engine: Any = SimpleNamespace(position=3)
    growth = TreeBuilder(DraftState([7], engine, None))  # type: ignore[arg-type]
    assert [growth.add(ROOT, 4), growth.add(ROOT, 5), growth.add(0, 6), growth.add(2, 7)] == [
        0,
        1,
        2,
        3,
    ]
    assert (growth.tokens, growth.parents) == ([4, 5, 6, 7], [-1, -1, 0, 2])
    assert [growth.depth(node) for node in (ROOT, 0, 1, 2, 3)] == [0, 1, 1, 2, 3]


def grown(growth: TreeBuilder) -> Tensor:
    """`TREE` grown level by level: logits of the current token, then of every token."""
    levels = [growth.run([ROOT])]
    first = [growth.add(ROOT, token) for token in (1, 2)]
    levels.append(growth.run(first))
    second = [growth.add(0, 3), growth.add(0, 4), growth.add(1, 5)]
    levels.append(growth.run(second))
    levels.append(growth.run([growth.add(2, 6)]))
    return torch.cat(levels)


def test_a_tree_grown_by_levels_has_the_logits_of_one_forward(target: Target) -> None:
    engine = prefilled(target)
    at_once = run_target(state_of(engine), TREE)
    engine.rewind(len(TEXT) - 1)
    with TreeBuilder(state_of(engine)) as growth:
        assert_close(grown(growth), at_once)
        assert (growth.tokens, growth.parents) == (list(TREE.tokens), list(TREE.parents))
        assert growth.forwards == 4
    assert engine.position == len(TEXT) - 1


def test_levels_may_be_run_in_part_and_in_any_order(target: Target) -> None:
    engine = prefilled(target)
    at_once = run_target(state_of(engine), TREE)
    engine.rewind(len(TEXT) - 1)
    with TreeBuilder(state_of(engine)) as growth:
        rows = {-1: growth.run([ROOT])[0]}
        for token, parent in zip(TREE.tokens, TREE.parents, strict=True):
            growth.add(parent, token)
        for nodes in ([1], [0], [4, 3], [2], [5]):
            rows.update(zip(nodes, growth.run(nodes), strict=True))
        assert_close(torch.stack([rows[node] for node in range(-1, 6)]), at_once)


def test_growing_a_chain_equals_drafting_token_by_token(target: Target) -> None:
    engine, mask = prefilled(target), SkipMask.of(3, attention=[1])
    with skipping(target, mask):
        alone = torch.cat([engine.step([token]) for token in (TEXT[-1], 8, 9)])
        engine.rewind(len(TEXT) - 1)
        with TreeBuilder(state_of(engine)) as growth:
            rows = [growth.run([ROOT])]
            rows.append(growth.run([growth.add(ROOT, 8)]))
            rows.append(growth.run([growth.add(0, 9)]))
    assert_close(torch.cat(rows), alone)


def test_a_failed_growth_leaves_the_engine_unchanged(target: Target) -> None:
    engine = prefilled(target, len(TEXT) + 1)
    with TreeBuilder(state_of(engine)) as growth:
        growth.run([ROOT])
        nodes = [growth.add(ROOT, token) for token in (1, 2)]
        with pytest.raises(PromptError, match="do not fit"), growth:
            growth.run(nodes)
        assert engine.position == len(TEXT) - 1


# --- the last positions


def test_more_rows_than_there_are_positions() -> None:
    """GPT-2 has learned positions; the position of a row is its depth, not its cache slot."""
    target = tiny_target(tiny_gpt2(context=8))
    text = TEXT[:5]
    found = run_target(state_of(prefilled(target, 32, text), text), TREE)
    for node in range(-1, 6):
        path = [TREE.tokens[i] for i in line_of(TREE, node)]
        assert_close(found[node + 1], read(target, [*text, *path])[-1])


def test_rows_beyond_the_last_position_disturb_no_others() -> None:
    """Side rows may be deeper than the context allows; their logits are not used."""
    target = tiny_target(tiny_gpt2(context=8))
    attends = torch.zeros(4, 11, dtype=torch.bool)
    attends[:, 0] = attends[:, 7:] = True
    side = ExtraRows(torch.tensor([1, 2, 3, 4]), (2, 3, 4, 50), attends)
    tree = DraftTree(TREE.tokens, TREE.parents, extra_rows=side)
    alone = run_target(state_of(prefilled(target)), TREE)
    found = run_target(state_of(prefilled(target)), tree)
    # The text fills 6 of 8 positions, so drafts have a depth of 2 at most.
    assert_close(found[:6], alone[:6])


# --- models without tree masks


GPT_NEO = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 4,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}
NO_TREES: dict[str, architectures.Recipe] = {
    "its positions are ALiBi": (
        "FalconConfig",
        {**architectures.SKIPPABLE["falcon"][1], "alibi": True},
    ),
    "its local attention counts rows": ("GPTNeoConfig", GPT_NEO),
}


@pytest.mark.parametrize("reason", NO_TREES)
def test_trees_are_refused_where_models_build_their_own_masks(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setitem(architectures.SKIPPABLE, "changed", NO_TREES[reason])
    target = make_target(architectures.build("changed"), None, runtime="eager")
    prompt = tiny_prompts(1)[0]
    profile = Profile.by_hand(target, attention=[1], gamma=3)
    with pytest.raises(ModelError, match=f"cannot verify a draft tree: {reason}") as refusal:
        list(generate_rounds(target, prompt, profile=profile, method="rsd-c", max_new_tokens=8))
    assert "layer-skip" in str(refusal.value.hint)
    rounds = list(generate_rounds(target, prompt, profile=profile, max_new_tokens=8))
    assert [token for r in rounds for token in r.emitted] == hf_greedy(target, prompt, 8)


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention", "something_new"])
def test_attention_that_takes_no_mask_is_refused(name: str) -> None:
    target = tiny_target()
    target.model.config._attn_implementation_internal = name
    assert target.model.config._attn_implementation == name
    engine = Engine(target, 32)
    with pytest.raises(ModelError, match=f"its attention runs on {name}"):
        engine.step_tree([1, 2], [0, 1], torch.ones(2, 2, dtype=torch.bool).tril())
