"""llama.cpp's file of a base model's log probabilities (``--kl-divergence-base``).

    8 bytes ``_logits_`` · int32 n_ctx · int32 n_vocab · int32 n_chunks
    int32 token ids [n_chunks, n_ctx]
    rows, each: float32 scale · float32 smallest · uint16 [V] · one uint16 more where V is odd
    ours alone: 8 bytes ``_scored_`` · float64 log probability of the token that came [rows]

A log probability is ``scale * number + smallest``. What is more than 16 below the largest of its
row is stored as the smallest; KL divergence leaves such tokens out. A base's own perplexity does
not: it would come out too low where the base is that surprised, so we append what it gave the
text's tokens. llama.cpp does not read that far, and its files lack it. All little-endian.

Source: log_softmax and process_logits in tools/perplexity/perplexity.cpp of llama.cpp at 050fc7f3.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gguf_hub.errors import GgufHubError
from gguf_hub.files import require_ours
from gguf_hub.gguf.atomic import new_file
from gguf_hub.gguf.copying import write_all
from gguf_hub.run.perplexity.measure import MIN_N_CTX, Chunks, Span
from gguf_hub.run.perplexity.statistics import Floats

MAGIC = b"_logits_"
_SCORED = b"_scored_"
RANGE = 16.0
"""How far below a row's largest log probability values are resolved."""
_HEADER = struct.Struct("<8siii")
_MAX_NUMBER = 65535


def _row_numbers(n_vocab: int) -> int:
    """Return the uint16 numbers of a row: 4 for two floats, then an even count."""
    return 4 + n_vocab + n_vocab % 2


def _rows_of_chunk(n_ctx: int) -> int:
    return n_ctx - 1 - n_ctx // 2


def file_size_bytes(n_chunks: int, n_ctx: int, n_vocab: int) -> int:
    """Return how long a file of llama.cpp is."""
    n_rows = n_chunks * _rows_of_chunk(n_ctx)
    return _HEADER.size + 4 * n_chunks * n_ctx + 2 * n_rows * _row_numbers(n_vocab)


def scored_size_bytes(n_chunks: int, n_ctx: int) -> int:
    """Return how long our part after it is."""
    return len(_SCORED) + 8 * n_chunks * _rows_of_chunk(n_ctx)


def require_replaceable(path: Path) -> None:
    """Refuse to replace what is not a file of logits.

    Raises:
        GgufHubError: It is something else.
    """
    require_ours(path, "a file of logits", lambda head: head.startswith(MAGIC))


@contextlib.contextmanager
def write_logits(path: Path, chunks: Chunks, n_vocab: int) -> Iterator[LogitsWriter]:
    """Give a ``Sink`` whose file appears when the block ends well.

    Args:
        path: The file; a file of logits is replaced at the very end, where a link leads to.
        chunks: Token ids, [n_chunks, n_ctx].
        n_vocab: Width of a row.

    Raises:
        GgufHubError: Something else is there.
        DiskFullError: Not enough space; checked first.
    """
    path = Path(os.path.realpath(path))
    require_replaceable(path)
    n_chunks, n_ctx = chunks.shape
    size_bytes = file_size_bytes(n_chunks, n_ctx, n_vocab) + scored_size_bytes(n_chunks, n_ctx)
    with new_file(path, size_bytes) as new:
        writer = LogitsWriter(partial(write_all, new.descriptor), chunks, n_vocab)
        yield writer
        writer.finish()


class LogitsWriter:
    """Writes a file, block by block; a ``Sink``.

    Args:
        write: Takes bytes.
        chunks: Token ids, [n_chunks, n_ctx].
        n_vocab: Width of a row.
    """

    def __init__(self, write: Callable[[bytes], object], chunks: Chunks, n_vocab: int) -> None:
        self._write = write
        self._targets = _targets_of(chunks)
        self._scored: list[Floats] = []
        self._n_done = 0
        n_chunks, n_ctx = chunks.shape
        write(_HEADER.pack(MAGIC, n_ctx, n_vocab, n_chunks))
        write(chunks.astype("<i4").tobytes())

    def add(self, log_probs: Floats) -> None:
        """Write the rows of one block, [rows, V]."""
        n_rows, n_vocab = log_probs.shape
        targets = self._targets[self._n_done : self._n_done + n_rows]
        self._scored.append(log_probs[np.arange(n_rows), targets])
        self._n_done += n_rows
        largest = log_probs.max(axis=1, keepdims=True)
        smallest = np.maximum(log_probs.min(axis=1, keepdims=True), largest - RANGE)
        scale = (largest - smallest) / _MAX_NUMBER
        numbers = np.zeros((n_rows, _row_numbers(n_vocab)), "<u2")
        numbers[:, :4] = np.hstack([scale, smallest]).astype("<f4").view("<u2")
        levels = (log_probs - smallest) / np.where(scale > 0, scale, 1)
        numbers[:, 4 : 4 + n_vocab] = np.rint(np.clip(levels, 0, _MAX_NUMBER))
        self._write(numbers.tobytes())

    def finish(self) -> None:
        """Write what the tokens of the text got, after all rows."""
        self._write(_SCORED)
        self._write(np.concatenate(self._scored).astype("<f8").tobytes())


class LogitsReader:
    """Reads a file, chunk after chunk; a ``Source``.

    Args:
        file: Where its rows begin.
        chunks: Token ids, [n_chunks, n_ctx].
        n_vocab: Width of a row.
        scored: Exact log probabilities of the text's tokens, [rows]; None in llama.cpp's files.
        path: Its name, for messages.

    Attributes:
        n_cut_off: Tokens of the text, of the rows so far, whose log probability is only known to be
            at most the row's smallest.
    """

    def __init__(
        self, file: BinaryIO, chunks: Chunks, n_vocab: int, scored: Floats | None, path: Path
    ) -> None:
        self._file = file
        self.chunks = chunks
        self.n_vocab = n_vocab
        self._targets = _targets_of(chunks)
        self._scored = scored
        self._n_done = 0
        self._path = path
        self.n_cut_off = 0

    @classmethod
    def open(cls, file: BinaryIO, path: Path) -> LogitsReader:
        """Read what stands before the rows.

        Args:
            file: At its start.
            path: Its name, for messages.

        Raises:
            GgufHubError: It is no such file, or incomplete.
        """
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(MAGIC):
            raise GgufHubError(
                f"`{path}` is no file of logits: expected it to start with `_logits_`",
                hint="`--kl-divergence-base FILE` without `--kl-divergence` writes one; "
                "`--base MODEL` compares with a model directly",
            )
        _, n_ctx, n_vocab, n_chunks = _HEADER.unpack(head)
        size_bytes = path.stat().st_size
        is_sane = n_ctx >= MIN_N_CTX and n_vocab > 0 and n_chunks > 0
        expected = file_size_bytes(n_chunks, n_ctx, n_vocab) if is_sane else -1
        has_scored = is_sane and size_bytes == expected + scored_size_bytes(n_chunks, n_ctx)
        if size_bytes != expected and not has_scored:
            raise GgufHubError(
                f"`{path}`: {n_chunks:,} chunks of {n_ctx:,} tokens over a vocabulary of "
                f"{n_vocab:,} take {expected:,} bytes, found {size_bytes:,}",
                hint="the file is damaged or incomplete: write it again",
            )
        raw = np.frombuffer(file.read(4 * n_chunks * n_ctx), "<i4")
        if raw.min() < 0 or raw.max() >= n_vocab:
            raise GgufHubError(f"`{path}`: token ids outside of [0, {n_vocab - 1}]")
        chunks = raw.astype(np.int32).reshape(n_chunks, n_ctx)
        scored = _read_scored(file, expected, path) if has_scored else None
        return cls(file, chunks, n_vocab, scored, path)

    def log_probs(self, tokens: Sequence[int], blocks: Sequence[Span]) -> Iterator[Floats]:
        """Yield the next chunk's rows; see ``Source``."""
        for start, stop in blocks:
            yield self._rows(stop - start)

    def _rows(self, n: int) -> Floats:
        width = _row_numbers(self.n_vocab)
        raw = self._file.read(2 * width * n)
        if len(raw) < 2 * width * n:
            raise GgufHubError(f"`{self._path}` became shorter while it was read")
        numbers = np.frombuffer(raw, "<u2").reshape(n, width)
        # to float64 before the sum: the two floats stand in the first four numbers
        head = np.ascontiguousarray(numbers[:, :4]).view("<f4").astype(np.float64)
        if not np.isfinite(head).all():
            raise GgufHubError(f"`{self._path}` holds log probabilities that are not finite")
        scale, smallest = head[:, :1], head[:, 1:]
        rows: Floats = scale * numbers[:, 4 : 4 + self.n_vocab] + smallest
        self._score(rows, scale.ravel())
        return rows

    def _score(self, rows: Floats, scale: Floats) -> None:
        """Put exact values in place of those of the text's tokens, or count what is cut off."""
        done = slice(self._n_done, self._n_done + len(rows))
        at = np.arange(len(rows)), self._targets[done]
        self._n_done += len(rows)
        if self._scored is not None:
            rows[at] = self._scored[done]
            return
        is_limited = scale * _MAX_NUMBER >= RANGE - 1e-3
        self.n_cut_off += int((is_limited & (rows[at] <= rows.min(axis=1))).sum())


def _targets_of(chunks: Chunks) -> Chunks:
    """Return the tokens that the rows predict, [rows]."""
    return chunks[:, chunks.shape[1] // 2 + 1 :].ravel()


def _read_scored(file: BinaryIO, start: int, path: Path) -> Floats:
    """Return our part of a file; the file stands where it stood."""
    at = file.tell()
    file.seek(start)
    raw = file.read()
    file.seek(at)
    scored = np.frombuffer(raw[len(_SCORED) :], "<f8")
    if not raw.startswith(_SCORED) or not np.isfinite(scored).all() or (scored > 0).any():
        raise GgufHubError(
            f"`{path}`: expected log probabilities after `_scored_` at byte {start:,}",
            hint="the file is damaged: write it again",
        )
    return scored
