"""One forward of the model's own modules over rows, with cache, mask and kernels given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from torch import Tensor

from skipopt.models.own_cache import OwnCache
from skipopt.models.target import Target
from skipopt.models.text_states import cache_arguments
from skipopt.runtime.choice import Choice, likeliest
from skipopt.runtime.draft_mode import DraftWeights
from skipopt.runtime.kv_cache import PositionCache


class StepOutputs(NamedTuple):
    """What a forward returns in addition to logits.

    Attributes:
        hidden: what the output projection was given.
        greedy: each row's most likely tokens, a `Choice`.
    """

    hidden: bool = False
    greedy: bool = False


LOGITS_ONLY = StepOutputs()
NUM_GREEDY_OUTPUTS = len(Choice._fields)  # the last ones, if asked for


class ModelRunner:
    """Call it to run the model; it changes nothing but the cache."""

    def __init__(self, target: Target) -> None:
        self._model = target.model
        self._runtime = target.runtime

    def __call__(
        self,
        inputs: Tensor,
        positions: Tensor,
        cache: PositionCache | OwnCache,
        mask: Any = None,
        outputs: StepOutputs = LOGITS_ONLY,
        weights: DraftWeights | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[Tensor]:
        """Logits (n, V), then what `outputs` asks for: hidden (n, d); a `Choice`'s parts (n,).

        Args:
            inputs: token ids (n,), or embeddings as they enter the decoder (n, d).
            positions: of the rows in the text; not used with a cache of the model's own.  # (n,)
            mask: as the model takes it; None leaves it to the model.
            weights: what a draft reads, prepared. Its patch is applied inside that of the
                kernels, which would otherwise replace it.
            options: more arguments of the model's forward; positions among them come first.
        """
        if isinstance(cache, OwnCache):
            given = {**cache.arguments(), **(options or {})}
        else:
            given = {**cache_arguments(self._model, cache, positions[None]), **(options or {})}
        given["inputs_embeds" if inputs.is_floating_point() else "input_ids"] = inputs[None]
        if mask is not None:
            given["attention_mask"] = mask
        with (
            self._runtime.lock,
            self._runtime.kernels.patch,
            weights.patch if weights is not None else nullcontext(),
            _Hidden(self._model, outputs.hidden) as hidden,
        ):
            output = self._model(use_cache=True, return_dict=True, **given)
        if isinstance(cache, OwnCache):
            cache.take(output)
        logits: Tensor = output.logits[0]
        head = None if weights is None else weights.head
        chosen: list[Tensor] = []
        if outputs.greedy:
            first, confidences, second, margins = likeliest(logits)
            if head is not None:
                first, second = (head.ids.index_select(0, each) for each in (first, second))
            chosen = [first, confidences, second, margins]
        if head is not None:
            logits = head.spread(logits)
        return [logits, *hidden.kept, *chosen]


class _Hidden:
    """Inside, keeps what the model's output projection is given."""

    def __init__(self, model: Any, wanted: bool) -> None:
        self.kept: list[Tensor] = []
        self._projection = model.get_output_embeddings() if wanted else None

    def __enter__(self) -> _Hidden:
        if self._projection is not None:
            self._hook = self._projection.register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._projection is not None:
            self._hook.remove()

    def _keep(self, module: Any, args: tuple[Tensor, ...]) -> None:
        self.kept.append(args[0][0])
