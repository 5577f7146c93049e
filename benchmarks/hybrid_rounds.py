"""What a round costs on a hybrid model, beside a pure attention model of the same size.

    python -m benchmarks.hybrid_rounds --threads 2 --output results/hybrid-rounds

Two models with random weights and the same MLPs: one with a gated delta network in three of four
layers, one with full attention in all. On each, drafts with a set acceptance are written by the
model under a mask, so that their forwards are run and timed, and what is proposed are tokens of
the known text, each right with the set probability. Counted are the rows of every forward and the
seconds of every round. A second draft is the model's own under a mask: its acceptance in each
hundred tokens shows whether the states stay right. All texts must be those of plain decoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import torch

from benchmarks.result_files import log, page_head, shown_path, write_results
from skipopt.decoding.loop import decode
from skipopt.decoding.request import Limits, new_engine
from skipopt.drafting.base import Drafter, DraftState
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.plain import NoDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.masks import SkipMask
from skipopt.measurement.provenance import environment_of
from skipopt.models.target import Target
from skipopt.rounds import Round
from skipopt.runtime.load import make_target
from skipopt.sampling import SamplingOptions

VOCABULARY = 2048
PROMPT = tuple((37 * i * i + 11) % VOCABULARY for i in range(16))
WINDOW = 100  # tokens for which acceptance is given
KINDS = ("hybrid", "attention")
PERIOD = 4  # in a hybrid, each fourth layer is one of full attention
GAIN = 0.6  # 1 keeps a matrix's output as large as its input
SEED = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """A round, and the rows of its forwards.

    Attributes:
        draft, verify: rows in all draft forwards, and in that of the whole model.
    """

    round: Round
    draft: int
    verify: int


class SetAcceptance(Drafter):
    """Drafts with the model under a mask, and proposes tokens of a known text in their place.

    Args:
        text: prompt and continuation.
        acceptance: with which probability a token is right; behind a wrong one none are accepted.
    """

    def __init__(self, text: Sequence[int], acceptance: float, mask: SkipMask, gamma: int) -> None:
        self.gamma = self.max_extra_rows = gamma
        self._text, self._acceptance, self._mask = text, acceptance, mask
        self._random = Random(SEED)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        at = len(state.tokens)
        guesses = [self._guess(token) for token in self._text[at : at + min(self.gamma, limit)]]
        start = state.engine.position
        with state.engine.draft_mode(self._mask):
            for token in [state.tokens[-1], *guesses[:-1]][: len(guesses)]:
                state.engine.greedy_step([token])
        state.engine.rewind(start)
        return DraftTree.chain(guesses)

    def _guess(self, token: int) -> int:
        right = self._random.random() < self._acceptance
        return token if right else (token + 1) % VOCABULARY


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {}
    for kind in KINDS:
        target = make_target(model_of(kind, given), None, runtime="eager")
        found[kind] = measured(target, kind, given)
        environment = environment_of(target)
    record = {"command": command_of(given), "environment": environment, "models": found}
    write_results(given.output, record, list(report(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--gamma", type=int, default=3)
    parser.add_argument("--acceptance", type=float, default=0.8)
    parser.add_argument("--output", type=Path, default=Path("results/hybrid-rounds"))
    return parser.parse_args()


def command_of(given: argparse.Namespace) -> str:
    names = ("threads", "layers", "hidden", "tokens", "gamma", "acceptance")
    options = " ".join(f"--{name} {getattr(given, name)}" for name in names)
    return f"python -m benchmarks.hybrid_rounds {options} --output {shown_path(given.output)}"


def model_of(kind: str, given: argparse.Namespace) -> Any:
    """A random model of the type `qwen3_next` without experts, in float32."""
    from transformers import AutoModelForCausalLM, Qwen3NextConfig

    recurrent = ["linear_attention"] * (PERIOD - 1)
    period = [*recurrent, "full_attention"] if kind == "hybrid" else ["full_attention"] * PERIOD
    kinds = [period[i % PERIOD] for i in range(given.layers)]
    heads = given.hidden // 64
    config = Qwen3NextConfig(
        vocab_size=VOCABULARY,
        hidden_size=given.hidden,
        intermediate_size=3 * given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=64,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        linear_num_key_heads=heads,
        linear_num_value_heads=2 * heads,
        layer_types=kinds,
        mlp_only_layers=list(range(given.layers)),
        eos_token_id=None,
    )
    torch.manual_seed(SEED)
    # Large enough that a text does not repeat one token, small enough that one sublayer less
    # leaves most tokens what they are.
    config.initializer_range = GAIN * given.hidden**-0.5
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def measured(target: Target, kind: str, given: argparse.Namespace) -> dict[str, Any]:
    """What plain decoding and both drafts cost."""
    log(f"{kind}: plain decoding")
    plain = counted_rounds(target, NoDrafter(), given.tokens)
    text = [*PROMPT, *emitted(plain)]
    mask = SkipMask.of(target.depth, mlp=[target.depth - 1])
    drafters = {
        "set acceptance": SetAcceptance(text, given.acceptance, mask, given.gamma),
        "own draft": LayerSkipDrafter(target, mask, given.gamma, 0.0),
    }
    step = median(each.round.verify_seconds for each in plain[1:])
    drafts: dict[str, Any] = {}
    for name, drafter in drafters.items():
        log(f"{kind}: {name}")
        rounds = counted_rounds(target, drafter, given.tokens)
        if emitted(rounds) != emitted(plain):
            raise SystemExit(f"{kind}, {name}: a text differs from that of plain decoding")
        drafts[name] = costs_of(rounds, step)
    weights = sum(each.numel() for each in target.model.parameters())
    return {"weights": weights, "plain_seconds": step, "drafts": drafts}


def counted_rounds(target: Target, drafter: Drafter, tokens: int) -> list[Counted]:
    """The rounds of a text; rows of the prefill count as rows of the first round's draft."""
    limits = Limits(tokens, target.context_limit, frozenset())
    engine = new_engine(target, PROMPT, limits, drafter.max_extra_rows)
    rounds: list[Counted] = []
    with counting(target) as forwards:
        for each in decode(engine, list(PROMPT), drafter, SamplingOptions(), limits):
            rounds.append(Counted(each, sum(forwards[:-1]), forwards[-1]))
            forwards.clear()
    return rounds


@contextmanager
def counting(target: Target) -> Iterator[list[int]]:
    """Inside, the rows of each forward of the model are noted."""
    rows: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        rows.append(kwargs["input_ids"].shape[1])

    handle = target.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def emitted(rounds: Sequence[Counted]) -> list[int]:
    """The new tokens of a text."""
    return [token for each in rounds for token in each.round.emitted]


def costs_of(rounds: Sequence[Counted], step: float) -> dict[str, Any]:
    """Rows, tokens and seconds of a round, and the acceptance along the text.

    The first round is left out, since it has the prefill.

    Args:
        step: seconds of a plain step.
    """
    timed = rounds[1:]
    draft = median(each.round.draft_seconds for each in timed)
    verify = median(each.round.verify_seconds for each in timed)
    tokens = fmean(len(each.round.emitted) for each in timed)
    return {
        "rounds": len(rounds),
        "tokens": tokens,
        "draft_rows": fmean(each.draft for each in timed),
        "verify_rows": fmean(each.verify for each in timed),
        "draft_seconds": draft,
        "verify_seconds": verify,
        "round_steps": (draft + verify) / step,
        "acceptance": acceptance_along(rounds),
    }


def acceptance_along(rounds: Sequence[Counted]) -> list[float]:
    """Accepted ÷ drafted tokens of the rounds that begin in each `WINDOW` tokens."""
    drafted: dict[int, int] = {}
    accepted: dict[int, int] = {}
    at = 0
    for each in (counted.round for counted in rounds):
        window = at // WINDOW
        drafted[window] = drafted.get(window, 0) + len(each.drafted)
        accepted[window] = accepted.get(window, 0) + each.accepted
        at += len(each.emitted)
    return [accepted[window] / count for window, count in drafted.items() if count]


def report(record: Mapping[str, Any]) -> Iterator[str]:
    """The Markdown page."""
    yield from page_head("What a round costs on a hybrid model", record)
    yield ""
    yield "With a set acceptance, each proposed token is right with the probability given."
    yield ""
    for kind, found in record["models"].items():
        millions, milliseconds = found["weights"] / 1e6, 1e3 * found["plain_seconds"]
        yield f"- {kind}: {millions:.1f} million weights, a plain step {milliseconds:.1f} ms"
    yield ""
    yield "| model | draft | tokens | draft rows | verified rows | draft | verification | round |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for kind, found in record["models"].items():
        for name, costs in found["drafts"].items():
            yield f"| {kind} | {name} | {_cells(costs)} |"
    yield ""
    yield (
        "Means of a round for tokens and rows; medians for milliseconds; the round also in plain "
        "steps of the same model. All steps run on transformers' modules (runtime `eager`)."
    )
    yield ""
    yield f"Acceptance in each {WINDOW} tokens:"
    yield ""
    for kind, found in record["models"].items():
        for name, costs in found["drafts"].items():
            along = ", ".join(f"{each:.2f}" for each in costs["acceptance"])
            yield f"- {kind}, {name}: {along}"


def _cells(costs: Mapping[str, Any]) -> str:
    """The cells of a row of the table behind the names."""
    counts = [f"{costs[name]:.2f}" for name in ("tokens", "draft_rows", "verify_rows")]
    seconds = [f"{1e3 * costs[name]:.1f} ms" for name in ("draft_seconds", "verify_seconds")]
    return " | ".join([*counts, *seconds, f"{costs['round_steps']:.2f} steps"])


if __name__ == "__main__":
    main()
