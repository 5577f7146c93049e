"""skipopt inside transformers: `model.generate(ids, custom_generate=skipopt.decoder(profile))`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import generate_rounds, resolve_method
from skipopt.decoding.batch import BatchDecoding, BatchRequest, batch_reason
from skipopt.decoding.generate_arguments import SignatureWithTokenizer, find_streamer
from skipopt.decoding.generation_options import check_options
from skipopt.decoding.images import image_inputs, other_arguments
from skipopt.decoding.prompt_rows import PromptRow, prompt_rows
from skipopt.decoding.text import TextStatistics, timed_rounds
from skipopt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from skipopt.decoding.loop import RowRecorder
    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.models.target import Target
    from skipopt.profile import Profile
    from skipopt.rounds import Round
    from skipopt.runtime.prompt_inputs import PromptInputs
    from skipopt.sampling import SamplingOptions

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
            call = _Call(input_ids, logits_processor, stopping_criteria, generation_config)
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
        call: _Call,
        row: PromptRow,
        streamer: Any,
        statistics: TextStatistics,
        images: PromptInputs,
    ) -> _RowText:
        """Decode one prompt until a stopping criterion holds; adds to the statistics."""
        text = _RowText(call.input_ids[row.number][None], call.new_recorder())
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

    def _batches(self, target: Target, call: _Call) -> bool:
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
        call: _Call,
        rows: Sequence[PromptRow],
        statistics: TextStatistics,
    ) -> list[_RowText]:
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
        texts = [_RowText(call.input_ids[row.number][None], None) for row in rows]
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
    target: Target, call: _Call, text: _RowText, round_: Round, streamer: Any = None
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


@dataclass(slots=True)
class _RowText:
    """A prompt with padding and its new tokens.  # ids (1, T + n)"""

    ids: Tensor
    recorder: RowRecorder | None
    new_tokens: int = 0

    def append(self, token: int) -> None:
        import torch

        self.ids = torch.cat([self.ids, self.ids.new_tensor([[token]])], 1)
        self.new_tokens += 1

    def scores(self) -> tuple[Tensor, ...]:
        """Of each new token, after the logits processors.  # (1, V) each"""
        return self._recorded([] if self.recorder is None else self.recorder.scores)

    def logits(self) -> tuple[Tensor, ...]:
        """Of each new token, as the model returned them.  # (1, V) each"""
        return self._recorded([] if self.recorder is None else self.recorder.logits)

    def _recorded(self, rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
        # The last round may have gone on after the text was stopped.
        return tuple(row[None] for row in rows[: self.new_tokens])


@dataclass(frozen=True, slots=True)
class _Call:
    """What `generate` was called with."""

    input_ids: Tensor
    processors: Sequence[Any]
    criteria: Any
    config: Any
    wants_scores: bool = field(init=False)
    wants_logits: bool = field(init=False)

    def __post_init__(self) -> None:
        wanted = bool(self.config.return_dict_in_generate)
        object.__setattr__(self, "wants_scores", wanted and bool(self.config.output_scores))
        object.__setattr__(self, "wants_logits", wanted and bool(self.config.output_logits))

    def check(self, rows: Sequence[PromptRow], streamer: Any) -> None:
        """Refuse what is for one sequence only.

        Raises:
            UsageError: a streamer or scores for several sequences, or no token to fill up with.
        """
        if len(rows) == 1:
            return
        asked = {
            "streamer": streamer is not None,
            "output_scores": self.wants_scores,
            "output_logits": self.wants_logits,
        }
        if given := [name for name, used in asked.items() if used]:
            raise UsageError(
                f"{given[0]} is for one sequence at a time, and there are {len(rows)}",
                hint="loop over prompts",
            )
        if self._pad_id() is None and len(self.criteria or ()) > 1:
            raise UsageError(
                "pad_token_id is needed where sequences may differ in length",
                hint="give generate a pad_token_id",
            )

    @property
    def max_new_tokens(self) -> int:
        longest = getattr(self.criteria, "max_length", None) or self.config.max_length
        return int(longest) - int(self.input_ids.shape[1])

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text. A criterion of the caller may have replaced the config's."""
        if self.criteria is not None:
            given = (getattr(each, "eos_token_id", None) for each in self.criteria)
            return frozenset(id for each in given if each is not None for id in _ids(each))
        ids = self.config.eos_token_id
        return frozenset(() if ids is None else _ids(ids))

    def sampling(self) -> SamplingOptions:
        """Greedy, or sampling with a seed from torch's generator.

        Temperature and its kind are among the processors.
        """
        import torch

        from skipopt.sampling import SamplingOptions

        if not self.config.do_sample:
            return SamplingOptions()
        return SamplingOptions(temperature=1.0, seed=int(torch.randint(1 << 62, ())))

    def new_recorder(self) -> RowRecorder | None:
        from skipopt.decoding.loop import RowRecorder

        return RowRecorder() if self.wants_scores or self.wants_logits else None

    def is_stopped(self, text: _RowText) -> bool:
        """Whether a stopping criterion holds."""
        if not self.criteria:
            return False
        scores = text.scores() if self.wants_scores else None
        return bool(self.criteria(text.ids, scores).all())

    def output(self, texts: Sequence[_RowText]) -> Any:
        """The ids of all rows, or the output object if `return_dict_in_generate` is set."""
        ids = self._filled_up([text.ids for text in texts])
        if not self.config.return_dict_in_generate:
            return ids
        from transformers.generation.utils import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(
            sequences=ids,  # type: ignore[arg-type]
            scores=texts[0].scores() if self.wants_scores else None,  # type: ignore[arg-type]
            logits=texts[0].logits() if self.wants_logits else None,  # type: ignore[arg-type]
        )

    def _filled_up(self, rows: Sequence[Tensor]) -> Tensor:
        """All rows with padding after the shorter ones.  # (1, …) each -> (B, T + n)"""
        import torch
        from torch.nn.functional import pad

        longest = max(row.shape[1] for row in rows)
        pad_id = self._pad_id() or 0
        return torch.cat([pad(row, (0, longest - row.shape[1]), value=pad_id) for row in rows])

    def _pad_id(self) -> int | None:
        found = getattr(self.config, "_pad_token_tensor", None)
        found = self.config.pad_token_id if found is None else found
        return None if found is None else int(found)


def _ids(value: Any) -> list[int]:
    """Token ids given as a number, a list or a tensor."""
    given = value.tolist() if hasattr(value, "tolist") else value
    return [int(each) for each in given] if isinstance(given, list | tuple | set) else [int(given)]


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
