"""skipopt inside transformers: `model.generate(ids, custom_generate=skipopt.decoder(profile))`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import generate_rounds
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.sampling import SamplingOptions

# Processors that transformers builds from temperature, top_k and top_p. They are not called:
# `TokenSampler` applies these three options.
SUPPORTED_PROCESSORS = {"TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"}
# Modes of `generate` whose text is that of greedy decoding or of sampling.
SUPPORTED_MODES = {"greedy_search", "sample", "assisted_generation"}
# Arguments of a forward that `generate` passes on and that change no text, or are checked.
KNOWN_ARGUMENTS = {
    "attention_mask", "cache_position", "logits_to_keep", "output_attentions",
    "output_hidden_states", "past_key_values", "position_ids", "use_cache",
}  # fmt: skip
# What `return_dict_in_generate` may be asked for besides the ids.
OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def decoder(
    profile: Profile | None = None, method: str | None = None, memory: DraftMemory | None = None
) -> Decoder:
    """A decoding loop for `generate(custom_generate=…)`.

    Args:
        profile: made for the same model. None: decode plainly unless a method is given.
        method: a name with options, as for `skipopt.generate`; the profile's by default.
        memory: earlier texts, as for `skipopt.generate`.
    """
    return Decoder(profile, method, memory)


class Decoder:
    """A decoding loop that `generate` calls in place of its own, with the same form of result.

    Supports greedy decoding and sampling with temperature, top-k and top-p, one sequence per call.
    Stopping criteria are evaluated after every token. The model is inspected at the first call;
    later calls with the same model reuse the result, also those of other decoders. A `streamer`
    gets the prompt only, since `generate` does not pass it on.
    """

    def __init__(
        self, profile: Profile | None, method: str | None, memory: DraftMemory | None = None
    ) -> None:
        self._profile = profile
        self._method = method
        self._memory = memory
        self._target: Target | None = None

    def __call__(
        self,
        model: Any,
        input_ids: Any,
        logits_processor: Any = (),
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """The prompt followed by n new tokens.  # (1, T) -> (1, T + n)

        Raises:
            UsageError: a batch, a padded prompt, beams, or an unsupported logits processor, input
                or output.
            ProfileError: the profile is for another model.
        """
        _check_config(generation_config, logits_processor)
        _check_inputs(input_ids, model_kwargs, generation_config)
        rounds = generate_rounds(
            self._target_for(model, generation_config),
            input_ids,
            profile=self._profile,
            method=self._method,
            max_new_tokens=generation_config.max_length - input_ids.shape[1],
            options=_sampling(generation_config),
            memory=self._memory,
        )
        tokens = (token for round_ in rounds for token in round_.emitted)
        ids = _until_stopped(input_ids, tokens, stopping_criteria)
        return _output(ids, generation_config)

    def _target_for(self, model: Any, config: Any) -> Target:
        from skipopt.runtime.load import kept_target

        target = self._target  # threads may share the decoder, with several models
        if target is None or target.model is not model:
            target = self._target = kept_target(model)
        eos_ids = config.eos_token_id
        eos_ids = [] if eos_ids is None else [eos_ids] if isinstance(eos_ids, int) else eos_ids
        return replace(target, eos_ids=frozenset(int(token) for token in eos_ids))


def _check_config(config: Any, processors: Any) -> None:
    mode = config.get_generation_mode().value
    if mode not in SUPPORTED_MODES:
        raise UsageError(
            f"{mode.replace('_', ' ')} is not supported",
            hint="use greedy decoding or sampling, or generate without custom_generate",
        )
    asked = [name for name in OUTPUTS if getattr(config, name, None)]
    if config.return_dict_in_generate and asked:
        raise UsageError(
            f"unsupported outputs: {', '.join(asked)}", hint="generate without custom_generate"
        )
    names = [type(each).__name__ for each in processors]
    if others := [name for name in names if name not in SUPPORTED_PROCESSORS]:
        raise UsageError(
            f"unsupported logits processors: {', '.join(others)}",
            hint="use temperature, top_k and top_p alone, or generate without custom_generate",
        )


def _check_inputs(input_ids: Any, arguments: dict[str, Any], config: Any) -> None:
    """Refuse a prompt that is more than the ids of one text.

    Args:
        arguments: what `generate` gives to every forward besides the ids.
    """
    if len(input_ids) != 1 or config.num_return_sequences not in (None, 1):
        raise UsageError("only one sequence at a time can be decoded", hint="loop over prompts")
    mask, positions = arguments.get("attention_mask"), arguments.get("position_ids")
    if mask is not None and not bool(mask.all()):
        raise UsageError("the prompt is padded", hint="give one prompt without padding")
    others = [
        name
        for name, value in arguments.items()
        if value is not None and name not in KNOWN_ARGUMENTS
    ]
    if positions is not None and not _count_up(positions):
        others.append("position_ids")
    if (cache := arguments.get("past_key_values")) is not None and cache.get_seq_length():
        others.append("past_key_values")
    if others:
        raise UsageError(
            f"unsupported inputs: {', '.join(others)}",
            hint="give the ids of the whole prompt alone, or generate without custom_generate",
        )


def _count_up(positions: Any) -> bool:
    """Whether positions are 0, 1, 2, …, as they are by default."""
    import torch

    expected = torch.arange(positions.shape[-1], device=positions.device)
    return bool((positions == expected).all())


def _sampling(config: Any) -> SamplingOptions:
    """The sampling options of `config`; the seed is drawn from torch's generator."""
    import torch

    from skipopt.sampling import SamplingOptions

    if not config.do_sample:
        return SamplingOptions()
    seed = int(torch.randint(1 << 62, ()))
    temperature = 1.0 if config.temperature is None else config.temperature
    return SamplingOptions(temperature, config.top_k or 0, config.top_p or 1.0, seed)


def _until_stopped(ids: Any, tokens: Iterator[int], criteria: Any) -> Any:
    """`ids` with tokens appended until the stopping criteria hold.  # (1, T) -> (1, T + n)"""
    import torch

    for token in tokens:
        ids = torch.cat([ids, ids.new_tensor([[token]])], 1)
        if criteria is not None and len(criteria) and bool(criteria(ids, None).all()):
            break
    return ids


def _output(ids: Any, config: Any) -> Any:
    """The ids, or the output object if `return_dict_in_generate` is set."""
    if not config.return_dict_in_generate:
        return ids
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    return GenerateDecoderOnlyOutput(sequences=ids)
