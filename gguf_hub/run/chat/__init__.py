"""Conversations to prompts: the model's own template, or a format by name.

The room turns messages into one text and knows nothing of tokens. Encode the text with
``parse_special=True``, and without a begin token where it already starts with one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_hub.run.chat.formats import FORMATS, NamedFormat, find_format
from gguf_hub.run.chat.messages import ChatFormat, ChatPrompt, Message
from gguf_hub.run.chat.template import TEMPLATE_KEY, TemplateFormat, own_template

__all__ = ["FORMATS", "TEMPLATE_KEY", "ChatFormat", "ChatPrompt", "Message", "NamedFormat",
           "TemplateFormat", "choose_format", "find_format", "own_template"]  # fmt: skip


def choose_format(
    metadata: Mapping[str, Any],
    name: str | None = None,
    *,
    bos_token: str = "",
    eos_token: str = "",
) -> ChatFormat | None:
    """Return the format of a model's conversations.

    Args:
        metadata: The model's GGUF metadata.
        name: A format that overrides the model's own: its name, or a jinja template.
        bos_token: Text of the token that begins a text.
        eos_token: Text of the token that ends one.

    Returns:
        The named format, else the model's own template, else None: a base model, which
        continues texts and knows no turns.

    Raises:
        UsageError: No format has this name.
        ChatTemplateError: The template cannot be used.
        UnsupportedGgufError: It is no text.
    """
    if name is not None and "{" not in name:
        return find_format(name)
    source = name if name is not None else own_template(metadata)
    if not source:
        return None
    return TemplateFormat(source, bos_token=bos_token, eos_token=eos_token)
