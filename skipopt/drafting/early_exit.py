"""Draft with the first layers only, and do not compute these layers again in verification.

Layers below the exit compute the same for a draft as for the target. Their keys and values stay in
the cache, and their outputs are kept, so that verification starts at the exit layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.masks import SkipMask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from skipopt.draft_config import DraftConfig
    from skipopt.models.patch import Forward
    from skipopt.models.target import Target
    from skipopt.runtime.engine import Engine


def exit_mask(depth: int, exit_layer: int) -> SkipMask:
    """The mask that skips every sublayer from layer `exit_layer` on.

    Raises:
        UsageError: the exit leaves no layer, or all of them.
    """
    if not 1 <= exit_layer < depth:
        raise UsageError(
            f"exit_layer must lie in 1 … {depth - 1}, not {exit_layer}",
            hint="it is the number of layers to draft with",
        )
    return SkipMask.of(depth, range(exit_layer, depth), range(exit_layer, depth))


def check_reuse(target: Target, exit_layer: int | None, draft_config: DraftConfig) -> None:
    """Check that verification can reuse the states of the draft.

    Raises:
        UsageError: it cannot.
    """
    if target.keeps_states:
        raise UsageError(
            "reuse_exit_state needs a model of attention layers: the states of recurrent layers "
            "are set back before verification",
            hint="leave out reuse_exit_state",
        )
    if exit_layer is None:
        raise UsageError(
            "reuse_exit_state needs an exit layer",
            hint="write it as exit_layer=8:reuse_exit_state=yes",
        )
    if draft_config:
        raise UsageError(
            f"reuse_exit_state needs drafts with the model's own layers, not {draft_config}",
            hint="leave out reuse_exit_state, or the other settings",
        )


class EarlyExit:
    """Drafts with the first E layers and verifies from layer E on.

    LayerSkip (arXiv 2404.16710): drafts and verification share one cache and the states at the
    exit layer. When drafting ends, the last drafted token has not been through the first layers;
    `complete` runs it through them.

    The kept state is what the last layer below the exit returns before forward hooks change it:
    in verification the hooks of this layer and of the next run once more, and change it again.

    Attributes:
        drafting: under this patch a step ends at the exit layer and its state there is kept.
        verifying: under this patch a forward over the current token and the drafts starts from
            the kept states. Exact up to rounding.

    Raises:
        UsageError: the exit leaves no layer, or all of them.
    """

    def __init__(self, target: Target, exit_layer: int) -> None:
        exit_mask(target.depth, exit_layer)
        kept = [layer.block for layer in target.layers[:exit_layer]]
        skipped = [layer.block for layer in target.layers[exit_layer:]]
        self._last = kept[-1]
        self._run_last: Forward = self._last.module.forward
        self._head: nn.Module = target.model.get_output_embeddings()
        self._states: list[Tensor] = []  # of each step  # (1, 1, d)
        self.drafting = target.runtime.patch(
            [
                (self._last.module, self._keep),
                *((layer.module, layer.identity) for layer in skipped),
            ]
        )
        self.verifying = target.runtime.patch(
            [
                *((layer.module, layer.identity) for layer in kept[:-1]),
                (self._last.module, self._restore),
            ]
        )

    def begin(self) -> None:
        """Forget the last draft."""
        self._states.clear()

    def complete(self, engine: Engine, token: int) -> None:
        """Run the last drafted token through the first layers, without the output projection."""
        hook = self._head.register_forward_pre_hook(_no_rows)
        try:
            with self.drafting:
                engine.step([token])
        finally:
            hook.remove()

    def _keep(self, *args: Any, **kwargs: Any) -> Any:
        """Replaces the last layer below the exit: runs it, and keeps its output."""
        out = self._run_last(*args, **kwargs)
        state = out if self._last.arity == 0 else out[0]
        self._states.append(state.clone())  # hooks may write in place
        return out

    def _restore(self, *args: Any, **kwargs: Any) -> Any:
        """Replaces the last layer below the exit: returns the kept states."""
        import torch

        hidden = args[0] if args else kwargs["hidden_states"]
        kept = torch.cat(self._states, 1)
        assert kept.shape == hidden.shape, "verification runs over other tokens than were drafted"
        return self._last.wrap(kept)


def _no_rows(head: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """An input without rows for the output projection, so that it costs nothing."""
    return (inputs[0][:, :0], *inputs[1:])
