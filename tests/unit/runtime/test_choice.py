"""The two most likely tokens after each row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skipopt.runtime import choice
from skipopt.runtime.choice import likeliest


@pytest.fixture(params=["topk", "searched"])
def find(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find them as on a CPU, and as on other devices."""
    if request.param == "searched":
        monkeypatch.setattr(choice, "largest_two", choice.searched_two)


def rows() -> Tensor:
    return torch.randn(5, 300, generator=torch.Generator().manual_seed(3)) * 4


@pytest.mark.usefixtures("find")
def test_tokens_probabilities_and_margins() -> None:
    logits = rows()
    found, probs = likeliest(logits), logits.softmax(-1)
    ordered = logits.sort(-1, descending=True)
    assert torch.equal(found.tokens, ordered.indices[:, 0])
    assert torch.equal(found.runners_up, ordered.indices[:, 1])
    torch.testing.assert_close(found.confidences, probs.amax(-1))
    torch.testing.assert_close(found.margins, ordered.values[:, 0] - ordered.values[:, 1])


@pytest.mark.usefixtures("find")
def test_two_equal_logits_have_no_margin() -> None:
    logits = torch.zeros(1, 9)
    logits[0, 4] = logits[0, 6] = 5.0
    found = likeliest(logits)
    assert {int(found.tokens), int(found.runners_up)} == {4, 6}
    assert float(found.margins) == 0.0


def test_a_vocabulary_of_one_token() -> None:
    found = likeliest(torch.tensor([[2.0]]))
    assert [int(found.tokens), float(found.confidences), int(found.runners_up)] == [0, 1.0, 0]
