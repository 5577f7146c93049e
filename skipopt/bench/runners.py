"""The methods that can be compared: skipopt's own, and transformers' as peers.

Knows nothing of the order they are run in, or of what their times mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skipopt.bench.timing import Clock, Decoding, Promise, Runner
from skipopt.decoding.api import DecodingSetup, make_decoding, profile_draft_config, resolve_method
from skipopt.drafting.base import Drafter
from skipopt.errors import SkipoptError
from skipopt.rounds import Statistics
from skipopt.sampling import SamplingOptions

if TYPE_CHECKING:
    from skipopt.drafting.base import DraftState, RoundOutcome
    from skipopt.drafting.tree import DraftTree
    from skipopt.methods import MethodSpec
    from skipopt.models.target import Target
    from skipopt.profile import DraftSettings, Profile

PLAIN = "plain"
GREEDY = SamplingOptions()
HF_GENERATE = "hf-generate"
PEERS = (HF_GENERATE, "hf-early-exit", "hf-prompt-lookup")


def make_runners(
    target: Target,
    methods: Sequence[str],
    profile: Profile | None = None,
    options: SamplingOptions = GREEDY,
) -> list[Runner]:
    """The contenders of those names, in that order, `plain` first where it was not named.

    Raises:
        UsageError: an unknown method, or one that needs a profile there is none of.
        ProfileError: the profile is for another model.
    """
    if profile is not None:
        profile.check_model(target.architecture, target.depth, target.fingerprint)
    names = dict.fromkeys(methods if PLAIN in methods else (PLAIN, *methods))
    return [_make(target, name, profile, options) for name in names]


def _make(target: Target, name: str, profile: Profile | None, options: SamplingOptions) -> Runner:
    if name in PEERS:
        return HFRunner(target, name, _peer_options(target, name), options)
    made = SkipoptRunner(target, resolve_method(profile, name), profile, options)
    # Once now, so that a mistake in an option is told before anything is decoded.
    _ = made.promise
    return made


@dataclass(frozen=True, slots=True)
class SkipoptRunner:
    """A method of skipopt's, run by its own decoding loop."""

    target: Target
    spec: MethodSpec
    profile: Profile | None = None
    options: SamplingOptions = GREEDY
    may_fail: bool = False

    @property
    def name(self) -> str:
        return str(self.spec)

    @property
    def settings(self) -> dict[str, Any]:
        """What the profile gave, for longer texts too; the options are in the name."""
        if self.profile is None or not self.spec.method.needs_mask:
            return {}
        first, *later = ({"from": w.start, **self._given(w)} for w in self.profile.draftways)
        del first["from"]
        draft_config = profile_draft_config(self.target, self.spec, self.profile)
        first |= {"contexts": later} if later else {}
        return first | ({"draft_config": str(draft_config)} if draft_config else {})

    def _given(self, way: DraftSettings) -> dict[str, Any]:
        """An option stands in the place of what the profile says, and an exit in the mask's."""
        facts = {"mask": str(way.mask), "gamma": way.gamma, "tau": way.tau}
        chosen = {*self.spec.options, *(["mask"] if "exit_layer" in self.spec.options else [])}
        return {key: value for key, value in facts.items() if key not in chosen}

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        self.decode(prompt, max_new_tokens, clock)

    @property
    def promise(self) -> Promise:
        verifier = self._way().verifier
        if verifier.name.startswith("relaxed"):
            return "nothing"
        return "same tokens" if verifier.coupled else "same distribution"

    def _way(self) -> DecodingSetup:
        return make_decoding(self.target, self.spec, self.profile, self.options)

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """Prefill ends where the first draft begins; everything after it is decoding.

        Capturing steps is left out: it is paid for once, however long one decodes.
        """
        from skipopt.decoding.loop import check_request, decode, new_engine

        clock = self.target.captures.left_out(clock)
        limits = check_request(self.target, prompt, max_new_tokens)
        way = self._way()
        engine = new_engine(self.target, prompt, limits, way.drafter.rows)
        drafter = Stopwatch(way.drafter, clock)
        began = clock()
        with self.target.captures.at_once():
            rounds = list(decode(engine, prompt, drafter, self.options, limits, way.verifier))
        ended = clock()
        tokens = tuple(token for each in rounds for token in each.emitted)
        first = drafter.first_proposal
        return Decoding(tokens, first - began, ended - first, len(tokens), Statistics.of(rounds))


class Stopwatch(Drafter):
    """Hands every call on to a drafter; reads the clock before the first proposal."""

    def __init__(self, drafter: Drafter, clock: Clock) -> None:
        self._drafter = drafter
        self._clock = clock
        self.wants_hidden = drafter.wants_hidden
        self.rows = drafter.rows
        self.first_proposal = float("nan")
        self._started = False

    def propose(self, state: DraftState, limit: int) -> DraftTree:
        if not self._started:
            self._started = True
            self.first_proposal = self._clock()
        return self._drafter.propose(state, limit)

    def observe(self, outcome: RoundOutcome) -> None:
        self._drafter.observe(outcome)


@dataclass(slots=True)
class HFRunner:
    """A way of transformers' own `generate`.

    Its decoding time is that of the whole call less that of a call for one token, made right
    before it: the prefill and the first token. What an assistant spends on a prefill of its own
    thus falls to decoding.

    Args:
        choices: arguments of `generate` to choose from; warming up keeps the fastest.
    """

    target: Target
    name: str
    choices: tuple[dict[str, Any], ...]
    options: SamplingOptions = GREEDY
    may_fail: bool = True
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = self.choices[0]

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        """Tries each choice twice, so that none is judged by its first run."""
        seconds: list[float] = []
        for choice in self.choices:
            self.settings = choice
            runs = [self.decode(prompt, max_new_tokens, clock) for _ in range(2)]
            seconds.append(runs[-1].decode_seconds)
        self.settings = self.choices[seconds.index(min(seconds))]

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """See the class.

        Raises:
            SkipoptError: the text is too short to tell decoding from prefill.
        """
        began = clock()
        self._generate(prompt, 1)
        between = clock()
        tokens = self._generate(prompt, max_new_tokens)
        prefill, whole = between - began, clock() - between
        if len(tokens) < 2 or whole <= prefill:
            raise SkipoptError(f"{len(tokens)} tokens are too few to tell decoding from prefill")
        return Decoding(tokens, prefill, whole - prefill, len(tokens) - 1)

    @property
    def promise(self) -> Promise:
        """transformers draws with noise of its own."""
        return "same tokens" if self.options.greedy else "same distribution"

    def _generate(self, prompt: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
        import torch

        ids = torch.tensor([list(prompt)], device=self.target.device)
        with _own_defaults(self.target, self.options):
            output = self.target.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                **self.settings,
            )
        return tuple(output[0, len(prompt) :].tolist())


@contextmanager
def _own_defaults(target: Target, options: SamplingOptions) -> Iterator[None]:
    """These settings instead of the checkpoint's (penalties, sampling), put back after.

    An assistant that fails in an early exit leaves the model's depth changed: that is put back.
    """
    model = target.model
    config = model.base_model.config
    before, depth = model.generation_config, config.num_hidden_layers
    ends = sorted(target.eos_ids)
    sampling: dict[str, Any] = {"do_sample": False}
    if not options.greedy:
        names = ("temperature", "top_k", "top_p")
        sampling = {"do_sample": True, **{name: getattr(options, name) for name in names}}
    model.generation_config = type(before)(
        eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0, **sampling
    )
    try:
        yield
    finally:
        model.generation_config = before
        config.num_hidden_layers = depth


def _peer_options(target: Target, name: str) -> tuple[dict[str, Any], ...]:
    """Arguments of `generate`: where one value does not suit every model, a few to choose from."""
    if name == HF_GENERATE:
        return ({},)
    if name == "hf-prompt-lookup":
        return tuple({"prompt_lookup_num_tokens": n} for n in (3, 10))
    exits = dict.fromkeys(max(1, target.depth // share) for share in (2, 4))
    return tuple({"assistant_early_exit": layers} for layers in exits)
