"""Which weights stay in memory: prefetching and locking of the mapped file.

A file larger than memory is read from disk while it runs. The tensors that every token reads are
prefetched once, when it is opened; of the experts, the program prefetches those that the router
chose (``kernels.paging``). Locking keeps the system from evicting pages at all.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.shards import Gguf
from gguf_hub.progress import Progress
from gguf_hub.resources import available_ram_bytes
from gguf_hub.run.model.settings import Lock, ModelSettings
from gguf_hub.run.model.weights import Matrix, Weights
from gguf_hub.units import format_gb, format_size

Range = tuple[int, int]
"""First byte in the file, and how many."""

_WILLNEED = 3
_COLD = 20  # of Linux since 5.4; older ones refuse it, and nothing happens
_PAGE = 4096


def is_advisable() -> bool:
    """Return whether this system takes advice on mapped files."""
    return sys.platform != "win32"


def should_prefetch_experts(file: Gguf, settings: ModelSettings, progress: Progress) -> bool:
    """Return whether programs prefetch experts; note it if memory is too small for the file."""
    if not settings.is_mapped or not is_advisable():
        return False
    if settings.prefetch_experts is not None:
        return settings.prefetch_experts
    free_bytes = available_ram_bytes()
    if free_bytes is None or file.size_bytes <= free_bytes:
        return False
    progress.note(
        f"{format_gb(file.size_bytes)} of weights, {format_gb(free_bytes)} of memory: "
        "experts are read from disk as they are needed"
    )
    return True


def apply_residency(
    file: Gguf, weights: Weights, limits: Limits, lock: Lock, progress: Progress
) -> None:
    """Prefetch and lock weights as the limits and ``lock`` say."""
    dense = dense_ranges(weights)
    if limits.prefetch_experts:
        prefetch(file.data, dense)
    if lock != "none":
        refusal = lock_pages(file.data, dense if lock == "dense" else [(0, file.data.size)])
        if refusal:
            progress.note(refusal)


def dense_ranges(weights: Weights) -> list[Range]:
    """Return the ranges of the tensors that every token reads, neighbours joined."""
    ranges: list[Range] = []
    for matrix in sorted(_dense(weights), key=lambda matrix: matrix.offset):
        if ranges and matrix.offset - sum(ranges[-1]) < _PAGE:
            start = ranges[-1][0]
            ranges[-1] = (start, matrix.offset + matrix.size_bytes - start)
        else:
            ranges.append((matrix.offset, matrix.size_bytes))
    return ranges


def _dense(weights: Weights) -> Iterator[Matrix]:
    """Yield the matrices that every token reads; of the embeddings it reads one row."""
    yield weights.output
    looked_up = ("per_layer_token_embd", "position_embd")
    yield from (m for name, m in weights.matrices.items() if name not in looked_up)
    for layer in weights.layers:
        yield from layer.matrices.values()


def prefetch(data: NDArray[np.uint8], ranges: list[Range]) -> None:
    """Start reading parts of a mapped file; return without waiting for them."""
    if is_advisable():
        madvise = ctypes.CDLL(None).madvise
        for start, size in _pages(data, ranges):
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _WILLNEED)


def release(data: NDArray[np.uint8], ranges: list[Range]) -> None:
    """Let the system reuse the memory of parts of a file first: a GPU has them now."""
    if sys.platform == "linux":
        madvise = ctypes.CDLL(None).madvise
        for start, size in _pages(data, ranges):
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _COLD)


def lock_pages(data: NDArray[np.uint8], ranges: list[Range]) -> str | None:
    """Read parts of a file and keep them in memory.

    Returns:
        None, or why the system refused, and what would help.
    """
    if sys.platform == "win32":
        return "locking memory is not supported on this system"
    mlock = ctypes.CDLL(None, use_errno=True).mlock
    for start, size in _pages(data, ranges):
        if mlock(ctypes.c_void_p(start), ctypes.c_size_t(size)):
            return _refusal(ctypes.get_errno(), sum(size for _, size in ranges))
    return None


def _pages(data: NDArray[np.uint8], ranges: list[Range]) -> Iterator[Range]:
    for offset, size in ranges:
        address = data.ctypes.data + offset
        start = address // _PAGE * _PAGE
        yield start, address + size - start


def _refusal(error: int, size_bytes: int) -> str:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    text = f"cannot lock {format_size(size_bytes)} in memory: {os.strerror(error).lower()}"
    if limit not in (resource.RLIM_INFINITY, -1) and limit < size_bytes:
        text += f"; the limit is {format_size(limit)}, and `ulimit -l unlimited` lifts it where"
        text += " the system allows"
    return text
