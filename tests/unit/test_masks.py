"""Masks as text and as values, and spaces of masks."""

from __future__ import annotations

from math import comb
from random import Random

import pytest

from skipopt.errors import MaskError
from skipopt.masks import MaskSpace, SkipMask, sublayer_name

PRINTED = {
    "none": SkipMask.empty(8),
    "attn 3": SkipMask.of(8, attention=[3]),
    "mlp 0,7": SkipMask.of(8, mlp=[7, 0]),
    "attn 0,1 mlp 4": SkipMask.of(8, attention=[1, 0], mlp=[4]),
    "attn 3,5-7 mlp 4": SkipMask.of(8, attention=[5, 6, 7, 3], mlp=[4]),
    "attn 0-7 mlp 0-7": SkipMask(8, frozenset(range(16))),
}
UNREADABLE = [
    "", "  ", "attn", "mlp ", "3,5", "attn x", "attn 3-", "attn -3", "attn 3--5", "attn 1.5",
    "mlp 1 attn 2", "attn 1 attn 2", "attention 3", "none attn 3", "attn 3;4", "ATTN 3",
    "attn 5-3", "attn 5 - 7",
]  # fmt: skip


def random_mask(rng: Random, layers: int) -> SkipMask:
    return SkipMask.from_bits([rng.randint(0, 1) for _ in range(2 * layers)])


class TestWords:
    @pytest.mark.parametrize(("text", "mask"), PRINTED.items(), ids=PRINTED)
    def test_masks_print_as_people_write_them(self, text: str, mask: SkipMask) -> None:
        assert str(mask) == text
        assert SkipMask.parse(text, 8) == mask

    def test_every_mask_reads_back_as_itself(self) -> None:
        rng = Random(0)
        for _ in range(200):
            mask = random_mask(rng, rng.randint(1, 40))
            assert SkipMask.parse(str(mask), mask.layers) == mask

    @pytest.mark.parametrize(
        "text", ["attn 3, 5-7  mlp 4", " attn 5-7,3 mlp 4 ", "attn 3 5 6 7 mlp 4"]
    )
    def test_spaces_and_order_are_free(self, text: str) -> None:
        assert str(SkipMask.parse(text, 8)) == "attn 3,5-7 mlp 4"

    @pytest.mark.parametrize("text", UNREADABLE)
    def test_invalid_text_is_refused_with_a_hint(self, text: str) -> None:
        with pytest.raises(MaskError) as refusal:
            SkipMask.parse(text, 8)
        assert refusal.value.hint
        assert repr(text) in str(refusal.value)

    @pytest.mark.parametrize(
        ("text", "named"), [("attn 8", "attention layer 8"), ("mlp 3-9", "mlp layer")]
    )
    def test_a_layer_the_model_does_not_have_is_named(self, text: str, named: str) -> None:
        with pytest.raises(MaskError, match=f"{named}.*numbered 0 to 7"):
            SkipMask.parse(text, 8)

    def test_sublayers_have_names(self) -> None:
        assert [sublayer_name(i) for i in (0, 1, 14, 25)] == [
            "attn.00",
            "mlp.00",
            "attn.07",
            "mlp.12",
        ]


class TestValues:
    def test_attention_comes_before_the_mlp_of_its_layer(self) -> None:
        assert SkipMask.of(2, attention=[1], mlp=[0]).bits == (0, 1, 1, 0)
        assert SkipMask.from_bits((0, 1, 1, 0)) == SkipMask.of(2, attention=[1], mlp=[0])

    def test_layers_are_listed_ascending(self) -> None:
        mask = SkipMask.of(8, attention=[5, 2], mlp=[7, 0])
        assert (mask.attention, mask.mlp) == ((2, 5), (0, 7))

    def test_the_ratio_is_over_both_kinds(self) -> None:
        assert SkipMask.empty(4).ratio == 0
        assert SkipMask.of(4, attention=[0, 1]).ratio == 0.25
        assert SkipMask.of(4, range(4), range(4)).ratio == 1

    def test_equal_masks_are_one_key(self) -> None:
        assert len({SkipMask.of(4, [1, 2]), SkipMask.of(4, [2, 1]), SkipMask.of(5, [1, 2])}) == 2

    def test_distance_is_the_number_of_flips(self) -> None:
        rng = Random(1)
        for _ in range(50):
            mask, positions = random_mask(rng, 6), rng.sample(range(12), rng.randint(0, 12))
            other = mask.flip(*positions)
            assert mask.skipped ^ other.skipped == set(positions)
            assert other.flip(*positions) == mask

    @pytest.mark.parametrize("position", [-1, 8, 100])
    def test_positions_outside_are_refused(self, position: int) -> None:
        with pytest.raises(MaskError, match="out of range"):
            SkipMask(4, frozenset({position}))
        with pytest.raises(MaskError, match="out of range"):
            SkipMask.empty(4).flip(position)

    def test_bits_come_in_pairs(self) -> None:
        with pytest.raises(MaskError, match="3 bits"):
            SkipMask.from_bits([1, 0, 1])


FREE = MaskSpace(3, frozenset({0, 5}))
FIXED = MaskSpace(3, frozenset({1}), skip_count=3)
both_spaces = pytest.mark.parametrize("space", [FREE, FIXED], ids=["free", "fixed"])


class TestSpaces:
    def test_the_space_counts_its_masks(self) -> None:
        assert FREE.size() == 2**4
        assert FIXED.size() == comb(5, 3)

    @both_spaces
    def test_random_masks_are_inside_and_reach_everywhere(self, space: MaskSpace) -> None:
        rng = Random(0)
        drawn = {space.random(rng) for _ in range(500)}
        assert all(mask in space for mask in drawn)
        assert len(drawn) == space.size()

    @both_spaces
    def test_neighbors_are_all_masks_one_step_away(self, space: MaskSpace) -> None:
        mask = space.random(Random(3))
        near = list(space.neighbors(mask))
        step = 1 if space.skip_count is None else 2
        assert all(each in space and len(mask.skipped ^ each.skipped) == step for each in near)
        assert len(set(near)) == len(near) == (4 if step == 1 else 3 * 2)

    @both_spaces
    def test_every_mask_can_be_reached_by_single_steps(self, space: MaskSpace) -> None:
        reached = edge = {space.random(Random(0))}
        while edge:
            edge = {near for mask in edge for near in space.neighbors(mask)} - reached
            reached = reached | edge
        assert len(reached) == space.size()

    def test_positions_and_masks_outside_a_space_are_rejected(self) -> None:
        assert FREE.mask([0]) not in FREE
        assert SkipMask.empty(4) not in FREE
        assert FIXED.mask([0, 2]) not in FIXED

    @pytest.mark.parametrize("count", [-1, 5])
    def test_a_count_that_cannot_be_met_is_refused(self, count: int) -> None:
        with pytest.raises(MaskError, match=f"cannot skip {count} sublayers") as refusal:
            MaskSpace(3, frozenset({0, 5}), skip_count=count)
        assert refusal.value.hint
