"""Bodies of Ollama's interface."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from gguf_hub.api.server.bodies import Body, Sampling, Stop, check_top_logprobs
from gguf_hub.api.server.durations import duration_s
from gguf_hub.api.server.lists import Items
from gguf_hub.errors import UsageError


def _refuse_images(images: list[Any]) -> list[Any]:
    if images:
        raise ValueError("images are not read: this server reads text only")
    return images


Images = Annotated[list[Any], AfterValidator(_refuse_images)]
Think = bool | Literal["none", "low", "medium", "high", "max"] | None
Format = Literal["", "json"] | dict[str, Any] | None


def _check_duration(value: str | float) -> str | float:
    try:
        duration_s(value)
    except UsageError as exc:
        raise ValueError(str(exc)) from exc
    return value


Duration = Literal[""] | Annotated[str | float, AfterValidator(_check_duration)] | None


class Options(Sampling):
    """Sampling settings and limits; those of loading a model are ignored: it is loaded."""

    num_predict: int | None = None
    num_keep: Annotated[int, Field(ge=-1)] | None = None
    num_ctx: int | None = None
    stop: Stop = None


class ModelBody(Body):
    """A request for a model."""

    model: str = Field("", max_length=1024)
    name: str = Field("", max_length=1024)

    @property
    def model_argument(self) -> str:
        """The model, which older clients call ``name``."""
        return self.model or self.name


class AnswerBody(ModelBody):
    """What ``/api/generate`` and ``/api/chat`` share."""

    options: Options = Field(default_factory=Options)
    format: Format = None
    stream: bool = True
    think: Think = None
    keep_alive: Duration = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @property
    def unloads(self) -> bool:
        """Whether to unload the model, which this server never does."""
        return self.keep_alive not in (None, "") and duration_s(self.keep_alive) == 0

    @model_validator(mode="after")
    def _check_logprobs(self) -> AnswerBody:
        check_top_logprobs(self.top_logprobs, self.logprobs)
        return self


class GenerateBody(AnswerBody):
    """``/api/generate``."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: Items[int] = Field(default_factory=list)
    raw: bool = False
    images: Images = Field(default_factory=list)


class CallFunction(Body):
    """The function of a call."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCall(Body):
    """A call of a tool."""

    id: str | None = None
    function: CallFunction


class ChatTurn(Body):
    """One turn."""

    role: str
    content: str = ""
    thinking: str | None = None
    images: Images = Field(default_factory=list)
    tool_calls: Items[ToolCall] = Field(default_factory=list)
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChatBody(AnswerBody):
    """``/api/chat``."""

    messages: Items[ChatTurn] = Field(default_factory=list)
    tools: Items[dict[str, Any]] = Field(default_factory=list)


class ShowBody(ModelBody):
    """``/api/show``."""


class EmbedBody(ModelBody):
    """``/api/embed``."""

    input: str | Items[str] = Field(default_factory=list)
    truncate: bool = True
    dimensions: int | None = None


class EmbeddingsBody(ModelBody):
    """``/api/embeddings``, the older one."""

    prompt: str = ""


class PullBody(ModelBody):
    """``/api/pull``."""

    stream: bool = True
