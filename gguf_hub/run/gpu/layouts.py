"""How weights lie on a GPU, and how they get there from the file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.gpu.kernels import WeightPart


def size_bytes(part: WeightPart) -> int:
    """Return the bytes of a part on a GPU."""
    return len(part.offsets) * _matrix_bytes(part)


def pack(part: WeightPart, file: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Yield (byte of the buffer, words to write there), some 64 MB at a time."""
    size = part.type.row_bytes(part.n_in) * part.n_out
    for i, offset in enumerate(part.offsets):
        words = np.zeros(_matrix_bytes(part), np.uint8)
        words[:size] = file[offset : offset + size]
        yield i * len(words), words.view(np.uint32)


def _matrix_bytes(part: WeightPart) -> int:
    return -(-part.type.row_bytes(part.n_in) * part.n_out // 16) * 16
