"""One text after another to a vector or to scores, with an open model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.generation.pooling import EUCLIDEAN, Pooling, scaled
from gguf_hub.run.generation.ranking import encode_pair, rerank_template
from gguf_hub.run.generation.vectors import Pooler
from gguf_hub.run.opening import LoadedModel

Floats = NDArray[np.float32]


class Embedder:
    """An open model that embeds one text after another.

    Args:
        loaded: The model, opened with ``n_logits`` None.
        separator: What parts query and document in a text for a reranker.
        pooling: The user's choice; ``UNSPECIFIED`` for what the file says.
        norm: See ``pooling.scaled``.

    Attributes:
        labels: Names of a reranker's scores; none for vectors.
        n_tokens: Of all texts so far.

    Raises:
        UnsupportedGgufError: The file's pooling does not run, or scores are wanted and it has no
            classifier.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        separator: str = "\t",
        pooling: Pooling = Pooling.UNSPECIFIED,
        norm: int = EUCLIDEAN,
    ) -> None:
        self._loaded, self._separator, self._norm = loaded, separator, norm
        self._pooler = Pooler(loaded.file, pooling)
        self._is_reranker = self._pooler.pooling == Pooling.RANK
        self._template = rerank_template(loaded.file.metadata)
        self.labels = self._pooler.classifier.labels if self._is_reranker else ()
        self.n_tokens = 0

    def embed(self, text: str) -> Floats:
        """Return the vector of a text, [1, D], those of its tokens, [T, D], or scores, [1, C].

        Raises:
            ContextFullError: It is too long.
        """
        tokens = self._encode(text)
        hidden = self._loaded.model.embed(tokens)  # [T, D]
        self.n_tokens += len(tokens)
        if self._is_reranker:
            return self._pooler.classifier.scores(hidden)[None]
        if self._pooler.is_unpooled:
            return scaled(hidden, self._norm)
        return self._pooler.vector(hidden, self._norm)[None]

    def _encode(self, text: str) -> list[int]:
        tokenizer, parts = self._loaded.tokenizer, text.split(self._separator, 1)
        if self._is_reranker and len(parts) == 2:
            return encode_pair(tokenizer, self._template, *parts)
        return tokenizer.encode(text, parse_special=True)
