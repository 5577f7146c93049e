"""One forward of the model's own modules over rows, with the cache, mask and kernels given.

Knows nothing of where the rows come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from torch import Tensor

from skipopt.models.patch import Patch
from skipopt.models.target import Target
from skipopt.runtime.kv_cache import PositionCache
from skipopt.sampling import confidence


class StepOutputs(NamedTuple):
    """What a forward returns beside logits: hidden states; each row's best guess."""

    hidden: bool = False
    guess: bool = False


NOTHING_ELSE = StepOutputs()


class ModelRunner:
    """Call it to run the model; it changes nothing but the cache."""

    def __init__(self, target: Target) -> None:
        self._model = target.model
        self._kernels = target.runtime.kernels.patch

    def __call__(
        self,
        inputs: Tensor,
        places: Tensor,
        cache: PositionCache,
        mask: Any = None,
        wanted: StepOutputs = NOTHING_ELSE,
        weights: Patch | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Sequence[Tensor]:
        """Logits of each row; what the output projection was given; likeliest token, confidence.

        Args:
            inputs: token ids (n,), or embeddings as they enter the decoder (n, d).
            places: where the rows stand in the text.  # (n,)
            mask: as the model takes it; None leaves it to the model.
            wanted: which of what follows the logits is returned.
            weights: in force inside the kernels' patch, which would put the model's own back.
            options: more arguments of the model's forward.
        """
        given = dict(options or {})
        given["inputs_embeds" if inputs.is_floating_point() else "input_ids"] = inputs[None]
        if mask is not None:
            given["attention_mask"] = mask
        kept: list[Tensor] = []
        hook = None
        if wanted.hidden:
            projection = self._model.get_output_embeddings()
            hook = projection.register_forward_pre_hook(lambda _, args: kept.append(args[0][0]))
        try:
            with self._kernels, weights or nullcontext():
                output = self._model(
                    past_key_values=cache,
                    position_ids=places[None],
                    use_cache=True,
                    return_dict=True,
                    **given,
                )
        finally:
            if hook is not None:
                hook.remove()
        logits = output.logits[0]
        guess = [logits.argmax(-1), confidence(logits)] if wanted.guess else []
        return [logits, *kept, *guess]
