"""One record of a data file, such as a line of JSON Lines or a row of a table, as a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skipopt.prompts.prompt import Message, Prompt

Record = Mapping[str, Any]
TURN, VALUE = "from", "value"  # keys of ShareGPT's turns
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
# Keys of a message that chat templates read, besides `role` and `content`.
TEMPLATE_KEYS = ("name", "tool_calls", "tool_call_id", "reasoning_content", "thinking")
CONTEXT_KEYS = ("input", "context")
SYSTEM_KEYS = ("system", "system_prompt")


class RecordError(ValueError):
    """A record that holds no prompt, or none that is clear: the message says why."""


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt and what was recognized in its record.

    Attributes:
        shape: the kind of record, as users are told.
        is_cut: whether finished assistant turns at the end were cut off.
    """

    prompt: Prompt
    shape: str
    is_cut: bool = False


def read_record(record: object, key: str | None = None) -> ReadPrompt:
    """The prompt of a record.

    Args:
        record: a JSON value; a text is a prompt by itself.
        key: the key that holds the prompt, with dots for a key inside an object; None: the one
            key of `SHAPES` that the record has.

    Raises:
        RecordError: no prompt, more than one, or one that cannot be read.
    """
    if isinstance(record, str) and key is None:
        return ReadPrompt(Prompt(_text(record)), "texts of a JSON list")
    if not isinstance(record, Mapping):
        raise RecordError(f"expected an object, not {_shown(record)}")
    if key is None:
        name = _only_key(record)
        found = SHAPES[name](record, name)
    else:
        found = _of_key(record, key)
    prompt = _with_tools(_with_system(found.prompt, record), record)
    return replace(found, prompt=_with_category(prompt, record))


def _only_key(record: Record) -> str:
    """The key of `SHAPES` in the record; `text` counts only where there is no other.

    Alpaca's `text` holds the finished answer too.
    """
    names = [name for name in SHAPES if record.get(name) not in (None, "")]
    if len(names) > 1:
        names = [name for name in names if name != "text"]
    if not names:
        known = ", ".join(SHAPES)
        raise RecordError(f"no key with a prompt ({known}), only {_listed(record)}")
    if len(names) > 1:
        raise RecordError(f"more than one key may hold the prompt: {', '.join(names)}")
    return names[0]


def _of_key(record: Record, key: str) -> ReadPrompt:
    value = _lookup(record, key)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return _turns({key: value}, key, f"`{key}`")
    if isinstance(value, list):
        return _chat(value, f"`{key}`", _tools(record))
    return ReadPrompt(Prompt(_text(value, key)), f"`{key}`")


def _lookup(record: Record, key: str) -> object:
    """The value of a key, or of a path of keys with dots."""
    value: object = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise RecordError(f"no key {key!r}, only {_listed(record)}")
        value = value[part]
    return value


# Kinds of records


def _messages(record: Record, key: str) -> ReadPrompt:
    return _chat(record[key], f"`{key}`", _tools(record))


def _body(record: Record, key: str) -> ReadPrompt:
    """A request of an OpenAI batch file: a chat, or a text to complete."""
    body = record[key]
    if not isinstance(body, Mapping):
        raise RecordError(f"{key}: expected an object, not {_shown(body)}")
    if "messages" in body:
        return _chat(body["messages"], "OpenAI batch `body.messages`", _tools(body))
    if isinstance(body.get("prompt"), str):
        return ReadPrompt(Prompt(_text(body["prompt"])), "OpenAI batch `body.prompt`")
    raise RecordError(f"{key}: neither 'messages' nor a text 'prompt' in it")


def _conversation(record: Record, key: str) -> ReadPrompt:
    """ShareGPT's turns (`from`, `value`), or messages under that name."""
    turns = _nonempty_list(record[key], key)
    if all(isinstance(turn, Mapping) and "role" in turn for turn in turns):
        return _chat(turns, f"`{key}`", _tools(record))
    system = record.get("system")
    first = [{TURN: "system", VALUE: system}] if isinstance(system, str) and system else []
    messages = [_sharegpt_turn(turn, f"{key}.{i}") for i, turn in enumerate([*first, *turns])]
    return _chat(messages, f"ShareGPT `{key}`", _tools(record))


def _sharegpt_turn(turn: object, where: str) -> dict[str, object]:
    if not isinstance(turn, Mapping) or TURN not in turn or VALUE not in turn:
        raise RecordError(f"{where}: expected an object with '{TURN}' and '{VALUE}'")
    role = SHAREGPT_ROLES.get(str(turn[TURN]).lower())
    if role is None:
        raise RecordError(f"{where}.{TURN}: unknown speaker {_shown(turn[TURN])}")
    return {"role": role, "content": turn[VALUE]}


def _turns(record: Record, key: str, name: str | None = None) -> ReadPrompt:
    """The first of the user's turns; the later ones answer to what another model wrote."""
    turns = _nonempty_list(record[key], key)
    shape = f"{name or 'MT-bench `turns`'}, first turn of each"
    return ReadPrompt(_user(_text(turns[0], f"{key}.0")), shape)


def _instruction(record: Record, key: str) -> ReadPrompt:
    """A task and, where the record has one, the text that it is about (Alpaca, Dolly, SQuAD)."""
    task = _text(record[key], key)
    names = [name for name in CONTEXT_KEYS if record.get(name) not in (None, "")]
    if len(names) > 1:
        raise RecordError(f"both {' and '.join(names)} besides {key}")
    if not names:
        return ReadPrompt(_user(task), f"`{key}`")
    context = _text(record[names[0]], names[0])
    kind = "Alpaca " if (key, names[0]) == ("instruction", "input") else ""
    return ReadPrompt(_user(f"{task}\n\n{context}"), f"{kind}`{key}` and `{names[0]}`")


def _prompt(record: Record, key: str) -> ReadPrompt:
    if isinstance(record[key], list):
        return _chat(record[key], f"`{key}`", _tools(record))
    return ReadPrompt(Prompt(_text(record[key], key)), f"`{key}`")


SHAPES: dict[str, Callable[[Record, str], ReadPrompt]] = {
    "messages": _messages,
    "body": _body,
    "conversations": _conversation,
    "conversation": _conversation,
    "turns": _turns,
    "instruction": _instruction,
    "question": _instruction,
    "prompt": _prompt,
    "text": _prompt,
}

# Messages


def _chat(messages: object, shape: str, tools: str | None = None) -> ReadPrompt:
    """A chat that the model answers: without the finished assistant turns at its end."""
    found = [
        _message(each, f"messages.{i}")
        for i, each in enumerate(_nonempty_list(messages, "messages"))
    ]
    kept = list(found)
    while kept and kept[-1].role == "assistant":
        kept.pop()
    if not any(message.role == "user" for message in kept):
        raise RecordError("messages: no user turn that is left to answer")
    return ReadPrompt(Prompt(messages=tuple(kept), tools=tools), shape, len(kept) < len(found))


def _message(message: object, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise RecordError(f"{where}: expected an object, not {_shown(message)}")
    role = _text(message.get("role"), f"{where}.role")
    more = {name: message[name] for name in TEMPLATE_KEYS if message.get(name) is not None}
    if message.get("function_call"):
        raise RecordError(f"{where}.function_call: the old form of tool_calls")
    content = message.get("content")
    may_be_blank = "tool_calls" in more or role in ("assistant", "system", "tool")
    if may_be_blank and content in (None, ""):
        return Message(role, "", _json(more))
    return Message(role, _content(content, f"{where}.content"), _json(more))


def _content(content: object, where: str) -> str:
    """The text; of a list of parts, the texts joined."""
    if not isinstance(content, list):
        return _text(content, where)
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise RecordError(f"{where}: a part that is not text: {_shown(kind)}")
    return _text("\n".join(_text(part.get("text"), where) for part in content), where)


def _tools(record: Record) -> str | None:
    if record.get("functions"):
        raise RecordError("functions: the old form of tools")
    tools = record.get("tools")
    if tools in (None, [], ""):
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RecordError(f"tools: expected a list of objects, not {_shown(tools)}")
    return json.dumps(tools)


# Values


def _user(text: str) -> Prompt:
    return Prompt(messages=(Message("user", text),))


def _with_system(prompt: Prompt, record: Record) -> Prompt:
    """The chat with the system turn that stands beside it in the record."""
    given = {name: record[name] for name in SYSTEM_KEYS if record.get(name) not in (None, "")}
    if not given:
        return prompt
    key, value = next(iter(given.items()))
    system = Message("system", _text(value, key))
    if prompt.messages is None:
        raise RecordError(f"{key}: a prompt that is text has no system turn")
    if prompt.messages[0].role != "system":
        return replace(prompt, messages=(system, *prompt.messages))
    if prompt.messages[0].content != system.content:
        raise RecordError(f"{key}: another one than in the first turn")
    return prompt


def _with_tools(prompt: Prompt, record: Record) -> Prompt:
    if prompt.tools is not None or (tools := _tools(record)) is None:
        return prompt
    if prompt.messages is None:
        raise RecordError("tools: a prompt that is text cannot call any")
    return replace(prompt, tools=tools)


def _with_category(prompt: Prompt, record: Record) -> Prompt:
    category = record.get("category")
    return replace(prompt, category=category) if isinstance(category, str) and category else prompt


def _text(value: object, key: str = "") -> str:
    where = f"{key}: " if key else ""
    if not isinstance(value, str):
        raise RecordError(f"{where}expected text, not {_shown(value)}")
    if not value.strip():
        raise RecordError(f"{where}must not be blank")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RecordError(f"{where}Invalid JSON: half of a surrogate pair")
    return value


def _nonempty_list(value: object, key: str) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise RecordError(f"{key}: expected a list that is not empty, not {_shown(value)}")
    return value


def _json(values: Mapping[str, Any]) -> str | None:
    return json.dumps(values) if values else None


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _listed(record: Record) -> str:
    return ", ".join(repr(name) for name in list(record)[:12]) or "an empty object"
