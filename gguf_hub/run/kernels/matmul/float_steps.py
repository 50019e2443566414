"""Matrix products by tiles: a few rows of floats meet a few tokens at once.

Sums are those of one row with one token, to the last bit (see ``float_tiles``).
"""

from __future__ import annotations

from numba.extending import register_jitable

from gguf_hub.run.kernels.matmul.float_tiles import TILES, rows_from, tile_of
from gguf_hub.run.kernels.simd.simd_memory import AHEAD
from gguf_hub.run.kernels.simd.simd_tiles import next_slots, pairs_at, row_offsets, usual_beside
from gguf_hub.run.kernels.steps import make_rows, share_rows

_NEAR = 16
"""Rows that stay in cache while all tokens pass."""


def make_product(weight_type: str, isa: str):
    """Return this thread's share of one matrix times tokens, as ``steps.share_rows``."""
    tile = tile_of(weight_type)
    n_rows, usual = TILES[isa]
    other = max(usual - 2, 2)
    is_usual = usual_beside(other)
    several, next_usual, next_other = (tuple(range(n)) for n in (n_rows, usual, other))

    @register_jitable
    def products(w, o, q, a, f, x, n, y, is_added):
        tile(w, (o,), f, (x,), n, (y,), is_added, AHEAD)

    one_by_one = make_rows(products)

    @register_jitable
    def by_tiles(
        slots, first, last, n, f, w, w0, row_bytes, n_in, assignments, begin, pairs_per_x,
        xf, xf_stride, y, y_stride, is_added,
    ):  # fmt: skip
        """Multiply rows ``first`` to ``last``, which fill tiles, with a tuple of tokens."""
        pairs = pairs_at(n, assignments, begin, slots)
        tokens = row_offsets(pairs, pairs_per_x, xf, xf_stride)
        for r in range(first, last, n_rows):
            rows = rows_from(several, w0 + row_bytes * r, row_bytes)
            ys = row_offsets(pairs, 1, y + r, y_stride)
            tile(w, rows, f, tokens, n_in, ys, is_added, n_rows * row_bytes)

    @register_jitable
    def by_many(
        first, last, n, f, w, w0, row_bytes, n_in, assignments, begin, count, pairs_per_x,
        xf, xf_stride, y, y_stride, is_added,
    ):  # fmt: skip
        """Multiply rows ``first`` to ``last``, which fill tiles, with ``count`` tokens."""
        for near in range(first, last, _NEAR):
            stop = min(near + _NEAR, last)
            i = 0
            while i < count:
                if is_usual(count - i):
                    by_tiles(
                        next_slots(next_usual, i, count), near, stop, n, f, w, w0, row_bytes,
                        n_in, assignments, begin, pairs_per_x, xf, xf_stride, y, y_stride, is_added,
                    )  # fmt: skip
                    i += usual
                else:
                    by_tiles(
                        next_slots(next_other, i, count), near, stop, n, f, w, w0, row_bytes,
                        n_in, assignments, begin, pairs_per_x, xf, xf_stride, y, y_stride, is_added,
                    )  # fmt: skip
                    i += other

    @register_jitable
    def by_rows(
        first, last, n, f, q, w, w0, row_bytes, n_in, assignments, begin, count, pairs_per_x,
        xq, xq_stride, xf, xf_stride, y, y_stride, is_added,
    ):  # fmt: skip
        """Multiply rows ``first`` to ``last``."""
        # one token meets one row after another, as memory is read fastest so
        tiled_end = last - (last - first) % n_rows if count > 1 else first
        by_many(
            first, tiled_end, n, f, w, w0, row_bytes, n_in, assignments, begin, count,
            pairs_per_x, xf, xf_stride, y, y_stride, is_added,
        )  # fmt: skip
        one_by_one(
            tiled_end, last, n, f, q, w, w0, row_bytes, n_in, assignments, begin, count,
            pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride, is_added,
        )  # fmt: skip

    return share_rows(by_rows, n_rows)
