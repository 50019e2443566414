"""The steps of a forward pass, as functions that every worker thread calls with its own ``tid``.

Signature: ``(tid, nth, n, f, q, kv, w, *arguments)``, with the arguments that ``ops.ARGUMENTS``
names. Work is shared by disjoint ranges of rows, so that no step needs a lock; matrix products
have a ``queue`` besides (see ``sharing``). Nothing is allocated, no bound is checked:
``model.program`` lays out the memory. Long loops index with ``np.uintp``: a signed index could be
negative, which counts from the end, and LLVM then makes no SIMD code.

Shape letters: T tokens, D width, H heads, K kv heads, d head_dim, E experts, A active experts,
P pairs = T x A, S cached positions.

Norms and activations are in ``elementwise``, experts in ``routing``, attention in ``attention``.
Steps that differ by weight type or CPU are made by ``make_...`` functions from their inner loops.
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.sharing import NO_TURN, leave, make_shared, share
from gguf_hub.run.kernels.vm.ops import N_SEQUENCES, N_TOKENS, SEQUENCE_SIZE, SEQUENCES

_ROWS = 16  # weight rows that stay in cache while all tokens pass over them


@register_jitable
def sequence(n, number):
    """Return a sequence of the call: first token, tokens, position, slot, start of its cache."""
    at = SEQUENCES + SEQUENCE_SIZE * number
    return n[at], n[at + 1], n[at + 2], n[at + 3], n[at + 4]


# -- rows in and out -----------------------------------------------------------------------------


def make_get_rows(dequantize):
    """Return the embedding lookup for one weight type."""

    def get_rows(tid, nth, n, f, q, kv, w, w0, row_bytes, n_in, ids, y):
        """Write the embeddings of tokens ``n[ids:]`` to ``y``, [T, n_in]."""
        first, last = share(n[N_TOKENS], tid, nth)
        for t in range(first, last):
            dequantize(w, w0 + row_bytes * n[ids + t], f, y + n_in * t, n_in)

    return get_rows


def copy_rows(tid, nth, n, f, q, kv, w, x, width, rows, y, count):
    """Gather the rows that want logits."""
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        source = x + width * n[rows + t]
        for i in range(width):
            f[np.uintp(y + width * t + i)] = f[np.uintp(source + i)]


def copy_parts(
    tid, nth, n, f, q, kv, w, x, x_stride, x_step, y, y_stride, y_step, width, per_row, count
):
    """Copy parts of rows: part p of row t is at x + x_stride t + x_step p, and likewise at y."""
    first, last = share(n[count] * per_row, tid, nth)
    for item in range(first, last):
        t, part = item // per_row, item % per_row
        source, target = x + x_stride * t + x_step * part, y + y_stride * t + y_step * part
        for i in range(width):
            f[np.uintp(target + i)] = f[np.uintp(source + i)]


def make_quantize(quantize_row, bytes_per_row, floats_per_row):
    """Return the step that turns float rows into int8 rows with scales and sums."""

    def quantize(tid, nth, n, f, q, kv, w, x, width, xq, xf, count, per_row):
        """Quantise this thread's share of ``n[count] * per_row`` rows of ``width`` floats."""
        first, last = share(n[count] * per_row, tid, nth)
        for t in range(first, last):
            row_q, row_f = xq + bytes_per_row(width) * t, xf + floats_per_row(width) * t
            quantize_row(f, x + width * t, q, row_q, f, row_f, width)

    return quantize


# -- matrix products -------------------------------------------------------------------------------


def make_rows(products):
    """Return the products of some weight rows with some tokens, one with one.

    Args:
        products: ``(w, o, q, a, f, x, n, y, is_added)``: store the dot product of the weight row at
            byte ``o`` with the activation row at ``q[a:]`` and ``f[x:]`` at ``f[y]``, or add it.
    """

    @register_jitable
    def by_rows(
        first, last, n, f, q, w, w0, row_bytes, n_in, assignments, begin, count, pairs_per_x,
        xq, xq_stride, xf, xf_stride, y, y_stride, is_added,
    ):  # fmt: skip
        """Multiply rows ``first`` to ``last`` with ``count`` pairs; see ``share_rows``."""
        for block in range((last - first + _ROWS - 1) // _ROWS):
            row = first + _ROWS * block
            stop = min(row + _ROWS, last)
            for i in range(begin, begin + count):
                pair = n[assignments + i] if assignments >= 0 else i
                a = xq + xq_stride * (pair // pairs_per_x)
                x = xf + xf_stride * (pair // pairs_per_x)
                for r in range(row, stop):
                    products(
                        w, w0 + row_bytes * r, q, a, f, x, n_in, y + y_stride * pair + r, is_added
                    )

    return by_rows


def make_row_product(products):
    """Return this thread's share of one matrix times some (token, expert) pairs, row by row."""
    return share_rows(make_rows(products))


def share_rows(by_rows, grain=1):
    """Return this thread's share of one matrix times some (token, expert) pairs.

    Its pairs are ``n[assignments + begin]`` and the next, ``count`` of them; where ``assignments``
    is -1, the numbers from ``begin`` on. Each is multiplied with activation row
    pair // pairs_per_x. Returns the turn for the next matrix, see ``sharing``.

    Args:
        by_rows: Multiplies a range of rows, as ``make_rows``'s.
        grain: Of how many rows it does a multiple fastest.
    """
    shared = make_shared(by_rows, grain)

    @register_jitable
    def product(
        tid, nth, queue, turn, n, f, q, w, w0, row_bytes, n_in, n_out, assignments, begin, count,
        pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride, is_added, scratch, partial,
    ):  # fmt: skip
        """Multiply all rows; ``scratch`` and ``partial`` are for products by tiles."""
        return shared(
            tid, nth, queue, turn, n_out, row_bytes * count,
            n, f, q, w, w0, row_bytes, n_in, assignments, begin, count, pairs_per_x,
            xq, xq_stride, xf, xf_stride, y, y_stride, is_added,
        )  # fmt: skip

    return product


def make_matmul(product):
    """Return the matrix product for one weight type; ``product`` as ``share_rows``'s."""

    def matmul(
        tid, nth, n, f, q, kv, w,
        w0, row_bytes, n_in, n_out, xq, xq_stride, xf, xf_stride, y, y_stride, is_added, count,
        packed, packed_stride, partial, partial_stride, queue=0,
    ):  # fmt: skip
        """Write, or add, the products to ``y``, [n[count], n_out]; a token is its own pair."""
        turn = product(
            tid, nth, queue, NO_TURN, n, f, q, w, w0, row_bytes, n_in, n_out, -1, 0, n[count], 1,
            xq, xq_stride, xf, xf_stride, y, y_stride, is_added,
            packed + packed_stride * tid, partial + partial_stride * tid,
        )  # fmt: skip
        leave(queue, turn, nth)

    return matmul


def make_expert_matmul(product):
    """Return the matrix product of (token, expert) pairs for one weight type."""

    def expert_matmul(
        tid, nth, n, f, q, kv, w,
        experts, n_expert, row_bytes, n_in, n_out, expert_starts, assignments, pairs_per_x,
        xq, xq_stride, xf, xf_stride, y, y_stride,
        packed, packed_stride, partial, partial_stride, queue=0,
    ):  # fmt: skip
        """Write ``y``, [P, n_out]: each expert's matrix times the pairs that chose it."""
        turn = NO_TURN
        for e in range(n_expert):
            begin, end = n[expert_starts + e], n[expert_starts + e + 1]
            w0 = n[experts + e]
            if begin == end or w0 == 0:  # no token chose it, or it is of another type
                continue
            turn = product(
                tid, nth, queue, turn, n, f, q, w, w0, row_bytes, n_in, n_out, assignments, begin,
                end - begin, pairs_per_x, xq, xq_stride, xf, xf_stride, y, y_stride, 0,
                packed + packed_stride * tid, partial + partial_stride * tid,
            )  # fmt: skip
        leave(queue, turn, nth)

    return expert_matmul


def make_head_matmul(product):
    """Return the products of each head's part of a row with a matrix of that head."""

    def head_matmul(
        tid, nth, n, f, q, kv, w,
        w0, head_bytes, n_head, row_bytes, n_in, n_out, xq, xq_stride, xq_step,
        xf, xf_stride, xf_step, y, y_stride, y_step, count,
        packed, packed_stride, partial, partial_stride, queue=0,
    ):  # fmt: skip
        """Multiply head h's part of each row with matrix h, at ``w0 + head_bytes * h``."""
        turn = NO_TURN
        for h in range(n_head):
            turn = product(
                tid, nth, queue, turn, n, f, q, w, w0 + head_bytes * h, row_bytes, n_in, n_out, -1,
                0, n[count], 1, xq + xq_step * h, xq_stride, xf + xf_step * h, xf_stride,
                y + y_step * h, y_stride, 0,
                packed + packed_stride * tid, partial + partial_stride * tid,
            )  # fmt: skip
        leave(queue, turn, nth)

    return head_matmul


# -- positions -------------------------------------------------------------------------------------


def rope_table(tid, nth, n, f, q, kv, w, frequencies, half, factor, table):
    """Write [T, cos or sin, n_rot / 2] for the positions of this call, in double precision.

    A frequency is the sum of two floats, ``half`` apart: of one alone an angle at position 30,000
    would be off by 0.002.
    """
    first, last = share(n[N_TOKENS], tid, nth)
    for number in range(n[N_SEQUENCES]):
        t0, n_tokens, start, _, _ = sequence(n, number)
        for t in range(max(first, t0), min(last, t0 + n_tokens)):
            position = np.float64(start + t - t0)
            for i in range(half):
                frequency = np.float64(f[frequencies + i]) + np.float64(f[frequencies + half + i])
                angle = position * frequency
                f[table + 2 * half * t + i] = np.float32(math.cos(angle)) * f[factor]
                f[table + 2 * half * t + half + i] = np.float32(math.sin(angle)) * f[factor]


@register_jitable
def rotate_head(f, x, table, half, is_neox):
    """Rotate the first ``2 * half`` dimensions of the head at ``x`` by the angles at ``table``.

    Pairs are (i, i + half), as in GPT-NeoX, or (2i, 2i + 1), as in GGUF's llama.
    """
    step, partner = (1, half) if is_neox else (2, 1)
    for i in range(half):
        cos, sin = f[table + i], f[table + half + i]
        first = x + step * i
        a, b = f[first], f[first + partner]
        f[first] = a * cos - b * sin
        f[first + partner] = a * sin + b * cos


def rotate(tid, nth, n, f, q, kv, w, x, n_head, head_dim, n_rot, is_neox, table):
    """Rotate heads in place, [T, H, d] (arXiv 2104.09864)."""
    first, last = share(n[N_TOKENS] * n_head, tid, nth)
    for head in range(first, last):
        rotate_head(f, x + head_dim * head, table + n_rot * (head // n_head), n_rot // 2, is_neox)


def scale_by_position(tid, nth, n, f, q, kv, w, x, width, scale, length, offset):
    """Multiply rows with 1 + scale ln(floor((position + offset) / length) + 1), in float64.

    Source: llama.cpp's attention temperature (llama4, mistral3): 1 within the first ``length``.
    """
    first, last = share(n[N_TOKENS], tid, nth)
    for number in range(n[N_SEQUENCES]):
        t0, n_tokens, start, _, _ = sequence(n, number)
        for t in range(max(first, t0), min(last, t0 + n_tokens)):
            stretch = math.log(np.float64((start + t - t0 + offset) // length + 1))
            factor = np.float32(1.0 + np.float64(f[scale]) * stretch)
            for i in range(width):
                f[np.uintp(x + width * t + i)] *= factor


def add_positions(tid, nth, n, f, q, kv, w, x, width, table, n_positions):
    """Add the row of each token's position, of ``n_positions`` that were learned."""
    first, last = share(n[N_TOKENS], tid, nth)
    for number in range(n[N_SEQUENCES]):
        t0, n_tokens, start, _, _ = sequence(n, number)
        for t in range(max(first, t0), min(last, t0 + n_tokens)):
            row = table + width * (start + t - t0)
            for i in range(width):
                f[np.uintp(x + width * t + i)] += f[np.uintp(row + i)]
