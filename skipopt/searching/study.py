"""One search, from prompts to a profile: calibrate, price, propose and score, confirm.

Knows nothing of how a mask is scored, proposed or run; it keeps the budget, the journal and
the best so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipopt.benchmarking.workload import NothingButLoops, Workload
from skipopt.errors import PromptError, SearchError
from skipopt.masks import SkipMask
from skipopt.profile import Profile
from skipopt.searching.calibration import (
    Continued,
    check_count,
    continue_prompts,
    split_to_confirm,
)
from skipopt.searching.contexts import Lengths, check_lengths
from skipopt.searching.journal import Journal, Trial
from skipopt.searching.outcome import Spent, profile_of, speedups_of_others
from skipopt.searching.plan import Plan
from skipopt.searching.reasons import no_promise, no_texts, reason_against
from skipopt.searching.registry import make_sampler

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.prompts import Prompt, PromptSet
    from skipopt.runtime.prices import Prices
    from skipopt.scoring import Scorer, Text
    from skipopt.searching.confirm import Confirmed
    from skipopt.searching.judging import Judge
    from skipopt.searching.protocol import Sampler

CALIBRATION_PROMPTS = 32
CALIBRATION_TOKENS = 40
QUICK_TEXTS = 12  # every mask is scored on these; the best are scored again on all texts
BATCH = 8
CONTENDERS = 24  # scored again on all texts
NEAREST = 10  # of these, scored with whole drafts
FINALISTS = 5  # of these, decoded with
LONGEST_DRAFT = 8
SHARE_FOR_SEARCH = 0.5  # of the time, calibration included; the rest confirms
PATIENCE = 8  # trials for each free sublayer without a better mask, after which a search ends
HOPELESS_PATIENCE = 1.5  # the same while nothing promises any gain
LEAST_COPIED = 1.05  # tokens of a round of prompt lookup below which it cannot pay
BETTER = 0.002  # what counts as better, as a share


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is. `phase` is calibrate, price, search or confirm."""

    phase: str
    trials: int
    best_value: float | None
    best_mask: SkipMask | None
    seconds: float
    seconds_left: float | None


class Interrupted(Exception):
    """The search was stopped by Ctrl-C; `profile` is the best so far, unconfirmed, if any."""

    def __init__(self, profile: Profile | None) -> None:
        super().__init__("the search was interrupted")
        self.profile = profile


def search(
    target: Target,
    prompts: PromptSet | Sequence[str] | None = None,
    *,
    sampler: str = "auto",
    objective: str = "speed",
    skip_ratio: float | None = None,
    keep: Sequence[int] = (),
    gamma: int | None = None,
    tau: float | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    seed: int = 0,
    journal: Path | None = None,
    resume: bool = False,
    contexts: Sequence[int] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Profile:
    """Find which sublayers to skip while drafting, with γ and τ; or say that it does not pay.

    Args:
        prompts: the calibration half is looked at, the held-out half never; None: built-in set.
        sampler: see `skipopt.searching.registry`.
        objective: `speed` = predicted tokens per second; `matchness` as in SWIFT
            (arXiv 2410.06916), which needs `skip_ratio`.
        skip_ratio: fixed share of skipped sublayers.
        keep: layers none of whose sublayers is skipped; negative numbers count from the end.
        gamma, tau: fix them; tuned with each mask otherwise.
        trials, timeout: the budget, in masks and in seconds; 60 seconds if neither is given.
        journal: trials are appended here at once; with `resume`, those in it are kept.
        contexts: lengths of text, in tokens, from which on another mask is looked for.
        on_progress: called often.

    Raises:
        Interrupted: on KeyboardInterrupt, with the best profile so far.
        SkipoptError: bad input, before anything is measured where possible.
    """
    prompt_set = _prompt_set(prompts)
    plan = Plan(
        sampler,
        objective,
        skip_ratio,
        tuple(keep),
        gamma,
        tau,
        trials,
        timeout,
        seed,
        prompt_set.digest,
        tuple(contexts),
    )
    check_lengths(plan.contexts, target.context_limit - CALIBRATION_TOKENS)
    proposer = make_sampler(sampler, plan.space(target.depth), seed)
    prompt_ids = _token_prompts(target, prompt_set.calibration)
    check_count(prompt_ids)
    book = None if journal is None else Journal(journal, target.depth, plan.facts(target), resume)
    study = _Study(target, plan, proposer, book, on_progress)
    try:
        return study.run(prompt_ids)
    except KeyboardInterrupt:
        raise Interrupted(study.unconfirmed()) from None


class _Study:
    """A search under way: its clock, its trials, its best."""

    def __init__(
        self,
        target: Target,
        plan: Plan,
        sampler: Sampler,
        journal: Journal | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.target = target
        self.plan = plan
        self.sampler = sampler
        self.journal = journal
        self.trials: list[Trial] = []
        self._on_progress = on_progress
        self._phase = "calibrate"
        self._began = time.monotonic()

    def run(self, prompts: Sequence[Sequence[int]]) -> Profile:
        from skipopt.pricing import measure_prices
        from skipopt.scoring import Scorer
        from skipopt.searching.judging import Judge

        to_score, to_confirm = split_to_confirm(prompts[:CALIBRATION_PROMPTS])
        longest = (self.plan.gamma or LONGEST_DRAFT) + 1
        try:
            scored = self._continue(to_score)
        except NothingButLoops:
            prices = measure_prices(self.target, to_score[0], longest)
            nothing = Trial(SkipMask.empty(self.target.depth), 0.0, {"gamma": 1, "tau": 0.0})
            return self._profile(nothing, None, no_texts(prices), None, prices)
        self._enter("price")
        judge = Judge(self.plan, measure_prices(self.target, _middle(scored.texts), longest))
        self._enter("search")
        self._take_up()
        self._propose_and_score(Scorer(self.target, scored.texts[:QUICK_TEXTS]), judge)
        self._enter("confirm")
        finalists = self._score_again(scored.texts, judge)
        if finalists and self._hopeless(finalists[0], scored):
            reason = no_promise(finalists[0], scored, judge.prices)
            return self._profile(finalists[0], None, reason, None, judge.prices)
        to_decode = self._continue(to_confirm)
        confirmed = self._confirm(finalists, to_decode.workload)
        winner = self._winner(confirmed)
        texts = (*scored.texts, *to_decode.texts)
        trial = self._foretold(finalists[winner.index], texts, judge.prices)
        return self._profile(
            trial,
            winner,
            reason_against(winner, trial, judge.prices),
            speedups_of_others(confirmed, winner),
            judge.prices,
            self._buckets(to_score, trial, longest),
        )

    def _buckets(
        self, prompts: Sequence[Sequence[int]], base: Trial, longest: int
    ) -> list[dict[str, Any]]:
        """Masks for longer texts, if they are asked for."""
        masks = [trial.mask for trial in self._ranked()[:CONTENDERS]]
        lengths = Lengths(self.target, self.plan, prompts, masks, longest)
        return lengths.buckets(self.plan.contexts, base, self._tell)

    def _continue(self, prompts: Sequence[Sequence[int]]) -> Continued:
        return continue_prompts(self.target, prompts, CALIBRATION_TOKENS, self._tell)

    def best(self) -> Trial | None:
        return max(self.trials, key=lambda t: t.value, default=None)

    def unconfirmed(self) -> Profile | None:
        """The best so far as a profile without measurements; off where it promises nothing."""
        best = self.best()
        if best is None:
            return None
        promised: float = best.facts["predicted"]
        reason = None
        if not best.mask.skipped or promised <= 1:
            reason = f"interrupted before a mask was found that pays (predicted {promised:.2f})"
        return self._profile(best, None, reason)

    def _take_up(self) -> None:
        """Trials of an earlier run of this search count as told."""
        for trial in self.journal.trials() if self.journal else ():
            self.trials.append(trial)
            self.sampler.tell(trial.mask, trial.value)

    def _propose_and_score(self, scorer: Scorer, judge: Judge) -> None:
        while not self._budget_spent() and not self._settled():
            masks = self.sampler.ask(self._batch_size())
            if not masks:
                return  # the space is exhausted
            masks = self._worth_a_look(masks, judge)
            for mask, trace in zip(masks, scorer.score(masks), strict=True):
                self._record(judge(mask, trace))

    def _worth_a_look(self, masks: Sequence[SkipMask], judge: Judge) -> list[SkipMask]:
        """Those that would beat the best if all their drafts were accepted."""
        best = self.best()
        if best is None:
            return list(masks)
        hopeless = [mask for mask in masks if judge.bound(mask) < best.value]
        for mask in hopeless:
            self.sampler.tell(mask, -math.inf)
        return [mask for mask in masks if mask not in hopeless]

    def _score_again(self, texts: Sequence[Text], judge: Judge) -> list[Trial]:
        """The best few trials, on more texts and then with whole drafts.

        The highest of many scores on few texts is partly luck; more texts take that away. What
        is left is that drafts see their own keys after their first token.
        """
        from skipopt.scoring import Scorer

        masks = [trial.mask for trial in self._ranked()]
        stages = ((CONTENDERS, texts, 1), (NEAREST, texts, len(judge.prices.verify) - 1))
        for count, evidence, steps in stages:
            scorer = Scorer(self.target, evidence, steps)
            judged = []
            for start in range(0, len(masks[:count]), BATCH):
                self._tell()
                batch = masks[:count][start : start + BATCH]
                judged += [judge(m, t) for m, t in zip(batch, scorer.score(batch), strict=True)]
            judged.sort(key=lambda t: -t.value)
            masks = [trial.mask for trial in judged]
        return judged[:FINALISTS]

    def _record(self, trial: Trial) -> None:
        if self.journal is not None:
            self.journal.append(trial)
        self.trials.append(trial)
        self.sampler.tell(trial.mask, trial.value)
        self._tell()

    def _budget_spent(self) -> bool:
        if not self.trials:
            return False  # however short the time, something is scored
        if self.plan.trials is not None and len(self.trials) >= self.plan.trials:
            return True
        timeout = self.plan.seconds
        return timeout is not None and self._elapsed() > timeout * SHARE_FOR_SEARCH

    def _settled(self) -> bool:
        """Has nothing better been found for so long that more trials would not pay back?

        A number of trials that was asked for is done.
        """
        if self.plan.trials is not None:
            return False
        best = self.best()
        hopeless = best is not None and self.plan.objective == "speed" and best.value <= 1
        patience = HOPELESS_PATIENCE if hopeless else PATIENCE
        count = round(patience * len(self.plan.space(self.target.depth).free))
        before, since = self.trials[:-count], self.trials[-count:]
        if not before:
            return False
        known = max(trial.value for trial in before)
        return max(trial.value for trial in since) < known * (1 + BETTER)

    def _batch_size(self) -> int:
        if self.plan.trials is None:
            return BATCH
        return min(BATCH, self.plan.trials - len(self.trials))

    def _ranked(self) -> list[Trial]:
        """Trials that skip anything, best first."""
        return sorted((t for t in self.trials if t.mask.skipped), key=lambda t: -t.value)

    def _hopeless(self, best: Trial, scored: Continued) -> bool:
        """Does neither a mask nor copying promise anything? Then nothing need be decoded."""
        promised: float = best.facts["predicted"]
        return self.plan.objective == "speed" and promised <= 1 and scored.copied < LEAST_COPIED

    def _confirm(self, finalists: list[Trial], workload: Workload) -> list[Confirmed]:
        from skipopt.searching.confirm import confirm

        if not finalists:
            return []
        timeout = self.plan.seconds
        return confirm(
            self.target,
            [self._profile(trial) for trial in finalists],
            workload,
            lambda: timeout is not None and self._elapsed() > timeout,
            self._tell,
        )

    def _winner(self, confirmed: Sequence[Confirmed]) -> Confirmed:
        """The best whose text was plain decoding's."""
        if not confirmed:
            raise SearchError(
                "no mask that skips anything was scored", hint="raise --timeout or --trials"
            )
        return next((c for c in confirmed if c.lossless != "failed"), confirmed[0])

    def _foretold(self, trial: Trial, texts: Sequence[Text], prices: Prices) -> Trial:
        """The trial with what its mask, γ and τ promise on all texts, chosen by them or not."""
        from skipopt.scoring import Scorer
        from skipopt.searching.judging import Judge

        fixed = replace(self.plan, gamma=trial.facts["gamma"], tau=trial.facts["tau"])
        scorer = Scorer(self.target, texts, len(prices.verify) - 1)
        return Judge(fixed, prices)(trial.mask, scorer.score([trial.mask])[0])

    def _profile(self, trial: Trial, *rest: Any) -> Profile:
        spent = Spent(len(self.trials), self._elapsed())
        return profile_of(self.target, self.plan, spent, trial, *rest)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        best, seconds = self.best(), self._elapsed()
        timeout = self.plan.seconds
        left = None if timeout is None else max(0.0, timeout - seconds)
        self._on_progress(
            Progress(
                self._phase,
                len(self.trials),
                best.value if best else None,
                best.mask if best else None,
                seconds,
                left,
            )
        )


def _middle(texts: Sequence[Text]) -> tuple[int, ...]:
    """The text of middle length: prices are those of the context that it gives."""
    return sorted((text.tokens for text in texts), key=len)[len(texts) // 2]


def _prompt_set(prompts: PromptSet | Sequence[str] | None) -> PromptSet:
    from skipopt.prompts import PromptSet, load_prompts, split_prompts

    if prompts is None:
        return load_prompts()
    return prompts if isinstance(prompts, PromptSet) else split_prompts(prompts, "given")


def _token_prompts(target: Target, prompts: Sequence[Prompt]) -> list[list[int]]:
    from skipopt.text import encode_prompt

    if target.tokenizer is None:
        raise PromptError(
            "this target has no tokenizer, so prompts cannot be read",
            hint="load it with skipopt.load((model, tokenizer))",
        )
    return [
        encode_prompt(target.tokenizer, text=p.text, messages=p.chat() or None) for p in prompts
    ]
