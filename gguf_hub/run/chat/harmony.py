"""The conversation format of gpt-oss, OpenAI's harmony.

Messages are ``<|start|>HEADER<|message|>TEXT<|end|>``. The system message says how to answer; the
developer's holds instructions and, as types of TypeScript, the tools. ``run/generation/harmony.py``
reads the answers.

Source: docs/format.md of openai/harmony at 20cd04c.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gguf_hub.run.chat.messages import ChatPrompt, Message, plain_data, plain_messages

_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06"
_CHANNELS = (
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
_CALLS = "\nCalls to these tools must go to the commentary channel: 'functions'."
_TYPES = {"integer": "number", "object": "object", "array": "any[]"}


class HarmonyFormat:
    """Writes conversations for gpt-oss; the variable ``reasoning_effort`` is low, medium or high.

    Reasoning of earlier answers is left out, as the format has it; that of calls whose answer is
    still to come stays.
    """

    source = "<|start|>assistant<|channel|>final<|message|>"
    """No template: the marks by which answers are read (see ``ChatFormat``)."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the prompt of a conversation (see ``ChatFormat``)."""
        turns, given = plain_messages(messages), plain_data("tools", list(tools or ()))
        effort = variables.get("reasoning_effort") or "medium"
        parts = [_message("system", _system(effort, has_tools=bool(given)))]
        instructions = [
            turn["content"] for turn in turns if turn["role"] in ("system", "developer")
        ]
        if developer := _developer(instructions, given):
            parts.append(_message("developer", developer))
        parts += _turns([turn for turn in turns if turn["role"] not in ("system", "developer")])
        if add_generation_prompt:
            parts.append("<|start|>assistant")
        return ChatPrompt("".join(parts))


def _message(header: str, text: str, end: str = "<|end|>") -> str:
    return f"<|start|>{header}<|message|>{text}{end}"


def _system(effort: str, *, has_tools: bool) -> str:
    date = f"Current date: {datetime.date.today().isoformat()}"
    channels = _CHANNELS + (_CALLS if has_tools else "")
    return f"{_IDENTITY}\n{date}\n\nReasoning: {effort}\n\n{channels}"


def _developer(instructions: Sequence[str], tools: Sequence[Mapping[str, Any]]) -> str:
    parts = ["# Instructions\n\n" + "\n\n".join(instructions)] if any(instructions) else []
    if tools:
        types = "\n\n".join(_tool(tool.get("function") or tool) for tool in tools)
        namespace = f"namespace functions {{\n\n{types}\n\n}} // namespace functions"
        parts.append(f"# Tools\n\n## functions\n\n{namespace}")
    return "\n\n".join(parts)


def _turns(turns: Sequence[dict[str, Any]]) -> Iterator[str]:
    last_user = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    names: dict[Any, Any] = {}  # id of a call -> its tool
    for i, turn in enumerate(turns):
        role, text = turn["role"], turn["content"]
        if role in ("tool", "function"):
            name = turn.get("name") or names.get(turn.get("tool_call_id")) or "tool"
            header = f"functions.{name} to=assistant<|channel|>commentary"
            yield _message(header, text)
        elif role == "assistant":
            calls = [(call.get("id"), call.get("function") or {})
                     for call in turn.get("tool_calls") or ()]  # fmt: skip
            names |= {key: call.get("name") for key, call in calls}
            thought = turn.get("reasoning_content") or turn.get("thinking")
            if thought and calls and i > last_user:
                yield _message("assistant<|channel|>analysis", thought)
            if text or not calls:
                channel = "commentary" if calls else "final"
                yield _message(f"assistant<|channel|>{channel}", text)
            yield from (_call(call) for _, call in calls)
        else:
            yield _message(role, text)


def _call(call: Mapping[str, Any]) -> str:
    arguments = call.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    header = f"assistant<|channel|>commentary to=functions.{call.get('name')} <|constrain|>json"
    return _message(header, text, "<|call|>")


# -- tools as types of TypeScript ----------------------------------------------------------------


def _tool(function: Mapping[str, Any]) -> str:
    schema = function.get("parameters")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    fields = _fields(schema) if isinstance(schema, dict) and properties else ""
    arguments = f"_: {{\n{fields}\n}}" if fields else ""
    return f"{_comment(function)}type {function.get('name')} = ({arguments}) => any;"


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required") or ()
    return "\n".join(
        _field(name, each if isinstance(each, dict) else {}, is_required=name in required)
        for name, each in schema["properties"].items()
    )


def _field(name: str, schema: Mapping[str, Any], *, is_required: bool) -> str:
    mark = "" if is_required else "?"
    default = schema.get("default")
    text = default if isinstance(default, str) else json.dumps(default)
    note = "" if default is None else f" // default: {text}"
    return f"{_comment(schema)}{name}{mark}: {_type(schema)},{note}"


def _comment(schema: Mapping[str, Any]) -> str:
    lines = str(schema.get("description") or "").splitlines()
    return "".join(f"// {line}\n" for line in lines)


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any"
    if values := schema.get("enum"):
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(map(_type, choices))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": each}) for each in kind)
    if kind == "array" and "items" in schema:
        inner = _type(schema["items"])
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if kind == "object" and schema.get("properties"):
        return f"{{\n{_fields(schema)}\n}}"
    return _TYPES.get(kind, kind) if isinstance(kind, str) else "any"
