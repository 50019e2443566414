"""What a thread needs for products by weight tiles (see ``run.kernels.matmul.tile_steps``)."""

from __future__ import annotations

ROWS = 32
"""Weight rows of a tile."""
LANES = 8
"""Blocks of a row go to this many sums in turn; a tile holds the blocks of one."""
COLUMN_BYTES = 48
"""Maximum bytes of a column of a tile: a weight of each of its 32 rows, scales and minima."""


def tile_bytes(n_in: int) -> int:
    """Return how many bytes of ``q`` hold a weight tile of rows of ``n_in`` weights of any type."""
    blocks = -(-n_in // 256)  # the longest of the types
    return COLUMN_BYTES * 256 * -(-blocks // LANES)


def partial_floats(n_tokens: int) -> int:
    """Return how many elements of ``f`` hold the sums of a tile's rows for ``n_tokens``."""
    return ROWS * n_tokens
