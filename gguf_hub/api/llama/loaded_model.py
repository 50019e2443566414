"""What stands behind a ``Llama``: the open file, the model, its engine, the logits it saw."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import ResourceError
from gguf_hub.gguf.shards import open_gguf
from gguf_hub.run.generation import Generation, GrammarCache, TextDelta
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.tokenizer import load_tokenizer
from gguf_hub.units import format_size

Scores = NDArray[np.float32]


class Recorder:
    """A model that keeps the logits it has computed.

    Args:
        model: Computes.
        keeps_all: Keep those of every position of the cache; else of the last token alone.

    Attributes:
        scores: [S, V] with ``keeps_all``, else [1, V].
    """

    def __init__(self, model: Transformer, *, keeps_all: bool) -> None:
        self._model = model
        self._keeps_all = keeps_all
        self.n_ctx, self.n_batch = model.n_ctx, model.n_batch
        self.scores: Scores = _zeros(self.n_ctx if keeps_all else 1, model.config.n_vocab)
        self.last: Scores = self.scores[0]

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False
    ) -> NDArray[np.float32]:
        """Compute logits (see ``Transformer.forward``) and keep them."""
        logits = self._model.forward(tokens, position, all_logits=self._keeps_all or all_logits)
        if self._keeps_all:
            self.scores[position : position + len(tokens)] = logits
        else:
            self.scores[0] = logits[-1]
        self.last = logits[-1]
        return logits


def _zeros(n_rows: int, n_vocab: int) -> Scores:
    """Return rows of logits.

    Raises:
        ResourceError: The system does not give as much memory.
    """
    try:
        return np.zeros((n_rows, n_vocab), np.float32)
    except (MemoryError, ValueError) as exc:  # ValueError: of a size that no address has
        raise ResourceError(
            f"not enough memory: the logits of {n_rows:,} positions take "
            f"{format_size(4 * n_rows * n_vocab)}, which the system does not give",
            hint="open the model with a smaller `n_ctx`, or without `logits_all`",
        ) from exc


class LoadedModel:
    """An open model; several runs may take turns on its one cache, from any thread.

    Args:
        path: The GGUF file, or any shard of a set.
        keeps_all: Keep the logits of all positions.
        has_all: Be able to compute all tokens' outputs in one pass, as embeddings need it.
        limits: ``n_ctx``, ``n_batch``, ``n_cores`` and ``rope`` of ``Transformer.open``.
    """

    def __init__(self, path: Path, *, keeps_all: bool, has_all: bool, **limits: Any) -> None:
        self.file = open_gguf(path)
        try:
            self.tokenizer = load_tokenizer(self.file.metadata)
            self.model = Transformer.open(self.file, all_logits=keeps_all or has_all, **limits)
        except BaseException:
            self.file.close()
            raise
        try:
            self.recorder = Recorder(self.model, keeps_all=keeps_all)
        except BaseException:
            self.close()
            raise
        self.engine = Engine(self.recorder)
        self.grammars = GrammarCache(self.tokenizer)
        self.lock = threading.RLock()
        self._on_cache: object = None  # the run whose tokens the cache holds

    def pieces(self, run: Generation) -> Iterator[TextDelta]:
        """Yield what a run writes, until it is done."""
        first = run.begin()
        if first is not None:
            yield first
        while not run.is_done:
            with self.lock:
                if self._on_cache is run:
                    logits = self.engine.extend(run.tokens[-1:])
                else:  # it begins, or another one came in between
                    logits = self.engine.prefill(run.tokens)
                    self._on_cache = run
                piece = run.take(logits)
            yield piece

    def touch(self) -> Engine:
        """Return the engine to somebody who changes the cache by hand."""
        self._on_cache = None
        return self.engine

    def close(self) -> None:
        """End the worker threads and let go of the file."""
        self.model.close()
        self.file.close()


def plain_metadata(metadata: Any) -> dict[str, str]:
    """Return a file's metadata as texts, arrays left out, as llama.cpp shows it."""
    return {
        key: _plain(value)
        for key, value in metadata.items()
        if not isinstance(value, (list, tuple, np.ndarray))
    }


def _plain(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    return f"{value:f}" if isinstance(value, (float, np.floating)) else str(value)
