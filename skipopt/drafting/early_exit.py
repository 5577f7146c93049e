"""Draft with the first layers only, and spare verification from computing them again.

Layers below the exit do the same for a draft as for the target. What they wrote into the cache
stays there, and what they handed to the exit is kept, so that verification starts at the exit.
Knows nothing of how tokens are chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.masks import SkipMask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from skipopt.models.target import Target
    from skipopt.runtime.engine import Engine


def exit_mask(depth: int, exit_layer: int) -> SkipMask:
    """Every sublayer from layer `exit_layer` on skipped.

    Raises:
        UsageError: an exit that leaves no layer, or all of them.
    """
    if not 1 <= exit_layer < depth:
        raise UsageError(
            f"exit_layer must lie in 1 … {depth - 1}, not {exit_layer}",
            hint="it is the number of layers that draft",
        )
    return SkipMask.of(depth, range(exit_layer, depth), range(exit_layer, depth))


class EarlyExit:
    """One draft after another from the first E layers, each verified from layer E on.

    LayerSkip (arXiv 2404.16710, self-speculative decoding: one cache, exit queries reused). The
    last drafted token has not been through the first layers yet when drafting ends; `complete`
    sends it there.

    Attributes:
        drafting: under this patch a step ends at the exit, and what it came to there is kept.
        verifying: under this patch a forward over the current token and the drafts begins with
            what was kept. Exact: the same numbers up to rounding.

    Raises:
        UsageError: an exit that leaves no layer, or all of them.
    """

    def __init__(self, target: Target, exit_layer: int) -> None:
        exit_mask(target.depth, exit_layer)
        kept = [layer.whole for layer in target.layers[:exit_layer]]
        skipped = [layer.whole for layer in target.layers[exit_layer:]]
        self._last, self._first_skipped = kept[-1], skipped[0]
        self._head: nn.Module = target.model.get_output_embeddings()
        self._streams: list[Tensor] = []  # one for each step  # (1, 1, d)
        self.drafting = target.runtime.patch(
            [
                (skipped[0].module, self._keep),
                *((layer.module, layer.identity) for layer in skipped[1:]),
            ]
        )
        self.verifying = target.runtime.patch(
            [
                *((layer.module, layer.identity) for layer in kept[:-1]),
                (kept[-1].module, self._hand_on),
            ]
        )

    def begin(self) -> None:
        """Forget the last draft."""
        self._streams.clear()

    def complete(self, engine: Engine, token: int) -> None:
        """Send the last drafted token through the first layers, and not through the head."""
        hook = self._head.register_forward_pre_hook(_no_rows)
        try:
            with self.drafting:
                engine.step([token])
        finally:
            hook.remove()

    def _keep(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for the first skipped layer."""
        self._streams.append(args[0] if args else kwargs["hidden_states"])
        return self._first_skipped.identity(*args, **kwargs)

    def _hand_on(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for the last layer below the exit."""
        import torch

        hidden = args[0] if args else kwargs["hidden_states"]
        kept = torch.cat(self._streams, 1)
        assert kept.shape == hidden.shape, "a forward over other tokens than were drafted"
        return self._last.wrap(kept)


def _no_rows(head: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A matrix product over no rows costs nothing."""
    return (inputs[0][:, :0], *inputs[1:])
