"""Matrix products by weight tiles: 32 weight rows are unpacked once for all tokens that meet them.

Rows that fill no tile, and tokens too few to make up for unpacking, go through the dot products
of one row with one token. Sums are the same to the last bit.

A thread's scratch is a weight tile of one lane at ``q[packed:]``, and at ``f[partial:]`` 32 sums
for each token, which grow lane by lane.
"""

from __future__ import annotations

from numba.extending import register_jitable

from gguf_hub.gguf.memory.scratch import LANES, ROWS
from gguf_hub.run.kernels.sharing import make_shared, share
from gguf_hub.run.kernels.simd.simd_tiles import (
    add_from,
    next_slots,
    pairs_at,
    row_offsets,
    store_sums,
)
from gguf_hub.run.kernels.steps import make_rows

_MIN_TOKENS = 3
"""Tokens from which unpacking is faster."""


def make_product(unpack, multiply, products, block, tokens, is_usual):
    """Return this thread's share of one matrix times some tokens, as ``steps.share_rows``.

    Args:
        unpack: Writes one lane of 32 rows to a weight tile (see ``tile_types.lanes_of``).
        multiply: Multiplies it with a tuple of tokens.
        products: The dot product of one row with one token, as ``steps.make_rows`` takes it.
        block: Weights of a block.
        tokens: How many pass over a weight tile together: usually, and otherwise.
        is_usual: ``(n_left)``: whether the usual number passes where so many are left.
    """
    usual, other = tokens
    by_rows = make_rows(products)
    next_usual, next_other = tuple(range(usual)), tuple(range(other))
    round_up = usual - 1 if other < usual else 0  # do the last ones need a tile?

    @register_jitable
    def blocks_of_lane(n_in, lane):
        """Return how many of a row's blocks are lane, lane + 8, lane + 16 and so on."""
        return (n_in // block - lane + LANES - 1) // LANES

    @register_jitable
    def lines_ahead(size_bytes, n_in, tiles):
        """Return how many cache lines to prefetch at each block, unpacked or multiplied."""
        n_turns = (1 + tiles) * (n_in // block)
        return (size_bytes // 64 + n_turns - 1) // n_turns

    @register_jitable
    def tile(
        slots, lane, n, f, q, n_in, assignments, begin, pairs_per_x,
        xq, xq_stride, xf, xf_stride, z, y_stride, is_added, packed, partial, w, ahead, lines,
    ):  # fmt: skip
        """Add one lane of 32 rows to the sums of a tuple of tokens."""
        pairs = pairs_at(n, assignments, begin, slots)
        qs = row_offsets(pairs, pairs_per_x, xq, xq_stride)
        fs = row_offsets(pairs, pairs_per_x, xf, xf_stride)
        ys = row_offsets(pairs, 1, z, y_stride)
        parts = row_offsets(slots, 1, partial, ROWS)
        sums = multiply(n_in, lane, q, packed, qs, f, fs, w, ahead, lines)
        if lane > 0:
            sums = add_from(sums, f, parts)
        elif is_added:
            sums = add_from(sums, f, ys)
        if lane == LANES - 1:
            store_sums(sums, f, ys)
        else:
            store_sums(sums, f, parts)

    @register_jitable
    def by_weight_tiles(
        first, last, n, f, q, w, w0, row_bytes, n_in, assignments, begin, count, pairs_per_x,
        xq, xq_stride, xf, xf_stride, y, y_stride, is_added, packed, partial,
    ):  # fmt: skip
        """Multiply weight tiles ``first`` to ``last``."""
        size_bytes = ROWS * row_bytes
        tiles = (count + round_up) // usual
        for row in range(first, last):
            o = w0 + size_bytes * row
            z = y + ROWS * row
            # the next tile's weights are on their way while this one's are multiplied
            ahead = o + size_bytes
            lines = lines_ahead(size_bytes, n_in, tiles) if row + 1 < last else 0
            for lane in range(LANES):
                unpack(w, o, row_bytes, n_in, lane, q, packed, ahead, lines)
                ahead += 64 * lines * blocks_of_lane(n_in, lane)
                i = 0
                while i < count:
                    if is_usual(count - i):
                        tile(
                            next_slots(next_usual, i, count), lane, n, f, q, n_in,
                            assignments, begin, pairs_per_x, xq, xq_stride, xf, xf_stride,
                            z, y_stride, is_added, packed, partial, w, ahead, lines,
                        )  # fmt: skip
                        i += usual
                    else:
                        tile(
                            next_slots(next_other, i, count), lane, n, f, q, n_in,
                            assignments, begin, pairs_per_x, xq, xq_stride, xf, xf_stride,
                            z, y_stride, is_added, packed, partial, w, ahead, lines,
                        )  # fmt: skip
                        i += other
                    ahead += 64 * lines * blocks_of_lane(n_in, lane)

    @register_jitable
    def work(
        first, last, n_tiles, n, f, q, w, w0, row_bytes, n_in, assignments, begin, count,
        pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride, is_added, packed, partial,
    ):  # fmt: skip
        """Multiply weight tiles ``first`` to ``last`` or, where there are none, rows."""
        if n_tiles > 0:
            by_weight_tiles(
                first, last, n, f, q, w, w0, row_bytes, n_in, assignments, begin, count,
                pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride, is_added, packed, partial,
            )  # fmt: skip
        else:
            by_rows(
                first, last, n, f, q, w, w0, row_bytes, n_in, assignments, begin, count,
                pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride, is_added,
            )  # fmt: skip

    shared = make_shared(work)

    @register_jitable
    def product(
        tid, nth, queue, turn, n, f, q, w, w0, row_bytes, n_in, n_out, assignments, begin, count,
        pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride, is_added, scratch, partial,
    ):  # fmt: skip
        n_tiles = n_out // ROWS if count >= _MIN_TOKENS else 0
        n_units, n_rows = (n_tiles, ROWS) if n_tiles > 0 else (n_out, 1)
        first, last = share(n_out - n_rows * n_units, tid, nth)  # after the last weight tile
        by_rows(
            n_rows * n_units + first, n_rows * n_units + last, n, f, q, w, w0, row_bytes, n_in,
            assignments, begin, count, pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride,
            is_added,
        )  # fmt: skip
        return shared(
            tid, nth, queue, turn, n_units, n_rows * row_bytes * count,
            n_tiles, n, f, q, w, w0, row_bytes, n_in, assignments, begin, count, pairs_per_x,
            xq, xq_stride, xf, xf_stride, y, y_stride, is_added, scratch, partial,
        )  # fmt: skip

    return product
