"""A draft config is read as it is written, and an invalid one is refused in one line."""

from __future__ import annotations

import pytest

from skipopt.draft_config import UNCHANGED, DraftConfig, WeightBits
from skipopt.draft_vocabulary import DraftVocabulary
from skipopt.errors import UsageError


@pytest.mark.parametrize(
    ("draft_config", "text"),
    [
        (DraftConfig(), "none"),
        (DraftConfig(weight_bits=8), "int8"),
        (DraftConfig(weight_bits=4), "int4"),
        (DraftConfig(attention_window=256), "window=256"),
        (DraftConfig(weight_bits=8, attention_window=64), "int8+window=64"),
        (DraftConfig(head_bits=8), "head=int8"),
        (DraftConfig(4, head_bits=8), "int4+head=int8"),
        (DraftConfig(4, 16, 8, (0, 29)), "int4+head=int8+int8_layers=0-29+window=16"),
        (DraftConfig(vocab_size=512), "vocab=512"),
        (DraftConfig(4, 64, 8, vocab_size=512), "int4+head=int8+vocab=512+window=64"),
        (DraftConfig(experts=0), "experts=0"),
        (DraftConfig(8, 64, experts=2), "int8+window=64+experts=2"),
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
    assert DraftConfig(experts=0)


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
        ("vocab", "unknown draft setting 'vocab'"),
        ("vocab=0", "vocab must be 1 or more, not 0"),
        ("vocab=4+int8+vocab=4", "sets vocab twice"),
        ("experts=-1", "unknown draft setting 'experts=-1'"),
        ("experts", "unknown draft setting 'experts'"),
        ("experts=1+experts=0", "sets experts twice"),
        ("int8+none", "unknown draft setting 'none'"),
        ("int4+head=8", "unknown draft setting 'head=8'"),
        ("head=int8+head=int4", "sets head twice"),
        ("int4+int8_layers=", "unknown draft setting 'int8_layers='"),
        ("int4+int8_layers=1--2", "unknown draft setting 'int8_layers=1--2'"),
        ("int8+int8_layers=1", "int8_layers needs int4"),
        ("int8_layers=1", "int8_layers needs int4"),
    ],
)
def test_invalid_text_is_refused_with_a_hint(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as refused:
        DraftConfig.parse(text)
    assert refused.value.hint is not None


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="2 bits"):
        DraftConfig(weight_bits=2)
    with pytest.raises(UsageError, match="16 bits"):
        DraftConfig(head_bits=16)
    with pytest.raises(UsageError, match="from 0 up"):
        DraftConfig(4, int8_layers=(-1,))
    with pytest.raises(UsageError, match="experts must be 0 or more, not -1"):
        DraftConfig(experts=-1)


def test_bits_of_each_weight() -> None:
    weights = DraftConfig(4, head_bits=8, int8_layers=(2, 0, 2)).weights
    assert weights is not None
    assert [weights.of_layer(i) for i in range(4)] == [8, 4, 8, 4]
    assert weights.head == 8
    assert DraftConfig(4).weights == WeightBits(4, 4)
    assert DraftConfig(head_bits=8).weights == WeightBits(None, 8)
    assert DraftConfig(attention_window=4).weights is None


@pytest.mark.parametrize(
    "text",
    [
        "int4+head=int8+int8_layers=1-3+vocab=9+window=8+experts=1",
        "head=int4",
        "int8",
        "window=8+experts=0",
    ],
)
def test_parts_taken_away_one_by_one_leave_nothing(text: str) -> None:
    config = DraftConfig.parse(text)
    parts = config.parts
    assert len(parts) == len(config.options)
    for part in parts:
        config = config.without(part)
        assert part not in config.parts
    assert config == UNCHANGED


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["quant"], "vocab=9+window=8"),
        (["head"], "int4+int8_layers=1+vocab=9+window=8"),
        (["int8_layers", "window"], "int4+head=int8+vocab=9"),
        (["vocab"], "int4+head=int8+int8_layers=1+window=8"),
        (["gamma"], "int4+head=int8+int8_layers=1+vocab=9+window=8"),
    ],
)
def test_what_options_leave_of_a_draft_config(options: list[str], left: str) -> None:
    config = DraftConfig.parse("int4+head=int8+int8_layers=1+vocab=9+window=8")
    assert str(config.replaced_by(options)) == left


def test_an_option_replaces_the_number_of_experts() -> None:
    config = DraftConfig.parse("int8+experts=1")
    assert str(config.replaced_by(["experts"])) == "int8"
    assert str(config.replaced_by(["quant"])) == "experts=1"
    assert DraftConfig.of(**config.values) == config  # type: ignore[arg-type]


def test_a_vocabulary_has_the_size_that_is_stated() -> None:
    vocabulary = DraftVocabulary.of([3, 4])
    assert DraftConfig.of(vocab=2, vocabulary=vocabulary).vocabulary == vocabulary
    assert DraftConfig.of(vocab=3, vocabulary=vocabulary).vocabulary is None
    with pytest.raises(UsageError, match="2 tokens for vocab=3"):
        DraftConfig(vocab_size=3, vocabulary=vocabulary)
