"""torch's threads around operations over a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skipopt.drafting.best_first import TreeBudget
from skipopt.drafting.without_replacement import best, condition, level_scores
from skipopt.one_thread import one_thread
from skipopt.sampling import SamplingOptions, TokenSampler, confidence, largest


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_threads_are_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), one_thread():
        print(1 / (torch.get_num_threads() - 1))
    assert torch.get_num_threads() == 3


class Threads(TorchDispatchMode):
    """The numbers of threads of all torch operations on a whole vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        tensors = () if func.is_view else (*args, out)
        if any(isinstance(each, torch.Tensor) and each.numel() >= VOCABULARY for each in tensors):
            self.seen.add(torch.get_num_threads())
        return out


def coupled(temperature: float) -> TokenSampler:
    return TokenSampler(SamplingOptions(temperature, 4, 0.9), torch.device("cpu"), coupled=True)


def drawing() -> TokenSampler:
    return TokenSampler(SamplingOptions(0.7, 4, 0.9), torch.device("cpu"), coupled=False)


VOCABULARY = 20
LOGITS = torch.linspace(-3, 3, 2 * VOCABULARY).reshape(2, VOCABULARY)
LARGEST = LOGITS.amax(-1)
HALF = LOGITS.bfloat16()


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda: largest(HALF), id="largest"),
        pytest.param(lambda: confidence(LOGITS), id="confidence"),
        pytest.param(lambda: coupled(0.7).choose(LOGITS, [3, 4]), id="choose"),
        pytest.param(lambda: coupled(0.7).draft(LOGITS[0], 3), id="coupled draft"),
        pytest.param(lambda: drawing().draft(LOGITS[0], 3), id="drawn draft"),
        pytest.param(lambda: drawing().gumbel((2, 20)), id="gumbel"),
        pytest.param(lambda: level_scores(LOGITS, drawing(), 3), id="level scores"),
        pytest.param(lambda: condition(LOGITS, LARGEST), id="condition"),
        pytest.param(lambda: best(LOGITS[0], 3), id="best"),
        pytest.param(lambda: TreeBudget(4, 0.0).grow(LOGITS), id="best first"),
    ],
)
def test_operations_over_the_vocabulary_use_one_thread(operation: Callable[[], object]) -> None:
    with Threads() as threads:
        operation()
    assert threads.seen == {1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_first_of_equal_largest_values_is_taken(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1.0, 2.5, 2.5], [-float("inf"), -1.0, -1.0]], dtype=dtype)
    assert largest(scores) == [1, 1]
