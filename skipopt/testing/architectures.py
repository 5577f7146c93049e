"""The contract of an architecture as checks to run on any model.

    from skipopt.testing.architectures import CHECKS, ModelCase

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_model(check):
        check(ModelCase(model))

`QUICK_CHECKS` are those that take little time.

The checks pass when every way of decoding gives the text that transformers' `generate` gives
without a cache, and sampling the text that plain sampling gives. The model's weights should be
random and large enough that every sublayer matters; it has 64 tokens or more. No token ends its
texts here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch

from skipopt.cost_model.costs import Costs
from skipopt.decoding.api import generate_rounds
from skipopt.draft_config import DraftConfig
from skipopt.errors import DraftConfigWarning, ModelError
from skipopt.kernels import quantized_linear
from skipopt.masks import SkipMask
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Round, Statistics
from skipopt.runtime.engine import Engine
from skipopt.runtime.load import load, make_target
from skipopt.sampling import SamplingOptions
from skipopt.scoring import ScoredText, Scorer
from skipopt.study.config import SearchConfig
from skipopt.study.study import search
from skipopt.testing.costs import FixedCosts

GREEDY = SamplingOptions()
SAMPLED = SamplingOptions(temperature=0.8, top_k=20, seed=3)
SHORT = (5, 61, 17, 33)
# Longer than the windows and chunks of tiny models, with a part that is repeated.
LONG = (*((7 * i * i + 3) % 64 for i in range(9)), 11, 12, 13, 14, 11, 12, 13)
NEW_TOKENS = 12
TIE = 1e-3  # logits this close may be in either order
GAMMA = 3
CAPTURED = ("native", "captured")


@dataclass
class ModelCase:
    """A model, and what transformers does with it.

    Attributes:
        model: in float32 on the CPU; its weights are not changed.
        targets: by runtime, made when they are first asked for.
        not_searched: why no mask can be searched; None until scoring was refused.
    """

    model: Any
    targets: dict[str, Target] = field(default_factory=dict)
    not_searched: str | None = None

    def target(self, runtime: str = "eager") -> Target:
        """The model on a runtime, with texts without an end."""
        if runtime not in self.targets:
            made = make_target(self.model, words(), runtime=runtime)
            self.targets[runtime] = replace(made, eos_ids=frozenset())
        return self.targets[runtime]

    @cached_property
    def expected(self) -> dict[tuple[int, ...], list[int]]:
        """The greedy text of transformers after each prompt."""
        self.target()  # refused models are not run
        return {prompt: reference(self.model, prompt) for prompt in (SHORT, LONG)}

    @cached_property
    def takes_trees(self) -> bool:
        """Whether drafts may be trees."""
        return Engine(self.target(), 8, captured=False).takes_trees

    def profile(self, mask: SkipMask, gamma: int = GAMMA) -> Profile:
        """A profile with this mask."""
        target = self.target()
        return Profile.by_hand(target, attention=mask.attention, mlp=mask.mlp, gamma=gamma)

    @property
    def no_mask(self) -> SkipMask:
        """The mask that skips nothing."""
        return SkipMask.empty(self.target().depth)

    def assert_expected(self, prompt: tuple[int, ...], rounds: Sequence[Round]) -> None:
        """The rounds emitted the text of transformers."""
        assert_same(self.model, prompt, text_of(rounds), self.expected[prompt])

    def masks(self) -> list[SkipMask]:
        """Each kind of sublayer alone, and half of all at random."""
        free = sorted(self.target().skippable)
        attention, mlp = ([i for i in free if i % 2 == bit] for bit in (0, 1))
        half = Random(0).sample(free, (len(free) + 1) // 2)
        chosen = (attention, mlp, half)
        return [SkipMask(self.target().depth, frozenset(each)) for each in chosen if each]


@torch.inference_mode()
def reference(model: Any, prompt: Sequence[int], eos: int | None = None) -> list[int]:
    """The greedy text by `generate` of transformers, without a cache."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=False,
        eos_token_id=eos,
        pad_token_id=0,
    )
    text: list[int] = output[0, len(prompt) :].tolist()
    return text


def decode(
    target: Target,
    prompt: Sequence[int],
    method: str | None = None,
    profile: Profile | None = None,
    options: SamplingOptions = GREEDY,
) -> list[Round]:
    """The rounds of a text of `NEW_TOKENS` tokens."""
    return list(
        generate_rounds(
            target,
            list(prompt),
            method=method,
            profile=profile,
            max_new_tokens=NEW_TOKENS,
            options=options,
        )
    )


def words(count: int = 64) -> Any:
    """A tokenizer with the words `w0`, `w1`, …, one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(count)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=made, unk_token="w0")


def text_of(rounds: Sequence[Round]) -> list[int]:
    """The tokens that the rounds emitted."""
    return list(chain.from_iterable(each.emitted for each in rounds))


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Inside, a failed check says what failed."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error


@torch.inference_mode()
def assert_same(model: Any, prompt: Sequence[int], found: list[int], expected: list[int]) -> None:
    """The texts are the same up to a token that is as likely as the other, within `TIE`."""
    if found == expected:
        return
    at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    assert at is not None, f"{len(found)} tokens, and not {len(expected)}"
    ids = torch.tensor([[*prompt, *expected[:at]]])
    logits = model(input_ids=ids, use_cache=False).logits[0, -1]
    gap = float(logits[expected[at]] - logits[found[at]])
    assert abs(gap) < TIE, f"token {at} is {found[at]}, and not {expected[at]}: {gap:.2g} apart"


def check_greedy(case: ModelCase) -> None:
    """Plain decoding and copies give the text of `generate`."""
    for method, prompt in (("plain", SHORT), ("plain", LONG), ("prompt-lookup", LONG)):
        with saying(f"{method} after {len(prompt)} tokens"):
            case.assert_expected(prompt, decode(case.target(), prompt, method))


def check_masks(case: ModelCase) -> None:
    """Drafts under a mask change no text, and some of them are rejected."""
    runs: list[Round] = []
    for mask in case.masks():
        for prompt in (SHORT, LONG) if mask == case.masks()[-1] else (LONG,):
            with saying(f"mask {mask} after {len(prompt)} tokens"):
                rounds = decode(case.target(), prompt, profile=case.profile(mask))
                case.assert_expected(prompt, rounds)
                runs += rounds
    statistics = Statistics.of(runs)
    assert not runs or statistics.accepted < statistics.drafted, "no draft was rejected"


def check_accepted_drafts(case: ModelCase) -> None:
    """Drafts of the whole model are accepted, and the text ends at an end inside of one."""
    text, profile = case.expected[LONG], case.profile(case.no_mask, gamma=5)
    statistics = Statistics.of(decode(case.target(), LONG, profile=profile))
    assert statistics.accepted > 0.8 * statistics.drafted, "the model's own drafts are rejected"
    for place in (0, 3):
        eos = text[place]
        target = replace(case.target(), eos_ids=frozenset({eos}))
        rounds = decode(target, LONG, profile=profile)
        assert text_of(rounds) == text[: text.index(eos) + 1], f"the end is token {place}"
        assert rounds[-1].stop == "eos"


def check_sampling(case: ModelCase) -> None:
    """Sampled drafts, with coupled noise, give the text of plain sampling."""
    expected = text_of(decode(case.target(), LONG, "plain", options=SAMPLED))
    mask = [case.no_mask, *case.masks()][-1]
    masked = ("layer-skip:verify=match", case.profile(mask))
    for method, profile in (("prompt-lookup:verify=match", None), masked):
        rounds = decode(case.target(), LONG, method, profile, SAMPLED)
        assert text_of(rounds) == expected, f"{method} sampled another text"


def check_quantized_draft(case: ModelCase) -> None:
    """Drafts with weights of 8 bits change no text."""
    profile = case.profile(case.no_mask)
    method = f"layer-skip:gamma={GAMMA}:quant=int8"
    with quantized_is_faster():
        case.assert_expected(LONG, decode(case.target(), LONG, method, profile))


@contextmanager
def quantized_is_faster() -> Iterator[None]:
    """Inside, quantized drafts are made where they can be."""
    faster = mock.patch.object(quantized_linear, "measure_seconds", seconds_of_kernels)
    with faster, warnings.catch_warnings():
        # Linear layers of a class of their own are not quantized.
        warnings.simplefilter("ignore", DraftConfigWarning)
        yield


def seconds_of_kernels(operations: Sequence[Callable[..., Any]], *_: object) -> float:
    """In place of a measurement: products of quantized weights take half of the time."""
    quantized = operations[0].__qualname__.startswith(("int", "_layer."))
    return 0.5 if quantized else 1.0


def check_fewer_experts(case: ModelCase) -> None:
    """Drafts with one routed expert for a token change no text, where the model runs more."""
    method = f"layer-skip:gamma={GAMMA}:experts=1"
    for runtime in ("eager", "native"):
        target = case.target(runtime)
        if target.runtime.experts.unsupported_reason(1) is None:
            with saying(f"runtime {runtime}"):
                case.assert_expected(LONG, decode(target, LONG, method))


def check_trees(case: ModelCase) -> None:
    """Draft trees change no text, where the model takes them."""
    if not case.takes_trees:
        return
    mask = [case.no_mask, *case.masks()][-1]
    grown = ("rsd-s:width=2:depth=2", case.profile(mask))
    for method, profile in (("token-recycling", None), grown):
        with saying(method):
            case.assert_expected(LONG, decode(case.target(), LONG, method, profile))


def check_captured_steps(case: ModelCase) -> None:
    """Steps that are recorded and replayed give the same text, drafts included.

    Where they are not translated into native code, `native` replays them as `captured` does.
    """
    mask = [case.no_mask, *case.masks()][-1]
    for runtime in CAPTURED:
        target = case.target(runtime)
        for profile in (None, case.profile(mask)):
            with saying(f"runtime {runtime}, {profile and mask}"):
                case.assert_expected(LONG, decode(target, LONG, profile=profile))
            if target.runtime.step_caches.unsupported_reason:
                return  # these steps ran as they are
        if target.runtime.name != runtime:
            return


def check_save_and_load(case: ModelCase) -> None:
    """A saved model is loaded again, with the same fingerprint and the same text."""
    with TemporaryDirectory() as folder:
        case.model.save_pretrained(folder)
        words().save_pretrained(folder)
        loaded = load(folder, dtype="float32", device="cpu", runtime="eager")
        loaded = replace(loaded, eos_ids=frozenset())
    assert loaded.fingerprint == case.target().fingerprint, "the weights are others"
    case.assert_expected(SHORT, decode(loaded, SHORT, "plain"))


def cheap_drafts(context: int, longest: int, draft_config: DraftConfig) -> Costs:
    """In place of a measurement: a draft of half of the sublayers takes half of a plain step."""
    verify = tuple(1 + 0.05 * more for more in range(longest))
    return Costs(0.1, 0.1, 0.1, 0.0, verify, context=context)


def check_scoring(case: ModelCase) -> None:
    """Masks are scored, or scoring is refused; the model's own drafts are all right."""
    if not case.target().skippable:
        case.not_searched = "there is no sublayer of which it is proved that it can be left out"
        return
    text = ScoredText((*LONG, *case.expected[LONG]), len(LONG))
    try:
        whole, *_ = Scorer(case.target(), [text]).score([case.no_mask, *case.masks()])
    except ModelError as error:
        case.not_searched = str(error)
        return
    assert whole.matchness > 0.8, "the model does not predict its own text when it is scored"


def check_search(case: ModelCase) -> None:
    """A short search, without masks where they cannot be scored, ends with a profile that decodes
    the text.
    """
    prompts = [" ".join(f"w{(i * i + k) % 64}" for i in range(6 + k)) for k in range(24)]
    space = ("skip",) if case.not_searched is None else ("skip", "int8")
    with quantized_is_faster():
        if "int8" in space and case.target().runtime.quantized.unsupported_reason(8):
            return
        profile = short_search(case.target(), prompts, space)
        case.assert_expected(LONG, decode(case.target(), LONG, profile=profile))


def short_search(
    target: Target,
    prompts: Sequence[str],
    space: tuple[str, ...],
    on_note: Callable[[str], None] = lambda note: None,
) -> Profile:
    """The profile of a search of two masks, or of what else the space names."""
    config = SearchConfig(
        trials=2,
        calibration_tokens=12,
        max_gamma=4,
        validation_repeats=1,
        min_validation_prompts=2,
        search_space=space,
        methods=("layer-skip",),
    )
    costs = FixedCosts(cheap_drafts)
    return search(target, prompts, config=config, cost_source=costs, on_note=on_note)


Check = Callable[[ModelCase], None]
QUICK_CHECKS: tuple[Check, ...] = (
    check_greedy,
    check_masks,
    check_accepted_drafts,
    check_sampling,
    check_quantized_draft,
    check_fewer_experts,
    check_trees,
    check_captured_steps,
    check_scoring,
)
CHECKS = (*QUICK_CHECKS, check_search, check_save_and_load)
