"""Bodies of Anthropic's Messages: text, reasoning, calls of tools and their results."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gguf_hub.api.server import unsupported
from gguf_hub.api.server.bodies import Body, Effort, Sampling, Stop
from gguf_hub.api.server.lists import Items


class TextBlock(Body):
    """A text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Body):
    """What the model has thought before; it knows it by its text, whatever the signature."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(Body):
    """Reasoning that only Anthropic's servers can read; it is left out."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(Body):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


def _read_blocks(content: Any) -> Any:
    """Read a text as the one block that it stands for; name what cannot be read."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("expected text or a list of blocks")
    known = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")
    for i, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind not in known:
            raise ValueError(f"block {i}: `{kind}` is not read: this server reads text and the "
                             "calls and results of tools")  # fmt: skip
    return content


Texts = Annotated[Items[TextBlock], BeforeValidator(_read_blocks)]


class ToolResultBlock(Body):
    """What a tool has returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts = Field(default_factory=list)
    is_error: bool = False


Block = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
]


class Turn(Body):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[Items[Block], BeforeValidator(_read_blocks)]


class ToolBody(Body):
    """A tool that the client runs."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool = False


def _read_tools(tools: Any) -> Any:
    for i, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in (None, "custom"):
            raise ValueError(f"{i}: `{kind!s:.60}` is a tool of Anthropic's servers: expected one "
                             "with `input_schema`, which the client runs")  # fmt: skip
    return tools


class ToolChoice(Body):
    """Whether to call, and what."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Body):
    """Whether to reason."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] = "summarized"


class OutputFormat(Body):
    """A schema of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """How to answer."""

    effort: Effort = None
    format: OutputFormat | None = None


class CountBody(Body):
    """``/v1/messages/count_tokens``."""

    REFUSED = unsupported.COUNTED_MESSAGES

    messages: Items[Turn] = Field(min_length=1)
    model: str | None = Field(None, max_length=1024)
    system: Texts = Field(default_factory=list)
    tools: Annotated[Items[ToolBody], BeforeValidator(_read_tools)] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None


class MessagesBody(CountBody, Sampling):
    """``/v1/messages``; the settings that are not Anthropic's are llama-server's."""

    REFUSED = unsupported.MESSAGES

    max_tokens: int = Field(ge=0)
    stop_sequences: Stop = None
    stream: bool = False
