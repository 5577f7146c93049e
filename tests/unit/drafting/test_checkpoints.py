"""What drafters learned: the modules' arithmetic, and files that are right or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import tiny_gpt2, tiny_llama, tiny_prompts, tiny_target
from torch.nn.functional import relu, silu

from skipopt.drafting.checkpoints import checkpoint
from skipopt.drafting.checkpoints.checkpoint import CheckpointError
from skipopt.drafting.checkpoints.heads import (
    FeedForwardSettings,
    Heads,
    HeadSettings,
    MedusaSettings,
    final_states,
    load_heads,
    make_heads,
    projection,
    save_heads,
)
from skipopt.drafting.checkpoints.mask_tokens import (
    MaskTokens,
    MaskTokenSettings,
    load_mask_tokens,
    make_mask_tokens,
    save_mask_tokens,
)
from skipopt.errors import OutputError
from skipopt.masks import SkipMask
from skipopt.models.target import Target

SETTINGS = [FeedForwardSettings(3, units=8), MedusaSettings(3, blocks=2)]
FACTS = {"tokens": 12, "seconds": 3.5, "acceptance": [0.5, 0.25, 0.125]}
BODY = SkipMask.of(3, attention=[1], mlp=[0, 2])


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


@pytest.fixture(scope="module")
def hidden(target: Target) -> torch.Tensor:
    return final_states(target, torch.tensor(tiny_prompts(2, 7, 7))).detach()


def random_heads(settings: HeadSettings, target: Target, seed: int = 0) -> Heads:
    """Heads that learned something, of values that 16 bits hold exactly."""
    heads = make_heads(settings, target)
    generator = torch.Generator().manual_seed(seed)
    for parameter in heads.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = (noise / 8).half().float()
    return heads


def random_tokens(target: Target, rank: int = 4, body: SkipMask = BODY) -> MaskTokens:
    tokens = make_mask_tokens(target, 3, rank, body)
    generator = torch.Generator().manual_seed(0)
    for parameter in tokens.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).half().float()
    return tokens


# Heads


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_new_heads_give_the_models_own_logits(
    settings: HeadSettings, make: Callable[[], Any]
) -> None:
    target = tiny_target(make())
    ids = torch.tensor(tiny_prompts(2, 6, 6))
    with torch.no_grad():
        expected = target.model(ids).logits
        found = make_heads(settings, target).logits(final_states(target, ids), target)
    assert found.shape == (3, *expected.shape)
    for logits in found:
        torch.testing.assert_close(logits, expected)


def test_states_are_what_the_projection_is_given(target: Target) -> None:
    ids = torch.tensor(tiny_prompts(1, 5, 5))
    seen: list[torch.Tensor] = []
    handle = projection(target).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        target.model(ids)
        handle.remove()
        found = final_states(target, ids)
    assert torch.equal(found, seen[0])
    assert "forward" not in vars(projection(target))


def test_the_ffn_is_one_network_with_a_residual_to_each_head(
    target: Target, hidden: torch.Tensor
) -> None:
    heads = random_heads(SETTINGS[0], target)
    weights = dict(heads.named_parameters())
    state = hidden[1, 3]
    inner = relu(weights["first.weight"] @ state + weights["first.bias"])
    assert inner.shape == (3 * 8,)
    change = weights["second.weight"] @ inner + weights["second.bias"]
    expected = torch.stack([state + part for part in change.chunk(3)])
    torch.testing.assert_close(heads.states(hidden)[:, 1, 3], expected)


def test_medusa_heads_are_residual_blocks(target: Target, hidden: torch.Tensor) -> None:
    heads = random_heads(SETTINGS[1], target)
    weights = dict(heads.named_parameters())
    for head in range(3):
        state = hidden[0, 2]
        for block in range(2):
            name = f"heads.{head}.{block}"
            state = state + silu(weights[f"{name}.weight"] @ state + weights[f"{name}.bias"])
        torch.testing.assert_close(heads.states(hidden)[head, 0, 2], state)


def test_no_two_medusa_heads_or_blocks_are_one_module(
    target: Target, hidden: torch.Tensor
) -> None:
    heads = make_heads(MedusaSettings(3, blocks=2), target)
    modules = [m for m in heads.modules() if isinstance(m, torch.nn.Linear)]
    assert len({id(m) for m in modules}) == len(modules) == 6
    assert len({p.data_ptr() for p in heads.parameters()}) == 12
    before = heads.states(hidden)
    modules[2].bias.data += 1.0  # the first block of the second head
    changed = (heads.states(hidden) != before).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("settings", SETTINGS)
def test_heads_take_states_of_any_shape(
    settings: HeadSettings, target: Target, hidden: torch.Tensor
) -> None:
    heads = random_heads(settings, target)
    one = heads.logits(hidden[0, 0], target)
    assert one.shape == (3, projection(target).weight.shape[0])
    torch.testing.assert_close(heads.logits(hidden, target)[:, 0, 0], one)


@pytest.mark.parametrize("settings", SETTINGS)
def test_heads_return_states_in_the_precision_given(
    settings: HeadSettings, target: Target, hidden: torch.Tensor
) -> None:
    heads = random_heads(settings, target)
    assert heads.states(hidden.bfloat16()).dtype == torch.bfloat16


# Mask tokens


def test_slots_stand_behind_the_tokens_in_order(target: Target) -> None:
    tokens = random_tokens(target, rank=0)
    embedded = torch.zeros(2, 4, 32)
    found = tokens.after(embedded)
    assert found.shape == (2, 4 + 3, 32)
    assert torch.equal(found[:, :4], embedded)
    for row in found:
        assert torch.equal(row[4:], tokens.embeddings)


def test_slots_depend_on_the_current_token_alone(target: Target) -> None:
    tokens = random_tokens(target)
    embedded = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1))
    weights = dict(tokens.named_parameters())
    found = tokens.after(embedded)
    for row, given in zip(found, embedded, strict=True):
        assert torch.equal(row[:4], given)
        moved = weights["up.weight"] @ weights["down.weight"] @ given[-1]
        torch.testing.assert_close(row[4:], tokens.embeddings + moved.view(3, 32))
    torch.testing.assert_close(tokens.slots(embedded)[:, -1], found[:, 4:])


def test_new_slots_are_the_same_behind_every_token(target: Target) -> None:
    tokens = make_mask_tokens(target, 3, 4, BODY)
    tokens.embeddings.data.normal_()
    slots = tokens.slots(torch.randn(5, 32))
    assert torch.equal(slots, tokens.embeddings.expand(5, 3, 32))


def slot_logits(target: Target, tokens: MaskTokens, prompt: list[int]) -> torch.Tensor:
    """Of the prompt with all slots behind it.  # (T + k, V)"""
    embed = target.model.get_input_embeddings()
    with torch.no_grad():
        rows = tokens.after(embed(torch.tensor([prompt])))
        logits: torch.Tensor = target.model(inputs_embeds=rows).logits[0]
    return logits


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_real_tokens_do_not_see_slots(make: Callable[[], Any]) -> None:
    target = tiny_target(make())
    prompt = tiny_prompts(1, 8, 8)[0]
    with torch.no_grad():
        expected = target.model(torch.tensor([prompt])).logits[0]
    found = slot_logits(target, random_tokens(target), prompt)
    torch.testing.assert_close(found[: len(prompt)], expected)


def test_other_embeddings_say_other_things(target: Target) -> None:
    tokens, prompt = random_tokens(target, rank=0), tiny_prompts(1, 8, 8)[0]
    before = slot_logits(target, tokens, prompt)[len(prompt) :]
    tokens.embeddings.data = tokens.embeddings.data.roll(1, 0)
    after = slot_logits(target, tokens, prompt)[len(prompt) :]
    assert (before - after).abs().amax(1).min() > 0.01


# Files


@pytest.mark.parametrize("settings", SETTINGS)
def test_heads_come_back_as_they_were(
    settings: HeadSettings, target: Target, hidden: torch.Tensor, tmp_path: Path
) -> None:
    heads = random_heads(settings, target)
    save_heads(tmp_path / "a.safetensors", heads, target, FACTS)
    found = load_heads(tmp_path / "a.safetensors", target)
    assert found.settings == settings
    assert torch.equal(found.logits(hidden, target), heads.logits(hidden, target))
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert checkpoint.load(tmp_path / "a.safetensors", "heads", target).facts == FACTS


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("body", [BODY, SkipMask.empty(3)])
def test_mask_tokens_come_back_as_they_were(
    rank: int, body: SkipMask, target: Target, tmp_path: Path
) -> None:
    tokens = random_tokens(target, rank, body)
    save_mask_tokens(tmp_path / "a.safetensors", tokens, target, FACTS)
    found = load_mask_tokens(tmp_path / "a.safetensors", target)
    assert found.body == body
    assert found.settings == tokens.settings == MaskTokenSettings(3, rank, str(body))
    expected = dict(tokens.named_parameters())
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, expected.pop(name))
        assert not parameter.requires_grad
    assert not expected


def test_a_file_holds_16_bits_and_is_read_in_the_models_precision(tmp_path: Path) -> None:
    target = tiny_target(tiny_llama().to(torch.bfloat16))
    save_heads(tmp_path / "a.safetensors", make_heads(SETTINGS[0], target), target, FACTS)
    stored = load_file(tmp_path / "a.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    found = load_heads(tmp_path / "a.safetensors", target)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}


def rewrite(path: Path, tensors: dict[str, Any] | None = None, **metadata: Any) -> None:
    """Put other metadata or tensors into a file; None takes one out."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    kept = {**load_file(path), **(tensors or {})}
    save_file(
        {name: tensor for name, tensor in kept.items() if tensor is not None},
        path,
        {key: value for key, value in {**old, **metadata}.items() if value is not None},
    )


def settings_of(**changes: Any) -> str:
    known: dict[str, Any] = {"count": 3, "units": 8, "shape": "ffn", **changes}
    return json.dumps({key: value for key, value in known.items() if value is not None})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "2"}, ["format 2", "upgrade"]),
        ({"format": "pt"}, ["not made by skipopt"]),
        ({"format": None}, ["not made by skipopt"]),
        ({"fingerprint": None}, ["not made by skipopt"]),
        ({"kind": "mask-tokens"}, ["holds mask-tokens", "expected heads", "train heads"]),
        ({"fingerprint": "sha256:0"}, ["another model", "sha256:0", "skipopt train heads"]),
        ({"facts": "{"}, ["facts"]),
        ({"facts": "[1]"}, ["facts"]),
        ({"settings": "{"}, ["setting"]),
        ({"settings": "3"}, ["setting"]),
        ({"settings": settings_of(count=None)}, ["count"]),
        ({"settings": settings_of(count=0)}, ["count"]),
        ({"settings": settings_of(count="3")}, ["count"]),
        ({"settings": settings_of(count=1 << 40)}, ["count"]),
        ({"settings": settings_of(units=-1)}, ["units"]),
        ({"settings": settings_of(colour=1)}, ["colour"]),
        ({"settings": settings_of(shape="cube")}, ["cube"]),
        ({"settings": settings_of(shape="medusa")}, ["medusa"]),
        ({"settings": settings_of(count=4)}, ["first.bias", "[24]", "[32]"]),
        ({"tensors": {"second.bias": None}}, ["second.bias", "missing"]),
        ({"tensors": {"third": torch.zeros(1)}}, ["third", "unknown"]),
        ({"tensors": {"first.bias": torch.zeros(7)}}, ["first.bias", "[7]"]),
        ({"tensors": {"first.bias": torch.zeros(24, dtype=torch.int64)}}, ["first.bias", "int64"]),
    ],
)
def test_damaged_files_are_refused(
    change: dict[str, Any], words: list[str], target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_heads(path, random_heads(SETTINGS[0], target), target, FACTS)
    rewrite(path, **change)
    with pytest.raises(CheckpointError) as caught:
        load_heads(path, target)
    text = f"{caught.value} {caught.value.hint}"
    assert all(word in text for word in ["a.safetensors", *words]), text
    assert caught.value.hint
    assert "\n" not in text


@pytest.mark.parametrize(
    ("body", "words"), [("attn x", ["attn x"]), ("attn 3", ["layer 3", "range"]), (3, ["body"])]
)
def test_mask_tokens_of_a_body_that_is_none(
    body: Any, words: list[str], target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_mask_tokens(path, random_tokens(target), target, FACTS)
    rewrite(path, settings=json.dumps({"count": 3, "rank": 4, "body": body}))
    with pytest.raises(CheckpointError) as caught:
        load_mask_tokens(path, target)
    assert all(word in str(caught.value) for word in ["a.safetensors", "body", *words])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no file"]),
        (b"", ["not a safetensors file"]),
        (b"shape: ffn\n" * 9, ["not a safetensors file"]),
        ("half", ["not a safetensors file"]),
        ("folder", ["folder"]),
    ],
)
def test_what_is_no_artefact_is_refused(
    content: Any, words: list[str], target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    if content == "half":
        save_heads(path, random_heads(SETTINGS[0], target), target, FACTS)
        path.write_bytes(path.read_bytes()[:-9])
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_heads(path, target)
    assert all(word in str(caught.value) for word in ["a.safetensors", *words])
    assert caught.value.hint


def test_heads_of_another_model_are_refused(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_heads(path, random_heads(SETTINGS[0], target), target, FACTS)
    with pytest.raises(CheckpointError, match="another model"):
        load_heads(path, tiny_target(tiny_llama(seed=1)))
    with pytest.raises(CheckpointError, match="expected mask-tokens"):
        load_mask_tokens(path, target)


def test_a_full_disk_leaves_what_stood_there(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("before")

    def fill_up(tensors: Any, draft: Path, metadata: Any) -> None:
        draft.write_text("half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_up)
    with pytest.raises(OutputError, match="No space left"):
        save_heads(path, random_heads(SETTINGS[0], target), target, FACTS)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["none/a.safetensors", "."])
def test_where_nothing_can_be_written(where: str, target: Target, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        save_heads(tmp_path / where, random_heads(SETTINGS[0], target), target, FACTS)
    assert not list(tmp_path.iterdir())


# What ships


def test_nothing_ships_for_other_models(target: Target) -> None:
    assert checkpoint.shipped("heads-ffn", target) is None
    assert checkpoint.shipped("no-such-name", target) is None


def test_everything_that_ships_fits_the_built_in_model() -> None:
    import skipopt

    target = skipopt.load("builtin", runtime="eager")
    heads = [checkpoint.shipped(name, target) for name in ("heads-ffn", "heads-medusa")]
    tokens = [checkpoint.shipped(f"mask-tokens{end}", target) for end in ("", "-skipped")]
    assert [load_heads(path, target).settings.shape for path in heads if path] == ["ffn", "medusa"]
    thinned = [bool(load_mask_tokens(path, target).body.skipped) for path in tokens if path]
    assert thinned == [False, True]
    total = sum(path.stat().st_size for path in [*heads, *tokens] if path)
    assert total <= 4e6
