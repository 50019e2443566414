"""What llama.cpp's handles lead to: the vocabulary, the file and the context of a ``Llama``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.llama import Llama
from gguf_hub.api.llama.context import plain_metadata
from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.hparams import HyperParameters, architecture
from gguf_hub.gguf.shards import open_gguf
from gguf_hub.run.generation.pooling import Pooling
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer


class Vocabulary:
    """The vocabulary of a file."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocab = tokenizer.vocab


class ModelFile:
    """A GGUF file that is open for whoever asks about it.

    Args:
        path: The file.
        metadata: Its metadata.
        tokenizer: Its tokenizer.
        is_vocab_only: Whether nothing shall compute with it.
    """

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, Any],
        tokenizer: Tokenizer,
        *,
        is_vocab_only: bool = False,
    ) -> None:
        self.path, self.is_vocab_only = path, is_vocab_only
        self.vocabulary = Vocabulary(tokenizer)
        self.hparams = HyperParameters(metadata)
        self._metadata = metadata

    @classmethod
    def open(cls, path: Path, *, is_vocab_only: bool = False) -> ModelFile:
        """Read a file's metadata.

        Raises:
            GgufHubError: It is no GGUF file with a vocabulary.
        """
        with open_gguf(path) as file:
            metadata = dict(file.metadata)
        return cls(path, metadata, load_tokenizer(metadata), is_vocab_only=is_vocab_only)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Metadata as texts, without arrays."""
        return plain_metadata(self._metadata)

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        return architecture(self._metadata)

    @property
    def has_states(self) -> bool:
        """Whether layers carry a state, beside others with attention."""
        known = ARCHITECTURES.get(self.architecture)
        return known is not None and known.states is not None

    @cached_property
    def size(self) -> tuple[int, int]:
        """Weights, and bytes of all tensors."""
        with open_gguf(self.path) as file:
            infos = file.tensors.values()
        return sum(info.n_elements for info in infos), sum(info.size_bytes for info in infos)


class Context:
    """A ``Llama`` as C functions use it: batches of tokens at positions, and rows of logits.

    Args:
        llama: The open model.
        file: Its file.
    """

    def __init__(self, llama: Llama, file: ModelFile) -> None:
        self.llama, self.file = llama, file
        self._logits: NDArray[np.float32] = np.zeros(
            (0, file.vocabulary.tokenizer.n_vocab), np.float32
        )
        self._row_of: dict[int, int] = {}
        # text and position of a batch whose logits were put off: embeddings do not need them
        self._put_off: tuple[list[int], int] | None = None
        self._hidden: NDArray[np.float32] | None = None
        self._pooled: NDArray[np.float32] | None = None
        self.has_embeddings = llama.has_embeddings

    # -- embeddings ------------------------------------------------------------------------------

    @property
    def hidden(self) -> NDArray[np.float32] | None:
        """Vectors of the tokens of the last batch, [n, D]; None where they are pooled."""
        return self._hidden if self.llama.pooling_type() == Pooling.NONE else None

    @property
    def pooled(self) -> NDArray[np.float32] | None:
        """What these are pooled to, [D], or a reranker's scores, [C]; None without pooling."""
        if self._hidden is None or self.llama.pooling_type() == Pooling.NONE:
            return None
        if self._pooled is None:
            self._pooled = np.ascontiguousarray(self.llama.pooler.vectors(self._hidden))
        return self._pooled

    def _embed(self, tokens: Sequence[int], position: int) -> None:
        """Compute the vectors of a batch, and of what is in the cache before it."""
        engine = self.llama.context.engine
        text = [*engine.cached[:position], *tokens]
        engine.reset()
        self._hidden = self.llama.context.model.embed(text)[position:]
        engine.adopt(text)
        self._put_off = text, position

    # -- logits ----------------------------------------------------------------------------------

    @property
    def logits(self) -> NDArray[np.float32]:
        """Logits after the tokens of the last batch that asked for them, [n, V]."""
        self._finish()
        return self._logits

    def row(self, i: int) -> NDArray[np.float32] | None:
        """Return the logits after token ``i`` of the last batch, [V]; None if it asked for none.

        Below 0 it counts from the last one that did.
        """
        self._finish()
        at = self._row_of.get(i, -1) if i >= 0 else len(self._logits) + i
        return self._logits[at] if 0 <= at < len(self._logits) else None

    def truncate(self, n_tokens: int) -> None:
        """Forget all but the first tokens."""
        self.llama.n_tokens = n_tokens

    def decode(self, tokens: Sequence[int], position: int, wanted: Sequence[bool]) -> None:
        """Compute tokens from a position on.

        Args:
            tokens: Their ids.
            position: Of the first; the cache holds at least as many tokens.
            wanted: Which rows of logits to keep; with embeddings all, as in llama.cpp.

        Raises:
            ContextFullError: They do not fit.
        """
        self._put_off = self._hidden = self._pooled = None
        with self.llama.context.lock:
            if self.has_embeddings:
                self._embed(tokens, position)
            else:
                self._compute(tokens, position, wanted)

    def _finish(self) -> None:
        """Compute the logits of the last batch, if that was put off; the cache stays as it is."""
        if self._put_off is None:
            return
        (text, position), self._put_off = self._put_off, None
        with self.llama.context.lock:
            n_cached = self.llama.n_tokens  # of this text: a cache is only cut since
            if n_cached < position:
                self.llama.context.engine.extend(text[n_cached:position])
            self._compute(text[position:], position, [True] * (len(text) - position))
            self.truncate(n_cached)

    def _compute(self, tokens: Sequence[int], position: int, wanted: Sequence[bool]) -> None:
        context, n_tokens = self.llama.context, len(tokens)
        indices = [i for i, is_wanted in enumerate(wanted) if is_wanted]
        context.engine.keep(position)
        if len(context.recorder.scores) > 1:  # those of all tokens are kept anyway
            context.engine.extend(tokens)
            rows = context.recorder.scores[position : position + n_tokens][indices]
        else:
            rows = self._decode_each(tokens, indices)
        self._logits = np.ascontiguousarray(rows)
        self._row_of = {index: row for row, index in enumerate(indices)}

    def _decode_each(self, tokens: Sequence[int], indices: Sequence[int]) -> NDArray[np.float32]:
        """Compute tokens in passes that end after each of some; return the logits there, [n, V]."""
        context, rows, start = self.llama.context, list(self._logits[:0]), 0
        for end in (*(i + 1 for i in indices), len(tokens)):
            if end > start:
                context.engine.extend(tokens[start:end])
                rows.append(context.last_logits.copy())
                start = end
        return np.array(rows[: len(indices)], np.float32).reshape(len(indices), -1)
