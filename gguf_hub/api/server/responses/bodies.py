"""Bodies of OpenAI's Responses; items of the input are read in ``requests``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gguf_hub.api.server.bodies import Body, Effort, ModelName, Sampling
from gguf_hub.api.server.lists import Items

MAX_METADATA = 16


class TextFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool = False


class TextBody(Body):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Body):
    """Whether to reason, and how much."""

    effort: Effort = None
    summary: str | None = None


class InputBody(Body):
    """``/v1/responses/input_tokens``."""

    input: str | Items[dict[str, Any]] = Field(default_factory=list)
    model: ModelName = None
    instructions: str | None = None
    previous_response_id: str | None = Field(None, max_length=200)
    tools: Items[dict[str, Any]] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    text: TextBody | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["disabled"] = "disabled"
    conversation: Any = None
    prompt: Any = None


def _limit(metadata: Any) -> Any:
    """Refuse too many values before they are read."""
    if isinstance(metadata, dict) and len(metadata) > MAX_METADATA:
        raise ValueError(f"expected at most {MAX_METADATA} values, found {len(metadata):,}")
    return metadata


class ResponsesBody(InputBody, Sampling):
    """``/v1/responses``; the settings that are not OpenAI's are llama-server's."""

    input: str | Items[dict[str, Any]]
    max_output_tokens: int | None = Field(None, ge=0)
    include: Items[str] = Field(default_factory=list)
    metadata: Annotated[dict[str, str], BeforeValidator(_limit)] = Field(default_factory=dict)
    store: bool = True
    stream: bool = False
    background: Literal[False] = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    user: str | None = Field(None, max_length=1024)

    @property
    def has_logprobs(self) -> bool:
        """Whether to return log probabilities."""
        return bool(self.top_logprobs) or "message.output_text.logprobs" in self.include
