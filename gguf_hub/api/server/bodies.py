"""Request bodies: OpenAI's fields, llama-cpp-python's and llama-server's.

Unknown fields are ignored, as OpenAI's own server and llama-server do, and ``null`` is a field's
default. Fields that would change what the answer means are honoured or refused (``unsupported``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gguf_hub.api.server import unsupported
from gguf_hub.api.server.biases import Bias
from gguf_hub.api.server.lists import Items
from gguf_hub.run.generation.streams import CallForm

MAX_CHOICES = 8
MAX_PROMPTS = 64
MAX_EMBEDDED = 2048
"""Texts of one request for vectors, as OpenAI takes."""
MAX_STOP_BYTES = 2**14
MAX_FIELDS = 64
MAX_BUDGET_MESSAGE = 2**12
"""Characters in front of the end of reasoning."""
MAX_BREAKERS = 32
"""Most sequence breakers of DRY: each is looked for in every token of the vocabulary."""


def _limit_stops(stop: list[str]) -> list[str]:
    n_bytes = sum(len(text.encode()) for text in stop)
    if n_bytes > MAX_STOP_BYTES:
        raise ValueError(f"expected at most {MAX_STOP_BYTES} bytes in all, found {n_bytes}")
    return stop


TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenPrompt = Items[TokenId] | Items[TokenId | str]
"""Token ids, and texts that may stand among them."""
Prompts = str | TokenPrompt | Items[str | TokenPrompt]
"""One prompt or several: a list without ids on its first level is one of prompts."""
Stop = str | Annotated[Items[str], AfterValidator(_limit_stops)] | None
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None
Norm = Annotated[int, Field(ge=-1, le=2**31 - 1)]
"""See ``pooling.scaled``."""
ModelName = Annotated[str, Field(max_length=1024)] | None  # repeated in every chunk of a stream
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
"""How much to reason, in the words of all interfaces."""


_CHOICES = AliasChoices("n", "n_cmpl")


class Body(BaseModel):
    """A JSON object of a request; ``null`` stands for the default of any optional field."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    REFUSED: ClassVar[unsupported.Fields] = {}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        _check_texts(data)
        unsupported.check(data, cls.REFUSED)
        return {name: value for name, value in data.items() if value is not None}


def _check_texts(data: dict[str, Any]) -> None:
    """Refuse halves of characters: they have no UTF-8, so that no model can read them."""
    pending: list[tuple[str, Any]] = [("", data)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, str):
            if not _is_text(value):
                place = place[1:61].encode("ascii", "backslashreplace").decode()
                raise ValueError(f"{place}: expected text, found half of a UTF-16 surrogate pair")
            continue
        if isinstance(value, dict):
            pending += ((f"{place}.{name}", name) for name in value)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        pending += (
            (f"{place}.{i}", item) for i, item in items if isinstance(item, (str, list, dict))
        )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class AdapterScale(Body):
    """How much of a LoRA adapter a request asks for."""

    id: int
    scale: float = 0.0


class Sampling(Body):
    """Sampling settings; None for the default."""

    REFUSED = unsupported.GENERATION

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    logit_bias: Bias | None = None
    seed: Seed = None
    samplers: str | Items[str] | None = None
    dry_sequence_breakers: (
        Annotated[Items[str], Field(min_length=1, max_length=MAX_BREAKERS)] | None
    ) = None
    grammar: str | None = None
    json_schema: Any = None
    min_keep: int | None = None
    ignore_eos: bool = False
    n_keep: Annotated[int, Field(ge=-1)] | None = None
    cache_prompt: bool | None = None
    lora: Items[AdapterScale] | None = None

    @model_validator(mode="after")
    def _choose_constraint(self) -> Sampling:
        """Read ``""`` as no grammar; an empty schema beside it is none either.

        Clients of llama-server send both with every request.
        """
        if self.grammar is not None and self.json_schema == {}:
            self.json_schema = None
        self.grammar = self.grammar or None
        return self

    @property
    def has_grammar(self) -> bool:
        """Whether the request needs a grammar."""
        return self.grammar is not None or self.json_schema is not None

    def settings(self) -> dict[str, Any]:
        """Return the settings for ``sampler_config``, but for ``logit_bias``."""
        others = {"grammar", "json_schema", "ignore_eos", "n_keep", "logit_bias", "cache_prompt",
                  "lora"}  # fmt: skip
        return self.model_dump(include=set(Sampling.model_fields) - others, exclude_none=True)


class StreamOptions(Body):
    """OpenAI's ``stream_options``."""

    include_usage: bool = False


class Streaming(Sampling):
    """How answers are streamed."""

    stream: bool = False
    timings_per_token: bool = False
    return_progress: bool = False

    @property
    def shows_progress(self) -> bool:
        """Whether the stream says how much of the prompt is computed."""
        return self.stream and self.return_progress


class CompletionBody(Streaming):
    """``/v1/completions``."""

    prompt: Prompts = ""
    model: ModelName = None
    suffix: str | None = None
    max_tokens: int | None = Field(
        16, validation_alias=AliasChoices("max_tokens", "max_completion_tokens", "n_predict")
    )
    n: int = Field(1, ge=1, le=MAX_CHOICES, validation_alias=_CHOICES)
    best_of: int | None = None
    stop: Stop = None
    stream_options: StreamOptions | None = None
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = None

    @field_validator("best_of")
    @classmethod
    def _check_best_of(cls, best_of: int, info: ValidationInfo) -> int:
        if best_of != info.data.get("n"):
            raise ValueError("more texts than `n` are not generated: leave it out")
        return best_of

    @model_validator(mode="after")
    def _check_echo(self) -> CompletionBody:
        if self.suffix and self.echo and self.logprobs is not None:
            raise ValueError("echo: a prompt with a suffix has no log probabilities in its order")
        return self


class ChatMessage(Body):
    """One turn."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | Items[dict[str, Any]] | None = None


class ChatBody(Streaming):
    """``/v1/chat/completions``."""

    REFUSED = unsupported.CHAT

    messages: Items[ChatMessage] = Field(min_length=1)
    model: ModelName = None
    max_tokens: int | None = Field(None, validation_alias=AliasChoices("max_tokens", "n_predict"))
    max_completion_tokens: int | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES, validation_alias=_CHOICES)
    stop: Stop = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: Items[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    functions: Items[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    reasoning_effort: Effort = None
    reasoning_budget_tokens: Annotated[int, Field(ge=-1)] = Field(
        -1,
        validation_alias=AliasChoices(
            "reasoning_budget_tokens", "thinking_budget_tokens", "reasoning_budget"
        ),
    )
    reasoning_budget_message: str | None = Field(None, max_length=MAX_BUDGET_MESSAGE)
    parse_special: bool = False
    """Read control tokens in the texts of users and tools."""

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatBody:
        check_top_logprobs(self.top_logprobs, self.logprobs)
        return self

    @property
    def has_legacy_tools(self) -> bool:
        """Whether tools are written in OpenAI's old form, ``functions``."""
        return self.functions is not None or self.function_call not in (None, "none", "auto")

    @property
    def call_form(self) -> CallForm:
        """How calls are written in the answer: in the form of the request's tools."""
        return "function_call" if self.has_legacy_tools else "tool_calls"

    @property
    def has_grammar(self) -> bool:
        """Whether the request needs a grammar."""
        fields = (self.response_format, self.tools, self.functions)
        return super().has_grammar or any(field is not None for field in fields)


def check_top_logprobs(n_top: int | None, has_logprobs: bool | None) -> None:
    """Refuse alternatives of tokens whose log probabilities are not wanted.

    Raises:
        ValueError: Such are asked for.
    """
    if n_top and not has_logprobs:
        raise ValueError(f"top_logprobs: expected `logprobs` beside it, found {n_top} without")


class EmbeddingBody(Body):
    """``/v1/embeddings``."""

    input: Prompts
    model: ModelName = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    embd_normalize: Norm | None = None


class RerankDocument(Body):
    """A document as an object, as Jina's interface also takes it."""

    text: str


class RerankBody(Body):
    """``/v1/rerank``; with ``texts`` it is in the form of Text Embeddings Inference (TEI)."""

    query: str
    model: ModelName = None
    documents: Items[str | RerankDocument] = []
    texts: Items[str] | None = None
    top_n: int | None = Field(None, ge=0)
    return_documents: bool = False
    return_text: bool = False

    @property
    def is_tei(self) -> bool:
        """Whether the answer has TEI's form."""
        return self.texts is not None

    @property
    def all_documents(self) -> Sequence[str | RerankDocument]:
        """The documents, in either form."""
        return self.documents or self.texts or []


class NativeBody(Streaming):
    """llama-server's ``/completion``."""

    REFUSED = unsupported.NATIVE

    prompt: Prompts = ""
    n_predict: int = Field(
        -1, validation_alias=AliasChoices("n_predict", "max_completion_tokens", "max_tokens")
    )
    n: int = Field(1, ge=1, le=MAX_CHOICES, validation_alias=_CHOICES)
    stop: Stop = None
    n_probs: int = Field(0, ge=0, le=20, validation_alias=AliasChoices("n_probs", "logprobs"))
    post_sampling_probs: bool = False
    return_tokens: bool = False
    response_fields: Items[str] = Field(default_factory=list, max_length=MAX_FIELDS)
    t_max_predict_ms: int = 0
    id_slot: int = Field(-1, ge=-1)


class InfillExtra(Body):
    """Text of another file, for ``/infill``."""

    text: str
    filename: str | None = None


class InfillBody(NativeBody):
    """llama-server's ``/infill``."""

    REFUSED = unsupported.INFILL

    prompt: str = ""
    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Items[InfillExtra] = []


class NativeEmbeddingBody(Body):
    """llama-server's ``/embedding``."""

    content: Prompts = Field("", validation_alias=AliasChoices("content", "input"))
    embd_normalize: Norm | None = None


class TokenizeBody(Body):
    """llama-server's ``/tokenize``."""

    content: str = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(Body):
    """llama-server's ``/detokenize``."""

    tokens: Items[TokenId] = []
