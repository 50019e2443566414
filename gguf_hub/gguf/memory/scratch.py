"""What a thread needs for products by panels (see ``run.kernels.matmul.tile_steps``)."""

from __future__ import annotations

ROWS = 32
"""Weight rows of a panel."""
LANES = 8
"""Blocks of a row go round this many sums; a panel holds the blocks of one."""
PANEL_BYTES = 48
"""Most bytes that a panel has for each weight of one of its rows: 32 bytes, scales and minima."""


def panel_bytes(n_in: int) -> int:
    """Return how many bytes of ``q`` hold a panel of rows of ``n_in`` weights of any type."""
    blocks = -(-n_in // 256)  # the longest of the types
    return PANEL_BYTES * 256 * -(-blocks // LANES)


def partial_floats(n_tokens: int) -> int:
    """Return how many elements of ``f`` hold the sums of a panel's rows for ``n_tokens``."""
    return ROWS * n_tokens
