"""How keys and values lie in the K/V cache, in elements of two bytes; and what attention needs.

Both are cut into tiles of 32 numbers that belong to 32 *results* of one step of attention, so that
a vector of them meets one number of the query, or one weight, and nothing is summed across lanes.
S is the cache's length, a multiple of 32; d the length of a head.

========= ========================================= ==========================================
type      keys of a head                            values of a head
========= ========================================= ==========================================
``F32``   [S / 32, d, 32 positions], two elements   [d / 32, S, 32 dimensions], two elements
          each                                      each
``F16``   [S / 32, d, 32 positions]                 [d / 32, S, 32 dimensions]
``Q8_0``  [S / 32]: quants [d, 32 positions] in     [d / 32]: quants [S, 32 dimensions] in
          bytes, then scales [d / 32, 32 positions] bytes, then scales [S]
========= ========================================= ==========================================

With d = 128, key dimension 5 of position 70 is element (70 // 32 * 128 + 5) * 32 + 70 % 32 = 8358
of its head; as ``F32`` it is elements 16716, which has its lower bits, and 16717. A scale of
``Q8_0`` stands for 32 dimensions of one position, as in ggml's block_q8_0. A head whose length is
no multiple of 32 has a last tile that is partly unused.

Plain Python, and what kernels of ``run.kernels.attention`` are compiled from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CACHE_TYPES = ("F32", "F16", "Q8_0")
"""Types that keys and values may have, the largest first."""

LANES = 32
"""Numbers of a tile."""

CHUNK = 256
"""Positions that are scored before their values are added up: these scores stay in cache."""

ROWS = 4
"""Rows of queries that share each reading of keys and values."""

TOKENS = 16
"""Tokens of a prompt that pass over a chunk while it is in cache."""

TOP, SUM, STATE = 0, 1, 2
"""The state of a row between chunks: its largest score, the sum of its weights; their number."""


def n_tiles(head_dim: int) -> int:
    """Return the number of tiles that a head's dimensions take."""
    return (head_dim + LANES - 1) // LANES


def f32_key_block(head_dim: int) -> int:
    """Return the elements of 32 positions' keys."""
    return 2 * LANES * head_dim


def f16_key_block(head_dim: int) -> int:
    """Return the elements of 32 positions' keys."""
    return LANES * head_dim


def q8_0_key_block(head_dim: int) -> int:
    """Return the elements of 32 positions' keys."""
    return LANES // 2 * head_dim + LANES * n_tiles(head_dim)


def f32_value_tile(n_ctx: int) -> int:
    """Return the elements of 32 dimensions' values at all positions."""
    return 2 * LANES * n_ctx


def f16_value_tile(n_ctx: int) -> int:
    """Return the elements of 32 dimensions' values at all positions."""
    return LANES * n_ctx


def q8_0_value_tile(n_ctx: int) -> int:
    """Return the elements of 32 dimensions' values at all positions."""
    return LANES // 2 * n_ctx + n_ctx


def heads_together(group: int) -> int:
    """Return how many of the heads that share a key/value head one thread takes together.

    All of a few, of which most models have no more; of 128 parts of 16, so that there is work for
    eight threads while one token is computed.
    """
    for size in (16, 12, 8, 4):
        if group % size == 0:
            return size
    return group


def scratch_floats(group: int, value_dim: int) -> int:
    """Return the floats that attention needs for each thread.

    Scores and weights of some rows over a chunk, two factors for each of these; then state and sums
    of all rows of a block of tokens.

    Args:
        group: Heads that share a key/value head.
        value_dim: Length of a head of values.
    """
    rows = TOKENS * heads_together(group)
    return 2 * ROWS * CHUNK + 4 * ROWS + rows * (STATE + LANES * n_tiles(value_dim))


_KEY_BLOCKS = {"F32": f32_key_block, "F16": f16_key_block, "Q8_0": q8_0_key_block}
_VALUE_TILES = {"F32": f32_value_tile, "F16": f16_value_tile, "Q8_0": q8_0_value_tile}


def padded(n_ctx: int) -> int:
    """Return the length of a cache for ``n_ctx`` positions."""
    return (n_ctx + LANES - 1) // LANES * LANES


def key_elements(type_: str, head_dim: int, n_ctx: int) -> int:
    """Return the elements of one head's keys; ``n_ctx`` is padded."""
    return n_ctx // LANES * _KEY_BLOCKS[type_](head_dim)


def value_elements(type_: str, head_dim: int, n_ctx: int) -> int:
    """Return the elements of one head's values; ``n_ctx`` is padded."""
    return n_tiles(head_dim) * _VALUE_TILES[type_](n_ctx)


def key_parts(
    kv: NDArray[np.uint16], type_: str, n_head_kv: int, head_dim: int, n_ctx: int, n_positions: int
) -> list[NDArray[np.uint16]]:
    """Return views of what the first positions of a layer's keys take.

    Args:
        kv: The cache, from where the layer's keys begin.
        type_: Type of the keys.
        n_head_kv: Heads.
        head_dim: Length of a head.
        n_ctx: Length of the cache.
        n_positions: Positions, rounded up to tiles of 32.
    """
    size = key_elements(type_, head_dim, padded(n_ctx))
    used = padded(n_positions) // LANES * _KEY_BLOCKS[type_](head_dim)
    return [kv[: n_head_kv * size].reshape(n_head_kv, size)[:, :used]]


def value_parts(
    kv: NDArray[np.uint16], type_: str, n_head_kv: int, head_dim: int, n_ctx: int, n_positions: int
) -> list[NDArray[np.uint16]]:
    """Return views of what the first positions of a layer's values take (see ``key_parts``)."""
    length, tiles = padded(n_ctx), n_head_kv * n_tiles(head_dim)
    size = _VALUE_TILES[type_](length)
    rows = kv[: tiles * size].reshape(tiles, size)
    if type_ != "Q8_0":
        return [rows[:, : size // length * n_positions]]
    n_quants = LANES // 2 * length
    return [rows[:, : LANES // 2 * n_positions], rows[:, n_quants : n_quants + n_positions]]
