"""The options of a search with their defaults, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Literal, get_args

from skipopt.draft_config import UNCHANGED, DraftConfig
from skipopt.errors import UsageError
from skipopt.masks import MaskSpace
from skipopt.methods import parse_method
from skipopt.option_values import brief, convert_numbers
from skipopt.sampling import check_seed

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.storage.study_key import StudyIdentity

ObjectiveName = Literal["speed", "matchness"]
SKIP = "skip"
LAYER_SKIP = "layer-skip"
WINDOW = "window"
VOCAB = "vocab"
EXPERTS = "experts"
MAX_GAMMA = 256  # the costs of all verifications up to this long are measured
SEARCH_SPACE_HINT = "write it like --search-space skip,int8,vocab,window=256,experts"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SearchConfig:
    """All options of a search. Every default of a search is set here and nowhere else.

    What is searched:
        sampler: how masks are proposed; see `skipopt.samplers.registry`.
        objective: `speed` = predicted speedup over plain decoding; `matchness` = share of
            positions where the draft's most likely token is the target's, as in SWIFT
            (arXiv 2410.06916), which needs `skip_ratio`.
        skip_ratio: fixed share of skipped sublayers; None: any.
        keep_layers: layers whose sublayers are never skipped; negative numbers count from the
            end.
        gamma: fixed γ, most tokens drafted per round; None: the best for each mask.
        tau: fixed τ, draft confidence threshold; None: the best for each mask.
        search_space: what may make a draft cheaper: `skip` (skipping sublayers), `int8`, `int4`
            (quantized draft weights), `window`, `window=N` (a shorter attention window), `vocab`,
            `vocab=N` (a part of the vocabulary; `vocab` alone tries some sizes), `experts`,
            `experts=N` (fewer routed experts). None: what the machine has kernels for, and fewer
            experts where the model is a mixture of them (`for_target`).
        context_lengths: context lengths, in tokens and ascending, from which on another mask may
            be better.

    Budget:
        trials: masks to score; None: until the time is over, or no better mask is found.
        timeout: seconds of the whole search, after loading; None: what its plan needs, if `trials`
            is None too, else no limit.
        default_timeout: the longest that a search without `timeout` plans to take.
        seed: of the sampler.

    Calibration:
        calibration_prompts: most prompts used; the others are ignored.
        calibration_tokens: tokens generated after each prompt.
        validation_share: share of these prompts that is decoded by the finalists and not scored.
        max_gamma: largest γ that is tried.
        cost_seconds: time to measure the costs of drafting and verification.
        draft_config_cost_seconds: the same for each draft configuration.

    Trials:
        quick_texts: texts on which all masks are scored; the best are rescored on all texts.
        first_texts, first_positions: texts, and positions of each, on which every mask is scored.
        more_positions: positions of every quick text on which the best of these are scored next;
            the best of those are scored on all.
        reduction_factor: of the masks scored at a stage, one in so many goes on to the next.
        prune_alpha: significance level below the best at which a mask does not go on.
        batch_size: masks scored together.
        patience: trials per free sublayer without a better mask after which a search ends;
            ignored where `trials` is given.
        patience_without_gain: the same while no mask has a predicted speedup above 1.
        min_improvement: relative increase of the best value that resets the patience.
        claim_seconds: time to wait for another worker's score before a mask is scored here too.

    Rescoring:
        num_candidates: best masks, scored again on all texts.
        num_full_draft: best of these, scored with full drafts, which makes predictions exact.
        num_finalists: best of these, decoded on the validation prompts.
        finalist_margin: relative difference to the best prediction above which a candidate cannot
            win, and is not decoded.

    Validation:
        methods: methods that are compared with plain decoding; `layer-skip` is one of them.
            `blockwise` takes part where trained heads ship for the model.
        validation_repeats: most times that each prompt is decoded.
        min_validation_prompts: prompts before any finalist is dropped; where the time is short,
            validation ends after two.
        drop_alpha: significance level at which a finalist is dropped, at each prompt.
        tie_alpha: significance level at which a finalist counts as slower than the fastest in
            the final comparison. It is larger than `drop_alpha` because it is applied once.
        min_gain: logarithm of the speedup below which a method is not worth using.

    Context lengths:
        context_prompts, context_tokens: prompts per length, and tokens generated after each.
        context_cost_seconds: time to measure the costs at each length.
        context_neighbors: masks near the best one that are scored at each length.
        context_full_draft: best of these, scored with full drafts.
        context_min_gain: relative gain below which the mask does not change.

    Raises:
        UsageError: a value out of range, or options that contradict each other.
    """

    sampler: str = "auto"
    objective: ObjectiveName = "speed"
    skip_ratio: float | None = None
    keep_layers: tuple[int, ...] = ()
    gamma: int | None = None
    tau: float | None = None
    search_space: tuple[str, ...] | None = None
    context_lengths: tuple[int, ...] = ()

    trials: int | None = None
    timeout: float | None = None
    default_timeout: float = 160.0
    seed: int = 0

    calibration_prompts: int = 32
    calibration_tokens: int = 40
    validation_share: float = 0.5
    max_gamma: int = 8
    cost_seconds: float = 4.0
    draft_config_cost_seconds: float = 2.0

    quick_texts: int = 12
    first_texts: int = 8
    first_positions: int = 6
    more_positions: int = 12
    reduction_factor: int = 4
    prune_alpha: float = 0.07
    batch_size: int = 8
    patience: int = 8
    patience_without_gain: int = 6
    min_improvement: float = 0.002
    claim_seconds: float = 30.0

    num_candidates: int = 24
    num_full_draft: int = 10
    num_finalists: int = 5
    finalist_margin: float = 0.1

    methods: tuple[str, ...] = ("suffix", LAYER_SKIP, "blockwise", "cascade")
    validation_repeats: int = 3
    min_validation_prompts: int = 4
    drop_alpha: float = 0.02
    tie_alpha: float = 0.1
    min_gain: float = 0.02

    context_prompts: int = 8
    context_tokens: int = 32
    context_cost_seconds: float = 3.0
    context_neighbors: int = 48
    context_full_draft: int = 6
    context_min_gain: float = 0.01

    def __repr__(self) -> str:
        return brief(self)

    def __post_init__(self) -> None:
        for name in ("search_space", "methods"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))  # lists are welcome
        convert_numbers(self)
        self._check_names()
        self._check_search_space()
        self._check_objective()
        self._check_ranges()
        check_context_lengths(self.context_lengths)

    def _check_names(self) -> None:
        from skipopt.samplers.registry import SAMPLERS

        for option, name, known in (
            ("sampler", self.sampler, tuple(SAMPLERS)),
            ("objective", self.objective, get_args(ObjectiveName)),
        ):
            if name not in known:
                raise UsageError(
                    f"unknown {option} {name!r}", hint=f"choose one of {', '.join(known)}"
                )
        if LAYER_SKIP not in [parse_method(method).name for method in self.methods]:
            raise UsageError(f"methods must include {LAYER_SKIP}")

    def _check_objective(self) -> None:
        if self.objective == "matchness" and self.skip_ratio is None:
            raise UsageError(
                "the objective matchness is highest where nothing is skipped",
                hint="fix the share with --skip-ratio, or use --objective speed",
            )

    def _check_search_space(self) -> None:
        cheaper = self.searches_draft_configs  # raises where one cannot be read
        if not cheaper and not self.searches_masks:
            raise UsageError("the search space is empty", hint=SEARCH_SPACE_HINT)
        if cheaper and self.objective != "speed":
            raise UsageError(
                f"the objective {self.objective} is highest without quantization, vocabulary, "
                "window and experts",
                hint="use --objective speed, or --search-space skip",
            )

    def _check_ranges(self) -> None:
        for name in ("gamma", "trials", *_COUNTS):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be 1 or more, not {value}")
        if (longest := self.longest_verification - 1) > MAX_GAMMA:
            raise UsageError(f"gamma must be 1 to {MAX_GAMMA}, not {longest}")
        for name in ("skip_ratio", *_SHARES):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise UsageError(f"{name} must lie between 0 and 1, not {value}")
        for name, seconds in (
            ("timeout", self.timeout),
            ("default_timeout", self.default_timeout),
        ):
            if seconds is not None and not 0 < seconds < inf:
                raise UsageError(f"{name} must be finite and above 0 seconds, not {seconds:g}")
        check_seed(self.seed)
        if self.tau is not None and not 0 <= self.tau <= 1:
            raise UsageError(f"tau must lie in [0, 1], not {self.tau}")

    @property
    def longest_plan(self) -> float:
        """Most seconds that a search without `timeout` may plan; infinite with `trials`."""
        return self.default_timeout if self.trials is None else inf

    @property
    def longest_verification(self) -> int:
        """Tokens of the longest verification: the longest draft and the token before it."""
        return (self.gamma or self.max_gamma) + 1

    @property
    def searches_masks(self) -> bool:
        return SKIP in self._space

    @property
    def without_masks(self) -> SearchConfig:
        """The same without masks in its search space."""
        return replace(self, search_space=tuple(text for text in self._space if text != SKIP))

    @property
    def _space(self) -> tuple[str, ...]:
        return (SKIP,) if self.search_space is None else self.search_space

    def for_target(self, target: Target) -> SearchConfig:
        """With the search space that is used where none was given.

        Masks; and unless the objective or a fixed skip ratio asks for masks only, `int8` and
        `int4` where the target has kernels for them that are faster than its own products, and
        `vocab` where the output projection is a large part of its weights, and `experts=1` where
        the model runs more of its experts for a token.
        """
        if self.search_space is not None:
            return self
        from skipopt.runtime.draft_mode import head_share, unsupported_reasons

        space: tuple[str, ...] = (SKIP,)
        if self.objective == "speed" and self.skip_ratio is None:
            space += tuple(str(e) for e in QUANTIZED if not unsupported_reasons(target, e))
            space += (VOCAB,) if head_share(target) >= LEAST_HEAD_SHARE else ()
            space += tuple(str(e) for e in FEWER if not unsupported_reasons(target, e))
        return replace(self, search_space=space)

    @property
    def searches_draft_configs(self) -> bool:
        """Whether anything but masks is searched."""
        return bool(self.draft_configs) or bool(self.vocab_sizes(VOCAB_PARTS[0]))

    def vocab_sizes(self, tokens: int) -> list[int]:
        """Sizes of the draft vocabularies to try for a model of so many tokens, ascending."""
        found: set[int] = set()
        for text in self._space:
            if text == VOCAB:
                found |= {tokens // part for part in VOCAB_PARTS if tokens >= part}
            elif text != SKIP and (size := _draft_config(text).vocab_size):
                found.add(size)
        return sorted(found)

    @property
    def draft_configs(self) -> list[DraftConfig]:
        """What to try besides masks: each quantization, window, number of experts, and all pairs.

        Draft vocabularies are tried with the best of these.
        """
        named = [_draft_config(text) for text in self._space if text not in (SKIP, VOCAB)]
        bits = [replace(c, attention_window=None, vocab_size=None, experts=None) for c in named]
        windows = dict.fromkeys([None, *(c.attention_window for c in named)])
        experts = dict.fromkeys([None, *(c.experts for c in named)])
        together = [
            replace(c, attention_window=w, experts=e)
            for e in experts
            for w in windows
            for c in dict.fromkeys([UNCHANGED, *bits])
        ]
        return [each for each in together if each]

    def mask_space(self, depth: int, unskippable: frozenset[int] = frozenset()) -> MaskSpace:
        """The masks that may be tried on a model with `depth` layers.

        Args:
            unskippable: positions of sublayers that cannot be left out.

        Raises:
            UsageError: `keep_layers` names a layer that does not exist.
        """
        count = None if self.skip_ratio is None else round(2 * depth * self.skip_ratio)
        frozen = _frozen_sublayers(depth, self.keep_layers)
        return MaskSpace(depth, frozen | unskippable, count)

    def identity(self, target: Target, prompts: str) -> StudyIdentity:
        """What trials must have in common to belong to one study.

        Args:
            prompts: digest of the prompts.
        """
        from skipopt.storage.study_key import StudyIdentity

        return StudyIdentity(
            layers=target.depth,
            model=target.fingerprint,
            prompts=prompts,
            objective=self.objective,
            skip_ratio=self.skip_ratio,
            keep_layers=tuple(sorted(self.keep_layers)),
            gamma=self.gamma,
            tau=self.tau,
        )


def check_context_lengths(lengths: Sequence[int], longest: int | None = None) -> None:
    """Raise UsageError unless the lengths ascend, and end at `longest` at most."""
    if list(lengths) != sorted(set(lengths)) or any(length < 1 for length in lengths):
        raise UsageError(
            f"context lengths must ascend, not {', '.join(map(str, lengths))}",
            hint="write them like --context-lengths 512,2048",
        )
    if longest is not None and lengths and lengths[-1] > longest:
        raise UsageError(
            f"the model's context holds texts of {longest} tokens at most, not {lengths[-1]}",
            hint="leave out the longest of --context-lengths",
        )


_COUNTS = (
    "calibration_prompts", "calibration_tokens", "max_gamma", "quick_texts", "first_texts",
    "first_positions", "more_positions", "reduction_factor", "batch_size", "patience",
    "patience_without_gain", "num_candidates", "num_full_draft", "num_finalists",
    "validation_repeats", "min_validation_prompts", "context_prompts", "context_tokens",
    "context_full_draft",
)  # fmt: skip
_SHARES = ("validation_share", "prune_alpha", "drop_alpha", "tie_alpha")
_DEFAULTS = {WINDOW: "window=256", EXPERTS: "experts=1"}
VOCAB_PARTS = (16, 8, 4, 2)  # shares of the vocabulary, as 1/16
LEAST_HEAD_SHARE = 0.3  # of the weights: vocabularies pay at 0.63, not at 0.21 (draft-config.md)
QUANTIZED = (DraftConfig(weight_bits=8), DraftConfig(weight_bits=4))
FEWER = (DraftConfig(experts=1),)


def _draft_config(text: str) -> DraftConfig:
    """Raises UsageError where `text` is no quantization, window, vocabulary or experts."""
    try:
        return DraftConfig.parse(_DEFAULTS.get(text, text))
    except UsageError as error:
        raise UsageError(str(error), hint=SEARCH_SPACE_HINT) from None


def _frozen_sublayers(depth: int, keep_layers: Sequence[int]) -> frozenset[int]:
    """Indices of both sublayers of each layer to keep."""
    for layer in keep_layers:
        if not -depth <= layer < depth:
            raise UsageError(
                f"cannot keep layer {layer}: the model has {depth} layers, "
                f"numbered 0 to {depth - 1}"
            )
    return frozenset(2 * (layer % depth) + bit for layer in keep_layers for bit in (0, 1))
