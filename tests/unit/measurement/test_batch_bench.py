"""Methods side by side on batches: pairing, identity with texts alone, default methods."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support.timing_fakes import tiny_prompts, tiny_target

from skipopt.errors import UsageError
from skipopt.measurement.batch_bench import (
    BatchRunner,
    BatchSample,
    batch_result,
    bench_batches,
    default_batch_methods,
)
from skipopt.measurement.workload import Workload
from skipopt.profile import Profile
from skipopt.reporting.batch_tables import batch_markdown
from skipopt.rounds import Round

GOLDEN = Path(__file__).parents[2] / "golden" / "profile.yaml"


def sample(method: str, batch: int, repeat: int, seconds: float, tokens: int) -> BatchSample:
    round_ = Round((0,) * 4, 2, (0,) * 3)
    return BatchSample(
        method,
        batch,
        repeat,
        prompts=(0,),
        texts=((0,) * tokens,),
        seconds=seconds,
        prefill_seconds=0.5,
        rounds=(round_,),
        forwards=((4, seconds),),
        pauses=1,
    )


def test_a_method_is_paired_with_plain_decoding_by_batch_and_repeat() -> None:
    plain = [sample("plain", batch, repeat, 8.0, 40) for batch in (0, 1) for repeat in (0, 1)]
    own = [
        sample("suffix", batch, repeat, seconds, 20)
        for batch, repeat, seconds in [(0, 0, 2.0), (0, 1, 2.0), (1, 0, 1.0), (1, 1, 3.0)]
    ]
    work = Workload(((0,),), ((0,) * 20,), given=1, repetitive=0, repetitive_tokens=0)
    found = batch_result(BatchRunner(tiny_target(), "suffix"), work, plain + own)
    assert found.tokens_per_second == pytest.approx(40 / (2 + 2))
    of_batches = 2, math.sqrt(4 * 4 / 3)  # the median of two ratios is their geometric mean
    assert found.speedup.median == pytest.approx(math.sqrt(math.prod(of_batches)))
    assert found.acceptance_rate == pytest.approx(0.5)
    assert found.pauses == 4
    assert dict(found.costs) == {4: 2.0}
    assert found.lossless is not None
    assert found.lossless.verdict == "exact"


def test_texts_in_batches_are_those_of_their_prompts_alone() -> None:
    target, steps = tiny_target(), []
    result = bench_batches(
        target,
        tiny_prompts(3),
        ["suffix"],
        batch_size=2,
        max_new_tokens=12,
        repeats=2,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert [method.name for method in result.methods] == ["plain", "suffix"]
    assert all(m.lossless and m.lossless.verdict == "exact" for m in result.methods)
    assert [len(each.prompts) for each in result.methods[0].samples] == [2, 1, 2, 1]
    assert steps == [(n, 8) for n in range(1, 9)]
    document = result.to_json()
    assert document["batch_size"] == 2
    assert document["prompts"]["count"] == 3
    assert "| suffix |" in batch_markdown(result)


def test_no_repeats_no_batches_and_other_methods_are_refused() -> None:
    target, prompts = tiny_target(), tiny_prompts(1)
    with pytest.raises(UsageError, match="repeats must be 1 or more"):
        bench_batches(target, prompts, ["plain"], repeats=0)
    with pytest.raises(UsageError, match="batch-size must be 1 or more"):
        bench_batches(target, prompts, ["plain"], batch_size=0, max_new_tokens=12)
    with pytest.raises(UsageError, match="lookahead does not decode batches"):
        bench_batches(target, prompts, ["lookahead"])


def test_the_profile_s_method_is_compared_where_it_decodes_batches() -> None:
    profile = Profile.parse(GOLDEN.read_text(), "p.yaml")
    other = Profile.parse(GOLDEN.read_text().replace("layer-skip", "cascade"), "p.yaml")
    off = other.model_copy(update={"enabled": False})
    copying = ["prompt-lookup", "suffix"]
    assert default_batch_methods(None) == ["plain", *copying]
    assert default_batch_methods(profile) == ["plain", "profile", "layer-skip", *copying]
    assert default_batch_methods(other) == ["plain", "layer-skip", *copying]
    assert default_batch_methods(off) == ["plain", "profile", "layer-skip", *copying]
