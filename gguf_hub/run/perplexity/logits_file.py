"""llama.cpp's file of a base model's log probabilities (``--kl-divergence-base``).

    8 bytes ``_logits_`` · int32 n_ctx · int32 n_vocab · int32 n_chunks
    int32 token ids [n_chunks, n_ctx]
    rows, each: float32 scale · float32 smallest · uint16 [V] · one uint16 more where V is odd

A log probability is ``scale * number + smallest``. What is more than 16 below the largest of its
row is stored as the smallest, so that the base's own perplexity comes out too low where it is that
surprised; KL divergence leaves such tokens out. All little-endian.

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
RANGE = 16.0
"""How far below a row's largest log probability values are resolved."""
_HEADER = struct.Struct("<8siii")
_MAX_NUMBER = 65535


def _row_numbers(n_vocab: int) -> int:
    """Return the uint16 numbers of a row: 4 for two floats, then an even count."""
    return 4 + n_vocab + n_vocab % 2


def file_size_bytes(n_chunks: int, n_ctx: int, n_vocab: int) -> int:
    """Return how long a file is."""
    n_rows = n_chunks * (n_ctx - 1 - n_ctx // 2)
    return _HEADER.size + 4 * n_chunks * n_ctx + 2 * n_rows * _row_numbers(n_vocab)


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
    with new_file(path, file_size_bytes(n_chunks, n_ctx, n_vocab)) as new:
        yield LogitsWriter(partial(write_all, new.descriptor), chunks, n_vocab)


class LogitsWriter:
    """Writes a file, block by block; a ``Sink``.

    Args:
        write: Takes bytes.
        chunks: Token ids, [n_chunks, n_ctx].
        n_vocab: Width of a row.
    """

    def __init__(self, write: Callable[[bytes], object], chunks: Chunks, n_vocab: int) -> None:
        self._write = write
        n_chunks, n_ctx = chunks.shape
        write(_HEADER.pack(MAGIC, n_ctx, n_vocab, n_chunks))
        write(chunks.astype("<i4").tobytes())

    def add(self, log_probs: Floats) -> None:
        """Write the rows of one block, [rows, V]."""
        n_rows, n_vocab = log_probs.shape
        largest = log_probs.max(axis=1, keepdims=True)
        smallest = np.maximum(log_probs.min(axis=1, keepdims=True), largest - RANGE)
        scale = (largest - smallest) / _MAX_NUMBER
        numbers = np.zeros((n_rows, _row_numbers(n_vocab)), "<u2")
        numbers[:, :4] = np.hstack([scale, smallest]).astype("<f4").view("<u2")
        levels = (log_probs - smallest) / np.where(scale > 0, scale, 1)
        numbers[:, 4 : 4 + n_vocab] = np.rint(np.clip(levels, 0, _MAX_NUMBER))
        self._write(numbers.tobytes())


class LogitsReader:
    """Reads a file, chunk after chunk; a ``Source``.

    Attributes:
        chunks: Token ids, [n_chunks, n_ctx].
        n_vocab: Width of a row.
    """

    def __init__(self, file: BinaryIO, chunks: Chunks, n_vocab: int, path: Path) -> None:
        self._file = file
        self.chunks = chunks
        self.n_vocab = n_vocab
        self._path = path

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
        if size_bytes != expected:
            raise GgufHubError(
                f"`{path}`: {n_chunks:,} chunks of {n_ctx:,} tokens over a vocabulary of "
                f"{n_vocab:,} take {expected:,} bytes, found {size_bytes:,}",
                hint="the file is damaged or incomplete: write it again",
            )
        raw = np.frombuffer(file.read(4 * n_chunks * n_ctx), "<i4")
        if raw.min() < 0 or raw.max() >= n_vocab:
            raise GgufHubError(f"`{path}`: token ids outside of [0, {n_vocab - 1}]")
        return cls(file, raw.astype(np.int32).reshape(n_chunks, n_ctx), n_vocab, path)

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
        return rows
