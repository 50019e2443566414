"""The model of a ``Llama``, its engine, and the logits it has computed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.llama.drafting import CallableDrafter, DraftModel, drafter_of_model
from gguf_hub.api.llama.parts import LlamaValueError
from gguf_hub.errors import ResourceError
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.generation import Generation, GrammarCache, TextDelta
from gguf_hub.run.generation.engine import Drafter, Engine, Forward
from gguf_hub.run.generation.saved_prompt import model_id_of
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.opening import open_model, require_drafts
from gguf_hub.units import format_size

if TYPE_CHECKING:
    from gguf_hub.run.cluster.hosts import Host
    from gguf_hub.run.cluster.model import Model

Scores = NDArray[np.float32]


class Recorder(Forward):
    """A model that records the logits it has computed.

    Args:
        model: The model.
        logits_all: Record those of every position of the cache; else of the last token alone.

    Attributes:
        scores: [S, V] with ``logits_all``, else [1, V].
    """

    def __init__(self, model: Model, *, logits_all: bool) -> None:
        self._model = model
        self._logits_all = logits_all
        self.n_ctx, self.n_batch = model.n_ctx, model.n_batch
        self.has_states = model.has_states
        self.scores: Scores = _zeros(self.n_ctx if logits_all else 1, model.config.n_vocab)

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> NDArray[np.float32]:
        """Compute logits (see ``Transformer.forward``) and record them."""
        logits = self._model.forward(
            tokens, position, all_logits=self._logits_all or all_logits, slot=slot
        )
        if self._logits_all:
            self.scores[position : position + len(tokens)] = logits
        else:
            self.scores[0] = logits[-1]
        return logits

    def reusable(self, n_positions: int, slot: int = 0) -> int:
        """See ``Transformer.reusable``."""
        return self._model.reusable(n_positions, slot)

    def checkpoint(self, n_positions: int, slot: int = 0) -> None:
        """See ``Transformer.checkpoint``."""
        self._model.checkpoint(n_positions, slot)


def _zeros(n_rows: int, n_vocab: int) -> Scores:
    try:
        return np.zeros((n_rows, n_vocab), np.float32)
    except (MemoryError, ValueError) as exc:  # ValueError: of a size that no address has
        raise ResourceError(
            f"not enough memory: the logits of {n_rows:,} positions take "
            f"{format_size(4 * n_rows * n_vocab)}",
            hint="open the model with a smaller `n_ctx`, or without `logits_all`",
        ) from exc


class LlamaContext:
    """A loaded model and its one cache; several texts may take turns on it, from any thread.

    Args:
        path: The GGUF file, or any shard of a set.
        settings: How to open it.
        logits_all: Record the logits of all positions.
        draft_model: Drafts tokens for the model to check: a callable, or another context.
        progress: Notified about limits of memory or CPUs.
    """

    def __init__(
        self,
        path: Path,
        settings: ModelSettings,
        *,
        logits_all: bool,
        draft_model: DraftModel | LlamaContext | None,
        host: Host | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.loaded = open_model(path, settings, host=host, progress=progress)
        try:
            drafter = self._drafter(draft_model) if draft_model is not None else None
            self.recorder = Recorder(self.loaded.model, logits_all=logits_all)
        except BaseException:
            self.loaded.close()
            raise
        self.engine = Engine(self.recorder, drafter=drafter)
        self.grammars = GrammarCache(self.loaded.tokenizer)
        self.lock = threading.RLock()
        self._is_closed = False

    def _drafter(self, draft_model: DraftModel | LlamaContext) -> Drafter:
        """Return what drafts: a batch is the last token and its draft.

        Raises:
            UsageError: The model cannot check drafts, or not those of that model.
        """
        require_drafts(self.loaded.file)
        n_draft = max(0, self.model.n_batch - 1)
        if not isinstance(draft_model, LlamaContext):
            return CallableDrafter(draft_model, n_draft)
        return drafter_of_model(
            draft_model.loaded, draft_model.engine, draft_model.hold, self.loaded.tokenizer, n_draft
        )

    @property
    def model(self) -> Model:
        """The model."""
        return self.loaded.model

    @property
    def last_logits(self) -> NDArray[np.float32]:
        """Logits after the last token in the cache, [V]."""
        scores = self.recorder.scores
        last: NDArray[np.float32] = scores[min(self.engine.n_cached, len(scores)) - 1]
        return last

    @cached_property
    def model_id(self) -> str:
        """Identifies models that can share a state; SHA-256, as hexadecimal digits."""
        model_id = model_id_of(self.model, self.loaded.file)
        return hashlib.sha256(model_id.encode()).hexdigest()

    def stream(self, text: Generation) -> Iterator[TextDelta]:
        """Yield the deltas of a text until it ends."""
        deltas = self.engine.stream(text)
        while (delta := self._next(deltas)) is not None:
            yield delta

    def _next(self, deltas: Iterator[TextDelta]) -> TextDelta | None:
        with self.lock:
            return next(deltas, None)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let nobody else compute with the model within the block.

        Raises:
            LlamaValueError: It is closed.
        """
        with self.lock:
            if self._is_closed:
                raise LlamaValueError(
                    f"the draft model `{self.loaded.path.name}` is closed",
                    hint="close it after the model that it drafts for",
                )
            yield

    def close(self) -> None:
        """End the worker threads and close the file."""
        self._is_closed = True
        self.loaded.close()


def plain_metadata(metadata: Any) -> dict[str, str]:
    """Return a file's metadata as texts without arrays, as llama.cpp shows it."""
    return {
        key: _plain(value)
        for key, value in metadata.items()
        if not isinstance(value, (list, tuple, np.ndarray))
    }


def _plain(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    return f"{value:f}" if isinstance(value, (float, np.floating)) else str(value)
