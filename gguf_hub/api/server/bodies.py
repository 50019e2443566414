"""Request bodies: OpenAI's fields, llama-cpp-python's and llama-server's.

Unknown fields are ignored, as OpenAI's own server and llama-server do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_CHOICES = 8
MAX_PROMPTS = 64

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Stop = str | Annotated[list[str], Field(max_length=16)] | None
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None
ModelName = Annotated[str, Field(max_length=1024)] | None  # repeated in every chunk of a stream
Bias = dict[str, float] | list[tuple[int, float | bool]] | None


class Sampling(BaseModel):
    """Sampling settings; None for the default."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

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
    logit_bias: Bias = None
    seed: Seed = None
    grammar: str | None = None
    ignore_eos: bool = False
    n_keep: Annotated[int, Field(ge=-1)] | None = None

    @property
    def has_grammar(self) -> bool:
        """Whether the request needs a grammar."""
        return self.grammar is not None

    def settings(self) -> dict[str, Any]:
        """Return the settings for ``sampler_config``."""
        names = set(Sampling.model_fields) - {"grammar", "ignore_eos", "n_keep"}
        settings = self.model_dump(include=names, exclude_none=True)
        if isinstance(self.logit_bias, list):
            settings["logit_bias"] = {token: _bias(value) for token, value in self.logit_bias}
        return settings


def _bias(value: float | bool) -> float:
    """Return a bias; llama-server writes ``false`` to ban a token."""
    return float("-inf") if value is False else float(value)


class StreamOptions(BaseModel):
    """OpenAI's ``stream_options``."""

    include_usage: bool = False


class CompletionBody(Sampling):
    """``/v1/completions``."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = ""
    model: ModelName = None
    suffix: str | None = None
    max_tokens: int | None = 16
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: Stop = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)


class ChatMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None


class ChatBody(Sampling):
    """``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: ModelName = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: Stop = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def has_grammar(self) -> bool:
        """Whether the request needs a grammar."""
        fields = (self.grammar, self.response_format, self.tools, self.functions)
        return any(field is not None for field in fields)


class EmbeddingBody(BaseModel):
    """``/v1/embeddings``."""

    model_config = ConfigDict(extra="ignore")

    input: str | list[str] | list[TokenId] | list[list[TokenId]]
    model: ModelName = None
    encoding_format: Literal["float", "base64"] = "float"


class NativeBody(Sampling):
    """llama-server's ``/completion``."""

    prompt: str | list[TokenId] = ""
    n_predict: int = -1
    stop: Stop = None
    stream: bool = False
    n_probs: int = Field(0, ge=0, le=20)
    json_schema: Any = None
    cache_prompt: bool = True

    @property
    def has_grammar(self) -> bool:
        """Whether the request needs a grammar."""
        return self.grammar is not None or self.json_schema is not None


class TokenizeBody(BaseModel):
    """llama-server's ``/tokenize``."""

    content: str = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(BaseModel):
    """llama-server's ``/detokenize``."""

    tokens: list[TokenId] = []
