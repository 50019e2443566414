"""Steps of layers that carry a state from token to token (see ``steps``).

A slot's state lies in ``f`` at ``state + stride * slot``. Before position 0 a state is zero,
whatever lies there. Tokens of a sequence follow one another; threads share channels or heads, so a
token's numbers are the same alone and among others.

Shape letters: T tokens, C channels, H heads, G groups of heads that share what they read.
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic.elementary import exp32, sigmoid32, sum_of_squares
from gguf_hub.run.kernels.sharing import share
from gguf_hub.run.kernels.steps import sequence
from gguf_hub.run.kernels.vm.ops import N_SEQUENCES

_COLUMNS = 32  # of a head's state that are one unit of work: 16 KB at 128 rows, the first cache


@register_jitable
def _softplus(x):
    """Return ln(1 + e**x), in float64."""
    x = np.float64(x)
    return x if x > 40.0 else math.log1p(math.exp(x))


# -- rows ------------------------------------------------------------------------------------------


def mul_rows(tid, nth, n, f, q, kv, w, y, y_stride, x, x_stride, width, count):
    """Multiply elements of y with those of x."""
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        source, target = x + x_stride * t, y + y_stride * t
        for i in range(width):
            f[np.uintp(target + i)] *= f[np.uintp(source + i)]


def sigmoid_gate(tid, nth, n, f, q, kv, w, y, gate, stride, width, per_row, count):
    """Multiply each element with the sigmoid of its gate; gates' parts lie ``stride`` apart."""
    first, last = share(n[count] * per_row, tid, nth)
    for r in range(first, last):
        source, target = gate + stride * r, y + width * r
        for i in range(width):
            f[np.uintp(target + i)] *= sigmoid32(f[np.uintp(source + i)])


def silu_gate(tid, nth, n, f, q, kv, w, y, gate, stride, width, count):
    """Multiply each element with its gate times the gate's sigmoid."""
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        source, target = gate + stride * t, y + width * t
        for i in range(width):
            z = f[np.uintp(source + i)]
            f[np.uintp(target + i)] *= z / (np.float32(1) + exp32(-z))


def group_norm(tid, nth, n, f, q, kv, w, x, gain, width, n_group, epsilon, count):
    """Norm each group of a row in place by its root mean square; each has gains of its own."""
    first, last = share(n[count] * n_group, tid, nth)
    for part in range(first, last):
        row, gains = x + width * part, gain + width * (part % n_group)
        mean = sum_of_squares(f, row, width) / width
        scale = np.float32(1.0 / math.sqrt(mean + np.float64(f[epsilon])))
        for i in range(width):
            f[np.uintp(row + i)] = f[np.uintp(row + i)] * scale * f[np.uintp(gains + i)]


def l2_norm(tid, nth, n, f, q, kv, w, x, stride, width, per_row, epsilon, count):
    """Divide the first ``per_row`` parts of each row by their lengths, in place.

    The epsilon is added under the root, which llama.cpp's logits agree with.
    """
    first, last = share(n[count] * per_row, tid, nth)
    for part in range(first, last):
        row = x + stride * (part // per_row) + width * (part % per_row)
        total = sum_of_squares(f, row, width)
        scale = np.float32(1.0 / math.sqrt(total + np.float64(f[epsilon])))
        for i in range(width):
            f[np.uintp(row + i)] *= scale


# -- states ----------------------------------------------------------------------------------------


@register_jitable
def _clear(f, x, n):
    for i in range(n):
        f[np.uintp(x + i)] = np.float32(0)


def causal_conv(
    tid, nth, n, f, q, kv, w, x, stride, taps, n_taps, bias, has_bias, is_silu, state,
    state_stride, width, y,
):  # fmt: skip
    """Convolve each channel with its last inputs: x [T, C], taps [taps, C], y [T, C].

    The state is the last taps - 1 inputs, [taps - 1, C], oldest first. With 4 taps, token 1 of a
    sequence reads rows 1 and 2 of the state and then inputs 0 and 1.
    """
    first, last = share(width, tid, nth)
    n_past = n_taps - 1
    for number in range(n[N_SEQUENCES]):
        t0, tokens, position, slot, _ = sequence(n, number)
        past, inputs = state + state_stride * slot, x + stride * t0
        if position == 0:
            for j in range(n_past):
                _clear(f, past + width * j + first, last - first)
        for t in range(tokens):
            out = y + width * (t0 + t)
            for c in range(first, last):
                f[np.uintp(out + c)] = f[np.uintp(bias + c)] if has_bias else np.float32(0)
            for j in range(n_taps):
                at, tap = t - n_past + j, taps + width * j
                row = inputs + stride * at if at >= 0 else past + width * (n_past + at)
                for c in range(first, last):
                    f[np.uintp(out + c)] += f[np.uintp(tap + c)] * f[np.uintp(row + c)]
            if is_silu:
                for c in range(first, last):
                    z = f[np.uintp(out + c)]
                    f[np.uintp(out + c)] = z / (np.float32(1) + exp32(-z))
        for j in range(n_past):  # a row is overwritten after it was moved
            at = tokens - n_past + j
            row = inputs + stride * at if at >= 0 else past + width * (n_past + at)
            for c in range(first, last):
                f[np.uintp(past + width * j + c)] = f[np.uintp(row + c)]


def mamba2_scan(
    tid, nth, n, f, q, kv, w, x, dt, dt_stride, dt_bias, a, d, state, state_stride,
    n_head, n_group, head_dim, n_state, y,
):  # fmt: skip
    """Scan heads: S = e**(dt a) S + dt B x^T, y = C S + d x, with dt = softplus(dt + bias).

    A row of x is [H, head_dim], then B and C, [G, n_state] each; head h reads those of group
    h // (H / G). A head's state is [n_state, head_dim], so that its sums are whole vectors.
    Source: arXiv 2405.21060, section 6, one token after another.
    """
    first, last = share(n_head, tid, nth)
    inner, size = n_head * head_dim, n_state * head_dim
    width = inner + 2 * n_group * n_state
    for number in range(n[N_SEQUENCES]):
        t0, tokens, position, slot, _ = sequence(n, number)
        for h in range(first, last):
            s = state + state_stride * slot + size * h
            group = h // (n_head // n_group)
            if position == 0:
                _clear(f, s, size)
            for t in range(t0, t0 + tokens):
                row = x + width * t + head_dim * h
                b = x + width * t + inner + n_state * group
                c, out = b + n_group * n_state, y + inner * t + head_dim * h
                pace = _softplus(f[dt + dt_stride * t + h] + f[dt_bias + h])
                decay = np.float32(math.exp(pace * np.float64(f[a + h])))
                pace = np.float32(pace)
                for i in range(head_dim):
                    f[np.uintp(out + i)] = f[d + h] * f[np.uintp(row + i)]
                for k in range(n_state):
                    into, outof = pace * f[b + k], f[c + k]
                    at = s + head_dim * k
                    for i in range(head_dim):
                        value = f[np.uintp(at + i)] * decay + into * f[np.uintp(row + i)]
                        f[np.uintp(at + i)] = value
                        f[np.uintp(out + i)] += value * outof


def mamba_scan(
    tid, nth, n, f, q, kv, w, x, dt, dt_bias, b, c, a, d, state, state_stride, width, n_state, y,
):  # fmt: skip
    """Scan channels: s = e**(dt a) s + dt x b, y = s c + d x, with dt = softplus(dt + bias).

    x, dt and y are [T, C], b and c are [T, n_state], a and a state are [n_state, C]; what dt makes
    is left in dt. Source: arXiv 2312.00752, section 3, one token after another.
    """
    first, last = share(width, tid, nth)
    for number in range(n[N_SEQUENCES]):
        t0, tokens, position, slot, _ = sequence(n, number)
        s = state + state_stride * slot
        if position == 0:
            for k in range(n_state):
                _clear(f, s + width * k + first, last - first)
        for t in range(t0, t0 + tokens):
            row, pace, out = x + width * t, dt + width * t, y + width * t
            for i in range(first, last):
                total = f[np.uintp(pace + i)] + f[np.uintp(dt_bias + i)]
                f[np.uintp(pace + i)] = np.float32(_softplus(total))
                f[np.uintp(out + i)] = f[np.uintp(d + i)] * f[np.uintp(row + i)]
            for k in range(n_state):
                at, rate = s + width * k, a + width * k
                into, outof = f[b + n_state * t + k], f[c + n_state * t + k]
                for i in range(first, last):
                    decay = exp32(f[np.uintp(pace + i)] * f[np.uintp(rate + i)])
                    new = f[np.uintp(pace + i)] * f[np.uintp(row + i)] * into
                    value = f[np.uintp(at + i)] * decay + new
                    f[np.uintp(at + i)] = value
                    f[np.uintp(out + i)] += value * outof


@register_jitable
def _delta_token(f, s, n, width, key, query, value, out, decay, beta, scale):
    """Update ``width`` columns of a head's state by one token, and read them."""
    _clear(f, out, width)
    for k in range(n):
        at, factor = s + n * k, f[key + k]
        for i in range(width):
            kept = f[np.uintp(at + i)] * decay
            f[np.uintp(at + i)] = kept
            f[np.uintp(out + i)] += kept * factor
    for i in range(width):
        f[np.uintp(value + i)] = (f[np.uintp(value + i)] - f[np.uintp(out + i)]) * beta
    _clear(f, out, width)
    for k in range(n):
        at, into, outof = s + n * k, f[key + k], f[query + k]
        for i in range(width):
            new = f[np.uintp(at + i)] + into * f[np.uintp(value + i)]
            f[np.uintp(at + i)] = new
            f[np.uintp(out + i)] += new * outof
    for i in range(width):
        f[np.uintp(out + i)] *= scale


def delta_scan(
    tid, nth, n, f, q, kv, w, x, beta, alpha, stride, group, group_stride, dt_bias, a,
    state, state_stride, n_head_k, n_head, head_dim, is_tiled, y,
):  # fmt: skip
    """Scan heads: S = g S, S = S + k beta (v - k^T S), y = q^T S / root(d): the gated delta rule.

    A row of x is q and k, [n_head_k, d] each, and v, [H, d], which is overwritten. Head h reads
    q and k of head h % n_head_k if ``is_tiled``, else h // (H / n_head_k). g = e**(a softplus(alpha
    + dt_bias)), and beta is taken as a sigmoid; theirs of head h lie at h // group * group_stride +
    h % group of rows ``stride`` apart. A head's state is [key, value].
    Source: arXiv 2412.06464, equation 10, one token after another.
    """
    n_block = (head_dim + _COLUMNS - 1) // _COLUMNS
    first, last = share(n_head * n_block, tid, nth)
    row_width = (2 * n_head_k + n_head) * head_dim
    scale = np.float32(1.0 / math.sqrt(np.float64(head_dim)))
    for number in range(n[N_SEQUENCES]):
        t0, tokens, position, slot, _ = sequence(n, number)
        for unit in range(first, last):
            h, column = unit // n_block, unit % n_block * _COLUMNS
            width = min(_COLUMNS, head_dim - column)
            s = state + state_stride * slot + head_dim * head_dim * h + column
            shared = h % n_head_k if is_tiled else h // (n_head // n_head_k)
            gate = h // group * group_stride + h % group
            if position == 0:
                for k in range(head_dim):
                    _clear(f, s + head_dim * k, width)
            for t in range(t0, t0 + tokens):
                row = x + row_width * t
                query, key = row + head_dim * shared, row + head_dim * (n_head_k + shared)
                value = row + head_dim * (2 * n_head_k + h) + column
                out = y + head_dim * (n_head * t + h) + column
                pace = _softplus(f[alpha + stride * t + gate] + f[dt_bias + h])
                decay = np.float32(math.exp(pace * np.float64(f[a + h])))
                _delta_token(
                    f, s, head_dim, width, key, query, value, out, decay,
                    sigmoid32(f[beta + stride * t + gate]), scale,
                )  # fmt: skip
