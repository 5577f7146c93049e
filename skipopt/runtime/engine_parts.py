"""What an engine is made of, as far as its target decides."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import replace
from typing import Any

from skipopt.models.target import Target
from skipopt.runtime.attention_mask import AttentionMaskFormat, attention_mask_format
from skipopt.runtime.kv_cache import PositionCache
from skipopt.runtime.own_cache_checkpoint import OwnCacheCheckpoint
from skipopt.runtime.state_checkpoint import StateCheckpoint
from skipopt.runtime.step_cache import StepCache


def acquire_steps(
    target: Target, engine: object, form: AttentionMaskFormat, capacity: int
) -> StepCache | None:
    """A step cache for the life of the engine; None where steps cannot be captured."""
    pool = target.runtime.step_caches
    if pool.unsupported_reason is None and form.unsupported_reason is not None:
        target.runtime.disable_capture(form.unsupported_reason)
    if pool.unsupported_reason is not None:
        return None
    steps = pool.acquire(capacity) or StepCache(target, form, capacity)
    steps.cache.position, steps.cache.capacity = 0, capacity
    steps.forget_positions()
    weakref.finalize(engine, pool.release, steps).atexit = False
    return steps


def mask_format(target: Target) -> AttentionMaskFormat:
    """How the model takes masks; a cache that it makes itself takes none of a tree."""
    form = attention_mask_format(target.model)
    if not target.keeps_own_cache:
        return form
    if any(layer.cached.reread for layer in target.layers):
        reason = "it has no cache that can be kept: each step reads the text from its start"
    else:
        reason = "its cache holds one branch of a tree at a time"
    return replace(form, unsupported_reason=reason)


def own_cache(target: Target, cache: PositionCache) -> OwnCacheCheckpoint | None:
    if not target.keeps_own_cache:
        return None
    return OwnCacheCheckpoint(target.model, cache.num_slots, target.device)


def state_checkpoint(target: Target, cache: PositionCache) -> StateCheckpoint | None:
    """For the states in the cache; None if there are none."""
    modules = [each for layer in target.layers for each in layer.state_modules]
    if not modules:
        return None
    return StateCheckpoint(cache.state_layers, modules, cache.num_slots, target.device)


def last_logits_option(model: Any) -> dict[str, Any]:
    """The option of the model's forward to compute the last row's logits only, if it has one."""
    parameters = inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
