"""`run --compare`: paired speedup, and the first token that differs."""

from __future__ import annotations

import json

import pytest
from support.timing_fakes import FakeClock, FakeRunner, tiny_prompts, tiny_target

from skipopt.cli.run import is_lossless
from skipopt.decoding.options import DecodingOptions
from skipopt.errors import UsageError
from skipopt.measurement import lossless
from skipopt.measurement.compare import Comparison, compare, compare_runners, first_difference
from skipopt.profile import Profile
from skipopt.sampling import SamplingOptions


def compare_fakes(plain_text: list[int], text: list[int], greedy: bool = True) -> Comparison:
    clock, calls = FakeClock(), list[tuple[str, int]]()
    plain = FakeRunner("plain", clock, lambda run: 0.1, calls, lambda prompt: plain_text)
    method = FakeRunner("fast", clock, lambda run: [0.05, 0.04][run], calls, lambda prompt: text)
    options = SamplingOptions(temperature=0.0 if greedy else 1.0)
    found = compare_runners(tiny_target(), plain, method, [7], 10, clock, options)
    order = ["plain warms up", "plain anew", "fast anew"]
    order += ["plain warms up", "fast warms up", "plain", "fast", "fast", "plain"]
    assert calls == [(name, 7) for name in order]
    return found


def test_speedup_is_the_geometric_mean_of_both_pairs() -> None:
    found = compare_fakes([1, 2, 3], [1, 2, 3])
    assert found.pair_ratios == pytest.approx((2.0, 2.5))
    assert found.speedup == pytest.approx(5**0.5)
    assert found.differs_at is None
    assert found.end_to_end.whole.median == pytest.approx((0.8 / 0.65 * 0.8 / 0.62) ** 0.5)
    assert found.first_text is not None
    assert found.first_text.whole.median == pytest.approx(0.8 / 0.65)
    assert found.plain.tokens_per_second == pytest.approx(10)
    assert json.loads(json.dumps(found.to_json())).keys() == {
        "speedup",
        "pair_ratios",
        "end_to_end",
        "end_to_end_at",
        "first_text",
        "first_text_at",
        "lossless",
        "plain_tokens_per_second",
        "differs_at",
    }


def test_a_different_token_is_found_where_tokens_must_be_the_same() -> None:
    assert compare_fakes([1, 2, 3], [1, 9, 3]).differs_at == 1
    assert compare_fakes([1, 2, 3], [1, 9, 3], greedy=False).differs_at is None


def test_a_difference_is_judged_by_the_margin_below_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for margin, verdict in ((1e9, "within-margin"), (0.0, "failed")):
        monkeypatch.setattr(lossless, "measured_margin", lambda *_, m=margin: m)
        found = compare_fakes([1, 2, 3], [1, 9, 3])
        assert found.lossless is not None
        assert (found.lossless.verdict, found.lossless.margin) == (verdict, margin)
        assert is_lossless(found, "bfloat16") == (verdict == "within-margin")
        assert not is_lossless(found, "float32")
    assert is_lossless(compare_fakes([1, 2, 3], [1, 2, 3]), "float32")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1], [1, 2], 1), ([], [], None), ([], [1], 0)],
)
def test_first_difference(one: list[int], other: list[int], expected: int | None) -> None:
    assert first_difference(one, other) == expected


@pytest.mark.slow
def test_a_profile_is_compared_with_plain_decoding() -> None:
    target = tiny_target()
    profile = Profile.by_hand(target, attention=[1], mlp=[2], gamma=3, tau=0.1)
    found = compare(target, tiny_prompts(1)[0], profile=profile, max_new_tokens=24)
    assert found.differs_at is None
    assert len(found.plain.tokens) == len(found.method.tokens) == 24
    assert found.method.statistics is not None
    assert found.method.statistics.drafted > 0
    assert found.speedup > 0


def test_sampled_texts_need_not_be_the_same() -> None:
    warm = DecodingOptions(temperature=1.0, seed=1, max_new_tokens=8)
    found = compare(tiny_target(), tiny_prompts(1)[0], warm, method="prompt-lookup")
    assert found.differs_at is None


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown method 'magic'"):
        compare(tiny_target(), [1, 2], method="magic")
