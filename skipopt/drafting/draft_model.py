"""The target as it drafts: under a skip mask, with a draft config."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.drafting.early_exit import exit_mask
from skipopt.errors import UsageError
from skipopt.masks import SkipMask
from skipopt.runtime.break_even import Preparation
from skipopt.runtime.draft_mode import check_experts, check_layers, supported, with_vocabulary

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from skipopt.drafting.base import DraftState
    from skipopt.models.target import Target


class DraftModel:
    """What drafters run while they draft. One is made for every text.

    Args:
        mask: sublayers to skip; None skips none.
        draft_config: what makes drafts cheaper in addition to the mask. What this machine does not
            support is left out with a warning.
        exit_layer: run this many first layers, instead of the mask.

    Attributes:
        mask: sublayers that are skipped; may be set.
        preparation: what the first draft needs.

    Raises:
        UsageError: neither mask, exit layer nor draft config, an exit that leaves no layer, or a
            draft config that names a layer or so many experts which the model does not have.
    """

    def __init__(
        self,
        target: Target,
        mask: SkipMask | None,
        draft_config: DraftConfig = UNCHANGED,
        exit_layer: int | None = None,
    ) -> None:
        if mask is None and exit_layer is None and not draft_config:
            raise UsageError(
                "this method needs a mask, an exit layer or cheaper weights to draft with",
                hint="give a profile with --profile, or the option exit_layer=8 or quant=int8",
            )
        self.mask = SkipMask.empty(target.depth) if mask is None else mask
        if exit_layer is not None:
            self.mask = exit_mask(target.depth, exit_layer)
        self._target = target
        self._asked = draft_config
        check_layers(target, draft_config)
        check_experts(target, draft_config)
        self.preparation = Preparation(self.mask, draft_config.weights, draft_config.vocab_size)

    @cached_property
    def config(self) -> DraftConfig:
        """The supported part of the draft config. When first read, kernels are timed."""
        return supported(self._target, self._asked) if self._asked else UNCHANGED

    @property
    def idle(self) -> bool:
        """Whether a draft would be the target itself and cost as much: then none is made."""
        return bool(self._asked) and not self.config and not self.mask.skipped

    @property
    def reads_ahead(self) -> bool:
        """Whether a step of several tokens takes little longer than one, some of them wrong.

        Not where states of recurrent layers are set back after wrong ones, nor through a window,
        which steps of one token and of several do not hide alike.
        """
        target, config = self._target, self.config
        multiplies = config.weights is None or target.runtime.quantized.multiplies_rows
        return multiplies and not target.keeps_states and config.attention_window is None

    def drafting(
        self, state: DraftState, mask: SkipMask | None = None
    ) -> AbstractContextManager[None]:
        """Inside, the engine's steps are those of the draft.

        A draft vocabulary without tokens gets those of the text, once.

        Args:
            mask: to use instead of the draft model's own.
        """
        own, config = self.resolved(state)
        return state.engine.draft_mode(own if mask is None else mask, config)

    def resolved(self, state: DraftState) -> tuple[SkipMask, DraftConfig]:
        """Mask and draft config, with a draft vocabulary that has tokens."""
        self.config = with_vocabulary(self._target, self.config, [state.tokens])
        return self.mask, self.config
