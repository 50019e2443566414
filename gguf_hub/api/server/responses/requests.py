"""OpenAI's responses as conversations of the one chat path."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gguf_hub.api.server.bodies import ChatBody, Sampling
from gguf_hub.api.server.responses.bodies import InputBody, ResponsesBody, TextBody
from gguf_hub.api.server.responses.store import ResponseStore
from gguf_hub.errors import UsageError

Item = dict[str, Any]

_TEXT_PARTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")
_ROLES = ("user", "assistant", "system", "developer")


def input_items(body: InputBody, store: ResponseStore) -> list[Item]:
    """Return the items of a request, those of the responses before it first.

    Raises:
        NoResponseError: A response or an item that it refers to is not stored.
        UsageError: It names what only OpenAI's servers keep.
    """
    for name in ("conversation", "prompt"):
        if getattr(body, name) is not None:
            raise UsageError(f"{name}: this server keeps none",
                             hint="send the input, or `previous_response_id`")  # fmt: skip
    items = [{"type": "message", "role": "user", "content": body.input}] if isinstance(
        body.input, str) else body.input  # fmt: skip
    before = store.items_of(body.previous_response_id) if body.previous_response_id else []
    return [*before, *(store.resolve(item) for item in items)]


def chat_body(body: InputBody, items: Sequence[Item]) -> ChatBody:
    """Return the conversation of a request.

    Raises:
        UsageError: An item, a tool or a choice of tools cannot be read.
    """
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    tools, choice = _tools(body)
    fields = {
        "messages": [*system, *_messages(items)],
        "tools": tools or None,
        "tool_choice": choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _response_format(body.text),
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
    }
    if isinstance(body, ResponsesBody):
        fields |= {name: getattr(body, name) for name in Sampling.model_fields}
        fields |= {"max_tokens": body.max_output_tokens, "stream": body.stream,
                   "logprobs": body.has_logprobs, "top_logprobs": body.top_logprobs}  # fmt: skip
    if not fields["messages"]:
        raise UsageError("input: expected at least one item, found none")
    return ChatBody.model_validate(fields)


def left_out(body: InputBody) -> list[str]:
    """Return a warning for each tool that the model is not told of."""
    kinds = [str(tool.get("type"))[:60] for tool in body.tools if not _is_function(tool)]
    return [f"tools: `{kind}` is left out: this server has functions only" for kind in kinds]


# -- items ----------------------------------------------------------------------------------------


def _messages(items: Sequence[Item]) -> list[Item]:
    """Return the messages of items: what an assistant thinks, writes and calls is one message."""
    messages: list[Item] = []
    for i, item in enumerate(items):
        place = f"input.{i}"
        kind = item.get("type", "message")
        if kind == "message":
            _add_message(messages, item, place)
        elif kind == "function_call":
            turn = _assistant(messages, ())
            function = {key: _string(item, key, place) for key in ("name", "arguments")}
            call = {"id": _string(item, "call_id", place), "type": "function", "function": function}
            turn.setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = _text(item.get("output"), f"{place}.output")
            call_id = _string(item, "call_id", place)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        elif kind == "reasoning":
            turn = _assistant(messages, ("reasoning_content", "content", "tool_calls"))
            thought = item.get("content") or item.get("summary") or ""
            turn["reasoning_content"] = _text(thought, place)
        else:
            raise UsageError(f"{place}: `{kind!s:.60}` is not read: expected a message, "
                             "a call of a function, its output, or reasoning")  # fmt: skip
    return messages


def _add_message(messages: list[Item], item: Item, place: str) -> None:
    role, text = item.get("role"), _text(item.get("content"), f"{place}.content")
    if role not in _ROLES:
        raise UsageError(f"{place}.role: expected one of {', '.join(_ROLES)}, found {role!r:.60}")
    if role == "assistant":
        _assistant(messages, ("content", "tool_calls"))["content"] = text
    else:
        messages.append({"role": role, "content": text})


def _assistant(messages: list[Item], ended_by: Sequence[str]) -> Item:
    """Return the assistant's turn that goes on, or a new one.

    Args:
        messages: So far.
        ended_by: Fields that the turn may not have yet.
    """
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant" and not any(key in last for key in ended_by):
        return last
    turn: Item = {"role": "assistant"}
    messages.append(turn)
    return turn


def _text(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UsageError(f"{place}: expected text, found {content!r:.60}")
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _TEXT_PARTS:
            raise UsageError(f"{place}.{i}: `{kind!s:.60}` is not read: expected text")
        texts.append(_string(part, "refusal" if kind == "refusal" else "text", f"{place}.{i}"))
    return "\n".join(texts)


def _string(item: Mapping[str, Any], key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise UsageError(f"{place}.{key}: expected text, found {json.dumps(value):.60}")
    return value


# -- tools and form -------------------------------------------------------------------------------


def _is_function(tool: Mapping[str, Any]) -> bool:
    return tool.get("type") == "function"


def _tools(body: InputBody) -> tuple[list[Item], Any]:
    """Return functions in the shape of chat completions, and which must be called."""
    tools = [tool for tool in body.tools if _is_function(tool)]
    for i, tool in enumerate(body.tools):
        if _is_function(tool):
            _string(tool, "name", f"tools.{i}")
    choice = body.tool_choice
    if isinstance(choice, dict):
        kind, name = choice.get("type"), choice.get("name")
        if kind == "function" and isinstance(name, str):
            choice = {"type": "function", "function": {"name": name}}
        elif kind != "allowed_tools":
            raise UsageError(f"tool_choice: expected a function with a name, found {choice!r:.60}")
    keys = ("name", "description", "parameters", "strict")
    functions = [{key: tool[key] for key in keys if tool.get(key) is not None} for tool in tools]
    return [{"type": "function", "function": function} for function in functions], choice


def _response_format(text: TextBody | None) -> Item | None:
    form = text.format if text else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    if form.schema_ is None:
        raise UsageError("text.format: expected a `schema`")
    return {"type": "json_schema", "json_schema": {"schema": form.schema_, "strict": form.strict}}
