"""Vectors and scores of texts, computed beside the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.server.flow import settle
from gguf_hub.api.server.slots import EmbedSequence
from gguf_hub.api.server.worker import Worker
from gguf_hub.errors import BusyError, UnavailableError, UsageError
from gguf_hub.run.generation.vectors import Pooler

Floats = NDArray[np.float32]

_BUSY_S = 0.05  # between two tries to queue more of what has begun


class Vectors:
    """What a server does with texts that it does not continue.

    Args:
        worker: Computes them.
        n_embd: Length of the model's vectors.
        n_slots: How many texts are computed at once.
        pooler: Makes one vector of those of a text's tokens.
        norm: Of vectors where the request names none (see ``pooling.scaled``).
    """

    def __init__(
        self, worker: Worker, *, n_embd: int, n_slots: int, pooler: Pooler, norm: int
    ) -> None:
        self._worker, self._n_embd, self._n_slots = worker, n_embd, n_slots
        self.pooler, self._norm = pooler, norm

    def check_dimensions(self, dimensions: int | None) -> None:
        """Refuse vectors that are longer than this model's.

        Raises:
            UsageError: Such are asked for.
        """
        n_embd = self._n_embd
        if dimensions is not None and not 1 <= dimensions <= n_embd:
            raise UsageError(
                f"dimensions: expected [1, {n_embd}], the length of this model's vectors, found "
                f"{dimensions}",
                hint="leave it out",
            )

    async def embed(
        self, texts: Sequence[Sequence[int]], norm: int | None = None, dimensions: int | None = None
    ) -> list[Floats]:
        """Return one vector for each text, pooled as the model asks, or the user.

        Args:
            texts: As ``Service.encode`` returns them.
            norm: See ``pooling.scaled``; None for the server's default.
            dimensions: How many numbers of each vector to keep; None for all.

        Raises:
            BusyError: Too many are waiting.
            UnsupportedGgufError: The model gives scores, or its pooling does not run.
            UsageError: The server pools nothing.
        """
        assert self.pooler.text_pooling
        norm = self._norm if norm is None else norm
        return await self._compute(texts, lambda x: self.pooler.vector(x, norm, dimensions))

    @property
    def pools_nothing(self) -> bool:
        """Whether the user wants the vectors of all tokens."""
        return self.pooler.is_unpooled

    async def embed_tokens(self, texts: Sequence[Sequence[int]]) -> list[Floats]:
        """Return the vectors of all tokens of each text, [T, D], as they are; see ``embed``."""
        return await self._compute(texts, lambda hidden: hidden)

    async def rank(self, pairs: Sequence[Sequence[int]]) -> list[float]:
        """Return the score of each pair.

        Args:
            pairs: As ``Service.encode_pair`` returns them.

        Raises:
            BusyError: Too many are waiting.
            UnsupportedGgufError: The model is no reranker.
        """
        scores = await self._compute(pairs, self.pooler.classifier.scores)
        return [float(found[0]) for found in scores]

    async def _compute(
        self, texts: Sequence[Sequence[int]], pool: Callable[[Floats], Floats]
    ) -> list[Floats]:
        """Return what ``pool`` makes of the vectors of each text's tokens, [T, D]."""
        # as many at once as there are slots: others get their turn, and few are waiting
        n_at_once = self._n_slots
        found: list[Floats] = []
        for start in range(0, len(texts), n_at_once):
            group = texts[start : start + n_at_once]
            while True:
                try:
                    found += map(pool, await self._hidden(group))
                    break
                except BusyError as exc:
                    if start == 0 or isinstance(exc, UnavailableError):
                        raise
                    await asyncio.sleep(_BUSY_S)  # what is done already is not thrown away
        return found

    async def _hidden(self, texts: Sequence[Sequence[int]]) -> list[Floats]:
        """Return the vectors of the tokens of texts that are computed together."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in texts]
        sequences = [
            EmbedSequence(tokens, partial(settle, future), partial(settle, future, None))
            for tokens, future in zip(texts, futures, strict=True)
        ]
        self._worker.submit(*sequences)
        try:
            hidden: list[Floats] = await asyncio.gather(*futures)
        finally:
            for sequence in sequences:
                sequence.is_cancelled = True
        return hidden
