"""What a conversation is, and what every format offers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gguf_hub.errors import UsageError

Message = Mapping[str, Any]
"""``{"role": "user", "content": "Hello"}``, as in OpenAI's interface."""


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation in the model's format.

    Attributes:
        text: The prompt.
        stop: Texts at which an answer ends, besides the model's own end tokens.
    """

    text: str
    stop: tuple[str, ...] = ()


class ChatFormat(Protocol):
    """Turns a conversation into a prompt."""

    @property
    def source(self) -> str:
        """The template, or the marks that answers are read by; empty where there are none."""
        ...

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the prompt of a conversation.

        Args:
            messages: Turns with ``role`` and ``content``.
            tools: Functions that the model may call; a format that does not print them itself has
                them described in the system message.
            add_generation_prompt: End with the start of the assistant's next turn.
            variables: More values for the model's template, such as ``enable_thinking``.

        Raises:
            UsageError: A message without role or text.
            ChatTemplateError: The template refuses the conversation or cannot be used.
        """
        ...


def plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as plain data, each with a role and its text as one string.

    Args:
        messages: Turns; ``content`` is text, None, or OpenAI's list of parts of type ``text``.

    Raises:
        UsageError: A message has no role, or content that is not text.
    """
    plain: list[dict[str, Any]] = plain_data("messages", list(messages))
    for i, message in enumerate(plain):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UsageError(
                f"message {i}: expected a role and content, found {_short(message)}",
                hint='write {"role": "user", "content": "..."}',
            )
        message["content"] = _text_of(message.get("content"), i)
    return plain


def plain_data(name: str, value: Any) -> Any:
    """Return a copy of ``value`` that holds nothing but JSON's types, which templates may see."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as exc:
        raise UsageError(f"{name}: expected plain text, numbers, lists and dicts: {exc}") from exc


def merge_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put a system message in front of the user's first one, as llama.cpp does."""
    system = messages[0]["content"]
    rest = messages[1:]
    first = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": system}, *rest]
    merged = {**rest[first], "content": f"{system}\n{rest[first]['content']}"}
    return [*rest[:first], merged, *rest[first + 1 :]]


def _text_of(content: Any, i: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    for n, part in enumerate(parts):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type", "text") if isinstance(part, dict) else part
            if kind == "text":
                found = _short(part.get("text"))
                raise UsageError(f"message {i}: expected text as `text` of part {n} of its "
                                 f"content, found {found}")  # fmt: skip
            raise UsageError(
                f"message {i}: expected content of text, found {_short(kind)}",
                hint="this version reads text only, no images or sounds",
            )
    return "\n".join(part["text"] for part in parts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
