"""torch's threads around operations over a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.tiny import tiny_llama, tiny_target
from torch.utils._python_dispatch import TorchDispatchMode

import skipopt
from skipopt.drafting.best_first import TreeBudget
from skipopt.drafting.round_guesses import point_mass
from skipopt.drafting.without_replacement import best, condition, level_scores
from skipopt.models.target import Target
from skipopt.one_thread import one_thread
from skipopt.runtime.engine import Engine
from skipopt.sampling import SamplingOptions, TokenSampler, confidence, has_numbers, largest


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
    """The numbers of threads of all torch operations on tensors of some size.

    Args:
        numbers: smaller tensors are left out.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self.where: set[str] = set()
        self._numbers = numbers
        self._inside = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        tensors = [each for each in (*args, out) if isinstance(each, torch.Tensor)]
        large = any(each.numel() >= self._numbers for each in tensors)
        if large and self._inside and not func.is_view:
            self.seen.add(torch.get_num_threads())
            if torch.get_num_threads() > 1:
                self.where.add(str(func))
        return out

    def leave_out(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose operations do not count."""

        def outside(*args: Any, **kwargs: Any) -> Any:
            self._inside = False
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = True

        return outside


def coupled(temperature: float) -> TokenSampler:
    return TokenSampler(SamplingOptions(temperature, 4, 0.9), torch.device("cpu"), coupled=True)


def drawing() -> TokenSampler:
    return TokenSampler(SamplingOptions(0.7, 4, 0.9), torch.device("cpu"), coupled=False)


VOCABULARY = 20
LOGITS = torch.linspace(-3, 3, 2 * VOCABULARY).reshape(2, VOCABULARY)
LARGEST = LOGITS.amax(-1)
HALF = LOGITS.bfloat16()
CHANCES = LOGITS[0].softmax(-1)


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
        pytest.param(lambda: point_mass(3, LOGITS[0]), id="point mass"),
        pytest.param(lambda: has_numbers(LOGITS[0]), id="has numbers"),
        pytest.param(lambda: drawing().draw(CHANCES), id="draw"),
    ],
)
def test_operations_over_the_vocabulary_use_one_thread(operation: Callable[[], object]) -> None:
    with Threads(VOCABULARY) as threads:
        operation()
    assert threads.seen == {1}


@pytest.fixture(scope="module")
def large_vocabulary() -> Target:
    """So large that torch uses all threads for an operation on the logits of one row."""
    return tiny_target(tiny_llama(vocabulary=40_000))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(
    "method",
    [
        "plain",
        "suffix",
        "jacobi",
        "lookahead",
        "swift",
        "layer-skip",
        "layer-skip:verify=match:tau=0.5",
        "cascade:recycle=yes",
        "cascade:verify=rejection",
        "rsd-c",
        "rsd-s",
    ],
)
def test_between_forwards_nothing_wakes_the_other_threads(
    method: str, temperature: float, large_vocabulary: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = skipopt.Profile.by_hand(large_vocabulary, attention=[1], mlp=[2], gamma=3)
    threads = Threads(32_768)
    monkeypatch.setattr(Engine, "forward", threads.leave_out(Engine.forward))
    with large_vocabulary.runtime.break_even.drafting_at_once(), threads:
        tokens = skipopt.generate(
            large_vocabulary,
            [5, 6, 7, 5, 6, 7, 5, 6],
            profile=profile,
            method=method,
            max_new_tokens=12,
            temperature=temperature,
        )
        assert len(list(tokens)) == 12
    assert threads.seen == {1}, threads.where


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_first_of_equal_largest_values_is_taken(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1.0, 2.5, 2.5], [-float("inf"), -1.0, -1.0]], dtype=dtype)
    assert largest(scores) == [1, 1]
