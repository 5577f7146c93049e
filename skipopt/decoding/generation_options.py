"""The options of transformers' `generate`: which are decoded exactly, and which are refused.

`OPTIONS` has every field of `GenerationConfig`. A field that a later transformers adds is refused
unless it has its default value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from skipopt.errors import UsageError

Treatment = Literal["exact", "no effect", "refused"]
HINT = "leave it out, or generate without custom_generate"
# Refused only where outputs are asked for.
OUTPUTS = frozenset({"output_attentions", "output_hidden_states"})


@dataclass(frozen=True, slots=True)
class Option:
    """How a field of `GenerationConfig` is treated.

    Attributes:
        treatment: `exact` = as `generate` does; `no effect` = it changes no text; `refused` = an
            error before the first token, unless it has one of the values in `off`.
        note: what it does, or why it is refused.
        off: values that mean the same as leaving it out.
    """

    treatment: Treatment
    note: str
    off: tuple[Any, ...] = (None,)


def _all(names: str, option: Option) -> dict[str, Option]:
    return dict.fromkeys(names.split(), option)


OPTIONS: Mapping[str, Option] = {
    **_all("max_length max_new_tokens max_time", Option("exact", "stopping criterion")),
    "stop_strings": Option("exact", "stopping criterion; needs `tokenizer=`, as without skipopt"),
    "do_sample": Option("exact", "drawn with a seed from torch's generator"),
    **_all(
        "temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff",
        Option("exact", "logits processor when sampling"),
    ),
    **_all(
        "min_length min_new_tokens repetition_penalty no_repeat_ngram_size bad_words_ids "
        "renormalize_logits forced_bos_token_id forced_eos_token_id remove_invalid_values "
        "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias",
        Option("exact", "logits processor"),
    ),
    **_all(
        "encoder_repetition_penalty encoder_no_repeat_ngram_size",
        Option("exact", "logits processor, which reads the prompt; for one sequence"),
    ),
    "watermarking_config": Option("exact", "logits processor"),
    "num_return_sequences": Option("exact", "like several prompts, each with its own seed"),
    "return_dict_in_generate": Option("exact", "`past_key_values` is None"),
    **_all("output_scores output_logits", Option("exact", "for one sequence")),
    **_all("pad_token_id bos_token_id eos_token_id", Option("exact", "special tokens")),
    **_all("early_stopping length_penalty", Option("no effect", "for beams")),
    **_all(
        "use_cache cache_config max_cache_len prefill_chunk_size low_memory compile_config "
        "disable_compile continuous_batching_config",
        Option("no effect", "how `generate` itself runs the model"),
    ),
    **_all(
        "use_mtp num_assistant_tokens num_assistant_tokens_schedule "
        "assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size "
        "assistant_early_exit assistant_lookbehind target_lookbehind speculation_type",
        Option("no effect", "how `generate` itself drafts"),
    ),
    "decoder_start_token_id": Option("no effect", "for encoder-decoder models"),
    "transformers_version": Option("no effect", "who wrote the file"),
    "num_beams": Option("refused", "beam search", (None, 1)),
    "num_beam_groups": Option("refused", "group beam search", (None, 1)),
    "diversity_penalty": Option("refused", "group beam search", (None, 0.0)),
    **_all("constraints force_words_ids", Option("refused", "constrained beam search")),
    "penalty_alpha": Option("refused", "contrastive search", (None, 0.0)),
    "dola_layers": Option("refused", "DoLa decoding"),
    "guidance_scale": Option("refused", "it runs the model on a second prompt", (None, 1.0)),
    "assistant_ensemble_weight": Option("refused", "it changes the distribution", (None, 1.0)),
    "is_assistant": Option("refused", "for the assistant of another model", (None, False)),
    "token_healing": Option("refused", "it changes the prompt", (None, False)),
    "cache_implementation": Option(
        "refused",
        "a quantized cache changes the text; all others have no effect",
        (None, "dynamic", "offloaded", "static", "offloaded_static", "sliding_window", "hybrid",
         "hybrid_chunked", "offloaded_hybrid", "offloaded_hybrid_chunked"),
    ),
    **_all(
        "output_attentions output_hidden_states",
        Option("refused", "skipopt's steps do not keep them", (None, False)),
    ),
}  # fmt: skip


def check_options(config: Any, of_model: Any = None) -> None:
    """Check the options that a call of `generate` has come to.

    Args:
        config: its generation config.
        of_model: the model's own, from which options may come.

    Raises:
        UsageError: the first option that cannot be decoded exactly; names it.
    """
    from transformers import GenerationConfig

    defaults = vars(GenerationConfig())  # type: ignore[no-untyped-call]
    for name, value in vars(config).items():
        if name.startswith("_") or (name not in defaults and name not in OPTIONS):
            continue  # an entry that transformers does not know has no effect there
        reason = _refusal(name, value, defaults.get(name))
        if reason is None or (name in OUTPUTS and not config.return_dict_in_generate):
            continue
        theirs = " (from the model's generation_config)" if _is_of(of_model, name, value) else ""
        raise UsageError(f"{name}={value!r}{theirs} is not supported: {reason}", hint=HINT)


def _refusal(name: str, value: Any, default: Any) -> str | None:
    """Why an option with this value is refused; None if it is not."""
    option = OPTIONS.get(name)
    if option is None:
        if _is_one_of(value, (None, default)):
            return None
        return "this version of skipopt does not know it"
    if option.treatment != "refused" or _is_one_of(value, option.off):
        return None
    return option.note


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    simple = (bool, int, float, str)
    return any(
        value is each or (isinstance(value, simple) and isinstance(each, simple) and value == each)
        for each in values
    )


def _is_of(config: Any, name: str, value: Any) -> bool:
    """Whether the value is also that of `config`."""
    theirs = getattr(config, name, None)
    return theirs is not None and _is_one_of(value, (theirs,))
