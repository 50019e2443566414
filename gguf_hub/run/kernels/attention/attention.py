"""Attention over the cache, and what fills it: steps made of inner loops for a CPU and a type.

``attention`` lets a token see those before it; ``text_attention``, of encoders, those of all its
text, which one call brings whole.

Scores of a chunk of positions, their softmax, and the weighted sum of the values come one after
another; chunks are joined by the online softmax (arXiv 1805.02867; FlashAttention, arXiv
2205.14135, section 3.1), so that memory does not grow with the context. Rows that share a key/value
head, those of its group of query heads and of neighbouring tokens, are taken four at a time over
each reading.

A row's arithmetic is that of its position alone: chunks begin at multiples of ``CHUNK``, and
neither threads nor the tokens that are computed with it change the order of its sums. Tests compare
bits. Positions that a row does not see, but others with it do, have weight 0, which changes no bit;
those that none of them sees are skipped, 32 by 32.

A cache may be shorter than the context: position p has the place p modulo its length, ``n_ctx``,
which is then a multiple of ``CHUNK``, so that a chunk lies in one piece.

Inner loops (``attention_generic``, ``attention_simd``), for a type of keys or values:

``Keys.store(kv, base, n_dims, position, f, row)``, ``Values.store(kv, base, n_dims, n_ctx, ...)``
    Put the floats at ``f[row:]`` into the cache of the head at ``base``.
``Keys.scores(f, qs, kv, block, n_dims, ys)``
    Products of the query rows at ``qs`` with 32 positions' keys, to ``f[y:y + 32]`` each.
``Values.weigh(f, ps, n, kv, base, first, n_dims, n_ctx, sums, factors, spares)``
    Add ``n`` positions' values, from ``first`` on, with the weights at ``ps``: each row of ``sums``
    becomes itself times ``f[factor]`` plus the new sum times ``f[factor + 1]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from gguf_hub.gguf.memory import cache
from gguf_hub.gguf.memory.cache import CHUNK, LANES, ROWS, STATE, SUM, TOKENS, TOP
from gguf_hub.run.kernels.generic.elementary import exp32, sum_of, tanh32
from gguf_hub.run.kernels.generic.generic import ANY_ORDER
from gguf_hub.run.kernels.sharing import share
from gguf_hub.run.kernels.steps import rotate_head, sequence
from gguf_hub.run.kernels.vm.ops import N_SEQUENCES

_LOWEST = np.float32(-1e30)  # below every score that a model computes
_UNORDERED = {*ANY_ORDER, "nnan", "nsz"}

n_tiles = register_jitable(cache.n_tiles)
heads_together = register_jitable(cache.heads_together)
scratch_floats = register_jitable(cache.scratch_floats)


class Keys(NamedTuple):
    """Inner loops over keys of one type."""

    store: Callable
    scores: Callable
    block: Callable


class Values(NamedTuple):
    """Inner loops over values of one type."""

    store: Callable
    weigh: Callable
    tile: Callable
    total: Callable = sum_of


# -- filling the cache -----------------------------------------------------------------------------


def make_rope_store(keys, values):
    """Return the step that rotates q and k and fills the cache."""
    store_key, store_value = keys.store, values.store
    block_elements, tile_elements = keys.block, values.tile

    def rope_store(
        tid, nth, n, f, q, kv, w,
        q0, k0, v0, n_head, n_head_kv, head_dim, value_dim, n_rot, is_neox, table, k_cache,
        v_cache, n_ctx,
    ):  # fmt: skip
        # whole heads: positions may share an element of the cache
        first, last = share(n_head + n_head_kv, tid, nth)
        for number in range(n[N_SEQUENCES]):
            t0, n_tokens, position, _, cache_start = sequence(n, number)
            for item in range(first, last):
                head = item - n_head
                k = cache_start + k_cache + head * (n_ctx // LANES) * block_elements(head_dim)
                v = cache_start + v_cache + head * n_tiles(value_dim) * tile_elements(n_ctx)
                for t in range(t0, t0 + n_tokens):
                    turn = table + n_rot * t
                    if item < n_head:
                        x = q0 + head_dim * (n_head * t + item)
                        rotate_head(f, x, turn, n_rot // 2, is_neox)
                        continue
                    row = n_head_kv * t + head
                    rotate_head(f, k0 + head_dim * row, turn, n_rot // 2, is_neox)
                    place = (position + t - t0) % n_ctx
                    store_key(kv, k, head_dim, place, f, k0 + head_dim * row)
                    store_value(kv, v, value_dim, n_ctx, place, f, v0 + value_dim * row)

    return rope_store


# -- softmax ---------------------------------------------------------------------------------------


@register_jitable(fastmath=_UNORDERED)
def _largest(f, x, n):
    top = f[x]
    for i in range(1, n):
        value = f[np.uintp(x + i)]
        top = value if value > top else top
    return top


def _make_softmax(total):
    """Return ``softmax``; ``total`` adds up floats as ``sum_of`` does."""

    @register_jitable
    def softmax(f, x, begin, end, n_filled, scale, cap, slope, behind, state, factor):
        """Turn scores into weights; bring a row's state up to date.

        Args:
            f: Floats.
            x: Offset of the scores.
            begin: The first that the row sees; ``end`` if it sees none.
            end: Behind the last one.
            n_filled: How many weights are read: 0 where the row sees nothing.
            scale: Of the scores, positive.
            cap: Scaled scores become cap * tanh(score / cap), unless it is 0.
            slope: By how much scaled scores are less for each position between key and query
                (ALiBi, arXiv 2108.12409).
            behind: By how many positions the query lies behind the first key.
            state: Of the row: largest score so far, sum of weights relative to it.
            factor: Where the factors of the row's sums so far, and of this chunk's, are written.
        """
        for i in range(begin):
            f[x + i] = np.float32(0)
        for i in range(end, n_filled):
            f[x + i] = np.float32(0)
        if end <= begin:
            f[factor] = np.float32(1)
            f[factor + 1] = np.float32(0)
            return
        if cap != np.float32(0):
            for i in range(begin, end):
                f[np.uintp(x + i)] = cap * tanh32(f[np.uintp(x + i)] * scale / cap)
            scale = np.float32(1)
        if slope != np.float32(0):
            for i in range(begin, end):
                f[np.uintp(x + i)] = f[np.uintp(x + i)] * scale - slope * np.float32(
                    abs(behind - i)
                )
            scale = np.float32(1)
        top = _largest(f, x + begin, end - begin)
        for i in range(begin, end):
            f[np.uintp(x + i)] = exp32((f[np.uintp(x + i)] - top) * scale)
        chunk_top = top * scale
        old_top = f[state + TOP]
        new_top = chunk_top if chunk_top > old_top else old_top
        f[factor] = exp32(old_top - new_top)
        f[factor + 1] = exp32(chunk_top - new_top)
        f[state + TOP] = new_top
        f[state + SUM] = f[state + SUM] * f[factor] + total(f, x, end) * f[factor + 1]

    return softmax


# -- attention -------------------------------------------------------------------------------------


def make_attention(keys, values):
    """Return attention to what comes before, for one type of keys and one of values."""
    attend_all = _make_attend_all(keys, values, is_text=False)

    def attention(
        tid, nth, n, f, q, kv, w,
        q0, n_head, n_head_kv, head_dim, value_dim, k_cache, v_cache, n_ctx, scratch, y,
        scale, window, chunk, cap, sinks, has_sinks, slopes, has_slopes,
    ):  # fmt: skip
        attend_all(
            tid, nth, n, f, kv, q0, n_head, n_head_kv, head_dim, value_dim, k_cache, v_cache,
            n_ctx, scratch, y, f[scale], window, chunk, f[cap], sinks, has_sinks, slopes,
            has_slopes,
        )  # fmt: skip

    return attention


def make_text_attention(keys, values):
    """Return attention to all of a text, for one type of keys and one of values."""
    attend_all = _make_attend_all(keys, values, is_text=True)

    def text_attention(
        tid, nth, n, f, q, kv, w,
        q0, n_head, n_head_kv, head_dim, value_dim, k_cache, v_cache, n_ctx, scratch, y,
        scale, window, slopes, has_slopes,
    ):  # fmt: skip
        attend_all(
            tid, nth, n, f, kv, q0, n_head, n_head_kv, head_dim, value_dim, k_cache, v_cache,
            n_ctx, scratch, y, f[scale], window, 0, np.float32(0), 0, 0, slopes, has_slopes,
        )  # fmt: skip

    return text_attention


def _make_attend_all(keys, values, *, is_text):
    """Return what takes this thread's share of all heads and tokens over what they see."""
    attend = _make_attend(keys, values, is_text=is_text)
    block_elements, tile_elements = keys.block, values.tile

    @register_jitable
    def attend_all(
        tid, nth, n, f, kv, q0, n_head, n_head_kv, head_dim, value_dim, k_cache, v_cache, n_ctx,
        scratch, y, scale, window, chunk, cap, sinks, has_sinks, slopes, has_slopes,
    ):  # fmt: skip
        all_heads = n_head // n_head_kv
        group = heads_together(all_heads)
        n_groups = n_head // group
        wide = LANES * n_tiles(value_dim)
        own_scratch = scratch + tid * scratch_floats(all_heads, value_dim)
        item = tid  # dealt like cards: later tokens see more positions and cost more
        for number in range(n[N_SEQUENCES]):
            first, count, position, _, cache_start = sequence(n, number)
            bound = position + count if is_text else chunk
            items = (count + TOKENS - 1) // TOKENS * n_groups
            while item < items:
                block, head = item // n_groups * TOKENS, item % n_groups * group
                item += nth
                t0, n_tokens = first + block, min(count - block, TOKENS)
                k = k_cache + head // all_heads * (n_ctx // LANES) * block_elements(head_dim)
                v = v_cache + head // all_heads * n_tiles(value_dim) * tile_elements(n_ctx)
                attend(
                    f, kv, q0, n_head, group, head, head_dim, value_dim, position + block, t0,
                    n_tokens, cache_start + k, cache_start + v, n_ctx, own_scratch, scale,
                    window, bound, cap, sinks, has_sinks, slopes, has_slopes,
                )  # fmt: skip
                rows = n_tokens * group
                state = own_scratch + 2 * ROWS * CHUNK + 4 * ROWS
                for row in range(rows):
                    inverse = np.float32(1) / f[state + STATE * row + SUM]
                    x = state + STATE * rows + wide * row
                    at = value_dim * (n_head * (t0 + row // group) + head + row % group)
                    for i in range(value_dim):
                        f[y + at + i] = f[x + i] * inverse
            item -= items  # what is left of the deal goes on in the next sequence

    return attend_all


def _make_attend(keys, values, *, is_text):
    """Return what takes the rows of a block of tokens over all they see.

    ``bound`` is the length of a chunk that they see alone; of a text the end.
    """
    scores, weigh, softmax = keys.scores, values.weigh, _make_softmax(values.total)
    first_seen, end_seen = _OF_TEXTS if is_text else _OF_CACHES
    block_elements, seen = keys.block, _make_seen(first_seen, end_seen)

    @register_jitable
    def advance(
        f, kv, qs, seen, slopes, positions, head_dim, value_dim, k, v, first, n_ctx, scratch, scale,
        cap, states, sums,
    ):  # fmt: skip
        """Take some rows over the chunk of positions from ``first`` on.

        Args (tuples have an element for each row): ``qs``, ``states`` and ``sums`` are offsets;
        ``seen`` are the positions of the chunk that each row sees, (begin, end), ascending;
        ``slopes`` by how much scores fall with each position before the row's, ``positions``.
        """
        count = len(qs)
        # multiples of 32: elements keep their places in sums
        skipped, n_scored = seen[0][0] // LANES * LANES, seen[count - 1][1]
        if n_scored <= skipped:
            return
        place = first % n_ctx + skipped
        n_scored -= skipped
        score_rows = _strided(qs, scratch, CHUNK)
        spares = _strided(qs, scratch + ROWS * CHUNK, CHUNK)
        factors = _strided(qs, scratch + 2 * ROWS * CHUNK, 4)
        size = block_elements(head_dim)
        for block in range((n_scored + LANES - 1) // LANES):
            at = k + size * (place // LANES + block)
            scores(f, qs, kv, at, head_dim, _shifted(score_rows, LANES * block))
        for row in range(count):
            begin, end = seen[row]
            softmax(
                f, score_rows[row], begin - skipped, end - skipped, n_scored, scale, cap,
                slopes[row], positions[row] - first - skipped, states[row], factors[row],
            )  # fmt: skip
        weigh(f, score_rows, n_scored, kv, v, place, value_dim, n_ctx, sums, factors, spares)

    @register_jitable
    def attend(
        f, kv, q0, n_head, group, head, head_dim, value_dim, position, t0, n_tokens, k, v, n_ctx,
        scratch, scale, window, bound, cap, sinks, has_sinks, slopes, has_slopes,
    ):  # fmt: skip
        """Take the rows of a block of tokens, ``group`` heads from one on, over all they see."""
        rows = n_tokens * group
        wide = LANES * n_tiles(value_dim)
        state = scratch + 2 * ROWS * CHUNK + 4 * ROWS
        sums = state + STATE * rows
        for row in range(rows):
            # a sink is a score of its own, whose value is 0
            f[state + STATE * row + TOP] = f[sinks + head + row % group] if has_sinks else _LOWEST
            f[state + STATE * row + SUM] = np.float32(1 if has_sinks else 0)
        for i in range(rows * wide):
            f[sums + i] = np.float32(0)
        step = head_dim * n_head
        q1 = q0 + step * t0 + head_dim * head
        first = first_seen(position, window, bound) // CHUNK * CHUNK
        end = end_seen(position + n_tokens - 1, window, bound)
        while first < end:
            row = 0
            while row < rows:
                a, s, x = row // group, state + STATE * row, sums + wide * row
                qa = q1 + step * a + head_dim * (row % group)
                sees_a = seen(position + a, first, window, bound)
                slope_a = _slope(f, slopes, has_slopes, head + row % group)
                if row + ROWS <= rows:
                    b, c, d = (row + 1) // group, (row + 2) // group, (row + 3) // group
                    advance(
                        f, kv,
                        (qa, q1 + step * b + head_dim * ((row + 1) % group),
                         q1 + step * c + head_dim * ((row + 2) % group),
                         q1 + step * d + head_dim * ((row + 3) % group)),
                        (sees_a, seen(position + b, first, window, bound),
                         seen(position + c, first, window, bound),
                         seen(position + d, first, window, bound)),
                        (slope_a, _slope(f, slopes, has_slopes, head + (row + 1) % group),
                         _slope(f, slopes, has_slopes, head + (row + 2) % group),
                         _slope(f, slopes, has_slopes, head + (row + 3) % group)),
                        (position + a, position + b, position + c, position + d),
                        head_dim, value_dim, k, v, first, n_ctx, scratch, scale, cap,
                        (s, s + STATE, s + 2 * STATE, s + 3 * STATE),
                        (x, x + wide, x + 2 * wide, x + 3 * wide),
                    )  # fmt: skip
                    row += ROWS
                else:
                    advance(
                        f, kv, (qa,), (sees_a,), (slope_a,), (position + a,), head_dim, value_dim,
                        k, v, first, n_ctx, scratch, scale, cap, (s,), (x,),
                    )  # fmt: skip
                    row += 1
            first += CHUNK

    return attend


@register_jitable
def _slope(f, slopes, has_slopes, head):
    return f[slopes + head] if has_slopes else np.float32(0)


@register_jitable
def _first_cached(position, window, chunk):
    """Return the first position that a query at ``position`` sees."""
    first = max(position - window + 1, 0) if window > 0 else 0
    return max(first, position // chunk * chunk) if chunk > 0 else first


@register_jitable
def _end_cached(position, window, chunk):
    return position + 1


@register_jitable
def _first_of_text(position, window, end):
    """Return the first position of a text that a query at ``position`` sees."""
    return max(position - window + 1, 0) if window > 0 else 0


@register_jitable
def _end_of_text(position, window, end):
    """Return the position behind the last one that it sees; ``end`` is that behind the text."""
    return min(position + window, end) if window > 0 else end


_OF_CACHES = _first_cached, _end_cached
_OF_TEXTS = _first_of_text, _end_of_text


def _make_seen(first_seen, end_seen):
    """Return which positions of a chunk a query sees; see ``_make_attend`` for the arguments."""

    @register_jitable
    def seen(position, first, window, bound):
        """Return which positions of the chunk from ``first`` on a query sees: begin and end there.

        With a window of 100, position 300 sees 201 to 300: in the chunk from 256 on 0 to 44,
        (0, 45); in the chunk from 0 on 201 to 255, (201, 256).
        """
        begin = first_seen(position, window, bound) - first
        end = end_seen(position, window, bound) - first
        return min(max(begin, 0), CHUNK), min(max(end, 0), CHUNK)

    return seen


@register_jitable
def _strided(like, start, stride):
    """Return as many offsets as ``like`` has elements, ``stride`` apart."""
    if len(like) == 1:
        return (start,)
    return (start, start + stride, start + 2 * stride, start + 3 * stride)


@register_jitable
def _shifted(starts, offset):
    if len(starts) == 1:
        return (starts[0] + offset,)
    return (starts[0] + offset, starts[1] + offset, starts[2] + offset, starts[3] + offset)
