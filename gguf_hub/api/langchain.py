"""LangChain's interfaces: an LLM, a chat model, embeddings, a reranker (extra ``langchain``).

::

    from gguf_hub.api.langchain import ChatGguf
    ChatGguf(model_path="model.gguf", temperature=0).invoke("Tell me a story")

Streaming and async come with it: LangChain runs what blocks in its own threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gguf_hub.api.llama import Llama, LlamaValueError
from gguf_hub.run.generation.pooling import EUCLIDEAN, NO_NORM, Pooling, pool

try:
    from langchain_core.callbacks import CallbackManagerForLLMRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.exceptions import OutputParserException
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.language_models.llms import LLM
    from langchain_core.messages import (
        AIMessage,
        AIMessageChunk,
        BaseMessage,
        InvalidToolCall,
        ToolCall,
        convert_to_openai_messages,
    )
    from langchain_core.messages.tool import tool_call_chunk
    from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
    from langchain_core.outputs import (
        ChatGeneration,
        ChatGenerationChunk,
        ChatResult,
        GenerationChunk,
    )
    from langchain_core.runnables import Runnable
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from pydantic import BaseModel, ConfigDict, Field
except ImportError as exc:  # pragma: no cover
    raise ImportError(
        "gguf_hub.api.langchain needs langchain-core: `pip install 'gguf-hub[langchain]'`"
    ) from exc


_STRICT = ConfigDict(extra="forbid")
"""Of each class itself: LangChain's bases ignore unknown fields, and the last base counts."""


class _Settings(BaseModel):
    """Settings of all classes: how the model is opened.

    Attributes:
        model_path: The GGUF file; required without a ``client``.
        n_ctx: Positions of the cache; 0 for as many as the model was trained on.
        n_batch: Maximum batch size in tokens.
        n_threads: Threads that compute; None for as many as help.
        n_gpu_layers: Layers that GPUs compute, -1 for all (see ``Llama``).
        chat_format: Chat format by name; None for the model's own template.
        model_kwargs: More arguments of ``Llama``.
        client: An open ``Llama`` to use.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model_path: str = ""
    n_ctx: int = 512
    n_batch: int = 512
    n_threads: int | None = None
    n_gpu_layers: int = 0
    chat_format: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    client: Any = Field(default=None, exclude=True)

    def model_post_init(self, context: Any, /) -> None:
        """Open the model."""
        super().model_post_init(context)
        if self.client is None and not self.model_path:
            raise LlamaValueError("model_path: field required, the GGUF file")
        if self.client is None:
            self.client = Llama(self.model_path, **self._llama_arguments())

    def _llama_arguments(self) -> dict[str, Any]:
        return {
            "n_ctx": self.n_ctx,
            "n_batch": self.n_batch,
            "n_threads": self.n_threads,
            "n_gpu_layers": self.n_gpu_layers,
            "chat_format": self.chat_format,
            **self.model_kwargs,
        }


class _Sampling(_Settings):
    """Sampling settings of an LLM and a chat model (see ``Llama``)."""

    max_tokens: int | None = 256
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    grammar: str | None = None

    def _options(self, stop: list[str] | None, more: dict[str, Any]) -> dict[str, Any]:
        names = _Sampling.model_fields.keys() - _Settings.model_fields.keys() - {"stop"}
        options = {name: getattr(self, name) for name in names}
        return {**options, "stop": [*(self.stop or ()), *(stop or ())], **more}

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_path": self.model_path, **self._options(None, {})}

    def get_num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.client.tokenize(text, add_bos=False))


class GgufLLM(_Sampling, LLM):
    """A model that completes texts."""

    model_config = _STRICT

    @property
    def _llm_type(self) -> str:
        return "gguf-hub"

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        answer = self.client.create_completion(prompt, **self._options(stop, kwargs))
        text: str = answer["choices"][0]["text"]
        return text

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        options = self._options(stop, kwargs)
        for part in self.client.create_completion(prompt, stream=True, **options):
            choice = part["choices"][0]
            info = {"finish_reason": choice["finish_reason"]} if choice["finish_reason"] else None
            chunk = GenerationChunk(text=choice["text"], generation_info=info)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


class ChatGguf(_Sampling, BaseChatModel):
    """A model that answers conversations and calls tools; their schemas constrain its output."""

    model_config = _STRICT

    @property
    def _llm_type(self) -> str:
        return "gguf-hub-chat"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self.client.create_chat_completion(
            _openai_messages(messages), **self._options(stop, kwargs)
        )
        choice, cost = answer["choices"][0], answer["usage"]
        calls, invalid_calls = _tool_calls(choice["message"].get("tool_calls") or [])
        message = AIMessage(
            content=choice["message"]["content"] or "",
            tool_calls=calls,
            invalid_tool_calls=invalid_calls,
            # where parsers of structured output look for what they cannot parse
            additional_kwargs=(
                {"tool_calls": choice["message"]["tool_calls"]} if invalid_calls else {}
            ),
            response_metadata={**_metadata(choice), "model_name": answer["model"]},
            usage_metadata=_usage(cost),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        options = {"stream_options": {"include_usage": True}, **self._options(stop, kwargs)}
        for part in self.client.create_chat_completion(
            _openai_messages(messages), stream=True, **options
        ):
            if not part["choices"]:
                cost = AIMessageChunk(content="", usage_metadata=_usage(part["usage"]))
                yield ChatGenerationChunk(message=cost)
                continue
            choice = part["choices"][0]
            message = AIMessageChunk(
                content=choice["delta"].get("content") or "",
                tool_call_chunks=[
                    tool_call_chunk(
                        name=call["function"].get("name"),
                        args=call["function"]["arguments"],
                        id=call.get("id"),
                        index=call["index"],
                    )
                    for call in choice["delta"].get("tool_calls", ())
                ],
                response_metadata=_metadata(choice),
            )
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(str(message.content), chunk=chunk)
            yield chunk

    def bind_tools(
        self,
        tools: Sequence[Any],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """Return this model with tools that it may call, or must with ``tool_choice``.

        Args:
            tools: Functions, pydantic classes, LangChain's tools or OpenAI's dictionaries.
            tool_choice: ``"auto"``, ``"any"`` or a tool's name.
            strict: Refuse what cannot be held of the tools' schemas; otherwise a warning says so.
            kwargs: More options of every call.
        """
        plain = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        return self.bind(tools=plain, tool_choice=tool_choice, **kwargs)


class GgufEmbeddings(_Settings, Embeddings):
    """Vectors of texts, of length 1: pooled as the model asks, or the mean where it does not."""

    model_config = _STRICT

    normalize: bool = True

    def _llama_arguments(self) -> dict[str, Any]:
        return {"embedding": True, **super()._llama_arguments()}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vector of each text."""
        return [self.embed_query(text) for text in texts]  # never all tokens' vectors at once

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one text."""
        found = np.asarray(self.client.embed(text), np.float32)
        if self.client.pooling_type() == Pooling.RANK:
            assert self.client.pooler.text_pooling  # raises: a reranker has no vectors
        norm = EUCLIDEAN if self.normalize else NO_NORM
        pooling = Pooling.MEAN if self.client.pooling_type() == Pooling.NONE else Pooling.NONE
        vector: list[float] = pool(found, pooling, norm).tolist()
        return vector


class GgufReranker(_Settings, BaseDocumentCompressor):
    """The most relevant documents first, each with ``relevance_score`` in its metadata.

    Attributes:
        top_n: How many documents to keep; None for all.
    """

    model_config = _STRICT

    top_n: int | None = Field(default=3, ge=0)

    def _llama_arguments(self) -> dict[str, Any]:
        return {"embedding": True, **super()._llama_arguments()}

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the documents that a query finds most relevant, as copies."""
        scores = self.client.rank(query, [document.page_content for document in documents])
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[: self.top_n]
        return [
            documents[i].model_copy(
                update={"metadata": {**documents[i].metadata, "relevance_score": scores[i]}}
            )
            for i in order
        ]


def _openai_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    plain = convert_to_openai_messages(messages)
    return plain if isinstance(plain, list) else [plain]


def _usage(cost: dict[str, int]) -> Any:
    """Return OpenAI's ``usage`` as LangChain's ``UsageMetadata``."""
    return {
        "input_tokens": cost["prompt_tokens"],
        "output_tokens": cost["completion_tokens"],
        "total_tokens": cost["total_tokens"],
    }


def _metadata(choice: dict[str, Any]) -> dict[str, Any]:
    """Return what LangChain keeps of a choice beside its message."""
    names = ("finish_reason", "logprobs")
    return {name: choice[name] for name in names if choice.get(name) is not None}


def _tool_calls(calls: list[dict[str, Any]]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Return calls, and those whose arguments are no JSON, as ``max_tokens`` may have cut them."""
    valid: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in calls:
        try:
            parsed = parse_tool_call(call, strict=True)
        except OutputParserException as exc:
            invalid.append(make_invalid_tool_call(call, str(exc)))
            continue
        if parsed is not None:
            valid.append(ToolCall(name=parsed["name"], args=parsed["args"], id=parsed["id"],
                                  type="tool_call"))  # fmt: skip
    return valid, invalid
