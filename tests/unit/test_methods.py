"""Options of a method have the types of its constructor's annotations."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from skipopt.errors import UsageError
from skipopt.methods import option_parameters, parse_method, read_options


class Made:
    def __init__(
        self,
        target: object,
        depth: int = 3,
        share: float | None = None,
        on: bool = True,
        sizes: tuple[int, ...] = (1, 2),
        quant: Literal["int8", "int4"] | None = None,
        name: str = "x",
    ) -> None: ...


def read(**options: str) -> dict[str, Any]:
    return read_options("made", options, Made, ["target"])


def test_values_have_the_types_of_the_annotations() -> None:
    texts = {"depth": "5", "share": "0.5", "on": "no", "sizes": "3-2-1", "quant": "int8"}
    values = {"depth": 5, "share": 0.5, "on": False, "sizes": (3, 2, 1), "quant": "int8"}
    assert read(**texts) == values
    assert read() == {}


def test_none_is_none_only_where_that_is_allowed() -> None:
    assert read(share="none", quant="none", name="none") == {
        "share": None,
        "quant": None,
        "name": "none",
    }


@pytest.mark.parametrize(
    ("key", "text", "expected", "default"),
    [
        ("depth", "many", "depth is 'many', expected a whole number", "3"),
        ("depth", "2.5", "depth is '2.5', expected a whole number", "3"),
        ("depth", "none", "depth is 'none', expected a whole number", "3"),
        ("share", "half", "share is 'half', expected a number or none", "none"),
        ("on", "maybe", "on is 'maybe', expected yes or no", "yes"),
        ("sizes", "3-x", "sizes is '3-x', expected numbers like 3-2-1", "1-2"),
        ("quant", "int3", "quant is 'int3', expected int8 or int4 or none", "none"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    key: str, text: str, expected: str, default: str
) -> None:
    with pytest.raises(UsageError, match=f"^made: {expected}$") as refused:
        read(**{key: text})
    assert refused.value.hint == f"its default: {key}={default}"


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"^made has no option 'target'$") as refused:
        read(target="x")
    assert refused.value.hint == (
        "its options: depth=3, share=none, on=yes, sizes=1-2, quant=none, name=x"
    )
    assert "target" not in option_parameters(Made, ["target"])


def test_a_method_is_written_as_it_is_read() -> None:
    text = "layer-skip:gamma=4:tau=0.3:quant=int8:window=256"
    assert str(parse_method(text)) == text
    with pytest.raises(UsageError, match="unknown method 'leyer-skip'"):
        parse_method("leyer-skip")
    with pytest.raises(UsageError, match="'gamma' in 'layer-skip:gamma' is not an option"):
        parse_method("layer-skip:gamma")


def test_an_option_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="has the option 'gamma' twice"):
        parse_method("layer-skip:gamma=3:tau=0.5:gamma=4")
