"""Fields that are not supported and would change what an answer means: refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unsupported:
    """Why a field is refused.

    Attributes:
        reason: What is missing here, or what to write instead.
        defaults: Values that ask for nothing: clients send them, and they are taken. ``null`` is
            always one of them.
    """

    reason: str
    defaults: tuple[Any, ...] = (0, "", [], {})  # 0 is also false


Fields = Mapping[str, Unsupported]

_TEXT_ONLY = Unsupported("this server reads and writes text only")
_OTHER_CONSTRAINT = Unsupported("is vLLM's: write `response_format`, `json_schema` or `grammar`")
_NO_LAZINESS = Unsupported("grammars hold from the first token on")

GENERATION: Fields = {
    "image_data": _TEXT_ONLY,
    "multimodal_data": _TEXT_ONLY,
    "grammar_lazy": _NO_LAZINESS,
    "grammar_triggers": _NO_LAZINESS,
    "n_indent": Unsupported("indentation is not held"),
    "n_discard": Unsupported("a full context discards half of what it may: leave it out"),
    "adaptive_target": Unsupported("there is no such sampler here", (-1,)),
    "min_tokens": Unsupported("texts have no least length: leave it out"),
    "stop_token_ids": Unsupported("write texts, as `stop`"),
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),
        _OTHER_CONSTRAINT,
    ),
}
"""Of every interface that generates."""

CHAT: Fields = {
    **GENERATION,
    "modalities": Unsupported(_TEXT_ONLY.reason, ([], ["text"])),
    "audio": _TEXT_ONLY,
    "web_search_options": Unsupported("this server searches nothing", ()),
    "mcp_servers": Unsupported("this server asks no MCP servers: write their tools as `tools`"),
}
"""OpenAI's chat completions."""

NATIVE: Fields = {
    **GENERATION,
    "response_format": Unsupported("write `json_schema` here", ({"type": "text"},)),
    "suffix": Unsupported("send `input_prefix` and `input_suffix` to /infill"),
}
"""llama-server's ``/completion``."""

INFILL: Fields = {
    **NATIVE,
    "prefix": Unsupported("write `input_prefix`"),
    "suffix": Unsupported("write `input_suffix`"),
}
"""llama-server's ``/infill``."""

COUNTED_MESSAGES: Fields = {"mcp_servers": CHAT["mcp_servers"]}
MESSAGES: Fields = {**COUNTED_MESSAGES, **GENERATION}
"""Anthropic's."""


def check(fields: Mapping[str, Any], unsupported: Fields) -> None:
    """Refuse a body with a field that is not supported.

    Raises:
        ValueError: It has one, with a value that asks for something.
    """
    for name, field in unsupported.items():
        if (value := fields.get(name)) is not None and value not in field.defaults:
            raise ValueError(f"{name}: {field.reason}")
