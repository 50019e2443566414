"""Matrix products by panels: 32 weight rows are unpacked once for all tokens that meet them.

Rows that fill no panel, and tokens that are too few to pay for unpacking, go through the dot
products of one row with one token. Sums are the same to the last bit, so that nobody can tell.

A thread's scratch is a panel of one lane at ``q[panel:]``, and at ``f[partial:]`` 32 sums for each
token, which grow lane by lane.
"""

from __future__ import annotations

from numba.extending import register_jitable

from gguf_hub.gguf.memory.scratch import LANES, ROWS
from gguf_hub.run.kernels.simd.simd_tiles import (
    add_from,
    next_slots,
    pairs_at,
    places_of,
    store_tile,
)
from gguf_hub.run.kernels.steps import make_rows, share

_ENOUGH = 3
"""Tokens from which on unpacking pays."""


def make_product(unpack, multiply, products, block, tokens, is_usual):
    """Return this thread's share of one matrix times some tokens, as ``steps.make_row_product``.

    Args:
        unpack: Writes one lane of 32 rows to a panel (see ``panels.lanes_of``).
        multiply: Multiplies it with a tuple of tokens.
        products: The dot product of one row with one token, as ``steps.make_rows`` wants it.
        block: Weights of a block.
        tokens: How many pass over a panel together: usually, and else.
        is_usual: ``(left)``: whether so many do where so many are left.
    """
    usual, other = tokens
    by_rows = make_rows(products)
    next_usual, next_other = tuple(range(usual)), tuple(range(other))
    left_over = usual - 1 if other < usual else 0  # do the last ones need a tile?

    @register_jitable
    def blocks_of_lane(n_in, lane):
        return (n_in // block - lane + LANES - 1) // LANES

    @register_jitable
    def lines_ahead(size_bytes, n_in, tiles):
        """Return how many cache lines to ask for at each block, unpacked or met by a tile."""
        steps = (1 + tiles) * (n_in // block)
        return (size_bytes // 64 + steps - 1) // steps

    @register_jitable
    def tile(
        slots, lane, n, f, q, n_in, order, begin, pairs_per_x,
        xq, xq_stride, xf, xf_stride, z, y_stride, is_added, panel, partial, w, ahead, lines,
    ):  # fmt: skip
        """Add one lane of 32 rows to the sums of a tuple of tokens."""
        pairs = pairs_at(n, order, begin, slots)
        qs = places_of(pairs, pairs_per_x, xq, xq_stride)
        fs = places_of(pairs, pairs_per_x, xf, xf_stride)
        ys = places_of(pairs, 1, z, y_stride)
        parts = places_of(slots, 1, partial, ROWS)
        sums = multiply(n_in, lane, q, panel, qs, f, fs, w, ahead, lines)
        if lane > 0:
            sums = add_from(sums, f, parts)
        elif is_added:
            sums = add_from(sums, f, ys)
        if lane == LANES - 1:
            store_tile(sums, f, ys)
        else:
            store_tile(sums, f, parts)

    @register_jitable
    def by_panels(
        first, last, n, f, q, w, w0, row_bytes, n_in, order, begin, count, pairs_per_x,
        xq, xq_stride, xf, xf_stride, y, y_stride, is_added, panel, partial,
    ):  # fmt: skip
        """Multiply rows ``first`` to ``last``, whole panels."""
        size_bytes = ROWS * row_bytes
        tiles = (count + left_over) // usual
        for row in range(first, last):
            o = w0 + size_bytes * row
            z = y + ROWS * row
            # the next panel's weights are on their way while this one's are multiplied
            ahead = o + size_bytes
            lines = lines_ahead(size_bytes, n_in, tiles) if row + 1 < last else 0
            for lane in range(LANES):
                unpack(w, o, row_bytes, n_in, lane, q, panel, ahead, lines)
                ahead += 64 * lines * blocks_of_lane(n_in, lane)
                i = 0
                while i < count:
                    if is_usual(count - i):
                        tile(
                            next_slots(next_usual, i, count), lane, n, f, q, n_in,
                            order, begin, pairs_per_x, xq, xq_stride, xf, xf_stride,
                            z, y_stride, is_added, panel, partial, w, ahead, lines,
                        )  # fmt: skip
                        i += usual
                    else:
                        tile(
                            next_slots(next_other, i, count), lane, n, f, q, n_in,
                            order, begin, pairs_per_x, xq, xq_stride, xf, xf_stride,
                            z, y_stride, is_added, panel, partial, w, ahead, lines,
                        )  # fmt: skip
                        i += other
                    ahead += 64 * lines * blocks_of_lane(n_in, lane)

    @register_jitable
    def product(
        tid, nth, n, f, q, w, w0, row_bytes, n_in, n_out, order, begin, count, pairs_per_x,
        xq, xq_stride, xf, xf_stride, y, y_stride, is_added, scratch, partial,
    ):  # fmt: skip
        panels = n_out // ROWS if count >= _ENOUGH else 0
        if panels > 0:
            first, last = share(panels, tid, nth)
            by_panels(
                first, last, n, f, q, w, w0, row_bytes, n_in, order, begin, count, pairs_per_x,
                xq, xq_stride, xf, xf_stride, y, y_stride, is_added, scratch, partial,
            )  # fmt: skip
        first, last = share(n_out - ROWS * panels, tid, nth)
        by_rows(
            ROWS * panels + first, ROWS * panels + last, n, f, q, w, w0, row_bytes, n_in, order,
            begin, count, pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride, is_added,
        )  # fmt: skip

    return product
