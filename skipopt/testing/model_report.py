"""What skipopt can do with a model, by the checks of its architecture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from skipopt.errors import ModelError, SkipoptError
from skipopt.testing.architectures import CHECKS, Check, ModelCase

Outcome = Literal["works", "refused", "wrong", "error"]


@dataclass(frozen=True)
class ModelReport:
    """What skipopt can do with a model.

    Attributes:
        outcome: `works`; `refused`, with one line; `wrong`, where a check failed; `error`, where
            one ended in anything but an error of skipopt's own.
        attention, mlp: layers whose sublayer can be skipped.
        layers: decoder layers.
        trees: whether drafts may be trees.
        search: whether masks can be searched.
        steps: what runs its steps: `native`, `captured` or `eager`.
        reason: why it does not work, or why steps run as they are.
    """

    outcome: Outcome
    attention: int = 0
    mlp: int = 0
    layers: int = 0
    trees: bool = False
    search: bool = False
    steps: str = ""
    reason: str = ""


def report(model: Any, checks: Sequence[Check] = CHECKS) -> ModelReport:
    """Run checks on a model: all of them, or `QUICK_CHECKS`."""
    case = ModelCase(model)
    try:
        target = case.target()
    except ModelError as error:
        return ModelReport("refused", reason=str(error))
    except Exception as error:  # the outcome that is looked for
        return ModelReport("error", reason=f"load: {one_line(error)}")
    failures = dict(_failures(case, checks))
    if failures:
        outcome: Outcome = "error" if any(map(_unexpected, failures.values())) else "wrong"
        reason = "; ".join(f"{name}: {one_line(error)}" for name, error in failures.items())
        return ModelReport(outcome, reason=reason)
    positions = target.skippable
    not_captured = case.target("native").runtime.step_caches.unsupported_reason
    reasons = [each for each in (not_captured, case.not_searched) if each]
    if len(reasons) == 2 and reasons[0] in reasons[1]:
        del reasons[0]
    return ModelReport(
        "works",
        attention=sum(position % 2 == 0 for position in positions),
        mlp=sum(position % 2 for position in positions),
        layers=target.depth,
        trees=case.takes_trees,
        search=case.not_searched is None,
        steps=case.target("native").runtime.name,
        reason="; ".join(reasons),
    )


def _failures(case: ModelCase, checks: Sequence[Check]) -> Iterator[tuple[str, Exception]]:
    for check in checks:
        try:
            check(case)
        except Exception as error:  # every other check still runs
            yield check.__name__.removeprefix("check_").replace("_", " "), error


def _unexpected(error: Exception) -> bool:
    return not isinstance(error, AssertionError | SkipoptError)


def one_line(error: Exception) -> str:
    """The error as one line, with the kind of an unexpected one."""
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text}" if _unexpected(error) else text
