"""Text that the model writes itself: drafters learn from it, and are measured on it.

A draft has to foresee what the model will say, not what people write; so the text is the model's
own. Some prompts are kept apart, and nothing is learned from what the model says to them. Knows
nothing of what is learned from the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from skipopt.errors import PromptError
from skipopt.models.loading import BUILTIN
from skipopt.repetition import repeats_from
from skipopt.training.corpus import read_corpus

if TYPE_CHECKING:
    import torch

    from skipopt.models.target import Target

# Tokens of a snippet of the corpus: a few statements, or a function.
SHORTEST, LONGEST = 32, 160
HELD_OUT_GROUPS = 8  # one group of prompts in so many is kept apart
HELD_OUT_TEXTS = 64
# Greedy text is what is drafted, but it cannot be had twice from one prompt, and it soon loops.
GREEDY_BATCHES = 4  # of so many batches, one is sampled; and all once each prompt was served
TEMPERATURES = (0.6, 0.8, 1.0)

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SelfText:
    """`tokens[:written_from]` is the prompt; the model wrote the rest, loops cut off."""

    tokens: Ids
    written_from: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Prompts to learn from, and prompts kept apart to measure on."""

    training: tuple[Ids, ...]
    held_out: tuple[Ids, ...]

    @property
    def digest(self) -> str:
        """Of all prompts and the side each is on."""
        return hashlib.sha256(repr((self.training, self.held_out)).encode()).hexdigest()[:32]


def make_pool(target: Target, prompts: Iterable[Sequence[int]], seed: int = 0) -> Pool:
    """Split prompts in two, in an order that depends on the seed alone.

    Args:
        prompts: token ids, of prompts that nothing is measured on later. The built-in model's
            come on top of snippets of the text it was trained on; a file serves one side only.

    Raises:
        PromptError: fewer than two prompts.
    """
    rng = Random(seed)
    groups = [[tuple(prompt)] for prompt in prompts]
    if target.model_id == BUILTIN:
        groups += corpus_snippets(target.tokenizer, rng)
    if len(groups) < 2:
        raise PromptError(
            "training needs two prompts or more: one of them is kept apart to measure on",
            hint="give more",
        )
    apart = [p for group in groups[::HELD_OUT_GROUPS] for p in group]
    kept = [p for i, group in enumerate(groups) if i % HELD_OUT_GROUPS for p in group]
    rng.shuffle(apart)
    rng.shuffle(kept)
    return Pool(tuple(kept), tuple(apart[:HELD_OUT_TEXTS]))


def corpus_snippets(tokenizer: Any, rng: Random) -> list[list[Ids]]:
    """Each file of the built-in model's own training text, cut into snippets."""
    texts, _ = read_corpus()
    encode = tokenizer.backend_tokenizer.encode
    return [cut(encode(texts[name]).ids, rng) for name in sorted(texts)]


def cut(ids: Sequence[int], rng: Random) -> list[Ids]:
    """Snippets of varying length, one after the other; a short rest is left out."""
    snippets: list[Ids] = []
    start = 0
    while len(ids) - start >= SHORTEST:
        end = start + rng.randint(SHORTEST, LONGEST)
        snippets.append(tuple(ids[start:end]))
        start = end
    return snippets


class SelfGenerator:
    """Lets the model continue prompts, batch by batch; batch n is always the same.

    Args:
        new_tokens: of each text, at most.
        batch: texts written together.

    Raises:
        PromptError: the model's context has no room for that many new tokens.
    """

    def __init__(
        self, target: Target, pool: Pool, new_tokens: int = 64, batch: int = 32, seed: int = 0
    ) -> None:
        self._room = target.context_limit - new_tokens
        if self._room < 1:
            raise PromptError(
                f"{new_tokens} new tokens do not fit into a context of {target.context_limit}",
                hint="choose a model with a longer context",
            )
        self._target = target
        self._pool = pool
        self._new_tokens = new_tokens
        self._batch = batch
        self._seed = seed

    def held_out(self) -> list[SelfText]:
        """Greedy continuations of the prompts kept apart."""
        prompts, size = self._pool.held_out, self._batch
        parts = (prompts[i : i + size] for i in range(0, len(prompts), size))
        return [text for part in parts for text in self._write(part, 0.0, 0)]

    def write(self, number: int) -> list[SelfText]:
        """Batch `number` of the texts to learn from."""
        prompts = self._pool.training
        first = number * self._batch
        chosen = [prompts[i % len(prompts)] for i in range(first, first + self._batch)]
        fresh = first + self._batch <= max(len(prompts), self._batch)
        greedy = fresh and (number + 1) % GREEDY_BATCHES > 0
        temperature = 0.0 if greedy else TEMPERATURES[number % len(TEMPERATURES)]
        # A pool of fewer prompts than a batch holds: greedy texts of one prompt are all the same.
        distinct = list(dict.fromkeys(chosen)) if greedy else chosen
        return self._write(distinct, temperature, self._seed + number)

    def _write(self, prompts: Sequence[Ids], temperature: float, seed: int) -> list[SelfText]:
        prompts = [prompt[-self._room :] for prompt in prompts]
        rows = _continue(self._target, prompts, self._new_tokens, temperature, seed)
        ends = self._target.eos_ids
        pairs = zip(prompts, (shorten(row, ends) for row in rows), strict=True)
        return [SelfText((*prompt, *row), len(prompt)) for prompt, row in pairs if row]


def shorten(tokens: Sequence[int], ends: frozenset[int]) -> Ids:
    """Up to the first token that ends a text, and to where the text only repeats itself."""
    last = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
    tokens = tokens[:last]
    return tuple(tokens[: repeats_from(tokens)])


def _continue(
    target: Target, prompts: Sequence[Ids], new_tokens: int, temperature: float, seed: int
) -> list[list[int]]:
    """What transformers' own `generate` continues the prompts with, padding included."""
    import torch

    ids, seen = _left_padded(prompts)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        output = target.model.generate(
            input_ids=ids.to(target.device),
            attention_mask=seen.to(target.device),
            max_new_tokens=new_tokens,
            pad_token_id=min(target.eos_ids, default=0),
            **_plain_sampling(temperature),
        )
    rows: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return rows


def _plain_sampling(temperature: float) -> dict[str, Any]:
    """The model's own distribution, whatever its generation config says besides."""
    options: dict[str, Any] = {"num_beams": 1, "repetition_penalty": 1.0}
    if temperature:
        return options | {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return options | {"do_sample": False}


def _left_padded(prompts: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, which of them are real), all ending at the same place.  # (B, T)"""
    import torch

    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    seen = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        seen[row, width - len(prompt) :] = 1
    return ids, seen
