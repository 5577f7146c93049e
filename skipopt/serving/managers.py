"""What the server of transformers asks for models and texts; needs its optional packages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerateManager, GenerationState, InferenceThread
from transformers.generation.stopping_criteria import StoppingCriteria

if TYPE_CHECKING:
    from skipopt.decoding.transformers_integration import Decoder
    from skipopt.models.target import Target
    from skipopt.serving.server import Limits
    from skipopt.serving.server_metrics import ServerMetrics


class OneModel(ModelManager):
    """A model manager with one model, which is already loaded; requests may name any."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target

    @staticmethod
    def process_model_name(model_id: str | None) -> str:
        return model_id or "default"

    def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        return self._target.model, self._target.tokenizer

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:  # type: ignore[override]
        return [
            {"id": self._target.model_id, "object": "model", "created": 0, "owned_by": "skipopt"}
        ]

    # Its name since transformers 5.24.
    list_models = get_gen_models

    def shutdown(self) -> None:
        """The model is not the manager's to delete."""


class Worker:
    """The thread that decodes texts one after another, and what they share.

    Attributes:
        waiting: requests that wait or are answered.
    """

    def __init__(
        self, target: Target, decoder: Decoder, limits: Limits, metrics: ServerMetrics
    ) -> None:
        self.thread = InferenceThread()
        self.target = target
        self.limits = limits
        self.metrics = metrics
        self.waiting = 0
        self._decoder = decoder
        self._lock = threading.Lock()

    def admit(self) -> None:
        """Count a request.

        Raises:
            HTTPException: the queue is full.
        """
        with self._lock:
            if self.waiting >= self.limits.max_queue:
                self.metrics.refused += 1
                raise HTTPException(503, f"{self.waiting} requests wait: try again later")
            self.waiting += 1

    def leave(self) -> None:
        """A request that was admitted has ended."""
        with self._lock:
            self.waiting -= 1

    def generate(self, **arguments: Any) -> Any:
        """Decode one request, on the thread."""
        try:
            found = self.target.model.generate(custom_generate=self._decoder, **arguments)
            if self._decoder.last_statistics is not None:
                self.metrics.add(self._decoder.last_statistics)
            return found
        finally:
            self.leave()


class Queue(GenerationState):
    """Gives the handler of one route its manager.

    Args:
        eos_ids: tokens that end a text of this route.
    """

    def __init__(self, worker: Worker, eos_ids: Collection[int]) -> None:
        super().__init__()
        self._manager = _Texts(worker, eos_ids)

    def get_manager(self, model_id: str, use_cb: bool = False) -> _Texts:
        return self._manager


class _ClientGone(StoppingCriteria):
    """Stops a text at the next token once its client is gone."""

    def __init__(self) -> None:
        self.gone = threading.Event()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self.gone.is_set(), device=input_ids.device)


class _Texts(GenerateManager):
    """Decodes on the worker's thread what a handler asks for; the worker stands for the model."""

    def __init__(self, worker: Worker, eos_ids: Collection[int]) -> None:
        self._thread = worker.thread
        self._worker = worker
        self._model: Any = worker
        self._eos_ids = sorted(eos_ids)

    def generate_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, *args: Any, **options: Any
    ) -> Any:
        self._bound(inputs, gen_config)
        self._worker.admit()
        try:
            return super().generate_streaming(
                self._model, processor, inputs, gen_config, *args, **options
            )
        except BaseException:  # nothing was given to the thread
            self._worker.leave()
            raise

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, *args: Any, **options: Any
    ) -> Any:
        self._bound(inputs, gen_config)
        self._worker.admit()
        client = _ClientGone()
        given = {**inputs, "stopping_criteria": [client]}
        text = asyncio.ensure_future(
            super().generate_non_streaming(
                self._model, processor, given, gen_config, *args, **options
            )
        )
        try:
            return await asyncio.shield(text)
        except asyncio.CancelledError:
            client.gone.set()
            raise

    def _bound(self, inputs: Mapping[str, Any], config: Any) -> None:
        """Bound the new tokens, and set what ends the text.

        Raises:
            HTTPException: the prompt is too long.
        """
        limits, context = self._worker.limits, self._worker.target.context_limit
        size = inputs["input_ids"].shape[-1]
        most = min(limits.max_prompt_tokens or context, context - 1)
        if not 0 < size <= most:
            raise HTTPException(400, f"the prompt has {size} tokens, expected 1 to {most}")
        config.max_new_tokens = min(config.max_new_tokens, limits.max_new_tokens, context - size)
        config.eos_token_id = self._eos_ids or None
        if config.pad_token_id is None:
            config.pad_token_id = self._eos_ids[0] if self._eos_ids else 0
