"""Perplexity as llama.cpp defines it, and the comparison with a base model.

The text is cut into chunks of ``n_ctx`` tokens. The first token of each gives way to the
beginning-of-sequence token where the model has one. The first half of a chunk is context; of the
rest each token is predicted from all before it: positions n_ctx/2 to n_ctx - 2 predict the tokens
after them, n_ctx - 1 - n_ctx/2 in all.

Source: perplexity and kl_divergence in tools/perplexity/perplexity.cpp of llama.cpp at 050fc7f3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CacheLostError, GgufHubError, UsageError
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.generation.engine import Forward
from gguf_hub.run.perplexity.statistics import Divergence, Floats, Perplexity, Result

MIN_N_CTX = 4
BLOCK_ROWS = 64
"""Rows of log probabilities at a time: 16 MB in float64 for 32,000 tokens."""

Chunks = NDArray[np.int32]
Span = tuple[int, int]


class Source(Protocol):
    """Where log probabilities of the tokens of a chunk come from: a model, or a file.

    Attributes:
        n_vocab: Width of a row.
    """

    n_vocab: int

    def log_probs(self, tokens: Sequence[int], blocks: Sequence[Span]) -> Iterator[Floats]:
        """Yield natural logarithms of probabilities, [stop - start, V], block by block.

        Args:
            tokens: The chunk; chunks come one after another, each once.
            blocks: Positions from start to before stop, in order and without gaps.
        """
        ...


class Sink(Protocol):
    """Where log probabilities are saved."""

    def add(self, log_probs: Floats) -> None:
        """Take one block, [rows, V]."""
        ...


class ModelSource:
    """Log probabilities that a model computes.

    Args:
        model: Its cache is used from position 0 for each chunk.
        n_vocab: Tokens that it knows.
        bos_id: Put in place of each chunk's first token; None to leave that.
    """

    def __init__(self, model: Forward, n_vocab: int, bos_id: int | None) -> None:
        self.n_vocab = n_vocab
        self._model = model
        self._bos_id = bos_id

    def log_probs(self, tokens: Sequence[int], blocks: Sequence[Span]) -> Iterator[Floats]:
        """Compute the chunk; see ``Source``."""
        tokens = [*tokens] if self._bos_id is None else [self._bos_id, *tokens[1:]]
        (first, _), (_, end) = blocks[0], blocks[-1]
        # a multiple of blocks; a model of smaller batches cuts them itself
        step = max(1, self._model.n_batch // BLOCK_ROWS) * BLOCK_ROWS
        self._model.forward(tokens[:first], 0)
        remaining = iter(blocks)
        for at in range(first, end, step):
            logits = self._logits(tokens[: min(at + step, end)], at)
            if not np.isfinite(logits).all():
                raise GgufHubError(
                    "the model computed logits that are not finite",
                    hint="its file is damaged: `gguf-hub verify` checks it",
                )
            n_done = 0
            while n_done < len(logits):
                start, stop = next(remaining)
                yield log_softmax(logits[n_done : n_done + stop - start])
                n_done += stop - start

    def _logits(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        """Compute the tokens from ``first`` on; those before as well if a GPU failed."""
        try:
            return self._model.forward(tokens[first:], first, all_logits=True)
        except CacheLostError:
            self._model.forward(tokens[:first], 0)
            return self._model.forward(tokens[first:], first, all_logits=True)


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Return ln softmax of each row, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def cut(tokens: Sequence[int], n_ctx: int, n_chunks: int | None = None) -> Chunks:
    """Return the chunks of a text, [n_chunks, n_ctx]; an incomplete last one is dropped.

    Args:
        tokens: The whole text.
        n_ctx: Tokens of a chunk.
        n_chunks: How many at most; None for all.

    Raises:
        UsageError: Fewer than two chunks' worth of tokens, or a size that cannot be.
    """
    if n_ctx < MIN_N_CTX:
        raise UsageError(f"chunks of {n_ctx} tokens: expected {MIN_N_CTX} or more")
    if n_chunks is not None and n_chunks < 1:
        raise UsageError(f"{n_chunks} chunks: expected 1 or more")
    if len(tokens) < 2 * n_ctx:
        fitting = len(tokens) // 2
        found = f"{len(tokens):,} token{'' if len(tokens) == 1 else 's'}"
        raise UsageError(
            f"the text has {found}: expected {2 * n_ctx:,} or more, two chunks of {n_ctx:,}",
            hint="give a longer text" + (f", or `-c {fitting}`" if fitting >= MIN_N_CTX else ""),
        )
    count = min(len(tokens) // n_ctx, n_chunks or len(tokens))
    return np.array(tokens[: count * n_ctx], np.int32).reshape(count, n_ctx)


def measure(
    chunks: Chunks,
    model: Source,
    *,
    base: Source | None = None,
    sink: Sink | None = None,
    progress: Progress = SILENT,
) -> Result:
    """Predict a text and return perplexity and divergence.

    Args:
        chunks: From ``cut`` or a file of logits.
        model: The model to measure.
        base: What to compare it with, over the same vocabulary.
        sink: Gets the model's log probabilities.
        progress: Shows the chunks.

    Raises:
        UsageError: Vocabularies of different sizes.
    """
    if base is not None and base.n_vocab != model.n_vocab:
        raise UsageError(
            f"the model knows {model.n_vocab:,} tokens and the base {base.n_vocab:,}: only models "
            "of one vocabulary can be compared"
        )
    tally = _Tally()
    n_chunks, n_ctx = chunks.shape
    blocks = blocks_of(n_ctx)
    with progress.task("perplexity", n_chunks, unit="chunks") as task:
        for chunk in chunks:
            tokens = chunk.tolist()
            log_probs = model.log_probs(tokens, blocks)
            bases = base.log_probs(tokens, blocks) if base else iter([None] * len(blocks))
            for (start, stop), rows, base_rows in zip(blocks, log_probs, bases, strict=True):
                tally.add(rows, chunk[start + 1 : stop + 1], base_rows)
                if sink is not None:
                    sink.add(rows)
            task.advance(1)
    return tally.result(n_chunks, n_ctx)


def blocks_of(n_ctx: int) -> list[Span]:
    """Return the positions that predict something, in blocks: [(start, stop), ...]."""
    end = n_ctx - 1
    return [(at, min(at + BLOCK_ROWS, end)) for at in range(n_ctx // 2, end, BLOCK_ROWS)]


class _Tally:
    def __init__(self) -> None:
        self._nll: list[Floats] = []
        self._base_nll: list[Floats] = []
        self._kl: list[Floats] = []
        self._has_same_top: list[NDArray[np.bool_]] = []

    def add(self, rows: Floats, targets: Chunks, base_rows: Floats | None) -> None:
        """Add log probabilities, [rows, V], and the tokens that came, [rows]."""
        at = np.arange(len(rows)), targets
        self._nll.append(-rows[at])
        if base_rows is None:
            return
        self._base_nll.append(-base_rows[at])
        self._kl.append(kl_divergence(base_rows, rows))
        self._has_same_top.append(base_rows.argmax(axis=1) == rows.argmax(axis=1))

    def result(self, n_chunks: int, n_ctx: int) -> Result:
        nll = np.concatenate(self._nll)
        divergence = None
        if self._kl:
            divergence = Divergence.of(
                nll,
                np.concatenate(self._base_nll),
                np.concatenate(self._kl),
                np.concatenate(self._has_same_top),
            )
        return Result(Perplexity.of(nll), divergence, n_chunks, n_ctx)


def kl_divergence(base: Floats, log_probs: Floats) -> Floats:
    """Return the sum of p_base * ln(p_base / p) of each row, [rows], in nats.

    Base probabilities below exp(-16) count as nothing, as in llama.cpp, whose files do not hold
    them: together they are less than 4e-3 of a vocabulary of 32,000.

    Args:
        base: Log probabilities of the base model, [rows, V].
        log_probs: Of the model, [rows, V].
    """
    terms = np.exp(base) * (base - log_probs)
    terms[base <= -16] = 0
    total: Floats = terms.sum(axis=1)
    return total
