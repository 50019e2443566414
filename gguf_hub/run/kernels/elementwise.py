"""Steps on rows of activations: norms, biases, scales, activations (see ``steps``).

``count`` is an index of the header: how many rows.
"""

from __future__ import annotations

import math

import numpy as np

from gguf_hub.run.kernels.generic.elementary import (
    exp32,
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


def layer_norm(tid, nth, n, f, q, kv, w, x, gain, bias, width, epsilon, y, count):
    """Source: arXiv 1607.06450; mean and variance are taken in float64. y may be x."""
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        row, out = x + width * t, y + width * t
        mean = np.float32(sum_of_doubles(f, row, width) / width)
        for i in range(width):
            f[np.uintp(out + i)] = f[np.uintp(row + i)] - mean
        variance = sum_of_squares(f, out, width) / width
        scale = np.float32(1.0 / math.sqrt(variance + np.float64(f[epsilon])))
        for i in range(width):
            normed = f[np.uintp(out + i)] * scale * f[np.uintp(gain + i)]
            f[np.uintp(out + i)] = normed + f[np.uintp(bias + i)]


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


def sigmoid_scale(tid, nth, n, f, q, kv, w, y, gate, width, count):
    """Multiply each row with the sigmoid of its gate."""
    first, last = share(n[count], tid, nth)
    for t in range(first, last):
        factor = sigmoid32(f[gate + t])
        for i in range(width):
            f[np.uintp(y + width * t + i)] *= factor


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
    """GELU with the tanh form, in place (arXiv 1606.08415, section 2); see ``gelu_mul``."""
    first, last = share(n[count] * width, tid, nth)
    for i in range(first, last):
        f[np.uintp(gate + i)] = gelu32(f[np.uintp(gate + i)])
