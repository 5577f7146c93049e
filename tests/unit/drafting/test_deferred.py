"""Drafts that begin once they are expected to return what preparing them costs."""

from __future__ import annotations

import pytest
from support.native import needs_native
from support.tiny import tiny_llama, tiny_target

from skipopt.decoding.api import generate_rounds
from skipopt.decoding.setup import make_decoding
from skipopt.draft_config import WeightBits
from skipopt.drafting import deferred
from skipopt.drafting.deferred import DeferredDrafter
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.masks import SkipMask
from skipopt.methods import parse_method
from skipopt.models.target import Target
from skipopt.rounds import Round, Statistics
from skipopt.runtime import break_even, draft_mode
from skipopt.runtime.break_even import Preparation
from skipopt.runtime.draft_mode import preparation_seconds, prior_speedup
from skipopt.sampling import SamplingOptions

pytestmark = needs_native

METHOD = "layer-skip:exit_layer=2:gamma=3"
PROMPT = [3, 1, 4, 1, 5]
MASK = SkipMask.empty(3)


def target_of(runtime: str = "auto") -> Target:
    return tiny_target(tiny_llama(3), runtime=runtime)


def rounds_of(target: Target, method: str | None = METHOD, length: int = 24) -> list[Round]:
    return list(generate_rounds(target, PROMPT, method=method, max_new_tokens=length))


def tokens_of(rounds: list[Round]) -> list[int]:
    return [token for each in rounds for token in each.emitted]


@pytest.fixture
def drafts_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(break_even, "MARGIN", 0.0)


def test_a_short_text_is_decoded_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(break_even, "pays_back", lambda *_: False)
    target = target_of()
    found = rounds_of(target)
    assert all(not each.drafted for each in found)
    assert target.runtime.step_caches.num_captured == 1
    assert target.runtime.break_even.tokens_put_off == Statistics.of(found).put_off_tokens == 24
    assert tokens_of(found) == tokens_of(rounds_of(target, None))


def test_drafts_begin_once_a_plain_round_was_measured(drafts_pay: None) -> None:
    target = target_of()
    plain = tokens_of(rounds_of(target, None))
    first, later = rounds_of(target), rounds_of(target)
    assert [bool(each.drafted) for each in first[:2]] == [False, True]
    assert [each.put_off for each in first[:3]] == [True, False, False]
    assert later[0].drafted
    assert tokens_of(first) == tokens_of(later) == plain


def test_cascade_copies_until_its_model_drafts_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text repeats itself, so that there is something to copy."""
    method, prompt = "cascade:exit_layer=2:gamma=3", PROMPT * 6
    monkeypatch.setattr(break_even, "pays_back", lambda *_: False)
    target = target_of()

    def decoded(method: str | None) -> list[Round]:
        return list(generate_rounds(target, prompt, method=method, max_new_tokens=30))

    plain, first = decoded(None), decoded(method)
    assert {word for each in first for word in each.sources} == {"copied"}
    assert any(each.put_off for each in first)
    assert all(each.draft_forwards == 0 for each in first)
    monkeypatch.setattr(break_even, "pays_back", lambda *_: True)
    later = decoded(method)
    assert any("drafted" in each.sources for each in later)
    assert tokens_of(first) == tokens_of(later) == tokens_of(plain)


def test_preparing_takes_longer_the_more_weights_are_copied() -> None:
    target = target_of()
    rounds_of(target, None)
    keep_all, skip_one = MASK, SkipMask.of(3, [1], [])
    int8 = WeightBits(8, 8)
    needed = [
        Preparation(keep_all),
        Preparation(skip_one, int8, 8),
        Preparation(keep_all, int8, 8),
        Preparation(keep_all, int8, 16),
        Preparation(keep_all, int8),
    ]
    seconds = [preparation_seconds(target, each, plain_seconds=1.0) for each in needed]
    assert seconds == sorted(set(seconds))


def test_what_is_small_counts_too_where_steps_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first draft, the choice of kernels, and each sublayer that is copied."""
    target = target_of()
    monkeypatch.setattr(target.runtime.step_caches, "capture_seconds", 0.0)
    int8, skipped = WeightBits(8, 8), SkipMask.of(3, [0, 1], [0, 1])
    needed = [Preparation(MASK), Preparation(skipped, int8), Preparation(MASK, int8)]
    seconds = [preparation_seconds(target, each, plain_seconds=0.0) for each in needed]
    assert 0 < seconds[0] < seconds[1] < seconds[2]


def test_a_draft_that_skips_nothing_needs_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the plain step with other weights; that of a mask or a vocabulary is not."""
    target = target_of()
    monkeypatch.setattr(target.runtime.step_caches, "num_captured", 2)
    monkeypatch.setattr(target.runtime.step_caches, "capture_seconds", 2.0)
    needed = [Preparation(MASK), Preparation(SkipMask.of(3, [1], [])), Preparation(MASK, None, 8)]
    same, masked, smaller = (
        preparation_seconds(target, each, plain_seconds=0.0) for each in needed
    )
    assert same < 0.2
    assert masked == smaller > 1


def test_more_is_expected_of_quantized_drafts_where_weights_are_read_from_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = target_of()
    mask, int8 = Preparation(SkipMask.of(3, [1], [])), Preparation(MASK, WeightBits(8, 8))
    assert prior_speedup(target, mask) == prior_speedup(target, int8) > 1
    monkeypatch.setattr(draft_mode, "BYTES_IN_CACHES", 0)
    assert 1 < prior_speedup(target, mask) < prior_speedup(target, int8)


@pytest.mark.parametrize(
    ("plain_seconds", "capture_seconds", "bytes_in_caches", "tokens", "expected"),
    [
        # The built-in model: 4.1 ms a token, 0.38 s to prepare (results/first-text-avx2.md).
        (0.0041, 0.17, 10**9, 160, False),
        (0.0041, 0.17, 10**9, 1000, True),
        # SmolLM2-135M: 40 ms and 0.7 s, here with fewer sublayers.
        (0.040, 0.50, 0, 160, True),
    ],
)
def test_drafts_begin_where_their_real_cost_was_returned(
    monkeypatch: pytest.MonkeyPatch,
    plain_seconds: float,
    capture_seconds: float,
    bytes_in_caches: int,
    tokens: int,
    expected: bool,
) -> None:
    target = target_of()
    pool, held = target.runtime.step_caches, target.runtime.break_even
    monkeypatch.setattr(pool, "num_captured", 1)
    monkeypatch.setattr(pool, "capture_seconds", capture_seconds)
    monkeypatch.setattr(draft_mode, "BYTES_IN_CACHES", bytes_in_caches)
    held.observe_plain(1, plain_seconds)
    needed = Preparation(MASK, WeightBits(8, 8))
    cost = preparation_seconds(target, needed, plain_seconds)
    assert held.pays(prior_speedup(target, needed), cost, tokens, 0) is expected


def test_a_changed_model_is_prepared_anew(drafts_pay: None) -> None:
    target = target_of()
    rounds_of(target)
    target.model.lm_head.weight.data.mul_(2)
    assert not rounds_of(target)[0].drafted


def test_the_texts_of_a_process_add_up() -> None:
    target = target_of()
    held = target.runtime.break_even
    rounds_of(target)
    held.tokens_put_off = 10**9
    assert rounds_of(target)[0].drafted


def test_drafts_do_not_begin_late_in_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its rest does not return the cost, they wait for the next text."""
    monkeypatch.setattr(break_even, "MARGIN", 1e18)
    monkeypatch.setattr(deferred, "preparation_seconds", lambda *_: 1e-9)
    target = target_of()
    first, second = rounds_of(target), rounds_of(target)
    assert all(each.put_off for each in first)
    assert second[0].drafted


def test_measurements_draft_at_once() -> None:
    target = target_of()
    with target.runtime.capture_immediately():
        assert rounds_of(target)[0].drafted


@pytest.mark.parametrize("runtime", ["native", "eager"])
def test_other_runtimes_draft_at_once(runtime: str) -> None:
    assert rounds_of(target_of(runtime))[0].drafted


@pytest.mark.parametrize(
    ("method", "temperature", "kind"),
    [
        (METHOD, 0.0, DeferredDrafter),
        (f"{METHOD}:verify=match", 0.8, DeferredDrafter),
        # The text of a seed would depend on the round in which drafts begin.
        (METHOD, 0.8, LayerSkipDrafter),
        (f"{METHOD}:verify=relaxed-top", 0.0, LayerSkipDrafter),
    ],
)
def test_only_drafts_that_change_no_token_are_put_off(
    method: str, temperature: float, kind: type
) -> None:
    options = SamplingOptions(temperature)
    setup = make_decoding(target_of(), parse_method(method), None, options)
    assert isinstance(setup.drafter, kind)
