"""What a text's hidden states become: a vector, or the scores of a reranker.

The one place that joins what a model's file asks for with what the user does. Reads no weights
before they are needed, so that a file whose pooling does not run can still generate.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UnsupportedGgufError, UsageError
from gguf_hub.gguf.shards import Gguf
from gguf_hub.run.generation.classifier import Classifier, read_classifier
from gguf_hub.run.generation.pooling import NO_NORM, Pooling, file_pooling, pool, scaled

Floats = NDArray[np.float32]


class Pooler:
    """How the texts of a model are pooled.

    Args:
        file: The model's, open as long as this is used.
        wanted: The user's choice; ``UNSPECIFIED`` for what the file says.
    """

    def __init__(self, file: Gguf, wanted: Pooling = Pooling.UNSPECIFIED) -> None:
        self._file, self._wanted = file, wanted

    @property
    def pooling(self) -> Pooling:
        """The pooling type.

        Raises:
            UnsupportedGgufError: The file has one that does not run here.
        """
        if self._wanted != Pooling.UNSPECIFIED:
            return self._wanted
        return file_pooling(self._file.metadata)

    @cached_property
    def classifier(self) -> Classifier:
        """What scores texts.

        Raises:
            UnsupportedGgufError: The model is no reranker.
        """
        if self.pooling != Pooling.RANK:
            raise UnsupportedGgufError(
                f"`{self._file.path.name}` does not support reranking: its pooling type is "
                f"`{self.pooling.word}`, expected `rank`",
                hint="use a reranker; `gguf-hub serve --reranking` ranks with any file that has a "
                "classifier",
            )
        return read_classifier(self._file)

    def check(self) -> None:
        """Refuse what the user has chosen, if the model cannot do it.

        Raises:
            UnsupportedGgufError: Scores, and the file has no classifier.
        """
        if self._wanted == Pooling.RANK:
            assert self.classifier

    def vectors(self, hidden: Floats, norm: int = NO_NORM) -> Floats:
        """Return what a text becomes: [D], [T, D] without pooling, or its scores, [C].

        Args:
            hidden: Vectors of its tokens, [T, D].
            norm: See ``pooling.scaled``; scores are as they are.
        """
        if self.pooling == Pooling.RANK:
            return self.classifier.scores(hidden)
        return pool(hidden, self.pooling, norm)

    @property
    def is_unpooled(self) -> bool:
        """Whether the user wants the vectors of all tokens."""
        return self._wanted == Pooling.NONE

    @property
    def text_pooling(self) -> Pooling:
        """How to pool where a text must have one vector: the mean where the file says nothing.

        Raises:
            UnsupportedGgufError: The model gives scores.
            UsageError: The user wants no pooling.
        """
        if self.pooling == Pooling.RANK:
            raise UnsupportedGgufError(
                f"`{self._file.path.name}` does not support embeddings: it is a reranker, which "
                "scores documents",
                hint="send them to /v1/rerank; `--pooling last` takes the last token's vector",
            )
        if self.is_unpooled:
            raise UsageError(
                "expected one vector of each text, found the pooling type `none`",
                hint="llama-server's /embedding returns those of all tokens; leave `--pooling` out",
            )
        return self.pooling or Pooling.MEAN

    def vector(self, hidden: Floats, norm: int, n_dimensions: int | None = None) -> Floats:
        """Return the one vector of a text, [D] or its first numbers.

        Args:
            hidden: Vectors of its tokens, [T, D].
            norm: See ``pooling.scaled``; of what is left.
            n_dimensions: How many numbers to keep; None for all.
        """
        return scaled(pool(hidden, self.text_pooling)[:n_dimensions], norm)
