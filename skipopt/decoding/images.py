"""Images of a prompt, as `generate` of transformers is given them.

    model.generate(**processor(text=…, images=…), custom_generate=skipopt.decoder(profile))

The first forward puts their features in the place of image tokens; later forwards read the cache.
What cannot be decoded in this way is refused before the first token.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skipopt.errors import UsageError
from skipopt.models.text_states import cache_argument, keeps_states
from skipopt.runtime.attention_mask import attention_mask_format
from skipopt.runtime.prompt_inputs import TOKENS_ONLY, PromptInputs

if TYPE_CHECKING:
    from torch import Tensor

# `generate` encodes images itself where the model's forward takes what that gives.
ENCODED = "mm_encoder_outputs"
# For each token, whether it stands for a part of an image.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
IMAGE_TOKENS = ("image_token_id", "image_token_index")
HINT = "generate without custom_generate"


def image_inputs(model: Any, input_ids: Tensor, arguments: Mapping[str, Any]) -> PromptInputs:
    """What the model's first forward reads beside the tokens of a prompt.

    Args:
        input_ids: the prompt.  # (1, T)
        arguments: what `generate` gives to every forward besides the ids.

    Raises:
        UsageError: images of several prompts or of a padded one; or the model reads them in later
            forwards too, or later positions are not known.
    """
    given = {name: value for name, value in arguments.items() if not _is_nothing(value)}
    types = {name: given.pop(name) for name in TOKEN_TYPES if name in given}
    if not any(map(_is_content, given)):
        if any(bool(each.any()) for each in types.values()):
            raise _refused(model, f"{', '.join(types)} without pixel_values")
        return TOKENS_ONLY
    known = inspect.signature(model.forward).parameters
    whole = {
        name: value
        for name, value in given.items()
        if name in known and (name == ENCODED or name.startswith(("pixel_", "image_")))
    }
    by_token = {name: each for name, each in types.items() if name in known}
    _check_prompt(model, input_ids, given, types)
    positions = given.get("position_ids")
    positions = positions if positions is not None and positions.ndim == 3 else None
    _check_places(model, positions)
    _check_later_forwards(model, input_ids, {**whole, **by_token})
    if positions is None:
        return PromptInputs(whole, by_token)
    shift = int(positions[-1, 0, -1]) + 1 - input_ids.shape[1]
    return PromptInputs(whole, by_token, positions, shift)


def other_arguments(arguments: Mapping[str, Any], images: PromptInputs) -> dict[str, Any]:
    """The arguments of `generate` that `image_inputs` neither took nor found to be empty."""
    taken = (*images.whole, *TOKEN_TYPES)
    return {k: v for k, v in arguments.items() if k not in taken and not _is_nothing(v)}


def _is_content(name: str) -> bool:
    """Whether the argument is images, and not their sizes or places."""
    return name == ENCODED or name.startswith("pixel_values")


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


def _refused(model: Any, reason: str) -> UsageError:
    return UsageError(f"images of {type(model).__name__}: {reason}", hint=HINT)


def _check_prompt(
    model: Any, input_ids: Tensor, given: Mapping[str, Any], types: Mapping[str, Tensor]
) -> None:
    """Raise UsageError unless it is one prompt, not padded, that goes on after its images."""
    if len(input_ids) != 1:
        raise _refused(model, f"one prompt at a time, not {len(input_ids)}")
    mask = given.get("attention_mask")
    if mask is not None and not bool((mask == 1).all()):
        raise _refused(model, "the prompt must have no padding")
    last = int(input_ids[0, -1])
    ends = any(bool(each[0, -1]) for each in types.values()) or last in _image_tokens(model)
    if ends or input_ids.shape[1] < 2:
        raise _refused(model, "the prompt must go on after its last image")


def _image_tokens(model: Any) -> Sequence[Any]:
    return [getattr(model.config, name, None) for name in IMAGE_TOKENS]


def _check_places(model: Any, positions: Tensor | None) -> None:
    """Raise UsageError where it is not known which positions later tokens have.

    Args:
        positions: of the prompt, by rows and columns; None if the model was given no such ones.
    """
    if keeps_states(model):
        raise _refused(model, "it keeps states of a text, and may have to read images again")
    if positions is None:
        if any("rope_deltas" in vars(module) for module in model.modules()):
            raise _refused(model, "their rows and columns are not among the position_ids")
        return
    if attention_mask_format(model).reads_positions:
        raise _refused(model, "they have rows and columns, and attention has a window")
    last = positions[-3:, 0, -1]
    if len(positions) not in (3, 4) or bool((last != last[0]).any()):
        raise _refused(model, "the prompt must go on after its last image")


def _check_later_forwards(model: Any, input_ids: Tensor, taken: Mapping[str, Any]) -> None:
    """Raise UsageError unless only the first forward of `generate` is given the images."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    later = model.prepare_inputs_for_generation(
        input_ids[:, -1:],
        use_cache=True,
        is_first_iteration=False,
        **{cache_argument(model): cache},
        **taken,
    )
    kept = [name for name in taken if _is_content(name) and later.get(name) is not None]
    if kept:
        raise _refused(model, f"every forward reads {', '.join(kept)}")
