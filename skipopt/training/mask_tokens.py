"""Trains mask tokens at random positions of text the model wrote; the model is not changed.

Keys and values of the text are computed once without gradients, since no token of the text attends
to a slot. Then the slots of many positions run together; those of one position attend to the text
before it, to its current token, and to the slots before them (the layout of PARD, arXiv
2504.18583, and BiTA, arXiv 2401.12522). With a skip mask, the current token and the slots run
under it and the text does not, as when drafting.
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
from skipopt.models.text_states import cache_argument
from skipopt.runtime.attention_mask import attention_mask_format
from skipopt.runtime.context_cache import ContextCache
from skipopt.runtime.kv_cache import KeysAndValues, PositionCache
from skipopt.training.loop import TrainConfig, Training
from skipopt.training.self_text import Pool, SelfText

EMBEDDING_RATE = 10  # multiplies the learning rate, together with the embeddings' size
RANK = 64
LOSS_DECAY = 0.8  # weight of a slot relative to the previous one
TEXTS = 8  # per step
CUTS = 8  # positions per text
STEPS_PER_GROUP = 4  # with the same texts, whose keys and values cost more than a step
CUTS_MEASURED = 8  # positions per held-out text


def default_config(minutes: float, seed: int = 0) -> TrainConfig:
    """The configuration for training mask tokens for this many minutes."""
    # Less time for generating: every text is used in many steps, at other positions.
    return TrainConfig(minutes, learning_rate=5e-3, writing_share=0.3, seed=seed)


def train_mask_tokens(
    target: Target,
    pool: Pool,
    count: int,
    rank: int,
    body: SkipMask | None,
    config: TrainConfig,
    output: Path,
    on_progress: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train mask tokens, or resume training, and write them to `output`; returns facts about it.

    In the facts, the first drafted position is the current token's own row, the others are the
    slots. Until the training is done its state is kept next to `output`, with the suffix
    `.checkpoint`.

    Args:
        count: k, the number of slots.
        rank: of the map from the current token's embedding to the slots; 0 = no map.
        body: sublayers to skip while slots are filled; None = none.

    Raises:
        CheckpointError: the state is that of another training.
        ModelError: a model that does not take positions and attention masks.
        OutputError: a file cannot be written.
        PromptError: the texts that the model writes are too short.
        KeyboardInterrupt: after the state was written.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        tokens = make_mask_tokens(target, count, rank, body or SkipMask.empty(target.depth))
        initialize(tokens, target)
    learner = SlotLearner(target, tokens)
    checkpoint = output.with_suffix(".checkpoint")
    identity = {"kind": "mask-tokens", **asdict(tokens.settings)}
    training = Training(target, learner, pool, config, identity, checkpoint, on_progress, clock)
    facts = training.run()
    save_mask_tokens(output, tokens, target, facts)
    checkpoint.unlink()
    return facts


class SlotLearner:
    """Trains slots at random positions, several of each text together."""

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

    def prepare(self, texts: Sequence[SelfText], held_out: Sequence[SelfText]) -> None:
        self._texts = self._long_enough(texts)
        self._held_out = self._long_enough(held_out)

    def _long_enough(self, texts: Sequence[SelfText]) -> list[SelfText]:
        """The texts that have a position to train at, sorted by length."""
        found = [text for text in texts if self._cuts(text)]
        if not found:
            raise PromptError(
                f"the model never writes {self._count + 1} tokens "
                "before its text ends or repeats itself",
                hint="give other prompts, or a smaller --num-tokens",
            )
        return sorted(found, key=lambda text: len(text.tokens))

    def _cuts(self, text: SelfText) -> range:
        """Positions of current tokens after which the model wrote all tokens to predict."""
        return range(text.written_from - 1, len(text.tokens) - self._count - 1)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        group = self._group(step // STEPS_PER_GROUP)
        chance = Random(int(torch.randint(1 << 62, (), generator=generator)))
        cuts = torch.tensor([chance.choices(self._cuts(text), k=CUTS) for text in group.texts])
        logits, labels = self._predict(group, cuts)
        each = cross_entropy(
            logits[:, :, 1:].flatten(0, 2).float(), labels[:, :, 1:].flatten(), reduction="none"
        )
        each = each.view(-1, self._count).mean(0)
        weights = LOSS_DECAY ** torch.arange(self._count, device=each.device)
        return (each * weights).sum() / weights.sum()

    def _group(self, number: int) -> Group:
        """Texts of similar length with their keys and values, chosen by the number alone."""
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
            logits, labels = self._predict(group, torch.tensor(cuts))
            parts.append((logits.argmax(-1) == labels).flatten(0, 1).T)
        return torch.cat(parts, 1)

    def _predict(self, group: Group, cuts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits after each current token and its slots, and the tokens the model wrote there.

        # (B, C) -> (B, C, 1 + k, V), (B, C, 1 + k)
        """
        model, steps = self._target.model, torch.arange(self._count + 1)
        positions = (cuts[..., None] + steps).to(self._target.device)  # (B, C, 1 + k)
        current = group.ids.gather(1, positions[..., 0])
        rows = self.module.after(model.get_input_embeddings()(current)[:, :, None])
        with self._body:
            logits = model(
                inputs_embeds=rows.flatten(1, 2),
                position_ids=positions.flatten(1),
                attention_mask=attention_masks(self._target, positions, group.ids.shape[1]),
                use_cache=True,
                **{cache_argument(model): ContextCache(group.context)},
            ).logits
        labels = group.ids.gather(1, positions.flatten(1) + 1).to(logits.device)
        return logits.unflatten(1, positions.shape[1:]), labels.view(positions.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Texts that run together.

    Attributes:
        texts: B texts.
        ids: padded on the right.  # (B, T)
        context: keys and values of every layer.  # (B, heads, T, D) each
    """

    texts: Sequence[SelfText]
    ids: Tensor
    context: list[KeysAndValues]


@torch.no_grad()
def read_group(target: Target, texts: Sequence[SelfText]) -> Group:
    """Run the full model over the texts and keep its keys and values."""
    tokens = [torch.tensor(text.tokens) for text in texts]
    ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True).to(target.device)
    parts = [layer.cached for layer in target.layers]
    cache = PositionCache(target.depth, ids.shape[1], parts=parts)
    # Needs no logits.
    final_states(target, ids, use_cache=True, **{cache_argument(target.model): cache})
    return Group(texts, ids, cache.contents())


def initialize(tokens: MaskTokens, target: Target) -> None:
    """Set random embeddings of the size of the model's own."""
    noise = torch.randn(tokens.embeddings.shape)
    tokens.embeddings.data = embedding_size(target) * noise


def embedding_size(target: Target) -> float:
    """Root mean square of the values of the model's own embeddings."""
    weight = target.model.get_input_embeddings().weight
    return float(weight.detach().float().square().mean().sqrt())


def check_slots(target: Target) -> None:
    """Check that the model takes positions and attention masks.

    Raises:
        ModelError: it does not.
    """
    obstacle = attention_mask_format(target.model).unsupported_reason
    if target.keeps_own_cache:
        obstacle = "its cache takes no other masks"
    if obstacle is not None:
        raise ModelError(
            f"{target.architecture} cannot be given mask tokens: {obstacle}",
            hint="train heads instead",
        )


def spread(cuts: Sequence[int], count: int) -> list[int]:
    """`count` evenly spaced cuts; some more than once if there are fewer."""
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
