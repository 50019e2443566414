"""Ollama's requests as conversations of the one chat path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gguf_hub.api.server.bodies import ChatBody, Sampling
from gguf_hub.api.server.ollama.bodies import AnswerBody, ChatTurn, GenerateBody, OllamaChatBody
from gguf_hub.errors import UsageError

Message = dict[str, Any]


def chat_body(body: OllamaChatBody) -> ChatBody:
    """Return the conversation of ``/api/chat``."""
    fields = {"messages": _messages(body.messages), "tools": body.tools or None}
    return ChatBody.model_validate({**_settings(body), **fields})


def prompt_body(body: GenerateBody) -> ChatBody:
    """Return the conversation of ``/api/generate``: a system message and a prompt."""
    system = [{"role": "system", "content": body.system}] if body.system else []
    messages = [*system, {"role": "user", "content": body.prompt}]
    return ChatBody.model_validate({**_settings(body), "messages": messages})


def check_prompt(body: GenerateBody) -> None:
    """Refuse what another server has made, or only Ollama can read.

    Raises:
        UsageError: The request has one of these.
    """
    if body.template:
        raise UsageError("template: Ollama's templates are not read",
                         hint="start the server with --chat-template")  # fmt: skip
    if body.context:
        raise UsageError("context: conversations are not kept as tokens",
                         hint="send the messages to /api/chat")  # fmt: skip
    if body.suffix and body.raw:
        raise UsageError("expected `suffix` or `raw`, found both")


def warnings_of(body: AnswerBody, n_ctx: int) -> list[str]:
    """Return what is asked for and is not held."""
    asked = body.options.num_ctx or 0
    if asked <= n_ctx:
        return []
    return [f"num_ctx: the context is {n_ctx}, as `-c` of the server says, not {asked}"]


def _settings(body: AnswerBody) -> dict[str, Any]:
    options = body.options
    fields: dict[str, Any] = {name: getattr(options, name) for name in Sampling.model_fields}
    if options.num_keep is not None:
        fields["n_keep"] = options.num_keep
    fields |= {"max_tokens": options.num_predict, "stop": options.stop, "stream": body.stream}
    if body.logprobs:
        fields |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    if body.format == "json":
        fields["response_format"] = {"type": "json_object"}
    elif body.format:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"schema": body.format}}
    if isinstance(body.think, bool):
        fields["chat_template_kwargs"] = {"enable_thinking": body.think}
    elif body.think is not None:
        fields["reasoning_effort"] = body.think
    return fields


def _messages(turns: Sequence[ChatTurn]) -> list[Message]:
    """Return messages in OpenAI's shape, in which results name the call that they answer."""
    messages: list[Message] = []
    n_calls = 0
    unanswered: list[tuple[str, str]] = []  # (tool, id of the call)
    for turn in turns:
        message: Message = {"role": turn.role, "content": turn.content}
        if turn.thinking:
            message["reasoning_content"] = turn.thinking
        if turn.tool_calls:
            unanswered = []
            for call in turn.tool_calls:
                n_calls += 1  # some templates take ids of nine letters and digits only
                unanswered.append((call.function.name, call.id or f"call{n_calls:05}"))
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {
                    "name": name, "arguments": json.dumps(call.function.arguments)}}
                for call, (name, call_id) in zip(turn.tool_calls, unanswered, strict=True)
            ]  # fmt: skip
        if turn.role == "tool":
            message |= _answered(turn, unanswered)
        messages.append(message)
    return messages


def _answered(turn: ChatTurn, unanswered: list[tuple[str, str]]) -> Message:
    """Return the name and the id of the call that a result answers, and take it off the list."""
    for call in unanswered:
        if turn.tool_call_id in (None, call[1]) and turn.tool_name in (None, call[0]):
            unanswered.remove(call)
            return {"name": call[0], "tool_call_id": call[1]}
    found = {"name": turn.tool_name, "tool_call_id": turn.tool_call_id}
    return {key: value for key, value in found.items() if value is not None}
