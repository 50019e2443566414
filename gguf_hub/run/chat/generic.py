"""Roles, calls and tools that a format does not print, as text in turns that every format prints.

Whether a template prints a message is found by a mark in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_RESULT_ROLES = frozenset({"tool", "function", "ipython", "observation"})
_MARK = "@@{}@@"

Turn = dict[str, Any]


def system_developers(messages: Sequence[Turn]) -> list[Turn]:
    """Return messages with OpenAI's newer name of the role ``system`` replaced."""
    return [
        {**message, "role": "system"} if message["role"] == "developer" else message
        for message in messages
    ]


def special_turns(messages: Sequence[Turn]) -> list[int]:
    """Return the numbers of messages that not every format prints."""
    first = ("system", "user", "assistant")
    return [
        i
        for i, message in enumerate(messages)
        if message.get("tool_calls") or message["role"] not in (first[1:] if i else first)
    ]


def marked(messages: Sequence[Turn], special: Sequence[int]) -> list[Turn]:
    """Return messages with a mark in each special one: in the names of its calls, or at its end."""
    return [
        _with_mark(message, _MARK.format(i)) if i in special else message
        for i, message in enumerate(messages)
    ]


def unprinted(text: str, special: Sequence[int]) -> list[int]:
    """Return the special messages whose marks are not in a text."""
    return [i for i in special if _MARK.format(i) not in text]


def plain_turns(messages: Sequence[Turn]) -> list[Turn]:
    """Return a conversation of system, user and assistant, with text alone.

    Calls are the text that ``tool_calls`` reads, results name their tool, and what follows each
    other in the same role is one turn: many templates refuse anything else.
    """
    turns: list[Turn] = []
    names: dict[Any, Any] = {}  # id of a call -> its tool
    for message in messages:
        calls = [_call(call) for call in message.get("tool_calls") or ()]
        names |= {call.get("id"): call.get("name") for call in calls}
        role, text = _plain(message, calls, names)
        if role == "system" and any(turn["role"] != "system" for turn in turns):
            role = "user"
        if turns and turns[-1]["role"] == role:
            text = f"{turns.pop()['content']}\n\n{text}"
        turns.append({"role": role, "content": text})
    return turns


def with_tools(messages: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Return messages with the tools described in the system message."""
    keys = ("name", "description", "parameters")
    functions = [tool.get("function") or tool for tool in tools]
    lines = [json.dumps({key: f[key] for key in keys if key in f}) for f in functions]
    text = 'Tools, called by {"name": ..., "arguments": {...}}:\n' + "\n".join(lines)
    if messages and messages[0]["role"] == "system":
        first, *rest = messages
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *rest]
    return [{"role": "system", "content": text}, *messages]


def _with_mark(message: Turn, mark: str) -> Turn:
    if not message.get("tool_calls"):
        return {**message, "content": message["content"] + mark}
    calls = [
        {**call, "function": {**call["function"], "name": f"{call['function'].get('name')}{mark}"}}
        if isinstance(call, dict) and isinstance(call.get("function"), dict)
        else call
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _call(call: Any) -> dict[str, Any]:
    inner = call.get("function") if isinstance(call, dict) else None
    if not isinstance(inner, dict):
        return {"name": None, "text": json.dumps(call)}
    data = {"name": inner.get("name"), "arguments": inner.get("arguments")}
    return {**data, "id": str(call.get("id")), "text": json.dumps(data)}


def _plain(
    message: Turn, calls: Sequence[dict[str, Any]], names: Mapping[Any, Any]
) -> tuple[str, str]:
    """Return the role and the text of a message in a conversation without tools."""
    role, text = message["role"], message["content"]
    if calls:
        return "assistant", "\n".join([*filter(None, [text]), *(call["text"] for call in calls)])
    if role in _RESULT_ROLES:
        name = message.get("name") or names.get(str(message.get("tool_call_id")))
        return "user", f"Result of {name or 'the tool'}: {text}"
    known = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
    return (known[role], text) if role in known else ("user", f"{role}: {text}")
