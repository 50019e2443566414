"""Steps on rows of activations: norms, biases, scales, activations (see ``steps``).

``count`` is an index of the header: how many rows.
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic.elementary import (
    exp32,
    expm1_32,
    gelu32,
    sigmoid32,
    sum_of_doubles,
    sum_of_squares,
    tanh32,
)
from gguf_hub.run.kernels.sharing import share

_OAI_SLOPE, _OAI_LIMIT = np.float32(1.702), np.float32(7)

# -- norms -----------------------------------------------------------------------------------------


def rms_norm(tid, nth, n, f, q, kv, w, x, gain, width, epsilon, y, count, per_row):
    """Norm each of the ``per_row`` parts of a row: all of it, or heads. y may be x.

    Source: Zhang and Sennrich, arXiv 1910.07467; the mean is taken in float64 as in ggml.
    """
    first, last = share(n[count] * per_row, tid, nth)
    for t in range(first, last):
        row = x + width * t
        mean = sum_of_squares(f, row, width) / width
        scale = np.float32(1.0 / math.sqrt(mean + np.float64(f[epsilon])))
        for i in range(width):
            normed = f[np.uintp(row + i)] * scale
            f[np.uintp(y + width * t + i)] = normed * f[np.uintp(gain + i)]


def layer_norm(
    tid, nth, n, f, q, kv, w, x, gain, bias, width, epsilon, y, count, per_row, step
):  # fmt: skip
    """Norm each of the ``per_row`` parts of a row, part p with the gain at ``gain + step * p``.

    Source: arXiv 1607.06450; mean and variance are taken in float64. y may be x.
    """
    first, last = share(n[count] * per_row, tid, nth)
    for t in range(first, last):
        row, out, own = x + width * t, y + width * t, step * (t % per_row)
        mean = np.float32(sum_of_doubles(f, row, width) / width)
        for i in range(width):
            f[np.uintp(out + i)] = f[np.uintp(row + i)] - mean
        variance = sum_of_squares(f, out, width) / width
        scale = np.float32(1.0 / math.sqrt(variance + np.float64(f[epsilon])))
        for i in range(width):
            normed = f[np.uintp(out + i)] * scale * f[np.uintp(gain + own + i)]
            f[np.uintp(out + i)] = normed + f[np.uintp(bias + own + i)]


# -- sums and scales -------------------------------------------------------------------------------


def add_bias(tid, nth, n, f, q, kv, w, y, bias, width, count):
    """Add the bias to each row."""
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        for i in range(width):
            f[np.uintp(y + width * t + i)] += f[np.uintp(bias + i)]


def add_rows(tid, nth, n, f, q, kv, w, x, y, width, factor, count):
    """Add y times the factor to x."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        f[np.uintp(x + i)] += f[factor] * f[np.uintp(y + i)]


def scale_rows(tid, nth, n, f, q, kv, w, x, width, factor, count):
    """Multiply x with the factor."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        f[np.uintp(x + i)] *= f[factor]


def soft_cap(tid, nth, n, f, q, kv, w, x, width, cap, count):
    """Turn x into cap * tanh(x / cap) (arXiv 2408.00118, section 2)."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        f[np.uintp(x + i)] = f[cap] * tanh32(f[np.uintp(x + i)] / f[cap])


def clamp_rows(tid, nth, n, f, q, kv, w, x, width, cap, count):
    """Bring x within -cap .. cap; NaN stays NaN."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        value = f[np.uintp(x + i)]
        value = f[cap] if value > f[cap] else value
        f[np.uintp(x + i)] = -f[cap] if value < -f[cap] else value


def sigmoid_scale(tid, nth, n, f, q, kv, w, y, gate, width, per_row, count):
    """Multiply each part of a row with the sigmoid of its gate."""
    first, last = share(n[count] * per_row, tid, nth)
    for t in range(first, last):
        factor = sigmoid32(f[gate + t])
        for i in range(width):
            f[np.uintp(y + width * t + i)] *= factor


def match_lengths(tid, nth, n, f, q, kv, w, y, x, width, count):
    """Multiply each row of y with the length of that of x, divided by its own."""
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        row = y + width * t
        factor = math.sqrt(sum_of_squares(f, x + width * t, width))
        scale = np.float32(factor / math.sqrt(sum_of_squares(f, row, width)))
        for i in range(width):
            f[np.uintp(row + i)] *= scale


def sparsify(tid, nth, n, f, q, kv, w, x, width, factor, count):
    """Leave of each element what it is above mean + factor * standard deviation of its row.

    Of rows of one element the deviation is 0.
    """
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        row = x + width * t
        mean = np.float32(sum_of_doubles(f, row, width) / width)
        total = 0.0
        for i in range(width):
            apart = np.float64(f[np.uintp(row + i)] - mean)
            total += apart * apart
        deviation = np.float32(math.sqrt(total / max(1, width - 1)))
        cutoff = mean + f[factor] * deviation
        for i in range(width):
            above = f[np.uintp(row + i)] - cutoff
            f[np.uintp(row + i)] = above if above > np.float32(0) else np.float32(0)


# -- streams of alternating updates (arXiv 2301.13310) ---------------------------------------------


def altup_predict(tid, nth, n, f, q, kv, w, x, stride, gates, weights, n_stream, width, y, count):
    """y[j] = x[j] + sum over k of c[j, k] x[k], with c = weights [A, A, A] times the token's gates.

    Streams are [T, D], ``stride`` apart; gates are [T, A].
    """
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        for j in range(n_stream):
            out = y + stride * j + width * t
            for i in range(width):
                f[np.uintp(out + i)] = np.float32(0)
            for k in range(n_stream):
                row = weights + n_stream * (n_stream * j + k)
                factor = _gated(f, row, gates + n_stream * t, n_stream)
                source = x + stride * k + width * t
                for i in range(width):
                    f[np.uintp(out + i)] += factor * f[np.uintp(source + i)]
            source = x + stride * j + width * t
            for i in range(width):
                f[np.uintp(out + i)] += f[np.uintp(source + i)]


def altup_correct(
    tid, nth, n, f, q, kv, w, x, predicted, stride, gates, weights, n_stream, width, y, count
):
    """y[j] = p[j] + (1 + c[j]) (x - p[0]), with c = weights [A, A] times the token's gates."""
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        for j in range(n_stream):
            gate = _gated(f, weights + n_stream * j, gates + n_stream * t, n_stream)
            factor = gate + np.float32(1)
            out, old = y + stride * j + width * t, predicted + stride * j + width * t
            active, new = predicted + width * t, x + width * t
            for i in range(width):
                change = f[np.uintp(new + i)] - f[np.uintp(active + i)]
                f[np.uintp(out + i)] = change * factor + f[np.uintp(old + i)]


@register_jitable
def _gated(f, row, gates, n_stream):
    total = np.float32(0)
    for m in range(n_stream):
        total += f[row + m] * f[gates + m]
    return total


# -- activations -----------------------------------------------------------------------------------


def silu_mul(tid, nth, n, f, q, kv, w, gate, up, width, count):
    """SwiGLU: gate / (1 + exp(-gate)) * up (arXiv 2002.05202)."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        x = f[np.uintp(gate + i)]
        f[np.uintp(gate + i)] = x / (np.float32(1) + exp32(-x)) * f[np.uintp(up + i)]


def gelu_mul(tid, nth, n, f, q, kv, w, gate, up, width, count):
    """GEGLU: gelu(gate) * up (arXiv 2002.05202); in float32, where ggml has a float16 table."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        f[np.uintp(gate + i)] = gelu32(f[np.uintp(gate + i)]) * f[np.uintp(up + i)]


def swiglu_clamp(tid, nth, n, f, q, kv, w, gate, up, width, limit, count):
    """SwiGLU of which silu(gate) is limit at most, and up within -limit and limit (Step 3.5)."""
    first, last = share(n[count] * width, tid, nth)
    most = f[limit]
    for i in range(first, last):
        x, z = f[np.uintp(gate + i)], f[np.uintp(up + i)]
        x = x / (np.float32(1) + exp32(-x))
        x = most if x > most else x
        z = most if z > most else z
        z = -most if z < -most else z
        f[np.uintp(gate + i)] = x * z


def relu_mul(tid, nth, n, f, q, kv, w, gate, up, width, count):
    """ReGLU: max(gate, 0) * up (arXiv 2002.05202)."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        x = f[np.uintp(gate + i)]
        x = np.float32(0) if x < np.float32(0) else x
        f[np.uintp(gate + i)] = x * f[np.uintp(up + i)]


def swiglu_oai(tid, nth, n, f, q, kv, w, gate, up, width, count):
    """gpt-oss's clamped SwiGLU: gate * sigmoid(1.702 gate) * (up + 1) (arXiv 2508.10925)."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        x, z = f[np.uintp(gate + i)], f[np.uintp(up + i)]
        x = _OAI_LIMIT if x > _OAI_LIMIT else x
        z = _OAI_LIMIT if z > _OAI_LIMIT else z
        z = -_OAI_LIMIT if z < -_OAI_LIMIT else z
        f[np.uintp(gate + i)] = x * sigmoid32(_OAI_SLOPE * x) * (z + np.float32(1))


def relu2(tid, nth, n, f, q, kv, w, gate, width, count):
    """Squared ReLU, max(x, 0)**2, in place (arXiv 2109.08668)."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        x = f[np.uintp(gate + i)]
        f[np.uintp(gate + i)] = np.float32(0) if x < np.float32(0) else x * x


def gelu(tid, nth, n, f, q, kv, w, gate, width, count):
    """GELU with the tanh form, in place; in float32, where ggml has a float16 table."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        f[np.uintp(gate + i)] = gelu32(f[np.uintp(gate + i)])


def xielu(tid, nth, n, f, q, kv, w, gate, a, width, count):
    """Activation xIELU, in place; alpha_n, alpha_p, beta, eps lie at ``a`` (arXiv 2411.13010)."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        x = f[np.uintp(gate + i)]
        beta_x = f[a + 2] * x
        below = f[a + 3] if x > f[a + 3] else x
        negative = (expm1_32(below) - x) * f[a] + beta_x
        f[np.uintp(gate + i)] = f[a + 1] * x * x + beta_x if x > np.float32(0) else negative
