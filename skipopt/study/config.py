"""What a search is asked to do, checked before anything is measured. Knows nothing of how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipopt.draft_config import DraftConfig
from skipopt.errors import UsageError
from skipopt.masks import MaskSpace
from skipopt.storage.study_key import StudyIdentity

if TYPE_CHECKING:
    from skipopt.models.target import Target

OBJECTIVES = ("speed", "matchness")
DEFAULT_TIMEOUT = 60.0
SKIP = "skip"
DEFAULT_WINDOW = 256
LEVERS = "write them like --levers skip,int8,window=256"


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """The options of one search.

    Attributes:
        sampler: see `skipopt.samplers.registry`.
        objective: `speed` = predicted tokens per second; `matchness` as in SWIFT
            (arXiv 2410.06916), which needs `skip_ratio`.
        skip_ratio: fixed share of skipped sublayers.
        keep: layers none of whose sublayers is skipped; negative numbers count from the end.
        gamma, tau: fixed; tuned with each mask where None.
        trials, timeout: the budget, in masks and in seconds; 60 seconds where neither is given.
        seed: of the sampler.
        prompts: digest of the prompt set.
        contexts: lengths of text from which on another mask may be better.
        levers: what drafts may be made cheaper by: `skip`, `int8`, `int4`, `window`, `window=N`.

    Raises:
        UsageError: a value out of range, or a combination that means nothing.
    """

    sampler: str = "auto"
    objective: str = "speed"
    skip_ratio: float | None = None
    keep: tuple[int, ...] = ()
    gamma: int | None = None
    tau: float | None = None
    trials: int | None = None
    timeout: float | None = None
    seed: int = 0
    prompts: str = ""
    contexts: tuple[int, ...] = ()
    draft_config: tuple[str, ...] = (SKIP,)

    def __post_init__(self) -> None:
        self._check_levers()
        self._check_objective()
        self._check_budget()
        if self.gamma is not None and self.gamma < 1:
            raise UsageError(f"gamma must be 1 or more, not {self.gamma}", hint="try --gamma 4")
        if self.tau is not None and not 0 <= self.tau <= 1:
            raise UsageError(f"tau must lie in [0, 1], not {self.tau}")

    def _check_objective(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(
                f"unknown objective {self.objective!r}", hint=f"use one of {', '.join(OBJECTIVES)}"
            )
        if self.skip_ratio is not None and not 0 < self.skip_ratio < 1:
            raise UsageError(f"skip-ratio must lie between 0 and 1, not {self.skip_ratio}")
        if self.objective == "matchness" and self.skip_ratio is None:
            raise UsageError(
                "the objective matchness is highest where nothing is skipped",
                hint="fix the share with --skip-ratio, or use --objective speed",
            )

    def _check_levers(self) -> None:
        cheaper = self.combinations  # fails where one cannot be read
        if not cheaper and not self.skips:
            raise UsageError("no lever is left to search", hint=f"leave out --levers, or {LEVERS}")
        if cheaper and self.objective != "speed":
            raise UsageError(
                f"the objective {self.objective} is highest where no lever is pulled",
                hint="use --objective speed",
            )

    def _check_budget(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"trials must be 1 or more, not {self.trials}")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"timeout must be more than 0 seconds, not {self.timeout}")

    @property
    def seconds(self) -> float | None:
        """How long the search may take; None = until its trials are done."""
        if self.trials is None and self.timeout is None:
            return DEFAULT_TIMEOUT
        return self.timeout

    @property
    def skips(self) -> bool:
        """Are masks searched for?"""
        return SKIP in self.draft_config

    @property
    def combinations(self) -> list[DraftConfig]:
        """Beside masks, what to try: each lever alone, and a width with a window."""
        named = [_lever(text) for text in self.draft_config if text != SKIP]
        widths = [None, *dict.fromkeys(lever.weight_bits for lever in named if lever.weight_bits)]
        windows = [
            None,
            *dict.fromkeys(lever.attention_window for lever in named if lever.attention_window),
        ]
        return [
            DraftConfig(bits, window) for window in windows for bits in widths if bits or window
        ]

    def space(self, depth: int) -> MaskSpace:
        """The masks that may be tried on a model of so many layers.

        Raises:
            UsageError: a layer to keep that there is not.
        """
        count = None if self.skip_ratio is None else round(2 * depth * self.skip_ratio)
        return MaskSpace(depth, _frozen(depth, self.keep), count)

    def identity(self, target: Target) -> StudyIdentity:
        """What trials must have in common to belong to one study."""
        return StudyIdentity(
            layers=target.depth,
            model=target.fingerprint,
            prompts=self.prompts,
            objective=self.objective,
            skip_ratio=self.skip_ratio,
            keep_layers=tuple(sorted(self.keep)),
            gamma=self.gamma,
            tau=self.tau,
        )


def _lever(text: str) -> DraftConfig:
    """Raises UsageError where there is none of that name."""
    try:
        return DraftConfig.parse(f"{text}={DEFAULT_WINDOW}" if text == "window" else text)
    except UsageError as error:
        raise UsageError(str(error), hint=LEVERS) from None


def _frozen(depth: int, keep: Sequence[int]) -> frozenset[int]:
    """Both sublayers of every layer to keep."""
    for layer in keep:
        if not -depth <= layer < depth:
            raise UsageError(
                f"cannot keep layer {layer}: the model has {depth} layers, "
                f"numbered 0 to {depth - 1}"
            )
    return frozenset(2 * (layer % depth) + bit for layer in keep for bit in (0, 1))
