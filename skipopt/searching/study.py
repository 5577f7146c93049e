"""One search, from prompts to a profile: calibrate, price, propose and score, confirm.

Knows nothing of how a mask is scored, proposed or run; it keeps the budget, the journal and
the best so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipopt.benchmarking.records import environment_of
from skipopt.errors import PromptError, SearchError, UsageError
from skipopt.masks import MaskSpace, SkipMask
from skipopt.profile import Profile
from skipopt.searching.book import Book, Trial, Unkept
from skipopt.searching.calibration import calibrate, check_count
from skipopt.searching.joining import SharedStudy, find_study, greeting
from skipopt.searching.journal import Journal
from skipopt.searching.registry import make_sampler
from skipopt.searching.workers import Crew, Sharing, Stopped, helpers

if TYPE_CHECKING:
    from skipopt.models.target import Target
    from skipopt.prompts import Prompt, PromptSet
    from skipopt.runtime.prices import Prices
    from skipopt.scoring import Scorer, Text
    from skipopt.searching.calibration import Calibration
    from skipopt.searching.confirm import Confirmed
    from skipopt.searching.protocol import Sampler

OBJECTIVES = ("speed", "matchness")
DEFAULT_TIMEOUT = 90.0
CALIBRATION_PROMPTS = 24
CALIBRATION_TOKENS = 40
QUICK_TEXTS = 12  # every mask is scored on these; the best are scored again on all texts
CONTENDERS = 24
CAUTIOUS_TAU = 0.3  # each finalist also decodes with a τ of at least this
LONGEST_DRAFT = 8
BATCH = 8
FINALISTS = 3
SHARE_FOR_SEARCH = 0.45  # of the time; the rest confirms
SECONDS_TO_WAIT = 0.1  # for others' results, where there is nothing to score meanwhile


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
    on_progress: Callable[[Progress], None] | None = None,
    sharing: Sharing | None = None,
    on_note: Callable[[str], None] = lambda line: None,
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
        on_progress: called often.
        sharing: further workers, here and elsewhere, and the storage they share; theirs is
            `journal` where there is none. A study that is on the storage already is joined.
        on_note: called with a line about other workers.

    Raises:
        Interrupted: on KeyboardInterrupt, with the best profile so far.
        SkipoptError: bad input, before anything is measured where possible.
    """
    _check_options(objective, skip_ratio, trials, timeout)
    _check_draft(gamma, tau)
    prompt_set = _prompt_set(prompts)
    count = None if skip_ratio is None else round(2 * target.depth * skip_ratio)
    space = MaskSpace(target.depth, _frozen(target.depth, keep), count)
    plan = _Plan(sampler, objective, trials, timeout, seed, prompt_set.digest, gamma, tau)
    proposer = make_sampler(sampler, space, seed)
    prompt_ids = _token_prompts(target, prompt_set.calibration)
    check_count(prompt_ids)
    facts = {
        "model": target.fingerprint,
        "prompts": prompt_set.digest,
        "objective": objective,
        "skip_ratio": skip_ratio,
        "keep": sorted(keep),
        "gamma": gamma,
        "tau": tau,
    }
    sharing = sharing or Sharing()
    shared = find_study(target, sharing, journal, facts, trials, resume)
    book = _open_book(shared, journal, target.depth, facts, resume)
    with closing(book):
        if book.rank:  # other workers propose from `seed` on
            proposer = make_sampler(sampler, space, seed + book.rank)
        if shared is not None and sharing.storage is not None:
            on_note(greeting(sharing, shared, len(book.trials())))
        study = _Study(target, plan, proposer, book, on_progress)
        try:
            return study.run(prompt_ids, _Hire(sharing, shared, plan, space, on_note))
        except KeyboardInterrupt:
            raise Interrupted(study.unconfirmed()) from None


def _open_book(
    shared: SharedStudy | None,
    journal: Path | None,
    layers: int,
    facts: dict[str, Any],
    resume: bool,
) -> Book:
    if shared is not None:
        return shared.open()
    return Unkept() if journal is None else Journal(journal, layers, facts, resume)


@dataclass(frozen=True, slots=True)
class _Plan:
    sampler: str
    objective: str
    trials: int | None
    timeout: float | None
    seed: int
    prompts: str
    gamma: int | None
    tau: float | None


@dataclass(frozen=True, slots=True)
class Assistance:
    """A helper's part of a search, in a process of its own: propose and score. Picklable.

    Prices and texts are the parent's: they were made on the same device, undisturbed.
    """

    load: Callable[[], Target]
    shared: SharedStudy
    plan: _Plan
    space: MaskSpace
    texts: tuple[Text, ...]
    prices: Prices

    def __call__(self, stopped: Stopped) -> None:
        import optuna

        from skipopt.scoring import Scorer

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        target = self.load()
        if target.fingerprint != self.shared.facts["model"]:
            raise SearchError("the model has changed since the search began")
        with closing(self.shared.open()) as book:
            sampler = make_sampler(self.plan.sampler, self.space, self.plan.seed + book.rank)
            study = _Study(target, self.plan, sampler, book, None)
            study.take_up()
            study.propose_and_score(Scorer(target, self.texts), self.prices, stopped)


@dataclass(frozen=True, slots=True)
class _Hire:
    """Who helps: called when texts and prices are known."""

    sharing: Sharing
    shared: SharedStudy | None
    plan: _Plan
    space: MaskSpace
    tell: Callable[[str], None]

    def __call__(self, texts: tuple[Text, ...], prices: Prices) -> AbstractContextManager[Crew]:
        load, shared = self.sharing.load, self.shared
        if load is None or shared is None:
            return helpers(0, lambda stopped: None, self.tell)
        work = Assistance(load, shared, self.plan, self.space, texts, prices)
        return helpers(self.sharing.workers - 1, work, self.tell)


class _Study:
    """A search under way: its clock, its trials, its best."""

    def __init__(
        self,
        target: Target,
        plan: _Plan,
        sampler: Sampler,
        book: Book,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.target = target
        self.plan = plan
        self.sampler = sampler
        self.book = book
        self.trials: list[Trial] = []
        self._on_progress = on_progress
        self._phase = "calibrate"
        self._began = time.monotonic()
        self._timeout = plan.timeout
        if plan.trials is None and plan.timeout is None:
            self._timeout = DEFAULT_TIMEOUT

    def run(self, prompts: Sequence[Sequence[int]], hire: _Hire) -> Profile:
        from skipopt.runtime.prices import measure_prices
        from skipopt.scoring import Scorer

        chosen = prompts[:CALIBRATION_PROMPTS]
        calibration = calibrate(self.target, chosen, CALIBRATION_TOKENS, self._tell)
        self._enter("price")
        longest = (self.plan.gamma or LONGEST_DRAFT) + 1
        context = calibration.texts[0].tokens[: self.target.context_limit - longest]
        prices = measure_prices(self.target, context, longest)
        self._enter("search")
        self.take_up()
        quick = calibration.texts[:QUICK_TEXTS]
        with hire(quick, prices) as crew:
            self.propose_and_score(Scorer(self.target, quick), prices, crew.is_over)
        self._hear()
        self._enter("confirm")
        contenders = self._score_again(Scorer(self.target, calibration.texts), prices)
        confirmed = self._confirm(contenders, calibration)
        return self._conclude(confirmed, contenders, prices)

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
        return self._profile(best, reason=reason)

    def take_up(self) -> None:
        """Trials of an earlier run, or of other workers, count as told."""
        for trial in self.book.trials():
            self._count(trial)

    def propose_and_score(self, scorer: Scorer, prices: Prices, stopped: Stopped) -> None:
        while not (stopped() or self._budget_spent()):
            self._hear()
            masks = self.book.abandoned()
            asked = [] if masks else self.sampler.ask(self._batch_size())
            masks = masks or self.book.claim(asked)
            if not masks:
                if not (asked or self.book.others_at_work()):
                    return  # the space is exhausted
                time.sleep(SECONDS_TO_WAIT)
                continue
            for mask, trace in zip(masks, scorer.score(masks), strict=True):
                self._record(self._judge(mask, trace, prices))

    def _score_again(self, scorer: Scorer, prices: Prices) -> list[Trial]:
        """The best few trials, judged on all texts and today's prices.

        The highest of many scores on few texts is partly luck; more texts take that away. What
        a trace cannot tell is how drafts fare after their first token, so each mask also gets
        a more cautious τ, and real decoding decides.
        """
        ranked = sorted(self.trials, key=lambda t: -t.value)
        masks = [t.mask for t in ranked if t.mask.skipped][:CONTENDERS]
        traces = dict(zip(masks, scorer.score(masks), strict=True))
        judged = [self._judge(mask, trace, prices) for mask, trace in traces.items()]
        best = sorted(judged, key=lambda t: -t.value)[:FINALISTS]
        cautious = [self._judge(t.mask, traces[t.mask], prices, CAUTIOUS_TAU) for t in best]
        return best + [t for t in cautious if t not in best]

    def _judge(self, mask: SkipMask, trace: Any, prices: Prices, lowest_tau: float = 0.0) -> Trial:
        from skipopt.replay import TAUS, best_prediction

        taus = [t for t in TAUS if t >= lowest_tau] if self.plan.tau is None else [self.plan.tau]
        found = best_prediction(trace, mask, prices, self.plan.gamma, taus)
        matchness = trace.matchness
        value = found.speedup if self.plan.objective == "speed" else matchness
        facts = {
            "predicted": found.speedup,
            "gamma": found.gamma,
            "tau": found.tau,
            "acceptance_rate": found.acceptance_rate,
            "matchness": matchness,
        }
        return Trial(mask, value, facts)

    def _record(self, trial: Trial) -> None:
        self.book.append(trial)
        self._count(trial)

    def _hear(self) -> None:
        """What others have finished counts as ours does."""
        for trial in self.book.news():
            self._count(trial)

    def _count(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.sampler.tell(trial.mask, trial.value)
        self._tell()

    def _budget_spent(self) -> bool:
        if not self.trials:
            return False  # however short the time, something is scored
        if self.plan.trials is not None and len(self.trials) >= self.plan.trials:
            return True
        return self._timeout is not None and self._seconds() > self._timeout * SHARE_FOR_SEARCH

    def _batch_size(self) -> int:
        if self.plan.trials is None:
            return BATCH
        return min(BATCH, self.plan.trials - len(self.trials))

    def _confirm(self, contenders: list[Trial], calibration: Calibration) -> list[Confirmed]:
        from skipopt.searching.confirm import confirm

        if not contenders:
            return []
        return confirm(
            self.target,
            [self._profile(trial) for trial in contenders],
            calibration.confirm,
            lambda: self._timeout is not None and self._seconds() > self._timeout,
            self._tell,
        )

    def _conclude(
        self, confirmed: list[Confirmed], contenders: list[Trial], prices: Prices
    ) -> Profile:
        """The winner, enabled where its interval lies above 1."""
        if not confirmed:
            raise SearchError(
                "no mask that skips anything was scored", hint="raise --timeout or --trials"
            )
        winner = min(confirmed, key=lambda c: c.lossless == "failed")
        trial = contenders[winner.index]
        reason = _reason_against(winner, trial, prices)
        return self._profile(trial, winner, reason, _others(confirmed, winner))

    def _profile(
        self,
        trial: Trial,
        confirmed: Confirmed | None = None,
        reason: str | None = None,
        others: dict[str, Any] | None = None,
    ) -> Profile:
        facts = trial.facts
        return Profile.build(
            self.target,
            trial.mask,
            method=confirmed.method if confirmed else "layer-skip",
            gamma=facts["gamma"],
            tau=facts["tau"],
            enabled=reason is None,
            reason=reason,
            predicted={
                "speedup": facts["predicted"],
                "acceptance_rate": facts["acceptance_rate"],
                "matchness": facts["matchness"],
            },
            measured={**confirmed.to_facts(), "others": others} if confirmed else None,
            search={
                "sampler": self.plan.sampler,
                "objective": self.plan.objective,
                "trials": len(self.trials),
                "seconds": self._seconds(),
                "seed": self.plan.seed,
                "prompts": self.plan.prompts,
                "breaks_even_after_tokens": self._break_even(confirmed),
            },
            environment=environment_of(self.target),
        )

    def _break_even(self, confirmed: Confirmed | None) -> int | None:
        """Tokens after which the search has paid for itself."""
        if confirmed is None or confirmed.tokens_per_second <= confirmed.plain_tokens_per_second:
            return None
        saved = 1 / confirmed.plain_tokens_per_second - 1 / confirmed.tokens_per_second
        return round(self._seconds() / saved)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        best, seconds = self.best(), self._seconds()
        left = None if self._timeout is None else max(0.0, self._timeout - seconds)
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


def _check_options(
    objective: str, skip_ratio: float | None, trials: int | None, timeout: float | None
) -> None:
    if objective not in OBJECTIVES:
        raise UsageError(
            f"unknown objective {objective!r}", hint=f"use one of {', '.join(OBJECTIVES)}"
        )
    if skip_ratio is not None and not 0 < skip_ratio < 1:
        raise UsageError(f"skip-ratio must lie between 0 and 1, not {skip_ratio}")
    if objective == "matchness" and skip_ratio is None:
        raise UsageError(
            "the objective matchness is highest where nothing is skipped",
            hint="fix the share with --skip-ratio, or use --objective speed",
        )
    if trials is not None and trials < 1:
        raise UsageError(f"trials must be 1 or more, not {trials}")
    if timeout is not None and not timeout > 0:
        raise UsageError(f"timeout must be more than 0 seconds, not {timeout}")


def _check_draft(gamma: int | None, tau: float | None) -> None:
    if gamma is not None and gamma < 1:
        raise UsageError(f"gamma must be 1 or more, not {gamma}", hint="try --gamma 4")
    if tau is not None and not 0 <= tau <= 1:
        raise UsageError(f"tau must lie in [0, 1], not {tau}")


def _frozen(depth: int, keep: Sequence[int]) -> frozenset[int]:
    """Both sublayers of every layer to keep."""
    for layer in keep:
        if not -depth <= layer < depth:
            raise UsageError(
                f"cannot keep layer {layer}: the model has {depth} layers, "
                f"numbered 0 to {depth - 1}"
            )
    return frozenset(2 * (layer % depth) + bit for layer in keep for bit in (0, 1))


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


def _others(confirmed: list[Confirmed], winner: Confirmed) -> dict[str, Any]:
    """Speedups of the methods that did not win; of two masks, the better one's."""
    found = {c.method: c.speedup.to_json() for c in reversed(confirmed)}
    return {method: speedup for method, speedup in found.items() if method != winner.method}


def _reason_against(winner: Confirmed, trial: Trial, prices: Prices) -> str | None:
    """Why speculation does not pay, in numbers; None where it does."""
    interval = winner.speedup
    if winner.lossless == "failed":
        return "the drafted text differed from plain decoding's"
    if interval.low > 1.0:
        return None
    rate = winner.acceptance_rate or 0.0
    gamma = trial.facts["gamma"]
    return (
        f"measured speedup {interval.median:.2f} ({interval.low:.2f} to {interval.high:.2f}) is "
        f"not surely above 1: acceptance rate {rate:.2f}, draft cost c = "
        f"{prices.draft_step(trial.mask) / prices.plain:.2f}, verify cost v({gamma + 1}) = "
        f"{prices.verify[gamma] / prices.plain:.2f}"
    )
