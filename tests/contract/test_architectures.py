"""What every architecture keeps to: found, skipped, left as it was, and decoded without loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from random import Random
from threading import Barrier
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from support.architectures import SKIPPABLE, VOCABULARY, WINDOW, build
from torch import Tensor, nn
from transformers import DynamicCache

from skipopt.decoding.api import generate_rounds
from skipopt.decoding.loop import run_target
from skipopt.drafting.base import DraftState
from skipopt.drafting.tree import DraftTree, ExtraRows
from skipopt.drafting.tree_builder import TreeBuilder
from skipopt.errors import MaskError, ModelError
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round, Statistics
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.sampling import SamplingOptions, TokenSampler

CLOSE = 1e-4
NEW_TOKENS = 40
SHORT = [5, 61, 17, 33]
LONG = [(7 * i * i + 3) % VOCABULARY for i in range(WINDOW + 5)]
GAMMAS = (1, 3, 8)


@pytest.fixture(scope="module", params=SKIPPABLE)
def target(request: pytest.FixtureRequest) -> Target:
    return make_target(build(request.param), None, runtime="eager")


@torch.inference_mode()
def logits_of(target: Target, tokens: Sequence[int] = LONG) -> Tensor:
    """Without any cache.  # (n, V)"""
    output = target.model(input_ids=torch.tensor([tokens]), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


def thinned(target: Target, mask: SkipMask) -> Tensor:
    with skipping(target, mask):
        return logits_of(target)


def masks_of(target: Target) -> list[SkipMask]:
    """Light ones; without the layer that cache lengths are read from; without any; two tosses."""
    depth, rng = target.depth, Random(target.architecture)
    tosses = [[rng.randint(0, 1) for _ in range(2 * depth)] for _ in range(2)]
    return [
        SkipMask.of(depth, mlp=[1]),
        SkipMask.of(depth, attention=[0]),
        SkipMask.of(depth, attention=range(depth)),
        SkipMask.of(depth, attention=[1], mlp=[1]),
        *map(SkipMask.from_bits, tosses),
    ]


# --- finding and skipping


def test_every_layer_is_found_in_order(target: Target) -> None:
    assert target.depth == target.model.config.num_hidden_layers
    assert [layer.index for layer in target.layers] == list(range(target.depth))


def test_every_sublayer_matters(target: Target) -> None:
    whole = logits_of(target)
    for position in range(2 * target.depth):
        changed = thinned(target, SkipMask(target.depth, frozenset({position})))
        assert float((changed - whole).abs().max()) > 0.01, position


def test_the_empty_mask_changes_nothing(target: Target) -> None:
    assert torch.equal(thinned(target, SkipMask.empty(target.depth)), logits_of(target))


def test_only_embedding_norm_and_head_are_left_when_all_is_skipped(target: Target) -> None:
    everything = SkipMask(target.depth, frozenset(range(2 * target.depth)))
    skipped = thinned(target, everything)
    remove_layers(bare := copy.deepcopy(target))
    assert torch.equal(skipped, logits_of(bare))


def remove_layers(target: Target) -> None:
    first = target.layers[0].block.module
    for module in target.model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and first in list(child):
                setattr(module, name, nn.ModuleList())


def test_a_layer_skipped_whole_equals_its_halves_skipped_one_by_one(target: Target) -> None:
    depth = target.depth
    with skipping(target, SkipMask.of(depth, attention=[1])):
        halves = thinned(target, SkipMask.of(depth, mlp=[1]))
    assert torch.equal(halves, thinned(target, SkipMask.of(depth, attention=[1], mlp=[1])))


def test_a_mask_of_another_depth_is_refused(target: Target) -> None:
    with pytest.raises(MaskError, match=f"has {target.depth}"):
        skipping(target, SkipMask.empty(target.depth + 1))


# --- leaving no trace


def test_every_forward_is_as_before_after_skipping(target: Target) -> None:
    assert_no_trace(target)


def test_with_hooks_and_forwards_put_there_after_loading(target: Target) -> None:
    hooked = copied(target)
    hook(hooked)
    assert_no_trace(hooked)


def test_with_hooks_and_forwards_put_there_before_loading(target: Target) -> None:
    hooked = copied(target)
    hook(hooked)
    again = make_target(hooked.model, None, runtime="eager")
    assert torch.equal(logits_of(again), logits_of(target))
    assert_no_trace(again)


def test_masks_within_masks_leave_no_trace_either(target: Target) -> None:
    before = forwards(target.model)
    outer, inner = (skipping(target, mask) for mask in masks_of(target)[-2:])
    for _ in range(2):
        with outer:
            between = forwards(target.model)
            with inner:
                pass
            assert forwards(target.model) == between
        assert forwards(target.model) == before


def copied(target: Target) -> Target:
    return make_target(copy.deepcopy(target.model), None, runtime="eager")


def hook(target: Target) -> None:
    """Hooks of accelerate on layers and attentions, a forward of somebody else's on MLPs."""
    for layer in target.layers:
        add_hook_to_module(layer.block.module, ModelHook())
        for branch in layer.attention:
            add_hook_to_module(branch.module, ModelHook())
        for branch in layer.mlp:
            branch.module.forward = partial(type(branch.module).forward, branch.module)


def forwards(model: nn.Module) -> dict[str, Any]:
    """The `forward` of each module's own `__dict__`, where there is one."""
    own = {name: vars(module) for name, module in model.named_modules()}
    return {name: space["forward"] for name, space in own.items() if "forward" in space}


def assert_no_trace(target: Target) -> None:
    before, expected = forwards(target.model), logits_of(target)
    for mask in masks_of(target):
        changed = thinned(target, mask)
        assert not torch.equal(changed, expected), "the mask was not applied"
        with pytest.raises(ValueError, match="on purpose"), skipping(target, mask):
            raise ValueError("on purpose")
        assert forwards(target.model) == before
    assert torch.equal(logits_of(target), expected)


# --- decoding without loss


@pytest.fixture(scope="module")
def expected(target: Target) -> dict[int, list[int]]:
    """What transformers' own greedy decoding says, by the length of the prompt."""
    return {len(prompt): greedy(target, prompt) for prompt in (SHORT, LONG)}


def greedy(target: Target, prompt: list[int]) -> list[int]:
    output = target.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def emitted(rounds: Sequence[Round]) -> list[int]:
    return [token for each in rounds for token in each.emitted]


def speculate(target: Target, mask: SkipMask, gamma: int, prompt: list[int]) -> list[Round]:
    profile = Profile.by_hand(target, attention=mask.attention, mlp=mask.mlp, gamma=gamma)
    return list(generate_rounds(target, prompt, profile=profile, max_new_tokens=NEW_TOKENS))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_greedy_drafting_gives_the_tokens_of_generate(
    target: Target, expected: dict[int, list[int]], gamma: int
) -> None:
    shift = GAMMAS.index(gamma)
    for i, mask in enumerate(masks_of(target)):
        if i % 3 == shift:
            continue  # two of the three γ a mask are enough, and save a third of the time
        prompt = (SHORT, LONG)[(i + shift) % 2]
        rounds = speculate(target, mask, gamma, prompt)
        assert emitted(rounds) == expected[len(prompt)], f"{mask}, gamma {gamma}"


@pytest.mark.parametrize("method", ["plain", "prompt-lookup"])
def test_methods_without_a_mask_give_the_tokens_of_generate(
    target: Target, expected: dict[int, list[int]], method: str
) -> None:
    for prompt in (SHORT, LONG):
        rounds = list(generate_rounds(target, prompt, method=method, max_new_tokens=NEW_TOKENS))
        assert emitted(rounds) == expected[len(prompt)]


@torch.inference_mode()
def test_drafting_sees_the_whole_models_keys_and_values(target: Target) -> None:
    """Three draft steps on the shared cache, against transformers' own cache."""
    engine = Engine(target, len(LONG) + 3)
    engine.prefill(LONG[:-1])
    whole = DynamicCache()
    target.model(input_ids=torch.tensor([LONG[:-1]]), past_key_values=whole, use_cache=True)
    for mask in masks_of(target):
        cache = copy.deepcopy(whole)
        with skipping(target, mask):
            for position, token in enumerate([LONG[-1], 7, 50], start=len(LONG) - 1):
                ours = engine.step([token])[0]
                theirs = step_of_transformers(target, cache, token, position)
                assert torch.allclose(ours, theirs, atol=CLOSE, rtol=0), f"{mask} at {position}"
        engine.rewind(len(LONG) - 1)


def step_of_transformers(target: Target, cache: DynamicCache, token: int, position: int) -> Tensor:
    """One token; layers that were skipped get a row that nothing reads, so that lengths agree."""
    output = target.model(
        input_ids=torch.tensor([[token]]),
        position_ids=torch.tensor([[position]]),
        past_key_values=cache,
        use_cache=True,
    )
    layers: Any = cache.layers
    for layer in layers:
        if layer.get_seq_length() == position:
            layer.update(*(torch.zeros_like(t[:, :, :1]) for t in (layer.keys, layer.values)))
    logits: Tensor = output.logits[0, -1]
    return logits


def test_nothing_of_a_rejected_draft_is_left(target: Target) -> None:
    engine = Engine(target, 2 * len(LONG))
    engine.prefill(LONG[:WINDOW])
    for mask in masks_of(target):
        with skipping(target, mask):
            for token in (1, 2, 3):
                engine.step([token])
        engine.rewind(WINDOW)
        engine.step([90, 91, 92])
        engine.rewind(WINDOW)
        after = engine.step(LONG[WINDOW:])
        engine.rewind(WINDOW)
        assert torch.allclose(after, logits_of(target)[WINDOW:], atol=CLOSE, rtol=0)


# --- trees

#   -1 ┬ 0 ┬ 2 ─ 5 ─ 6 ─ … ─ 14: longer than the window
#      │   └ 3 ─ 15
#      └ 1 ─ 4
TREE = DraftTree(
    (1, 2, 3, 4, 5, *range(6, 16), 90),
    (-1, -1, 0, 0, 1, 2, *range(5, 14), 3),
)
LINES = ((), (1,), (0, 3, 15), (0, 2, 5, 6), (0, 2, *range(5, 15)))


def tree_logits(engine: Engine, tree: DraftTree = TREE, side: ExtraRows | None = None) -> Tensor:
    """Of a round after LONG, whose last token is the current one."""
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


def test_each_row_of_a_tree_sees_its_own_path_alone(target: Target) -> None:
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
def test_after_any_path_is_kept_the_text_goes_on_as_if_it_had_been_read(
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


def test_side_rows_are_seen_by_no_draft_and_see_what_they_are_told(target: Target) -> None:
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


def test_embeddings_go_in_as_tokens_do(target: Target) -> None:
    rows = 1 + len(TREE.tokens)
    attends = torch.zeros(2, rows + 2, dtype=torch.bool)
    attends[:, [0, rows]] = attends[1, rows + 1] = True
    by_id, by_embedding = (
        tree_logits(prefilled(target), side=ExtraRows(inputs, (1, 2), attends))
        for inputs in (torch.tensor([8, 9]), prefilled(target).embed([8, 9]))
    )
    assert_close(by_embedding, by_id)


@torch.inference_mode()
def test_a_tree_grown_under_a_mask_drafts_as_chains_would(target: Target) -> None:
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


# --- what the contract's figures rest on


def test_the_suite_sees_both_accepted_and_rejected_drafts() -> None:
    target = make_target(build("llama"), None, runtime="eager")
    rounds = [r for mask in masks_of(target) for r in speculate(target, mask, 3, LONG)]
    statistics = Statistics.of(rounds)
    assert 0 < statistics.accepted < statistics.drafted


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


# --- refusals


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("opt post-norm", r"model\.decoder\.layers\.0 \(OPTDecoderLayer\)"),
        ("bloom", r"transformer\.h\.0 \(BloomBlock\)"),
        ("mpt", r"transformer\.blocks\.0 \(MptBlock\)"),
        ("bert", r"bert\.encoder\.layer\.0 \(BertLayer\)"),
        ("kimi_linear", r"model\.layers\.0 remembers conv_states, recurrent_states of a text"),
        ("gemma4", r"model\.layers\.0 \(Gemma4TextDecoderLayer\)"),
        ("gemma4 sharing", "shares keys and values between layers"),
        ("mamba", "recurrent state, which cannot be rewound"),
        ("jamba", "recurrent state, which cannot be rewound"),
        ("rwkv", r"rwkv\.blocks\.0 \(RwkvBlock\)"),
        ("deepseek_v32", r"model\.layers\.0 remembers indexer_keys, keys, values of a text"),
        ("t5", "not a decoder-only language model"),
    ],
)
def test_what_cannot_be_skipped_in_is_refused_by_name(name: str, reason: str) -> None:
    model = build(name)
    before = forwards(model)
    with pytest.raises(ModelError, match=reason) as refusal:
        make_target(model, None, runtime="eager")
    assert refusal.value.hint
    assert "\n" not in str(refusal.value)
    assert forwards(model) == before
