"""Operations on the native kernels give torch's results, for any number of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from support.native import needs_native, recorded
from torch import Tensor
from torch.nn import functional as F

from skipopt.runtime.tracing import CannotCaptureError

pytestmark = needs_native

WIDTH = 24  # no multiple of sixteen
TABLE = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.randn(36, WIDTH, generator=torch.Generator().manual_seed(2))
COLUMNS = WEIGHT.t().contiguous()
NARROW = WEIGHT[:, 8:].contiguous()
BIAS = torch.randn(36, generator=torch.Generator().manual_seed(3))
EVEN = torch.arange(0, 2 * WIDTH, 2)
KEYS = torch.randn(1, 2, 10, 8, generator=torch.Generator().manual_seed(4))

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: (x + 2) * (3 - x) / (x.abs() + 1) - x * 0.5 + torch.add(x, x, alpha=2),
    "functions": lambda x: x.sigmoid() + x.tanh() + F.silu(x) + F.relu(x) + x.exp().log().neg(),
    "small and large": lambda x: (x * 1e-4).tanh() + (x * 40).sigmoid() + (x * 30).exp().sqrt(),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "angles": lambda x: (100 * x).cos() + (100 * x).sin(),
    "powers": lambda x: x.pow(2) + (x.abs() + 1).pow(0.5) + (x.abs() + 1).rsqrt() + 2**x,
    "reciprocal": lambda x: (x.abs() + 1).reciprocal(),
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0) + torch.maximum(x, -x),
    "where": lambda x: torch.where(x > 0, x, 2.0) + x.masked_fill(x < 0.5, -3.0),
    "comparisons": lambda x: ((x >= 0) & ~(x == 0.25) | (x < -1)).float(),
    "layer norm": lambda x: F.layer_norm(x, (WIDTH,), TABLE[0], TABLE[1], 1e-5),
    "rms norm": lambda x: F.rms_norm(x, (WIDTH,), TABLE[0]) + F.rms_norm(x, (WIDTH,), eps=0.1),
    "means": lambda x: x.mean(-1, keepdim=True) + x.sum(1, keepdim=True) + x.amax(-1)[:, None],
    "mean of a view": lambda x: x.view(-1, 2, 3, 4).mean((1, 3)),
    "softmax": lambda x: x.softmax(-1),
    "logsumexp": lambda x: (5 * x).logsumexp(-1),
    "linear": lambda x: F.linear(x, WEIGHT, BIAS) + F.linear(x, WEIGHT),
    "linear of columns": lambda x: F.linear(x[:, 8:], NARROW),
    "product with a matrix": lambda x: x @ WEIGHT.T + torch.matmul(x, COLUMNS),
    "heads": lambda x: x.view(1, -1, 3, 8).transpose(1, 2).transpose(1, 2).reshape(-1, WIDTH),
    "rotation": lambda x: torch.cat((-x[..., 12:], x[..., :12]), -1),
    "split": lambda x: torch.cat([part * i for i, part in enumerate(x.split([4, 12, 8], -1))], 1),
    "chunk and stack": lambda x: torch.stack(x.chunk(3, -1), 1).flatten(1),
    "unbind": lambda x: sum(x.view(-1, 3, 8).unbind(1), torch.zeros(8)),
    "every second": lambda x: x[:, ::2] + x[:, 1::2] - x[:, -1:],
    "an embedding of the same id": lambda x: (
        x
        + F.embedding(torch.full((len(x),), 2), TABLE)
        + F.embedding(torch.zeros(1).long(), TABLE)
    ),
    "an index": lambda x: x.index_select(1, torch.tensor([3, 0, 23])) + x[:, [-1, -2, 5]],
    "copies to columns": lambda x: (
        torch.cat((x, x), 1).index_copy(1, torch.tensor([47, 3, 30]), x[:, 5:8])
        + x.new_full((len(x), 48), 2.0).index_copy(1, EVEN, x)
    ),
    "expanded": lambda x: x[:, None].expand(-1, 3, -1).reshape(-1, 3 * WIDTH),
    "in place": lambda x: x.clone().mul_(2).add_(1),
    "fills": lambda x: torch.zeros_like(x).masked_fill_(x > 0, 1) + torch.full_like(x, 2.0),
    "new values": lambda x: x + x.new_full((1, WIDTH), 3.0) + x.new_zeros(1) - x.new_ones(WIDTH),
    "full": lambda x: x * torch.full((WIDTH,), 3.0),
    "bfloat16": lambda x: (x.bfloat16() * 1.5 + x.bfloat16().float()).float(),
    "batched products": lambda x: (
        (x.view(1, -1, 3, 8).transpose(1, 2) @ KEYS[:, :1].transpose(-1, -2))
        .transpose(1, 2)
        .flatten(2)[0]
    ),
}


def inputs_of(rows: int) -> list[Tensor]:
    return [torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(rows))]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_torchs_results(name: str) -> None:
    operation = OPERATIONS[name]
    step = recorded(lambda x: [operation(x)], inputs_of)
    with torch.inference_mode():
        for rows in (1, 2, 7, 8, 20, 64):
            (expected,), (found,) = [operation(*inputs_of(rows))], step(*inputs_of(rows))
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
            torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


@dataclass(frozen=True)
class AttentionCase:
    """Attention of four heads over keys that are the same for some of them."""

    key_heads: int
    keys: int
    width: int
    dtype: torch.dtype = torch.float32

    def tensors(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (1, self.key_heads, self.keys, self.width)
        keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
        return keys.to(self.dtype), values.to(self.dtype)

    def call(self) -> Callable[[Tensor, Tensor], Sequence[Tensor]]:
        keys, values = self.tensors()
        shape = (1, self.key_heads, 4 // self.key_heads, self.keys, self.width)

        def attention(x: Tensor, seen: Tensor) -> Sequence[Tensor]:
            queries = x.view(1, -1, 4, self.width).transpose(1, 2)
            least = torch.finfo(x.dtype).min
            mask = torch.zeros(len(x), self.keys, dtype=x.dtype).masked_fill(~seen, least)
            k, v = (
                t[:, :, None].expand(shape).reshape(1, 4, self.keys, self.width)
                for t in (keys, values)
            )
            out = F.scaled_dot_product_attention(queries, k, v, mask[None, None], scale=0.3)
            return [out.transpose(1, 2).reshape(-1, 4 * self.width)]

        return attention

    def given(self, rows: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(rows)
        seen = torch.rand(rows, self.keys, generator=generator) > 0.4
        seen[:, 3] = True
        seen[0, self.keys // 2 :] = False
        x = torch.randn(rows, 4 * self.width, generator=generator)
        return [x.to(self.dtype), seen]


@pytest.mark.parametrize(
    "case",
    [
        *(AttentionCase(key_heads, 33, 20) for key_heads in (1, 2, 4)),
        *(AttentionCase(2, 1300, width) for width in (32, 64, 128, 256)),
        AttentionCase(2, 650, 80),
        AttentionCase(2, 150, 64, torch.bfloat16),
    ],
    ids=str,
)
def test_attention_reads_keys_that_several_heads_share(case: AttentionCase) -> None:
    attention = case.call()
    step = recorded(attention, case.given)
    rtol, atol = (1.6e-2, 4e-3) if case.dtype == torch.bfloat16 else (1.3e-6, 1e-5)
    with torch.inference_mode():
        for rows in (1, 5, 9):
            found, expected = step(*case.given(rows)), attention(*case.given(rows))
            torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("width", [20, 64])
def test_a_row_of_attention_does_not_depend_on_other_rows(width: int) -> None:
    case = AttentionCase(2, 900, width)
    step = recorded(case.call(), case.given)
    x, seen = case.given(7)
    (together,) = step(x, seen)
    for r in range(7):
        (alone,) = step(x[r : r + 1], seen[r : r + 1])
        assert torch.equal(alone[0], together[r])


def test_rows_are_copied_into_kept_tensors() -> None:
    kept = torch.zeros(1, 2, 12, 4)

    def call(x: Tensor, places: Tensor) -> Sequence[Tensor]:
        kept.index_copy_(2, places, x.view(1, -1, 2, 4).transpose(1, 2))
        return [x + kept[:, :, :6].sum()]

    step = recorded(call, lambda rows: [torch.ones(rows, 8), torch.arange(rows)])
    x = torch.randn(2, 8)
    with torch.inference_mode():
        kept.zero_()
        (found,) = step(x, torch.tensor([5, 0]))
        written = kept.clone()
        kept.zero_()
        (expected,) = call(x, torch.tensor([5, 0]))
    assert torch.equal(kept, written)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.flip(0),
        lambda x: x[:2],
        lambda x: x[0],
        lambda x: x.sum(0),
        lambda x: x.cumsum(1),
        lambda x: x.double(),
        lambda x: x.view(-1),
    ],
)
def test_what_the_kernels_cannot_do_for_any_number_of_rows_is_refused(
    call: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(CannotCaptureError):
        recorded(lambda x: [call(x)], inputs_of)


def test_the_most_likely_token_is_the_first_of_equals() -> None:
    step = recorded(lambda x: [x.argmax(-1)], inputs_of)
    rows = torch.zeros(3, WIDTH)
    rows[1, 9] = rows[1, 20] = 1.0
    rows[2] = -torch.inf
    rows[2, 23] = -5.0
    assert step(rows)[0].tolist() == [0, 9, 23]


WIDE = 3 * (1 << 13) + 5  # more than one part of a row that is searched by itself


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (0, 1), (1, 0), (WIDE - 1, 0), (0, WIDE - 1), (WIDE - 1, WIDE - 2), (8191, 8192),
        (8192, 8191), (9000, 9001), (9001, 8999), (100, 20000),
    ],
)  # fmt: skip
def test_the_two_most_likely_tokens_are_found_wherever_they_are(first: int, second: int) -> None:
    def wide(rows: int) -> list[Tensor]:
        return [torch.zeros(rows, WIDE)]

    step = recorded(lambda x: list(x.topk(2)), wide)
    rows = torch.randn(2, WIDE, generator=torch.Generator().manual_seed(1))
    rows[1, second], rows[1, first] = 20.0, 21.0
    values, places = step(rows)
    assert places[1].tolist() == [first, second]
    assert values[1].tolist() == [21.0, 20.0]
    assert torch.equal(places[0], rows[0].topk(2).indices)
    assert torch.equal(values[0], rows[0].topk(2).values)


def test_of_equals_the_second_is_another_token_of_the_same_value() -> None:
    step = recorded(lambda x: list(x.topk(2)), inputs_of)
    rows = torch.full((2, WIDTH), -torch.inf)
    rows[0, 3] = rows[0, 7] = 1.0
    rows[1, 5] = 2.0  # no other token may be chosen
    values, places = step(rows)
    assert places[0].tolist() == [3, 7]
    assert values[0].tolist() == [1.0, 1.0]
    assert places[1][0] == 5
    assert values[1].tolist() == [2.0, -torch.inf]


@pytest.mark.parametrize("k", [1, 3])
def test_other_numbers_of_largest_values_are_refused(k: int) -> None:
    with pytest.raises(CannotCaptureError, match="two largest"):
        recorded(lambda x: list(x.topk(k)), inputs_of)


@pytest.mark.parametrize("offset", [64, 640])
def test_a_row_of_attention_does_not_depend_on_where_its_keys_lie(offset: int) -> None:
    case = AttentionCase(2, 900, 32)
    step = recorded(case.call(), case.given)
    x, seen = case.given(3)
    seen[:, 200:] = False
    (first,) = step(x, seen)
    moved = Moved(case.key_heads, case.keys, case.width, shift=offset)
    elsewhere = recorded(moved.call(), moved.given)
    shifted = seen.roll(offset, 1)
    (found,) = elsewhere(x, shifted)
    assert torch.equal(found, first)
    both = torch.cat([x, x]), torch.cat([seen, shifted])
    (together,) = elsewhere(*both)
    assert torch.equal(together[3:], first)


@dataclass(frozen=True)
class Moved(AttentionCase):
    """The same keys and values, moved to the right in a circle."""

    shift: int = 0

    def tensors(self) -> tuple[Tensor, Tensor]:
        keys, values = super().tensors()
        return keys.roll(self.shift, 2), values.roll(self.shift, 2)
