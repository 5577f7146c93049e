"""Groups of options: one for each field of a dataclass, in the order of `--help`.

A command that declares a parameter of such a dataclass has its options, see `command.py`.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from skipopt.cli.model_options import ModelOptions
from skipopt.cli.options import MaxNewTokens, Seed, option, read_names, read_numbers
from skipopt.cli.output import Output, remember_command
from skipopt.cli.run_prompt import ChatTemplate, RunPrompt, read_json_object
from skipopt.cli.settings import apply_config
from skipopt.decoding.options import ChatOptions, DecodingOptions
from skipopt.methods import METHODS
from skipopt.sampling import SamplingOptions
from skipopt.study.config import SearchConfig

DEFAULT_TIMEOUT = next(f.default for f in fields(SearchConfig) if f.name == "default_timeout")

MODEL_OPTIONS = {
    "device": Annotated[
        str, option("--device", metavar="D", help="auto, cpu, cuda, cuda:1, mps.")
    ],
    "dtype": Annotated[
        str,
        option(
            "--dtype",
            metavar="T",
            help="auto (float32 on a CPU, the checkpoint's dtype on a GPU), float32, bfloat16, "
            "float16.",
        ),
    ],
    "threads": Annotated[
        int | None,
        option(
            "--threads",
            metavar="N",
            min=1,
            help="Number of CPU threads, at most one for each core. Default: chosen by torch.",
            show_default=False,
        ),
    ],
    "runtime": Annotated[
        str,
        option(
            "--runtime",
            metavar="eager|native|prepacked|captured|inductor|auto",
            help="eager: transformers modules unchanged; native: steps are recorded once and run "
            "by skipopt's compiled kernels, on a CPU; prepacked: modules with prepacked weights, "
            "on a CPU; captured: steps are captured once and replayed (CUDA graphs on a GPU, "
            "fx graphs on a CPU), with prepacked weights where they are faster; inductor: "
            "captured steps compiled by torch.compile, for a GPU; auto: the fastest that works "
            "here.",
        ),
    ],
    "device_map": Annotated[
        str | None,
        option(
            "--device-map",
            metavar="MAP",
            help="auto, balanced, balanced_low_0 and sequential spread a large model over GPUs, "
            "memory and disk, instead of --device. Needs `skipopt[large]`.",
            show_default=False,
        ),
    ],
    "revision": Annotated[
        str | None, option("--revision", metavar="R", help="Branch, tag or commit of the model.")
    ],
    "trust_remote_code": Annotated[
        bool, option("--trust-remote-code", help="Run code that comes with the model.")
    ],
}
OUTPUT_OPTIONS = {
    "config": Annotated[
        Path | None,
        option(
            "--config",
            metavar="FILE",
            callback=apply_config,
            is_eager=True,
            help="YAML of any of these options. Precedence: flag, SKIPOPT_* variable, this file, "
            "default.",
        ),
    ],
    "json": Annotated[bool, option("--json", help="Print one JSON document on stdout.")],
    "quiet": Annotated[bool, option("--quiet", "-q", help="Print only errors on stderr.")],
    "verbose": Annotated[
        bool,
        option(
            "--verbose",
            "-v",
            callback=remember_command,
            is_eager=True,
            help="Also print messages of libraries, and the traceback of a bug.",
        ),
    ],
    "no_progress": Annotated[
        bool,
        option("--no-progress", help="No live display; at most a plain line every few seconds."),
    ],
}
SAMPLING_OPTIONS = {
    "temperature": Annotated[
        float,
        option("--temperature", "--temp", metavar="T", help="0 is greedy: the most likely token."),
    ],
    "top_p": Annotated[
        float,
        option(
            "--top-p",
            metavar="P",
            help="Sample from the most likely tokens whose probabilities sum to P.",
        ),
    ],
    "top_k": Annotated[
        int, option("--top-k", metavar="K", help="Sample from the K most likely tokens; 0: all.")
    ],
    "seed": Seed,
    "min_p": Annotated[
        float,
        option(
            "--min-p",
            metavar="P",
            help="Sample from tokens with at least P times the likeliest one's probability.",
        ),
    ],
    "typical_p": Annotated[
        float,
        option(
            "--typical-p",
            metavar="P",
            help="Sample from the most typical tokens whose probabilities sum to P.",
        ),
    ],
    "epsilon_cutoff": Annotated[
        float,
        option(
            "--epsilon-cutoff",
            metavar="P",
            help="Sample from tokens of at least this probability; 0: all.",
        ),
    ],
    "eta_cutoff": Annotated[
        float,
        option(
            "--eta-cutoff",
            metavar="P",
            help="Sample from tokens of at least a probability that falls with the entropy; "
            "0: all.",
        ),
    ],
    "repetition_penalty": Annotated[
        float,
        option(
            "--repetition-penalty",
            metavar="R",
            help="Make tokens of prompt and text less likely; 1: as they are.",
        ),
    ],
    "no_repeat_ngram_size": Annotated[
        int,
        option(
            "--no-repeat-ngram-size",
            metavar="N",
            help="Let no N tokens in a row occur twice; 0: they may.",
        ),
    ],
    "min_new_tokens": Annotated[
        int,
        option("--min-new-tokens", metavar="N", help="No end of text before so many new tokens."),
    ],
}
CHAT_TEMPLATE = {
    "system": Annotated[
        str | None,
        option(
            "--system", metavar="TEXT", help="The system message of a chat.", show_default=False
        ),
    ],
    "chat_template_kwargs": Annotated[
        str | None,
        option(
            "--chat-template-kwargs",
            metavar="JSON",
            parser=read_json_object,
            help="Variables of the model's chat template: '{\"enable_thinking\": false}'.",
            show_default=False,
        ),
    ],
}
RUN_PROMPT = {
    "prompt": Annotated[
        str | None,
        option(
            "--prompt",
            metavar="TEXT",
            help="The text to continue; -: from stdin.",
            show_default=False,
        ),
    ],
    "prompt_file": Annotated[
        Path | None,
        option(
            "--prompt-file",
            metavar="FILE",
            help="Read the prompt from a file; -: from stdin, as without a prompt.",
            show_default=False,
        ),
    ],
    "messages": Annotated[
        Path | None,
        option(
            "--messages",
            metavar="FILE",
            help="Answer a chat: a JSON list of messages; -: from stdin.",
            show_default=False,
        ),
    ],
    "chat": Annotated[
        bool,
        option(
            "--chat",
            help="Apply the model's chat template to the prompt; --messages, --system and "
            "--chat-template-kwargs do so, too.",
        ),
    ],
    **CHAT_TEMPLATE,
}
DECODING_OPTIONS = {
    "max_new_tokens": MaxNewTokens,
    **SAMPLING_OPTIONS,
    "stop": Annotated[
        list[str] | None,
        option(
            "--stop",
            metavar="TEXT",
            help="End the text before this string; the option may be repeated.",
        ),
    ],
    "method": Annotated[
        str | None,
        option(
            "--method",
            metavar="NAME",
            help=f"{', '.join(METHODS)}; options follow the name: lookahead:window=7:ngram=5. An "
            "unknown option is answered with those of the method. Default: the profile's, else "
            "plain. With verify=relaxed-… the output may differ from the model's.",
            show_default=False,
        ),
    ],
}
SEARCH_OPTIONS = {
    "sampler": Annotated[
        str,
        option(
            "--sampler",
            metavar="NAME",
            help="auto, random, bayes, tpe, gp, greedy, local-search, leave-one-out, swift, dp, "
            "exhaustive.",
        ),
    ],
    "objective": Annotated[
        Literal["speed", "matchness"], option("--objective", help="What to maximize.")
    ],
    "skip_ratio": Annotated[
        float | None,
        option(
            "--skip-ratio", metavar="R", min=0, max=1, help="Skip exactly this share of sublayers."
        ),
    ],
    "keep_layers": Annotated[
        str | None,
        option(
            "--keep-layers",
            metavar="L,…",
            parser=partial(read_numbers, what="layers", example="--keep-layers 0,-1"),
            help="Layers never skipped; negative numbers count from the end: 0,-1.",
        ),
    ],
    "gamma": Annotated[
        int | None,
        option(
            "--gamma", metavar="N", help="Fix γ (num_speculative_tokens): most tokens per draft."
        ),
    ],
    "tau": Annotated[
        float | None,
        option("--tau", metavar="T", help="Fix τ, the draft confidence threshold."),
    ],
    "context_lengths": Annotated[
        str | None,
        option(
            "--context-lengths",
            metavar="N,…",
            parser=partial(
                read_numbers, what="context lengths", example="--context-lengths 512,2048"
            ),
            help="Also find masks for texts from these lengths on: 512,2048.",
        ),
    ],
    "search_space": Annotated[
        str | None,
        option(
            "--search-space",
            metavar="A,B,…",
            parser=read_names,
            help="What may make a draft cheaper: skip (sublayers), int8, int4 (weights), "
            "vocab, vocab=8192 (tokens to choose from), window, window=128 (positions to attend "
            "to), experts, experts=2 (of a mixture). Default: what this machine has fast kernels "
            "for, and experts where the model has some.",
            show_default=False,
        ),
    ],
    "trials": Annotated[
        int | None, option("--trials", metavar="N", min=1, help="Most masks to score.")
    ],
    "timeout": Annotated[
        float | None,
        option(
            "--timeout",
            metavar="SECONDS",
            help="How long to search, after loading. Default: planned from the first steps, up to "
            f"{DEFAULT_TIMEOUT:g}; no limit with --trials.",
            show_default=False,
        ),
    ],
    "seed": Seed,
}
# Headings of `--help`, by parameter; other options are a command's own.
PANELS = {
    **dict.fromkeys(SEARCH_OPTIONS, "Search"),
    **dict.fromkeys(SAMPLING_OPTIONS.keys() - {"seed"}, "Sampling"),
    **dict.fromkeys(MODEL_OPTIONS, "Model"),
    **dict.fromkeys(OUTPUT_OPTIONS, "Output and configuration"),
    "help": "Output and configuration",
}
GROUPS: dict[type[Any], dict[str, Any]] = {
    ModelOptions: MODEL_OPTIONS,
    Output: OUTPUT_OPTIONS,
    SamplingOptions: SAMPLING_OPTIONS,
    DecodingOptions: DECODING_OPTIONS,
    ChatOptions: DECODING_OPTIONS,
    ChatTemplate: CHAT_TEMPLATE,
    RunPrompt: RUN_PROMPT,
    SearchConfig: SEARCH_OPTIONS,
}
