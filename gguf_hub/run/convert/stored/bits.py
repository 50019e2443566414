"""Small integers out of 32-bit words: a stream of bits, the lowest of a word first.

Element i of b bits begins at bit b i. Three bits: 32 elements fill three words, element 10 has its
lower two bits in the first word (30 and 31) and its upper one in the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unpack(words: NDArray[Any], bits: int, count: int) -> NDArray[np.uint8]:
    """Return the first elements of each row of words.

    Args:
        words: [..., n], 32 bits each.
        bits: Of an element, at most 8.
        count: Elements of a row.

    Returns:
        [..., count].
    """
    words = np.ascontiguousarray(words).view("<u4")
    if 8 % bits:
        return pick(words, np.arange(count) * bits, bits)
    octets = words.view(np.uint8)
    if bits < 8:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        octets = octets[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return octets.reshape(*words.shape[:-1], -1)[..., :count]


def pick(words: NDArray[Any], starts: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """Return the elements that begin at given bits of each row of words.

    Args:
        words: [..., n], 32 bits each.
        starts: First bit of each element, [count].
        bits: Of an element, at most 8.

    Returns:
        [..., count].
    """
    words = np.asarray(words).view("<u4")
    at, shifts = starts // 32, (starts % 32).astype(np.uint64)
    low = words[..., at].astype(np.uint64)
    if (starts % 32 + bits > 32).any():  # else the next word may not exist
        following = np.minimum(at + 1, words.shape[-1] - 1)
        low |= words[..., following].astype(np.uint64) << np.uint64(32)
    elements: NDArray[np.uint8] = (low >> shifts & np.uint64((1 << bits) - 1)).astype(np.uint8)
    return elements
