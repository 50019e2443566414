"""``llama_cpp.llama``: the class with what programs reach for below its methods."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.compat.llama_cpp import _internals as internals
from gguf_hub.api.compat.llama_cpp.c_context import llama_context_params
from gguf_hub.api.compat.llama_cpp.c_model import llama_model_params
from gguf_hub.api.compat.llama_cpp.llama_chat_format import (
    LlamaChatCompletionHandlerRegistry,
    template_handlers,
)
from gguf_hub.api.compat.llama_cpp.llama_tokenizer import LlamaTokenizer
from gguf_hub.api.compat.llama_cpp.opened import Context, ModelFile
from gguf_hub.api.llama import (
    Llama as _Llama,
)
from gguf_hub.api.llama import (
    LlamaState,
    LogitsProcessor,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from gguf_hub.api.llama.signatures import constructor, defaults, like

__all__ = [
    "Llama", "LlamaState", "LogitsProcessor", "LogitsProcessorList", "MinTokensLogitsProcessor",
    "StoppingCriteria", "StoppingCriteriaList",
]  # fmt: skip


class Llama(_Llama):
    """``gguf_hub.Llama``, and the handles that C functions take.

    Attributes:
        model_params: The constructor's arguments about the model.
        context_params: Those about computing.
    """

    @like(constructor)
    def __init__(self, model_path: str | os.PathLike[str], **arguments: Any) -> None:
        super().__init__(model_path, **arguments)
        given = defaults(constructor) | arguments
        file = ModelFile(Path(self.model_path), self._metadata, self.tokenizer_,
                         is_vocab_only=self._context is None)  # fmt: skip
        self.model_params = _params(llama_model_params(), given)
        self.context_params = _params(llama_context_params(), given)
        self.context_params.embeddings = bool(given["embedding"])
        if self._context is not None:
            self.context_params.n_ctx, self.context_params.n_batch = self.n_ctx(), self.n_batch
        self._model = internals.LlamaModel(
            path_model=self.model_path, params=self.model_params, file=file
        )
        self._ctx = internals.LlamaContext(
            model=self._model,
            params=self.context_params,
            context=self._seen(file),
        )
        self._chat_handlers = template_handlers(self.metadata, *self._end_texts())
        self._given = given

    def _seen(self, file: ModelFile) -> Context:
        """Return what C functions see of it, which keeps nothing open."""
        seen: Any = weakref.proxy(self)
        return Context(seen, file)

    def __getattr__(self, name: str) -> Any:
        """Return an argument of the constructor that llama-cpp-python keeps as an attribute."""
        kept = ("draft_model", "kv_overrides", "lora_base", "lora_path", "lora_scale",
                "n_threads_batch", "numa", "spm_infill", "tensor_split")  # fmt: skip
        if name in kept and "_given" in vars(self):
            return self._given[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _end_texts(self) -> tuple[str, str]:
        """Return the texts of the tokens that begin and end a text."""
        tokens = self.tokenizer_.vocab.tokens
        ids = self.tokenizer_.bos_id, self.tokenizer_.eos_id
        bos, eos = ("" if i is None else tokens[i] for i in ids)
        return bos, eos

    def _set_chat_format(self, name: str | None) -> None:
        handler = LlamaChatCompletionHandlerRegistry().registered(name)
        super()._set_chat_format(name if handler is None else None)
        if name is not None and handler is not None:
            self.chat_format, self.chat_handler = name, self.chat_handler or handler

    def tokenizer(self) -> LlamaTokenizer:
        """Return the tokenizer."""
        return LlamaTokenizer(self)

    def close(self) -> None:
        """End the worker threads and close the file."""
        if "_model" in vars(self):
            self._model.close()
        super().close()

    @property
    def model(self) -> Any:
        """Handle of the model, for C functions."""
        return self._model.model

    @property
    def ctx(self) -> Any:
        """Handle of the context, for C functions."""
        return self._ctx.ctx

    @property
    def _input_ids(self) -> NDArray[np.intc]:
        return self.input_ids[: self.n_tokens]

    @property
    def _scores(self) -> NDArray[np.float32]:
        return self.scores[: self.n_tokens]

    @property
    def _n_ctx(self) -> int:
        return self.n_ctx()

    @property
    def _n_vocab(self) -> int:
        return self.n_vocab()

    @property
    def _token_nl(self) -> int:
        return self.token_nl()

    @property
    def _token_eos(self) -> int:
        return self.token_eos()

    @property
    def _is_recurrent(self) -> bool:
        return False  # no model without attention runs here

    @property
    def _is_hybrid(self) -> bool:
        return self._model._file.has_states


def _params(params: Any, given: dict[str, Any]) -> Any:
    """Return parameters with the values of arguments of the same name, where there are any."""
    for name in vars(params):
        if given.get(name) is not None:
            setattr(params, name, given[name])
    return params
