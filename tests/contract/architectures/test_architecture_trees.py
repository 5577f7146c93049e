"""Draft trees on every architecture, and models that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from support.architecture_contract import (
    CLOSE,
    LONG,
    forwards,
    logits_of,
    masks_of,
    speculate,
)
from support.architectures import VOCABULARY, WINDOW, build
from torch import Tensor

from skipopt.decoding.loop import run_target
from skipopt.drafting.base import DraftState
from skipopt.drafting.tree import DraftTree, ExtraRows
from skipopt.drafting.tree_builder import TreeBuilder
from skipopt.errors import ModelError
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.rounds import Round, Statistics
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.sampling import SamplingOptions, TokenSampler

#   -1 ┬ 0 ┬ 2 ─ 5 ─ 6 ─ … ─ 14: longer than the window
#      │   └ 3 ─ 15
#      └ 1 ─ 4
TREE = DraftTree(
    (1, 2, 3, 4, 5, *range(6, 16), 90),
    (-1, -1, 0, 0, 1, 2, *range(5, 14), 3),
)


LINES = ((), (1,), (0, 3, 15), (0, 2, 5, 6), (0, 2, *range(5, 15)))


def tree_logits(engine: Engine, tree: DraftTree = TREE, side: ExtraRows | None = None) -> Tensor:
    """Logits of one round after LONG, whose last token is the current one."""
    sampler = TokenSampler(SamplingOptions(), engine.target.device, coupled=True)
    return run_target(DraftState(LONG, engine, sampler), replace(tree, extra_rows=side))


def prefilled(target: Target) -> Engine:
    engine = Engine(target, 64)
    engine.prefill(LONG[:-1])
    return engine


def texts_of(tree: DraftTree, nodes: Sequence[int]) -> list[int]:
    return [tree.tokens[i] for i in nodes]


def assert_close(ours: Tensor, theirs: Tensor, what: object = "") -> None:
    worst = float((ours - theirs).abs().max())
    assert worst < CLOSE, f"{worst} {what}"


def test_each_row_of_a_tree_attends_to_its_own_path_only(target: Target) -> None:
    assert len(LONG) > WINDOW < max(TREE.depths())
    found = tree_logits(prefilled(target))
    for line in LINES:
        expected = logits_of(target, [*LONG, *texts_of(TREE, line)])[len(LONG) - 1 :]
        assert_close(found[[0, *(1 + i for i in line)]], expected, line)


def test_a_tree_grown_piece_by_piece_is_the_same(target: Target) -> None:
    whole, engine = tree_logits(prefilled(target)), prefilled(target)
    tokens, depths, attends = [LONG[-1], *TREE.tokens], [0, *TREE.depths()], TREE.attends()
    grown = [
        engine.step_tree(tokens[a:b], depths[a:b], attends[a:b, :b])
        for a, b in ((0, 1), (1, 3), (3, 4), (4, 11), (11, 17))
    ]
    assert_close(torch.cat(grown), whole)


@pytest.mark.parametrize("line", LINES, ids=len)
def test_decoding_after_any_committed_path_equals_a_fresh_prefill(
    target: Target, line: tuple[int, ...]
) -> None:
    engine = prefilled(target)
    tree_logits(engine)
    engine.commit(len(LONG) - 1, [0, *(1 + i for i in line)])
    text = [*LONG, *texts_of(TREE, line)]
    assert engine.position == len(text)
    again = DraftTree((7, 8, 9), (-1, -1, 1))
    for current, tree, path in ((50, again, [1, 2]), (51, DraftTree.chain([7, 8, 9]), [0, 1, 2])):
        tokens = [current, *tree.tokens]
        found = engine.step_tree(tokens, [0, *tree.depths()], tree.attends())
        kept = [0, *(1 + i for i in path)]
        engine.commit(len(text), kept)
        text += [tokens[i] for i in kept]
        assert_close(found[kept], logits_of(target, text)[-len(kept) :], (line, current))
    assert_close(engine.step([1, 2, 3]), logits_of(target, [*text, 1, 2, 3])[-3:], line)


def test_side_rows_are_invisible_to_drafts_and_attend_as_given(target: Target) -> None:
    rows, alone = 1 + len(TREE.tokens), tree_logits(prefilled(target))
    attends = torch.zeros(3, rows + 3, dtype=torch.bool)
    attends[:, 0] = True  # the current token
    attends[1:, rows] = attends[2, rows + 1] = True  # one another, in order
    attends[range(3), range(rows, rows + 3)] = True
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ids = torch.randint(VOCABULARY, (3,), generator=generator)
        found = tree_logits(prefilled(target), side=ExtraRows(ids, (1, 2, 3), attends))
        assert_close(found[:rows], alone)
        expected = logits_of(target, [*LONG, *ids.tolist()])[-3:]
        assert_close(found[rows:], expected)


def test_embeddings_give_the_logits_of_their_tokens(target: Target) -> None:
    rows = 1 + len(TREE.tokens)
    attends = torch.zeros(2, rows + 2, dtype=torch.bool)
    attends[:, [0, rows]] = attends[1, rows + 1] = True
    by_id, by_embedding = (
        tree_logits(prefilled(target), side=ExtraRows(inputs, (1, 2), attends))
        for inputs in (torch.tensor([8, 9]), prefilled(target).embed([8, 9]))
    )
    assert_close(by_embedding, by_id)


@torch.inference_mode()
def test_a_tree_grown_under_a_mask_equals_chains_under_it(target: Target) -> None:
    engine = prefilled(target)
    sampler = TokenSampler(SamplingOptions(), target.device, coupled=True)
    for mask in masks_of(target)[-3:]:
        with (
            skipping(target, mask),
            TreeBuilder(DraftState(LONG, engine, sampler)) as growth,
        ):
            levels = [growth.run([-1])]
            nodes = [growth.add(-1, token) for token in (1, 2, 3)]
            levels.append(growth.run(nodes))
            nodes = [growth.add(0, 4), growth.add(2, 5), growth.add(0, 6)]
            levels.append(growth.run(nodes))
        found = torch.cat(levels)
        for row, path in ((1, [1]), (3, [3]), (4, [1, 4]), (5, [3, 5]), (6, [1, 6])):
            with skipping(target, mask):
                alone = torch.cat([engine.step([token]) for token in [LONG[-1], *path]])
            engine.rewind(len(LONG) - 1)
            assert_close(found[[0, row]], alone[[0, -1]], (str(mask), path))


@pytest.mark.slow
def test_the_suite_sees_both_accepted_and_rejected_drafts() -> None:
    target = make_target(build("llama"), None, runtime="eager")
    rounds = [r for mask in masks_of(target) for r in speculate(target, mask, 3, LONG)]
    statistics = Statistics.of(rounds)
    assert 0 < statistics.accepted < statistics.drafted


@pytest.mark.slow
def test_two_models_in_two_threads_do_not_disturb_each_other() -> None:
    targets = [make_target(build(name), None, runtime="eager") for name in ("llama", "gpt2")]
    jobs = [(target, masks_of(target)[-1]) for target in targets]
    alone = [repeat(target, mask) for target, mask in jobs]
    start = Barrier(len(jobs))
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(repeat, target, mask, start) for target, mask in jobs]
    assert [each.result() for each in running] == alone


def repeat(target: Target, mask: SkipMask, start: Barrier | None = None) -> list[list[Round]]:
    if start is not None:
        start.wait()
    runs = (speculate(target, mask, 3, LONG) for _ in range(3))
    return [[replace(each, draft_seconds=0, verify_seconds=0) for each in run] for run in runs]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bert encoder", "BertLMHeadModel is an encoder: each token sees those after it"),
        ("t5", "T5ForConditionalGeneration is an encoder-decoder model"),
        ("reformer", r"reformer\.encoder\.layers\.0 keeps nothing of a text in transformers'"),
    ],
)
def test_models_that_cannot_be_decoded_are_refused_by_name(name: str, reason: str) -> None:
    model = build(name)
    before = forwards(model)
    with pytest.raises(ModelError, match=reason) as refusal:
        make_target(model, None, runtime="eager")
    assert refusal.value.hint
    assert "\n" not in str(refusal.value)
    assert forwards(model) == before
