"""A draft config is read as it is written, and an invalid one is refused in one line."""

from __future__ import annotations

import pytest

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import UsageError


@pytest.mark.parametrize(
    ("draft_config", "text"),
    [
        (DraftConfig(), "none"),
        (DraftConfig(weight_bits=8), "int8"),
        (DraftConfig(weight_bits=4), "int4"),
        (DraftConfig(attention_window=256), "window=256"),
        (DraftConfig(weight_bits=8, attention_window=64), "int8+window=64"),
    ],
)
def test_draft_configs_are_read_as_they_are_written(draft_config: DraftConfig, text: str) -> None:
    assert str(draft_config) == text
    assert DraftConfig.parse(text) == draft_config


def test_order_does_not_matter() -> None:
    assert DraftConfig.parse("window=64+int8") == DraftConfig.parse("int8+window=64")


def test_only_an_unchanged_draft_config_is_false() -> None:
    assert not UNCHANGED
    assert DraftConfig(weight_bits=8)
    assert DraftConfig(attention_window=1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("int2", "unknown draft setting 'int2'"),
        ("", "unknown draft setting ''"),
        ("window", "unknown draft setting 'window'"),
        ("window=", "unknown draft setting 'window='"),
        ("window=-3", "unknown draft setting 'window=-3'"),
        ("window=0", "window must be 1 or more, not 0"),
        ("int8+int4", "sets quant twice"),
        ("window=4+window=5", "sets window twice"),
        ("int8+none", "unknown draft setting 'none'"),
    ],
)
def test_invalid_text_is_refused_with_a_hint(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as refused:
        DraftConfig.parse(text)
    assert refused.value.hint is not None


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="2 bits"):
        DraftConfig(weight_bits=2)
