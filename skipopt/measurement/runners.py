"""What can be timed: the methods of skipopt, and those of transformers as peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from skipopt.decoding.api import profile_draft_config, resolve_method
from skipopt.decoding.setup import DecodingSetup, make_decoding
from skipopt.detokenizer import decode_text
from skipopt.errors import SkipoptError
from skipopt.measurement.timed_drafter import TimedDrafter
from skipopt.measurement.timing import Clock, Decoding, Guarantee, Reached, Runner
from skipopt.sampling import SamplingOptions

if TYPE_CHECKING:
    import torch

    from skipopt.draft_memory.memory import DraftMemory
    from skipopt.methods import MethodSpec
    from skipopt.models.target import Target
    from skipopt.online.state import OnlineState
    from skipopt.profile import DraftSettings, Profile
    from skipopt.rounds import Round

PLAIN = "plain"
GREEDY = SamplingOptions()
HF_GENERATE, HF_PROMPT_LOOKUP = "hf-generate", "hf-prompt-lookup"
PEERS = (HF_GENERATE, "hf-early-exit", HF_PROMPT_LOOKUP)
LOOKUP_TOKENS = (3, 10)  # `prompt_lookup_num_tokens` that hf-prompt-lookup chooses from
EXIT_SHARES = (2, 4)  # hf-early-exit chooses from a half and a quarter of the layers


def make_runners(
    target: Target,
    methods: Sequence[str],
    profile: Profile | None = None,
    options: SamplingOptions = GREEDY,
    memory: DraftMemory | None = None,
) -> list[Runner]:
    """The runners of these methods in this order; `plain` is put first if it is missing.

    Args:
        memory: earlier texts; a method that copies from them decodes without and with them.

    Raises:
        UsageError: an unknown method, or one that needs a profile and there is none.
        ProfileError: the profile is for another model.
    """
    if profile is not None:
        profile.check_model(target)
    runners: list[Runner] = []
    for name in with_plain(methods):
        runner = _make_runner(target, name, profile, options)
        runners.append(runner)
        if memory is not None and isinstance(runner, SkipoptRunner):
            runners += _with_memory(runner, memory)
    return runners


def with_plain(methods: Sequence[str]) -> list[str]:
    """Each of the methods once, with `plain` before them if it is missing."""
    return list(dict.fromkeys(methods if PLAIN in methods else (PLAIN, *methods)))


def _with_memory(runner: SkipoptRunner, memory: DraftMemory) -> list[Runner]:
    """The same method with earlier texts; none if it does not copy from them."""
    from skipopt.drafting.registry import takes_memory

    if not takes_memory(runner.spec):
        return []
    return [replace(runner, name=f"{runner.name}, with memory", memory=memory)]


def _make_runner(
    target: Target, name: str, profile: Profile | None, options: SamplingOptions
) -> Runner:
    if name in PEERS:
        return HFRunner(target, name, _peer_choices(target, name), options)
    runner = SkipoptRunner(target, resolve_method(profile, name), profile, options)
    # Builds the drafter once, so that a wrong option is reported before anything is decoded.
    _ = runner.guarantee
    return runner


@dataclass(frozen=True, slots=True)
class SkipoptRunner:
    """A method of skipopt.

    Attributes:
        name: of the runner; by default that of the method with its options.
        online_state: the method is tuned while it decodes, and this is what it has learned.
        stop: strings that end the text.
        memory: earlier texts to copy from; no text is added.
    """

    target: Target
    spec: MethodSpec
    profile: Profile | None = None
    options: SamplingOptions = GREEDY
    name: str = ""
    may_fail: bool = False
    online_state: OnlineState | None = None
    stop: tuple[str, ...] = ()
    memory: DraftMemory | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", str(self.spec))

    @property
    def settings(self) -> dict[str, Any]:
        """What comes from the profile, for longer texts too; options are in the method's name."""
        method = self.spec.method
        if self.profile is None or not (method.needs_mask or method.takes_draft_config):
            return {}
        first, *later = (
            {"min_context": each.min_context, **self._settings_of(each)}
            for each in self.profile.draft_settings
        )
        del first["min_context"]
        draft_config = profile_draft_config(self.target, self.spec, self.profile)
        first |= {"contexts": later} if later else {}
        return first | ({"draft_config": str(draft_config)} if draft_config else {})

    def _settings_of(self, way: DraftSettings) -> dict[str, Any]:
        """Without what an option of the method replaces; an early exit replaces the mask."""
        facts: dict[str, Any] = {"mask": str(way.mask)}
        if self.spec.method.needs_mask:
            facts |= {"gamma": way.gamma, "tau": way.tau}
        replaced = {*self.spec.options, *(["mask"] if "exit_layer" in self.spec.options else [])}
        return {key: value for key, value in facts.items() if key not in replaced}

    @property
    def guarantee(self) -> Guarantee:
        verifier = self._setup().verifier
        if verifier.name.startswith("relaxed"):
            return "none"
        return "same tokens" if verifier.coupled else "same distribution"

    def _setup(self) -> DecodingSetup:
        return make_decoding(
            self.target, self.spec, self.profile, self.options, self.online_state, self.memory
        )

    def warm_up(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> None:
        self.decode(prompt, max_new_tokens, clock)

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """The prefill ends where the first draft begins; everything after it is decoding.

        Of these the time of capturing steps is left out, because it is spent once per process;
        the timeline has it.
        """
        with self.target.runtime.capture_immediately():
            return self._decode(prompt, max_new_tokens, clock)

    def decode_fresh(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """Steps are captured when `skipopt run` would capture them."""
        self.target.runtime.forget()
        return self._decode(prompt, max_new_tokens, clock)

    def _decode(self, prompt: Sequence[int], max_new_tokens: int, wall: Clock) -> Decoding:
        from skipopt.decoding.loop import decode
        from skipopt.decoding.request import check_request, new_engine

        requested = wall()
        clock = self.target.runtime.clock_without_capture(wall)
        limits = check_request(self.target, prompt, max_new_tokens)
        setup = self._setup()
        engine = new_engine(self.target, prompt, limits, setup.drafter.max_extra_rows)
        drafter = TimedDrafter(setup.drafter, clock, each_proposal=False)
        began = clock()
        made = decode(engine, prompt, drafter, self.options, limits, setup.verifier)
        rounds: list[Round] = []
        ends: list[float] = []
        for each in self._until_stop(made):
            rounds.append(each)
            ends.append(wall() - requested)
        seconds = clock() - drafter.started
        counts = accumulate(len(each.emitted) for each in rounds)
        timeline = tuple(map(Reached, counts, ends))
        tokens = tuple(token for each in rounds for token in each.emitted)
        prefill = drafter.started - began
        return Decoding(tokens, prefill, seconds, len(tokens), timeline, tuple(rounds))

    def _until_stop(self, rounds: Iterator[Round]) -> Iterator[Round]:
        """The rounds up to the first stop string; text is made only if there are any."""
        if not self.stop:
            return rounds
        return (each.round for each in decode_text(self.target.tokenizer, rounds, self.stop))


@dataclass(slots=True)
class _Steps:
    """A stopping criterion that never stops and notes when it is asked.

    Attributes:
        ends: tokens of the prompt and the text at each step's end, and the clock's reading.
    """

    clock: Clock
    ends: list[tuple[int, float]] = field(default_factory=list)

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        import torch

        self.ends.append((ids.shape[1], self.clock()))
        return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)


@dataclass(slots=True)
class HFRunner:
    """A way of decoding of transformers' `generate`.

    The prefill ends at the first check of the stopping criteria, which sees the tokens of the
    prefill's forward pass; the time after it is decoding. The prefill of an assistant model
    therefore counts as prefill.

    Args:
        choices: arguments of `generate` to choose from; `warm_up` keeps the fastest.
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
        """Decodes twice with each choice and compares the second runs."""
        seconds: list[float] = []
        for choice in self.choices:
            self.settings = choice
            runs = [self.decode(prompt, max_new_tokens, clock) for _ in range(2)]
            seconds.append(runs[-1].decode_seconds)
        self.settings = self.choices[seconds.index(min(seconds))]

    def decode(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """See the class.

        Raises:
            SkipoptError: the text is too short to separate decoding from prefill.
        """
        steps = _Steps(clock)
        began = clock()
        tokens = self._generate(prompt, max_new_tokens, steps)
        ended = clock()
        # Steps may end after more tokens than are kept.
        timeline = [
            Reached(min(length - len(prompt), len(tokens)), at - began)
            for length, at in steps.ends
        ]
        if not timeline or len(tokens) <= timeline[0].new_tokens:
            raise SkipoptError(
                f"{len(tokens)} tokens are too few to separate decoding from prefill"
            )
        prefill = timeline[0]
        decoding = ended - began - prefill.seconds
        timeline.append(Reached(len(tokens), ended - began))
        timed = len(tokens) - prefill.new_tokens
        return Decoding(tokens, prefill.seconds, decoding, timed, tuple(timeline))

    def decode_fresh(self, prompt: Sequence[int], max_new_tokens: int, clock: Clock) -> Decoding:
        """The same as `decode`: `generate` keeps nothing from text to text."""
        return self.decode(prompt, max_new_tokens, clock)

    @property
    def guarantee(self) -> Guarantee:
        """When sampling, transformers draws other random numbers."""
        return "same tokens" if self.options.greedy else "same distribution"

    def _generate(
        self, prompt: Sequence[int], max_new_tokens: int, steps: _Steps
    ) -> tuple[int, ...]:
        import torch
        from transformers import StoppingCriteriaList

        ids = torch.tensor([list(prompt)], device=self.target.device)
        with _generation_config(self.target, self.options):
            output = self.target.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                stopping_criteria=StoppingCriteriaList([steps]),
                **self.settings,
            )
        return tuple(output[0, len(prompt) :].tolist())


@contextmanager
def _generation_config(target: Target, options: SamplingOptions) -> Iterator[None]:
    """Replace the checkpoint's own settings (penalties, sampling) for a while.

    An early exit that fails leaves the model's `num_hidden_layers` changed, which is put back too.
    """
    model = target.model
    config = model.base_model.config
    before, depth = model.generation_config, config.num_hidden_layers
    ends = sorted(target.eos_ids)
    sampling = _as_in_transformers(options)
    model.generation_config = type(before)(
        eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0, **sampling
    )
    try:
        yield
    finally:
        model.generation_config = before
        config.num_hidden_layers = depth


def _as_in_transformers(options: SamplingOptions) -> dict[str, Any]:
    """The settings of `generate` that mean the same."""
    names = ["repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"]
    if not options.greedy:
        names += [
            "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
        ]  # fmt: skip
    settings = {name: getattr(options, name) for name in names}
    return {"do_sample": not options.greedy, **settings}


def _peer_choices(target: Target, name: str) -> tuple[dict[str, Any], ...]:
    """Arguments of `generate`; several where no single value suits every model."""
    if name == HF_GENERATE:
        return ({},)
    if name == HF_PROMPT_LOOKUP:
        return tuple({"prompt_lookup_num_tokens": n} for n in LOOKUP_TOKENS)
    exits = dict.fromkeys(max(1, target.depth // share) for share in EXIT_SHARES)
    return tuple({"assistant_early_exit": layers} for layers in exits)
