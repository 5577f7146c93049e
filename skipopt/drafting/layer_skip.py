"""Chain drafts by the target's own weights under a skip mask, or by its first layers.

Draft & Verify (arXiv 2309.08168, §3): the draft reads the committed keys and values of the full
model and writes its own behind them, which verification overwrites. An early exit (LayerSkip,
arXiv 2404.16710) is the mask that skips every layer from the exit on. Quantized weights, an
attention window and a part of the vocabulary make drafts cheaper still, as in QuantSpec (arXiv
2502.10424), TriForce (arXiv 2404.11912) and FR-Spec (arXiv 2502.14856).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.adaptive_stop import AdaptiveStop
from skipopt.drafting.base import Drafter, DraftState, RoundOutcome
from skipopt.drafting.draft_model import DraftModel
from skipopt.drafting.early_exit import EarlyExit, check_reuse
from skipopt.drafting.guessed_steps import Expects, GuessedSteps
from skipopt.drafting.tree import DraftTree
from skipopt.errors import UsageError
from skipopt.sampling import confidence, has_numbers

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.masks import SkipMask
    from skipopt.models.target import Target
    from skipopt.runtime.choice import Choice

# Whether a draft goes on after a token of this margin; None if it was drawn.
GoesOn = Callable[[float | None], bool]
DraftSteps = Generator[int, "Tensor", DraftTree]


class LayerSkipDrafter(Drafter):
    """Drafts up to γ tokens; stops after the first whose confidence is below τ.

    The token below τ is still proposed: its forward is done, and dropping a drawn token because of
    its probability would bias sampling.

    Args:
        mask: sublayers to skip while drafting.
        gamma: γ, most tokens of a draft.
        tau: τ, confidence below which a draft ends.
        exit_layer: draft with this many first layers, instead of the mask.
        reuse_exit_state: verification starts from the draft's states at the exit layer, instead of
            computing the layers below it again.
        adaptive_tau: let τ follow the acceptance rate; see `AdaptiveStop`.
        target_acceptance, tau_step: its settings.
        draft_config: what makes drafts cheaper in addition to the mask; it needs no mask.

    Attributes:
        names_runners_up: greedy drafts name the draft model's second choices, unless the model
            cannot verify a tree.
        goes_on: asked after each token of a draft; None asks nobody.
        expects: which tokens to run before they are drafted (see `GuessedSteps`), where the draft
            model `reads_ahead`.

    Raises:
        UsageError: neither mask, exit layer nor draft config, or a value out of range.
    """

    best_verifier: ClassVar[Literal["match", "rejection"]] = "rejection"

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None = None,
        gamma: int = 4,
        tau: float = 0.0,
        exit_layer: int | None = None,
        reuse_exit_state: bool = False,
        adaptive_tau: bool = False,
        target_acceptance: float = 0.9,
        tau_step: float = 0.01,
        draft_config: DraftConfig = UNCHANGED,
    ) -> None:
        if gamma < 1:
            raise UsageError(f"gamma must be 1 or more, not {gamma}", hint="try gamma=4")
        if not 0 <= tau <= 1:
            raise UsageError(f"tau must lie in [0, 1], not {tau}")
        if reuse_exit_state:
            check_reuse(target, exit_layer, draft_config)
        self.gamma = self.max_extra_rows = gamma
        self.tau = tau
        self.names_runners_up = False
        self.goes_on: GoesOn | None = None
        self.expects: Expects | None = None
        self.draft_model = DraftModel(target, mask, draft_config, exit_layer)
        self.preparation = self.draft_model.preparation
        self._adaptive = AdaptiveStop(target_acceptance, tau_step) if adaptive_tau else None
        self._exit: EarlyExit | None = None
        if exit_layer is not None and reuse_exit_state:
            self._exit = EarlyExit(target, exit_layer)

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if self.draft_model.idle:
            return DraftTree()
        start = state.engine.position
        if self._exit is not None:
            self._exit.begin()
        try:
            draft = self._chain(state, min(self.gamma, limit))
            if self._exit is None or not draft.tokens:
                return draft
            self._exit.complete(state.engine, draft.tokens[-1])
            return replace(draft, verify_patch=self._exit.verifying, forwards=draft.forwards + 1)
        finally:
            state.engine.rewind(start)

    def _chain(self, state: DraftState, longest: int) -> DraftTree:
        with self.draft_model.drafting(state) if self._exit is None else self._exit.drafting:
            if state.takes_likeliest:
                return self._greedy(state, longest)
            return self._sampled(state, longest)

    @property
    def _expects(self) -> Expects | None:
        return self.expects if self.draft_model.reads_ahead else None

    def _greedy(self, state: DraftState, longest: int) -> DraftTree:
        """Greedy drafts: all stays on the device unless it decides whether the draft goes on."""
        import torch

        engine = state.engine
        run = GuessedSteps(
            engine, lambda tokens: engine.greedy_step(tokens).rows(), self._expects, longest
        )
        drafted: list[Choice] = []  # of one row each
        current: Sequence[int] | Tensor = state.tokens[-1:]
        while len(drafted) < longest:
            step = run(current)
            drafted.append(step)
            current = step.tokens
            if self.tau > 0 and float(step.confidences) < self.tau:
                break
            if self.goes_on is not None and not self.goes_on(float(step.margins)):
                break
        if not drafted:
            return DraftTree()
        tokens, _, runners_up, margins = (
            tuple(torch.cat(parts).tolist()) for parts in zip(*drafted, strict=True)
        )
        draft = DraftTree.chain(tokens, (), run.forwards)
        if not (self.names_runners_up and engine.takes_trees):
            runners_up = ()
        return replace(draft, margins=margins, runners_up=runners_up, guessed=run.guessed)

    def _sampled(self, state: DraftState, longest: int) -> DraftTree:
        steps = self.steps(state, longest)
        engine = state.engine
        run = GuessedSteps(
            engine, lambda tokens: engine.step(tokens).unbind(), self._expects, longest
        )
        try:
            token = next(steps)
            while True:
                token = steps.send(run([token]))
        except StopIteration as end:
            draft: DraftTree = end.value
            return replace(draft, forwards=run.forwards, guessed=run.guessed)

    def steps(self, state: DraftState, longest: int) -> DraftSteps:
        """The steps of a draft of at most `longest` tokens, for whoever runs the draft model.

        Each yields the token that the draft model reads next, and is sent the logits after it.
        """
        tokens: list[int] = []
        probs: list[Tensor] = []
        current = state.tokens[-1]
        while len(tokens) < longest:
            logits = yield current  # (V,)
            if not has_numbers(logits):
                break  # nothing can be drawn from them
            row = state.processed(logits[None], [tokens])[0]
            current, drawn_from = state.sampler.draft(row, len(state.tokens) + len(tokens))
            tokens.append(current)
            probs += [] if drawn_from is None else [drawn_from]
            if self.tau > 0 and float(confidence(logits)) < self.tau:
                break
            if self.goes_on is not None and not self.goes_on(None):
                break
        return DraftTree.chain(tokens, probs, forwards=len(tokens))

    def observe(self, outcome: RoundOutcome) -> None:
        if self._adaptive is not None:
            drafted = len(outcome.draft.tokens)
            self.tau = self._adaptive.next_tau(
                self.tau, len(outcome.path), drafted, full=drafted == self.gamma
            )
