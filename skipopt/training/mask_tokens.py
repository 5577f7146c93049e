"""Train mask tokens at random places of text the model wrote; the model stays as it is.

The text's keys and values are computed once, without gradients, since no real token ever sees a
slot. Then the slots of many places run together: those of one place see the text before it, its
current token, and the slots before them (the layout of PARD, arXiv 2504.18583, and BiTA, arXiv
2401.12522). Under a body mask the current token and the slots run through the thinned model, the
text does not: just so they will stand when drafting. Knows nothing of drafting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from skipopt.drafting.checkpoints.heads import final_states
from skipopt.drafting.checkpoints.mask_tokens import MaskTokens, make_mask_tokens, save_mask_tokens
from skipopt.errors import ModelError, PromptError
from skipopt.masks import SkipMask
from skipopt.models.skip import skipping
from skipopt.models.target import Target
from skipopt.runtime.attention_mask import attention_mask_format
from skipopt.runtime.kv_cache import ContextCache, PositionCache
from skipopt.training.loop import TrainConfig, Training
from skipopt.training.self_text import Pool, SelfText

EMBEDDING_RATE = 10  # times the learning rate, relative to the size of the model's embeddings
RANK = 64
FALL = 0.8  # weight of a slot, relative to the one before it
TEXTS = 8  # in one step, each cut at so many places:
CUTS = 8
STEPS_A_GROUP = 4  # with the same texts: their keys and values cost more than a step
CUTS_MEASURED = 8  # of each held-out text


def usual_plan(minutes: float, seed: int = 0) -> TrainConfig:
    # Every text serves many steps, each at other places.
    return TrainConfig(minutes, learning_rate=5e-3, writing_share=0.3, seed=seed)


def train_mask_tokens(
    target: Target,
    pool: Pool,
    count: int,
    rank: int,
    body: SkipMask | None,
    plan: TrainConfig,
    output: Path,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train mask tokens (or go on training) and write them to `output`; returns the facts.

    In the facts, the first drafted position is the current token's own row, the others are the
    slots. The checkpoint lies beside the output, with the suffix `.checkpoint`, until the training
    is done.

    Args:
        count: k, the number of slots.
        rank: of the map from the current token's embedding to the slots; 0 is none.
        body: sublayers left out while slots are filled; None is the whole model.

    Raises:
        ArtefactError: the checkpoint is another training's.
        ModelError: a model whose positions cannot be told to it.
        OutputError: a file cannot be written.
        PromptError: what the model writes is too short to learn from.
        KeyboardInterrupt: passes, after a checkpoint was written.
    """
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        tokens = make_mask_tokens(target, count, rank, body or SkipMask.empty(target.depth))
        initialize(tokens, target)
    learner = SlotLearner(target, tokens)
    checkpoint = output.with_suffix(".checkpoint")
    identity = {"kind": "mask-tokens", **asdict(tokens.settings)}
    training = Training(target, learner, pool, plan, identity, checkpoint, say, clock)
    facts = training.run()
    save_mask_tokens(output, tokens, target, facts)
    checkpoint.unlink()
    return facts


class SlotLearner:
    """Learns at places drawn at random, many of one text together."""

    def __init__(self, target: Target, tokens: MaskTokens) -> None:
        check_slots(target)
        self.module = tokens.to(target.device)
        self._target = target
        self._body = skipping(target, tokens.body)
        self._count = len(tokens.embeddings)
        self._drawn = -1
        self._drawn_group: Group | None = None

    def groups(self) -> list[dict[str, Any]]:
        own = self.module.embeddings
        others = [p for p in self.module.parameters() if p is not own]
        scale = EMBEDDING_RATE * embedding_size(self._target)
        return [{"params": [own], "scale": scale}, {"params": others, "scale": 1.0}]

    def study(self, texts: Sequence[SelfText], held_out: Sequence[SelfText]) -> None:
        self._texts = self._long_enough(texts)
        self._held_out = self._long_enough(held_out)

    def _long_enough(self, texts: Sequence[SelfText]) -> list[SelfText]:
        """Those with a place to cut, texts of like length side by side."""
        found = [text for text in texts if self._cuts(text)]
        if not found:
            raise PromptError(
                f"the model never writes {self._count + 1} tokens before its text ends or loops",
                hint="give other prompts, or a smaller --count",
            )
        return sorted(found, key=lambda text: len(text.tokens))

    def _cuts(self, text: SelfText) -> range:
        """Places of a current token after which the model wrote all that is guessed."""
        return range(text.written_from - 1, len(text.tokens) - self._count - 1)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        group = self._group(step // STEPS_A_GROUP)
        chance = Random(int(torch.randint(1 << 62, (), generator=generator)))
        cuts = torch.tensor([chance.choices(self._cuts(text), k=CUTS) for text in group.texts])
        logits, labels = self._guess(group, cuts)
        each = cross_entropy(
            logits[:, :, 1:].flatten(0, 2).float(), labels[:, :, 1:].flatten(), reduction="none"
        )
        each = each.view(-1, self._count).mean(0)
        weights = FALL ** torch.arange(self._count, device=each.device)
        return (each * weights).sum() / weights.sum()

    def _group(self, number: int) -> Group:
        """Texts of like length, drawn by the number alone, with what the model keeps of them."""
        if self._drawn != number or self._drawn_group is None:
            first = Random(number).randrange(max(1, len(self._texts) - TEXTS + 1))
            self._drawn_group = read_group(self._target, self._texts[first : first + TEXTS])
            self._drawn = number
        return self._drawn_group

    def matched(self) -> Tensor:
        parts = []
        for start in range(0, len(self._held_out), TEXTS):
            group = read_group(self._target, self._held_out[start : start + TEXTS])
            cuts = [spread(self._cuts(text), CUTS_MEASURED) for text in group.texts]
            logits, labels = self._guess(group, torch.tensor(cuts))
            parts.append((logits.argmax(-1) == labels).flatten(0, 1).T)
        return torch.cat(parts, 1)

    def _guess(self, group: Group, cuts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits after each current token and its slots, and what the model said there.

        # (B, C) -> (B, C, 1 + k, V), (B, C, 1 + k)
        """
        model, steps = self._target.model, torch.arange(self._count + 1)
        places = (cuts[..., None] + steps).to(self._target.device)  # (B, C, 1 + k)
        current = group.ids.gather(1, places[..., 0])
        rows = self.module.after(model.get_input_embeddings()(current)[:, :, None])
        with self._body:
            logits = model(
                inputs_embeds=rows.flatten(1, 2),
                position_ids=places.flatten(1),
                attention_mask=attention_masks(self._target, places, group.ids.shape[1]),
                past_key_values=ContextCache(group.context),
                use_cache=True,
            ).logits
        labels = group.ids.gather(1, places.flatten(1) + 1).to(logits.device)
        return logits.unflatten(1, places.shape[1:]), labels.view(places.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Texts that run together.

    Attributes:
        ids: padded behind, where no place in the text can see it.  # (B, T)
        context: every layer's keys and values.  # (B, heads, T, D)
    """

    texts: Sequence[SelfText]
    ids: Tensor
    context: list[tuple[Tensor, Tensor]]


@torch.no_grad()
def read_group(target: Target, texts: Sequence[SelfText]) -> Group:
    """Run the whole model over the texts once."""
    tokens = [torch.tensor(text.tokens) for text in texts]
    ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True).to(target.device)
    cache = PositionCache(target.depth, ids.shape[1])
    final_states(target, ids, past_key_values=cache, use_cache=True)  # needs no logits
    return Group(texts, ids, cache.contents())


def initialize(tokens: MaskTokens, target: Target) -> None:
    """Distinct embeddings, of the size that the model's own have."""
    noise = torch.randn(tokens.embeddings.shape)
    tokens.embeddings.data = embedding_size(target) * noise


def embedding_size(target: Target) -> float:
    """Root mean square of the values of the model's own embeddings."""
    weight = target.model.get_input_embeddings().weight
    return float(weight.detach().float().square().mean().sqrt())


def check_slots(target: Target) -> None:
    """Slots must be put where no token stands yet, and hidden from all but their own.

    Raises:
        ModelError: the model does not let itself be told where rows stand and what they see.
    """
    if (obstacle := attention_mask_format(target.model).unsupported_reason) is not None:
        raise ModelError(
            f"{target.architecture} cannot be given mask tokens: {obstacle}",
            hint="train heads, which need no slots",
        )


def spread(cuts: Sequence[int], count: int) -> list[int]:
    """`count` of them, evenly; some more than once if there are fewer."""
    return [cuts[(2 * i + 1) * len(cuts) // (2 * count)] for i in range(count)]


def attention_masks(target: Target, places: Tensor, length: int) -> Any:
    """Rows of a cut attend to the text before it, and to rows of the same cut up to themselves.

    # (B, C, 1 + k) -> additive, (B, 1, C·(1 + k), length + C·(1 + k)), or one for each layer type
    """
    batch, cuts, rows = places.shape
    positions = places.flatten(1)  # (B, R)
    text = torch.arange(length, device=positions.device).expand(batch, -1)
    starts = places[..., :1].expand(-1, -1, rows).reshape(batch, -1, 1)
    own = torch.block_diag(*torch.ones(cuts, rows, rows, device=places.device).tril()).bool()
    attends = torch.cat([text[:, None] < starts, own.expand(batch, -1, -1)], -1)
    keys = torch.cat([text, positions], -1)
    form = attention_mask_format(target.model)
    return form.build(attends, positions, keys, target.model.dtype)
