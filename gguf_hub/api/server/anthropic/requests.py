"""Anthropic's requests as conversations of the one chat path."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gguf_hub.api.server.anthropic.bodies import (
    CountBody,
    MessagesBody,
    OutputFormat,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolBody,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from gguf_hub.api.server.bodies import ChatBody, Sampling
from gguf_hub.errors import UsageError

Message = dict[str, Any]


def counted_body(body: CountBody) -> ChatBody:
    """Return the conversation whose tokens are counted."""
    return ChatBody.model_validate(_conversation(body))


def chat_body(body: MessagesBody) -> ChatBody:
    """Return the conversation of a request.

    Raises:
        UsageError: ``tool_choice`` names no tool.
    """
    names = ("max_tokens", "stream", *Sampling.model_fields)
    fields = {name: getattr(body, name) for name in names}
    return ChatBody.model_validate({**_conversation(body), **fields, "stop": body.stop_sequences})


def _conversation(body: CountBody) -> dict[str, Any]:
    system = [{"role": "system", "content": _parts(body.system)}] if body.system else []
    turns = [message for turn in body.messages for message in _messages(turn)]
    config = body.output_config
    schema = body.output_format or (config.format if config else None)
    return {
        "messages": [*system, *turns],
        "tools": [_tool(tool) for tool in body.tools] or None,
        "tool_choice": _tool_choice(body.tool_choice),
        "parallel_tool_calls": not (
            body.tool_choice and body.tool_choice.disable_parallel_tool_use
        ),
        "response_format": _response_format(schema),
        "reasoning_effort": config.effort if config else None,
        "chat_template_kwargs": _thinking(body),
        "reasoning_budget_tokens": body.thinking.budget_tokens if body.thinking else None,
    }


def _messages(turn: Turn) -> Iterator[Message]:
    """Yield the messages of a turn: results of tools are turns of their own in OpenAI's."""
    if turn.role == "assistant":
        yield _assistant(turn)
        return
    texts: list[TextBlock] = []
    for block in turn.content:
        if isinstance(block, TextBlock):
            texts.append(block)
        elif isinstance(block, ToolResultBlock) and turn.role == "user":
            if texts:
                yield {"role": turn.role, "content": _parts(texts)}
                texts = []
            yield _result(block)
        else:
            raise UsageError(f"messages: `{block.type}` cannot stand in a turn of the {turn.role}")
    if texts or not turn.content:
        yield {"role": turn.role, "content": _parts(texts)}


def _assistant(turn: Turn) -> Message:
    texts, thoughts, calls = [], [], []
    for block in turn.content:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": json.dumps(block.input)}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif not isinstance(block, RedactedThinkingBlock):
            raise UsageError(f"messages: `{block.type}` cannot stand in a turn of the assistant")
    message: Message = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _result(block: ToolResultBlock) -> Message:
    content = _parts(block.content)
    if block.is_error:
        content = [{"type": "text", "text": "Error:"}, *content]
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _parts(blocks: Sequence[TextBlock]) -> list[Message]:
    return [{"type": "text", "text": block.text} for block in blocks]


def _tool(tool: ToolBody) -> Message:
    function: Message = {"name": tool.name, "parameters": {"type": "object", **tool.input_schema}}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice | None) -> Any:
    if choice is None:
        return None
    if choice.type != "tool":
        return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
    if choice.name is None:
        raise UsageError("tool_choice: expected the `name` of a tool")
    return {"type": "function", "function": {"name": choice.name}}


def _response_format(schema: OutputFormat | None) -> Message | None:
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"schema": schema.schema_}}


def _thinking(body: CountBody) -> Message | None:
    if body.thinking is None:
        return None
    return {"enable_thinking": body.thinking.type != "disabled"}
