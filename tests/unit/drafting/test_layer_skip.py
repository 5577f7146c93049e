"""Options of layer skipping: an adaptive threshold, and an early exit with reused states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.architectures import FORMS, build
from support.drafter_contract import small_target
from support.tiny import tiny_llama, tiny_prompts, tiny_target
from torch import Tensor

from skipopt.decoding.api import generate_rounds, resolve_method
from skipopt.drafting.adaptive_stop import AdaptiveStop
from skipopt.drafting.base import DraftState, RoundOutcome
from skipopt.drafting.early_exit import EarlyExit, exit_mask
from skipopt.drafting.layer_skip import LayerSkipDrafter
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import make_target
from skipopt.sampling import SamplingOptions, TokenSampler
from skipopt.testing import drafters as contract
from skipopt.testing.drafters import Case

GREEDY = SamplingOptions()
CLOSE = 1e-4
TEXT = [(7 * i * i + 3) % 64 for i in range(13)]  # longer than a sliding window
DRAFTED = 4


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(tiny_llama(layers=4))


# --- the adaptive threshold


def test_threshold_rises_a_tenth_of_a_step_while_acceptance_is_low() -> None:
    rule = AdaptiveStop(target_acceptance=0.9, tau_step=0.01)
    assert rule.next_tau(0.5, accepted=3, drafted=4, full=False) == pytest.approx(0.501)
    assert rule.acceptance == pytest.approx(0.375)


def test_acceptance_is_averaged_with_half_weight_for_the_last_round() -> None:
    rule = AdaptiveStop()
    seen = []
    for accepted in (4, 4, 0, 1):
        rule.next_tau(0.5, accepted, drafted=4, full=False)
        seen.append(rule.acceptance)
    assert seen == pytest.approx([0.5, 0.75, 0.375, 0.3125])


def test_threshold_falls_once_acceptance_is_high() -> None:
    rule = AdaptiveStop(target_acceptance=0.9, tau_step=0.02)
    tau, seen = 0.5, []
    for _ in range(5):
        tau = rule.next_tau(tau, accepted=3, drafted=3, full=False)
        seen.append(tau)
    # AR = 0.5, 0.75, 0.875, 0.9375, …: the fourth round is the first with enough.
    assert seen == pytest.approx([0.502, 0.504, 0.506, 0.504, 0.502])


def test_threshold_stays_where_the_draft_had_its_full_length() -> None:
    rule = AdaptiveStop(target_acceptance=0.5)
    assert rule.next_tau(0.5, accepted=4, drafted=4, full=True) == pytest.approx(0.5)
    low = AdaptiveStop(target_acceptance=0.9)
    assert low.next_tau(0.5, accepted=4, drafted=4, full=True) > 0.5, "acceptance is still low"


def test_threshold_stays_where_nothing_was_drafted() -> None:
    rule = AdaptiveStop()
    assert rule.next_tau(0.3, accepted=0, drafted=0, full=False) == 0.3
    assert rule.acceptance == 0.0


@pytest.mark.parametrize(("accepted", "end"), [(0, 1.0), (4, 0.0)])
def test_threshold_stays_between_zero_and_one(accepted: int, end: float) -> None:
    """Logs of the published code have thresholds above 0.95."""
    rule, tau = AdaptiveStop(target_acceptance=0.5, tau_step=0.5), 0.5
    for _ in range(100):
        tau = rule.next_tau(tau, accepted, drafted=4, full=False)
        assert 0.0 <= tau <= 1.0
    assert tau == end


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"target_acceptance": -0.1}, "-0.1"),
        ({"target_acceptance": 1.5}, "1.5"),
        ({"tau_step": 0.0}, "0.0"),
        ({"tau_step": 2}, "2"),
    ],
)
def test_settings_of_the_rule_out_of_range(target: Target, options: Any, value: str) -> None:
    with pytest.raises(UsageError, match=f"not {value}"):
        LayerSkipDrafter(target, SkipMask.of(4, [1]), adaptive_tau=True, **options)


def observed(drafter: LayerSkipDrafter, accepted: int, drafted: int) -> None:
    draft = DraftTree.chain(range(drafted))
    drafter.observe(RoundOutcome(draft, tuple(range(accepted)), (0,), torch.zeros(1, 1)))


def test_drafter_follows_the_rule_only_where_asked_to(target: Target) -> None:
    mask = SkipMask.of(4, [1])
    adaptive = LayerSkipDrafter(target, mask, gamma=4, tau=0.5, adaptive_tau=True, tau_step=0.1)
    fixed = LayerSkipDrafter(target, mask, gamma=4, tau=0.5)
    for drafter in (adaptive, fixed):
        observed(drafter, accepted=0, drafted=2)
    assert (adaptive.tau, fixed.tau) == (pytest.approx(0.51), 0.5)


def test_drafter_recognizes_a_draft_of_full_length(target: Target) -> None:
    mask = SkipMask.of(4, [1])
    drafter = LayerSkipDrafter(
        target, mask, gamma=2, tau=0.5, adaptive_tau=True, target_acceptance=0.1, tau_step=0.1
    )
    observed(drafter, accepted=2, drafted=2)
    assert drafter.tau == pytest.approx(0.5)
    observed(drafter, accepted=1, drafted=1)
    assert drafter.tau == pytest.approx(0.49)


@pytest.mark.slow
def test_adapted_threshold_changes_drafts_and_not_tokens() -> None:
    target = small_target()
    profile = Profile.by_hand(target, attention=[1], gamma=6, tau=0.1)
    method = "layer-skip:adaptive_tau=yes:tau_step=1.0"
    contract.check_greedy_text(Case(target, method, profile), contract.PROMPTS[:4])
    contract.check_sampled_text(Case(target, method, profile))
    drafted = [
        sum(len(r.drafted) for p in contract.PROMPTS[:4] for r in contract.run(case, p))
        for case in (Case(target, name, profile) for name in ("layer-skip", method))
    ]
    assert drafted[1] < drafted[0]


# --- an early exit as a mask


def test_an_exit_skips_every_later_layer() -> None:
    assert str(exit_mask(5, 2)) == "attn 2-4 mlp 2-4"


def test_an_exit_drafts_like_its_mask(target: Target) -> None:
    state = state_of(target, tiny_prompts(1)[0])
    by_exit = LayerSkipDrafter(target, exit_layer=2, gamma=DRAFTED).propose(state, 9)
    by_mask = LayerSkipDrafter(target, SkipMask.of(4, [2, 3], [2, 3])).propose(state, 9)
    assert by_exit.tokens == by_mask.tokens
    assert by_exit.forwards == DRAFTED
    assert by_exit.verify_patch is None


def test_an_exit_replaces_the_mask(target: Target) -> None:
    state = state_of(target, tiny_prompts(1)[0])
    empty = SkipMask.empty(4)
    by_exit = LayerSkipDrafter(target, empty, exit_layer=1).propose(state, 9)
    assert by_exit.tokens == LayerSkipDrafter(target, exit_layer=1).propose(state, 9).tokens
    assert by_exit.tokens != LayerSkipDrafter(target, empty).propose(state, 9).tokens


def test_exit_needs_no_profile(target: Target) -> None:
    prompt = tiny_prompts(1)[0]
    rounds = list(generate_rounds(target, prompt, method="layer-skip:exit_layer=2:gamma=3"))
    assert max(len(each.drafted) for each in rounds) == 3
    with pytest.raises(UsageError, match="needs a mask"):
        resolve_method(None, "layer-skip")


@pytest.mark.parametrize("exit_layer", [-1, 0, 4, 5])
def test_exit_out_of_range(target: Target, exit_layer: int) -> None:
    with pytest.raises(UsageError, match=f"1 … 3, not {exit_layer}$"):
        LayerSkipDrafter(target, exit_layer=exit_layer)


def test_neither_mask_nor_exit(target: Target) -> None:
    with pytest.raises(UsageError, match="needs a mask, an exit"):
        LayerSkipDrafter(target)


def test_reuse_without_an_exit(target: Target) -> None:
    with pytest.raises(UsageError, match="reuse_exit_state needs an exit"):
        LayerSkipDrafter(target, SkipMask.of(4, [1]), reuse_exit_state=True)


# --- reuse of what the draft computed


def state_of(target: Target, tokens: list[int]) -> DraftState:
    engine = Engine(target, len(tokens) + 2 * DRAFTED)
    engine.prefill(tokens[:-1])
    return DraftState(list(tokens), engine, TokenSampler(GREEDY, target.device, coupled=True))


def drafted_with_reuse(target: Target, exit_layer: int) -> tuple[DraftState, DraftTree]:
    state = state_of(target, TEXT)
    drafter = LayerSkipDrafter(target, exit_layer=exit_layer, reuse_exit_state=True, gamma=DRAFTED)
    draft = drafter.propose(state, 9)
    assert len(draft.tokens) == DRAFTED
    return state, draft


def verified(state: DraftState, draft: DraftTree) -> tuple[Tensor, list[Tensor]]:
    """Logits, and copies of all keys and values after them; rewinds the engine."""
    start = state.engine.position
    logits = state.engine.step([state.tokens[-1], *draft.tokens])
    end = state.engine.position
    held = [part[:, :, :end].clone() for pair in state.engine.cache.contents() for part in pair]
    state.engine.rewind(start)
    return logits, held


def check_verification(state: DraftState, draft: DraftTree) -> Tensor:
    """Verification from kept states gives the logits and the cache of plain verification.

    Returns the logits of the latter.
    """
    assert draft.verify_patch is not None
    with draft.verify_patch:
        ours, our_cache = verified(state, draft)
    theirs, their_cache = verified(state, draft)
    assert torch.allclose(ours, theirs, atol=CLOSE, rtol=0)
    pairs = zip(our_cache, their_cache, strict=True)
    assert all(torch.allclose(a, b, atol=CLOSE, rtol=0) for a, b in pairs)
    return theirs


@pytest.mark.parametrize("name", FORMS)
def test_reuse_gives_the_logits_and_the_cache_of_plain_verification(name: str) -> None:
    target = make_target(build(name), None, runtime="eager")
    for exit in range(1, target.depth):
        check_verification(*drafted_with_reuse(target, exit))


def add(module: Any, args: Any, output: Tensor) -> Tensor:
    return output + 1


def add_in_place(module: Any, args: Any, output: Tensor) -> None:
    output.add_(1)


def add_before(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0] + 1, *args[1:])


class Wrapped(torch.nn.Module):
    """A layer in another module, which changes what it returns."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.attention_type = layer, getattr(layer, "attention_type", None)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output: Tensor = self.layer(*args, **kwargs)
        return output + 1


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("change", [add, add_in_place, add_before, Wrapped])
def test_what_changes_the_layers_from_outside_acts_once_on_reused_states(
    change: Any, place: int
) -> None:
    target = tiny_target()
    layers = target.model.model.layers
    before = verified(*drafted_with_reuse(target, 2))[0]
    if change is Wrapped:
        layers[place] = Wrapped(layers[place])
    elif change is add_before:
        layers[place].register_forward_pre_hook(change)
    else:
        layers[place].register_forward_hook(change)
    after = check_verification(*drafted_with_reuse(target, 2))
    assert not torch.allclose(after, before, atol=0.1)


@pytest.mark.parametrize("name", FORMS)
def test_reuse_gives_the_text_of_plain_decoding(name: str) -> None:
    target = make_target(build(name), None, runtime="eager")
    case = Case(target, "layer-skip:exit_layer=2:reuse_exit_state=yes:gamma=3")
    contract.check_commit(case, [TEXT])
    contract.check_sampled_text(case, [TEXT[:4]])


class Calls:
    """Counts rows that go through a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.rows: list[int] = []
        self._hook = module.register_forward_hook(self._count)

    def _count(self, module: object, inputs: Any, output: Any) -> None:
        self.rows.append(output.shape[1])

    def done(self) -> list[int]:
        self._hook.remove()
        return self.rows


def test_verification_computes_layers_from_the_exit_on_only(target: Target) -> None:
    state, draft = drafted_with_reuse(tiny_target(), exit_layer=2)
    layers = state.engine.target.layers
    calls = [Calls(layer.mlp[0].module) for layer in layers]
    assert draft.verify_patch is not None
    with draft.verify_patch:
        verified(state, draft)
    assert [each.done() for each in calls] == [[], [], [DRAFTED + 1]]


def test_the_last_drafted_token_runs_the_first_layers_without_the_head(target: Target) -> None:
    state = state_of(target, TEXT[:6])
    head = Calls(target.model.get_output_embeddings())
    first, last = (Calls(target.layers[i].mlp[0].module) for i in (0, 3))
    draft = LayerSkipDrafter(target, exit_layer=1, reuse_exit_state=True, gamma=DRAFTED).propose(
        state, 9
    )
    assert head.done() == [1] * DRAFTED + [0]
    assert first.done() == [1] * (DRAFTED + 1)
    assert last.done() == []
    assert draft.forwards == DRAFTED + 1


def test_no_reuse_of_an_empty_draft(target: Target) -> None:
    state = state_of(target, TEXT[:6])
    draft = LayerSkipDrafter(target, exit_layer=1, reuse_exit_state=True).propose(state, 0)
    assert (draft.tokens, draft.forwards, draft.verify_patch) == ((), 0, None)


def test_reused_states_are_not_used_for_the_next_draft(target: Target) -> None:
    state = state_of(target, TEXT[:6])
    drafter = LayerSkipDrafter(target, exit_layer=2, reuse_exit_state=True, gamma=DRAFTED)
    drafter.propose(state, 9)
    again = drafter.propose(state, 2)
    assert again.verify_patch is not None
    with again.verify_patch:
        ours, _ = verified(state, again)
    theirs, _ = verified(state, again)
    assert torch.allclose(ours, theirs, atol=CLOSE, rtol=0)


def test_reuse_for_other_tokens_is_refused(target: Target) -> None:
    state, draft = drafted_with_reuse(tiny_target(), exit_layer=1)
    assert draft.verify_patch is not None
    with pytest.raises(AssertionError, match="other tokens"), draft.verify_patch:
        state.engine.step([1, 2])


def test_failure_in_the_last_pass_leaves_no_hook() -> None:
    target = tiny_target()
    exit, engine = EarlyExit(target, 1), Engine(target, 4)
    with pytest.raises(IndexError):
        exit.complete(engine, 10**6)
    assert not target.model.get_output_embeddings()._forward_pre_hooks
    assert all("forward" not in module.__dict__ for module in target.model.modules())
