"""skipopt inside transformers: `model.generate(ids, custom_generate=skipopt.decoder(profile))`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import generate_rounds, resolve_method
from skipopt.decoding.batch import BatchDecoding, BatchRequest, batch_reason
from skipopt.decoding.generate_arguments import SignatureWithTokenizer, find_streamer
from skipopt.decoding.generation_options import check_options
from skipopt.decoding.images import image_inputs, other_arguments
from skipopt.decoding.prompt_rows import PromptRow, prompt_rows
from skipopt.decoding.text import TextStatistics, timed_rounds
from skipopt.decoding.transformers_call import Call, RowText
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.rounds import Round
    from skipopt.runtime.prompt_inputs import PromptInputs

# Modes of `generate` whose text is that of greedy decoding or of sampling.
SUPPORTED_MODES = {"greedy_search", "sample", "assisted_generation"}
# Arguments of a forward that `generate` passes on and that change no text, or are checked.
KNOWN_ARGUMENTS = {
    "attention_mask", "cache_params", "cache_position", "logits_to_keep", "output_attentions",
    "output_hidden_states", "cache", "past_key_values", "position_ids", "use_cache",
}  # fmt: skip


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

    Options are decoded exactly or refused before the first token (`generation_options`). The
    prompts of a batch are decoded together where `skipopt.generate_batch` can decode them, else
    one after another: with other methods and models, and with logits processors or stopping
    criteria that are not transformers' own. These are called as in `generate` with one prompt:
    once for each new token, in order. The model is in
    evaluation mode meanwhile. It is inspected at the first call; later calls with the same model
    reuse the result, also those of other decoders.

    Attributes:
        last_statistics: of the last call that ended without an error, over all its prompts; None
            before the first one.
    """

    def __init__(
        self, profile: Profile | None, method: str | None, memory: DraftMemory | None = None
    ) -> None:
        self._profile = profile
        self._method = method
        self._memory = memory
        self._target: Target | None = None
        self.last_statistics: TextStatistics | None = None

    def __repr__(self) -> str:
        return f"Decoder({self._method_name()})"

    def _method_name(self) -> str:
        return str(resolve_method(self._profile, self._method))

    def __call__(
        self,
        model: Any,
        input_ids: Any,
        logits_processor: Any = (),
        stopping_criteria: Any = None,
        generation_config: Any = None,
        tokenizer: Any = None,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """The prompts followed by at most n new tokens.  # (B, T) -> (B, T + n)

        Args:
            tokenizer: for `generate` itself, which makes the criterion of `stop_strings`.

        Raises:
            UsageError: an option, a logits processor, an input or an output that is not supported.
            ProfileError: the profile is for another model.
        """
        from skipopt.models.sublayers import evaluating

        streamer = find_streamer() if streamer is None else streamer
        with _ended(streamer), evaluating(model):
            check_options(generation_config, getattr(model, "generation_config", None))
            _check_mode(generation_config)
            images = image_inputs(model, input_ids, model_kwargs)
            _check_inputs(other_arguments(model_kwargs, images))
            positions = None if images else model_kwargs.get("position_ids")
            rows = prompt_rows(input_ids, model_kwargs.get("attention_mask"), positions)
            call = Call(input_ids, logits_processor, stopping_criteria, generation_config)
            call.check(rows, streamer)
            target = self._target_for(model, call.eos_ids)
            statistics = TextStatistics(self._method_name(), sum(len(row.tokens) for row in rows))
            if len(rows) > 1 and self._batches(target, call):
                texts = self._decode_batch(target, call, rows, statistics)
            else:
                texts = [
                    self._decode(target, call, row, streamer, statistics, images) for row in rows
                ]
        self.last_statistics = statistics
        return call.output(texts)

    __signature__ = SignatureWithTokenizer(__call__)

    def _target_for(self, model: Any, eos_ids: frozenset[int]) -> Target:
        from skipopt.runtime.load import kept_target

        target = self._target  # threads may share the decoder, with several models
        if target is None or target.model is not model:
            target = self._target = kept_target(model)
        return replace(target, eos_ids=eos_ids)

    def _decode(
        self,
        target: Target,
        call: Call,
        row: PromptRow,
        streamer: Any,
        statistics: TextStatistics,
        images: PromptInputs,
    ) -> RowText:
        """Decode one prompt until a stopping criterion holds; adds to the statistics."""
        text = RowText(call.input_ids[row.number][None], call.new_recorder())
        rounds = generate_rounds(
            target,
            row.tokens,
            profile=self._profile,
            method=self._method,
            max_new_tokens=call.max_new_tokens,
            options=call.sampling(),
            memory=self._memory,
            logits_processor=row.processors(call.processors, len(call.input_ids)),
            recorder=text.recorder,
            prompt_inputs=images,
        )
        for each in timed_rounds(rounds, statistics):
            kept = _append(target, call, text, each, streamer)
            statistics.rounds.add(kept)
            if kept.stop:
                break
        return text

    def _batches(self, target: Target, call: Call) -> bool:
        """Whether several prompts are decoded together.

        Logits processors and criteria of others may count on one text after another.
        """
        others = [*call.processors, *(call.criteria or ())]
        if any(not type(each).__module__.startswith("transformers.") for each in others):
            return False
        return batch_reason(target, self._profile, self._method) is None

    def _decode_batch(
        self,
        target: Target,
        call: Call,
        rows: Sequence[PromptRow],
        statistics: TextStatistics,
    ) -> list[RowText]:
        """Decode all prompts together; adds to the statistics."""
        requests = [
            BatchRequest(
                row.tokens,
                call.max_new_tokens,
                call.sampling(),
                row.processors(call.processors, len(rows)),
            )
            for row in rows
        ]
        decoding = BatchDecoding(
            target,
            requests,
            profile=self._profile,
            method=self._method,
            memory=self._memory,
            batch_size=len(rows),
        )
        texts = [RowText(call.input_ids[row.number][None], None) for row in rows]
        for found in decoding:
            for number, each in found.items():
                kept = _append(target, call, texts[number], each)
                statistics.rounds.add(
                    replace(
                        kept,  # the texts share the time of their round
                        draft_seconds=each.draft_seconds / len(found),
                        verify_seconds=each.verify_seconds / len(found),
                    )
                )
                if kept.stop:
                    decoding.leave(number)
        statistics.seconds = decoding.statistics.seconds
        statistics.prefill_seconds = decoding.statistics.prefill_seconds
        statistics.time_to_first_token = decoding.statistics.time_to_first_token
        return texts


def _append(
    target: Target, call: Call, text: RowText, round_: Round, streamer: Any = None
) -> Round:
    """Add the tokens of a round to a text, up to the one that stops it; what is kept."""
    for count, token in enumerate(round_.emitted, 1):
        text.append(token)
        stopped = call.is_stopped(text)
        if streamer is not None:
            streamer.put(text.ids[0, -1:].cpu())
        if stopped:
            ended = round_.stop if count == len(round_.emitted) else None
            return replace(round_, emitted=round_.emitted[:count], stop=ended or "stop")
    if round_.stop == "context":
        warnings.warn(
            f"the text ends at {target.context_limit} tokens, the model's context", stacklevel=3
        )
    return round_


@contextmanager
def _ended(streamer: Any) -> Iterator[None]:
    """Ends the streamer in any case: who reads from it in another thread would wait for ever."""
    try:
        yield
    finally:
        if streamer is not None:
            streamer.end()


def _check_mode(config: Any) -> None:
    mode = config.get_generation_mode().value
    if mode not in SUPPORTED_MODES:
        raise UsageError(
            f"{mode.replace('_', ' ')} is not supported",
            hint="use greedy decoding or sampling, or generate without custom_generate",
        )


def _check_inputs(arguments: dict[str, Any]) -> None:
    """Refuse a prompt that is more than ids.

    Args:
        arguments: what `generate` gives to every forward besides the ids.
    """
    from skipopt.models.text_states import CACHE_ARGUMENTS

    others = [
        name
        for name, value in arguments.items()
        if value is not None and name not in KNOWN_ARGUMENTS
    ]
    for name in CACHE_ARGUMENTS:
        cache = arguments.get(name)
        if cache is not None and (_was_used(cache) or getattr(cache, "_is_user_defined", False)):
            others.append(name)
    if others:
        raise UsageError(
            f"unsupported inputs: {', '.join(others)}",
            hint="give the ids of the whole prompt alone, or generate without custom_generate",
        )


def _was_used(cache: Any) -> bool:
    """Whether a model has read tokens with this cache."""
    try:
        return bool(cache.get_seq_length())
    except ValueError:  # recurrent layers alone do not count tokens
        return bool(cache.has_previous_state())
