"""Trains the built-in model: a small Llama on the Python standard library, with layer dropout.

    python -m tools.train_builtin_model --minutes 60 --output skipopt/data/builtin

Sublayers are dropped with a rate that grows with depth (LayerSkip, arXiv 2404.16710, §4.1), and
a second pass over part of each batch, with many more sublayers dropped, is trained to agree with
the full pass (in place of LayerSkip's early-exit loss, §4.2). Resumes from its checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from skipopt.files import replacing
from skipopt.masks import SkipMask
from skipopt.training.corpus import read_corpus

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from skipopt.models.sublayers import DecoderLayer

END_OF_TEXT = "<|endoftext|>"
BATCH_FILES = 256  # encoded in parallel


@dataclass(frozen=True, slots=True)
class Recipe:
    """All hyperparameters of the model and its training.

    Attributes:
        minutes: training time; the learning rate decays over it.
        contexts: (share of the time from which it is used, context length in tokens).
        full_pass_drop: sublayer dropout rate of the full pass in the last layer, the highest.
        thin_pass_scale: range of the thin pass's dropout scale; rate = scale · depth^½.
        thin_pass_share: share of each batch in the thin pass.
    """

    minutes: float = 60.0
    vocabulary: int = 4096
    hidden: int = 192
    intermediate: int = 512
    layers: int = 24
    heads: int = 3
    context: int = 1024
    batch_tokens: int = 4096
    batches_per_step: int = 1
    contexts: tuple[tuple[float, int], ...] = ((0.0, 256), (0.78, 512), (0.94, 1024))
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    full_pass_drop: float = 0.1
    thin_pass_scale: tuple[float, float] = (0.4, 1.1)
    thin_pass_share: float = 0.5
    seed: int = 0


def train(
    recipe: Recipe,
    output: Path,
    device: str = "cpu",
    on_progress: Callable[[str], None] = print,
    checkpoint_minutes: float = 4.0,
) -> None:
    """Train, or resume training, and write a transformers folder to `output`.

    The checkpoint is `output` with the suffix `.checkpoint`. It is kept, so that the training can
    be continued with more minutes.
    """
    import torch

    torch.manual_seed(recipe.seed)
    texts, held_out = read_corpus()
    tokenizer = train_tokenizer(texts, recipe)
    stream = encode(tokenizer, texts)
    held_out_stream = encode(tokenizer, held_out)
    on_progress(f"{len(texts)} files, {len(stream)} tokens; held out {len(held_out)} files")
    state = TrainingState(recipe, device)
    checkpoint = output.with_suffix(".checkpoint")
    if checkpoint.exists():
        state.restore(checkpoint)
        on_progress(f"resuming at step {state.step}, minute {state.minutes:.1f}")
    batches = iterate_batches(stream, recipe, state)
    last_saved = state.minutes
    while state.minutes < recipe.minutes:
        began = time.monotonic()
        losses = state.train_step(batches)
        state.minutes += (time.monotonic() - began) / 60
        if state.step % 10 == 0:
            on_progress(
                f"step {state.step} minute {state.minutes:.1f} tokens {state.tokens} "
                f"loss {losses[0]:.3f} thin-kl {losses[1]:.3f}"
            )
        if state.minutes - last_saved > checkpoint_minutes:
            last_saved = state.minutes
            state.save(checkpoint)
            on_progress(f"held-out loss {held_out_loss(state.model, held_out_stream):.3f}")
    state.save(checkpoint)
    facts = {
        "training_tokens_seen": state.tokens,
        "training_steps": state.step,
        "corpus_tokens": len(stream),
        "corpus_files": len(texts),
        "held_out_files": len(held_out),
        "held_out_tokens": len(held_out_stream),
        "held_out_loss": round(held_out_loss(state.model, held_out_stream, limit=None), 3),
        "recipe": asdict(recipe),
    }
    export(state.model, tokenizer, output, facts)
    on_progress(json.dumps(facts))


def train_tokenizer(texts: dict[str, str], recipe: Recipe) -> Any:
    """Byte-level BPE over the training files only."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((texts[name] for name in sorted(texts)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Any, texts: dict[str, str]) -> Tensor:
    """All texts as one sequence of ids, each preceded by an end-of-text token.  # (N,)"""
    import torch

    ids: list[int] = []
    names = sorted(texts)
    for start in range(0, len(names), BATCH_FILES):
        batch = [texts[name] for name in names[start : start + BATCH_FILES]]
        for encoding in tokenizer.backend_tokenizer.encode_batch(batch):
            ids.append(tokenizer.eos_token_id)
            ids.extend(encoding.ids)
    return torch.tensor(ids)


def iterate_batches(stream: Tensor, recipe: Recipe, state: TrainingState) -> Iterator[Tensor]:
    """Shuffled windows at a new offset every epoch, with a context that grows.  # (B, T) each"""
    import torch

    while True:
        length = state.context_length()
        size = recipe.batch_tokens // length
        offset = state.rng.randrange(length)
        windows = stream[offset : offset + (len(stream) - offset) // length * length]
        windows = windows.view(-1, length)
        order = list(range(len(windows)))
        state.rng.shuffle(order)
        for start in range(0, len(order) - size + 1, size):
            if state.context_length() != length:
                break
            yield windows[torch.tensor(order[start : start + size])].to(state.device)


class TrainingState:
    """Model, optimizers and progress."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        from skipopt.models.proof import find_sublayers
        from skipopt.models.sublayers import evaluating

        self.recipe = recipe
        self.device = device
        self.model = build_model(recipe).to(device)
        with evaluating(self.model):
            self.layers: tuple[DecoderLayer, ...] = find_sublayers(self.model)
        self.optimizers = build_optimizers(self.model, recipe)
        self.rng = Random(recipe.seed)
        self.step = 0
        self.tokens = 0
        self.minutes = 0.0

    @property
    def progress(self) -> float:
        """The share of the training time that has passed."""
        return min(1.0, self.minutes / self.recipe.minutes)

    def context_length(self) -> int:
        """The context length at the present progress."""
        return [n for share, n in self.recipe.contexts if self.progress >= share][-1]

    def train_step(self, batches: Iterator[Tensor]) -> tuple[float, float]:
        """One optimizer step; returns (cross-entropy of the full pass, KL of the thin pass)."""
        import torch

        totals = [0.0, 0.0]
        count = self.recipe.batches_per_step
        for _ in range(count):
            ids = next(batches)
            losses = self._losses(ids)
            (sum(losses) / count).backward()  # type: ignore[union-attr]
            totals = [t + x.item() / count for t, x in zip(totals, losses, strict=True)]
            self.tokens += ids.numel()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._set_learning_rate()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return totals[0], totals[1]

    def _losses(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        from torch.nn.functional import cross_entropy, kl_div

        recipe = self.recipe
        full = self._logits(ids, self._drop(lambda depth: recipe.full_pass_drop * depth))
        loss = cross_entropy(full[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        rows = max(1, int(len(ids) * recipe.thin_pass_share))
        scale = self.rng.uniform(*recipe.thin_pass_scale)
        thin = self._logits(ids[:rows], self._drop(lambda depth: scale * math.sqrt(depth)))
        divergence = kl_div(
            thin.log_softmax(-1).flatten(0, 1),
            full[:rows].detach().log_softmax(-1).flatten(0, 1),
            log_target=True,
            reduction="batchmean",
        )
        return loss, divergence

    def _logits(self, ids: Tensor, mask: SkipMask) -> Tensor:
        import torch

        from skipopt.models.patch import Patch
        from skipopt.models.skip import skip_changes

        fast = torch.autocast(ids.device.type, dtype=torch.bfloat16)
        with fast, Patch(skip_changes(self.layers, mask)):
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits.float()  # (B, T, V)

    def _drop(self, rate: Callable[[float], float]) -> SkipMask:
        """A random mask; `rate` maps the depth of a layer, 0 (first) … 1 (last), to its rate."""
        depth = self.recipe.layers
        dropped = (i for i in range(2 * depth) if self.rng.random() < rate((i // 2) / (depth - 1)))
        return SkipMask(depth, frozenset(dropped))

    def _set_learning_rate(self) -> None:
        warm = min(1.0, (self.step + 1) / 50)
        rate = self.recipe.learning_rate * warm * max(0.01, 1.0 - self.progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def save(self, path: Path) -> None:
        import torch

        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "rng": self.rng.getstate(),
            "counts": (self.step, self.tokens, self.minutes),
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path) -> None:
        """Read the checkpoint."""
        import torch

        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        version, numbers, gauss = state["rng"]
        self.rng.setstate((version, tuple(numbers), gauss))
        self.step, self.tokens, self.minutes = state["counts"]


def build_model(recipe: Recipe) -> Any:
    """A new Llama of the recipe's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    # Faster than sdpa for short contexts and few heads on a CPU, especially backward.
    model.set_attn_implementation("eager")
    return model


def build_optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(
        matrices,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(others, lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))
    return [muon, adamw]


def held_out_loss(model: Any, stream: Tensor, limit: int | None = 16_384) -> float:
    """Mean cross-entropy in nats per token over windows of 512 held-out tokens."""
    import torch
    from torch.nn.functional import cross_entropy

    from skipopt.models.sublayers import evaluating

    windows = stream[:limit]
    windows = windows[: len(windows) // 512 * 512].view(-1, 512).to(model.device)
    total = 0.0
    with torch.no_grad(), evaluating(model):
        for row in windows:
            logits = model(input_ids=row[None], use_cache=False).logits[0, :-1]
            total += float(cross_entropy(logits.float(), row[1:]))
    return total / len(windows)


def export(model: Any, tokenizer: Any, output: Path, facts: dict[str, Any]) -> None:
    """Write config, tokenizer, 16-bit safetensors and the facts of the training."""
    import torch

    output.mkdir(parents=True, exist_ok=True)
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    train(
        Recipe(minutes=arguments.minutes),
        arguments.output,
        arguments.device,
        on_progress=lambda line: print(line, flush=True),
    )
