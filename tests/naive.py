"""Oracles of the kernels: numpy, written from the formats, with no eye on speed.

Formats: struct block_* in ggml/src/ggml-common.h and dequantize_row_* in ggml/src/ggml-quants.c.
Each struct is a numpy dtype here, and each packed field is spread out into one integer for each
weight, so that nothing is shared with the kernels' way of walking through a block.
"""

from __future__ import annotations

import numpy as np

from gguf_hub.gguf.types import QuantType
from tests import naive_codes
from tests.naive_fields import F16, I8, U8, bits, nibbles, pairs, single

STRUCTS = {
    **naive_codes.STRUCTS,
    QuantType.Q4_0: [("d", F16), ("qs", U8, 16)],
    QuantType.Q4_1: [("d", F16), ("m", F16), ("qs", U8, 16)],
    QuantType.Q5_0: [("d", F16), ("qh", U8, 4), ("qs", U8, 16)],
    QuantType.Q5_1: [("d", F16), ("m", F16), ("qh", U8, 4), ("qs", U8, 16)],
    QuantType.Q8_0: [("d", F16), ("qs", I8, 32)],
    QuantType.Q2_K: [("scales", U8, 16), ("qs", U8, 64), ("d", F16), ("dmin", F16)],
    QuantType.Q3_K: [("hmask", U8, 32), ("qs", U8, 64), ("scales", U8, 12), ("d", F16)],
    QuantType.Q4_K: [("d", F16), ("dmin", F16), ("scales", U8, 12), ("qs", U8, 128)],
    QuantType.Q5_K: [
        ("d", F16), ("dmin", F16), ("scales", U8, 12), ("qh", U8, 32), ("qs", U8, 128),
    ],
    QuantType.Q6_K: [("ql", U8, 128), ("qh", U8, 64), ("scales", I8, 16), ("d", F16)],
}  # fmt: skip


def dequantize(type: QuantType, blocks: np.ndarray) -> np.ndarray:
    """Return the float32 weights, [n], of blocks given as bytes (uint8, any shape)."""
    raw = np.ascontiguousarray(blocks, dtype=np.uint8).reshape(-1)
    if type == QuantType.F32:
        return raw.view("<f4").copy()
    if type == QuantType.F16:
        return raw.view("<f2").astype(np.float32)
    if type == QuantType.BF16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    product, minimum = scaled_and_minimum(type, raw)
    return product - minimum


def scaled_and_minimum(type: QuantType, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts of quantised weights, float32 [n] each: weight = scaled - minimum."""
    raw = np.ascontiguousarray(blocks, dtype=np.uint8).reshape(-1)
    fields = raw.view(np.dtype(STRUCTS[type]))
    assert fields.dtype.itemsize == type.type_size
    quants, scale, minimum = _PARTS[type](fields)
    quants = quants.reshape(*scale.shape, -1).astype(np.float32)
    # float32 throughout, rounded after each step as ggml does: first scale * step, then - minimum
    scaled = (scale[..., None] * quants).astype(np.float32)
    return scaled.reshape(-1), np.broadcast_to(minimum[..., None], quants.shape).reshape(-1)


def _q4_0(x):
    return nibbles(x["qs"]) - 8, single(x["d"]), np.zeros(len(x), np.float32)


def _q4_1(x):
    return nibbles(x["qs"]), single(x["d"]), -single(x["m"])


def _q5_0(x):
    quants = nibbles(x["qs"]) + 16 * bits(x["qh"])
    return quants - 16, single(x["d"]), np.zeros(len(x), np.float32)


def _q5_1(x):
    return nibbles(x["qs"]) + 16 * bits(x["qh"]), single(x["d"]), -single(x["m"])


def _q8_0(x):
    return x["qs"].astype(np.int32), single(x["d"]), np.zeros(len(x), np.float32)


def _q2_k(x):
    """16 groups of 16; scale in the low half of a byte, minimum in the high half."""
    quants = pairs(x["qs"].reshape(-1, 2, 32))
    scale = single(x["d"])[:, None] * (x["scales"] & 15).astype(np.float32)
    minimum = single(x["dmin"])[:, None] * (x["scales"] >> 4).astype(np.float32)
    return quants, scale, minimum


def _q3_k(x):
    """16 groups of 16; a clear bit in hmask takes 4 off; six-bit scales stored with 32 added."""
    low = pairs(x["qs"].reshape(-1, 2, 32)).reshape(-1, 256)
    # bit k of hmask byte l belongs to weight 32 k + l
    high = bits(x["hmask"]).reshape(-1, 32, 8).transpose(0, 2, 1).reshape(-1, 256)
    scale_low = nibbles(x["scales"][:, :8])
    scale_high = pairs(x["scales"][:, 8:])
    scale = single(x["d"])[:, None] * (scale_low + 16 * scale_high - 32).astype(np.float32)
    return low + 4 * high - 4, scale, np.zeros_like(scale)


def _scales_and_minima(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[B, 12] bytes -> eight six-bit scales and eight six-bit minima, [B, 8] each.

    Bytes 0-3 hold scales 0-3, bytes 4-7 minima 0-3, in six bits; their upper two bits are the
    upper two of scales 4-7 and minima 4-7, whose low four are in the halves of bytes 8-11.
    """
    first, second, third = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    scale = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    minimum = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def _q4_k(x):
    scale, minimum = _scales_and_minima(x["scales"])
    quants = nibbles(x["qs"].reshape(-1, 4, 32))
    return quants, single(x["d"])[:, None] * scale, single(x["dmin"])[:, None] * minimum


def _q5_k(x):
    low, scale, minimum = _q4_k(x)
    # bit k of qh byte l belongs to weight 32 k + l
    high = bits(x["qh"]).reshape(-1, 32, 8).transpose(0, 2, 1).reshape(-1, 256)
    return low.reshape(-1, 256) + 16 * high, scale, minimum


def _q6_k(x):
    """16 groups of 16 with signed scales; halves of 128 weights, stored with 32 added."""
    low = nibbles(x["ql"].reshape(-1, 2, 64))
    high = pairs(x["qh"].reshape(-1, 2, 32))
    scale = single(x["d"])[:, None] * x["scales"].astype(np.float32)
    return low + 16 * high - 32, scale, np.zeros_like(scale)


_PARTS = {
    **naive_codes.PARTS,
    QuantType.Q4_0: _q4_0,
    QuantType.Q4_1: _q4_1,
    QuantType.Q5_0: _q5_0,
    QuantType.Q5_1: _q5_1,
    QuantType.Q8_0: _q8_0,
    QuantType.Q2_K: _q2_k,
    QuantType.Q3_K: _q3_k,
    QuantType.Q4_K: _q4_k,
    QuantType.Q5_K: _q5_k,
    QuantType.Q6_K: _q6_k,
}


def quantize_activations(x: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return steps, int8 [n], and scales, float32 [n / block_size], of a row of activations.

    A scale is the largest magnitude of the block over 127 in float32. A block that holds an
    infinity or NaN has the scale NaN and steps of zero, so that it cannot pass unseen.
    """
    blocks = x.astype(np.float32).reshape(-1, block_size)
    finite = np.isfinite(blocks).all(axis=1)
    blocks = np.where(finite[:, None], blocks, np.float32(0))
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    ratio = blocks / np.where(scale > 0, scale, np.float32(1))[:, None]
    ratio = np.where(scale[:, None] > 0, ratio, np.float32(0))
    # half away from zero; in float64, where adding a half to a float32 is exact
    quants = np.trunc(np.abs(ratio.astype(np.float64)) + 0.5) * np.sign(ratio)
    scale = np.where(finite, scale, np.float32(np.nan))
    return np.clip(quants, -127, 127).astype(np.int8).reshape(-1), scale


def group_sums(quants: np.ndarray, scale: np.ndarray, group_size: int) -> np.ndarray:
    """Return scale times the sum of the steps for each group, float32 [n / group_size]."""
    sums = quants.reshape(-1, group_size).sum(axis=1, dtype=np.int64).astype(np.float32)
    return np.repeat(scale, len(sums) // len(scale)) * sums


def activations(kind: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the int8 array ``q`` and the float32 array ``f`` of a row, as ``kind`` lays it out."""
    if kind == "f32":
        return np.zeros(0, np.int8), x.astype(np.float32)
    if kind == "q8_0":
        quants, scale = quantize_activations(x, 32)
        is_half = (scale >= 2.0**-14) & (scale <= 65504)  # ggml's block_q8_0 keeps a half
        half = np.where(is_half, scale, 0).astype(np.float16).astype(np.float32)
        scale = np.where(is_half, half, scale)
        q = np.concatenate([quants, step_sums(quants, 32, "<i4")])
        return q, np.concatenate([scale, group_sums(quants, scale, 32)])
    quants, scale = quantize_activations(x, 256)
    sums = [group_sums(quants, scale, size) for size in (16, 32)]
    q = np.concatenate([quants, *(step_sums(quants, size, "<i2") for size in (16, 32))])
    return q, np.concatenate([scale, *sums])


def step_sums(quants: np.ndarray, group_size: int, dtype: str) -> np.ndarray:
    """Return the bytes, int8, of the sums of the steps of each group."""
    return quants.reshape(-1, group_size).sum(axis=1, dtype=np.int64).astype(dtype).view(np.int8)


def activation_values(kind: str, q: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Return the values, float64 [n], that a row laid out as ``kind`` stands for."""
    if kind == "f32":
        return f.astype(np.float64)
    block_size, block_bytes = (32, 36) if kind == "q8_0" else (256, 304)
    n = len(q) // block_bytes * block_size
    scale = f[: n // block_size].astype(np.float64)
    return np.repeat(scale, block_size) * q[:n]


def dot(type: QuantType, blocks: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the dot product of a weight row with activation values, in float64, and its size.

    Returns:
        The product, and the sum of the magnitudes of all terms that enter it (with the minima
        apart from the scaled steps, as they are summed apart): what rounding errors scale with.
    """
    weights = dequantize(type, blocks).astype(np.float64)
    if type.block_size == 1:
        magnitude = np.abs(weights)
    else:
        scaled, minimum = scaled_and_minimum(type, blocks)
        magnitude = np.abs(scaled.astype(np.float64)) + np.abs(minimum.astype(np.float64))
        weights = scaled.astype(np.float64) - minimum
    return float(weights @ values), float(magnitude @ np.abs(values))


def multiply_add(
    factor: np.float32, number: np.float32, total: np.float32, *, is_fused: bool
) -> np.float32:
    """Return factor * number + total, rounded once (``fma``) or after each operation."""
    if not is_fused:
        return np.float32(np.float32(factor * number) + total)
    # the product of two float32 is exact in float64
    return np.float32(np.float64(factor) * np.float64(number) + np.float64(total))


def ordered_dot(
    type: QuantType, blocks: np.ndarray, scales: dict[str, int], q: np.ndarray, f: np.ndarray,
    *, is_fused: bool = True,
) -> np.float32:  # fmt: skip
    """Return the dot product of a row with an activation row, to the last bit.

    The kernels' definition of the sum: a block's integers exactly, block b to lane b % 8 by one
    ``fma``, minima of blocks of 256 before that and of blocks of 32 after it, then lane after lane.

    Args:
        type: A quantised type.
        blocks: Bytes of the weights' blocks.
        scales: Where in a block its ``scale`` lies, and its ``minimum`` where the type has one.
        q: The activation row's integers, as ``activations`` gives them.
        f: Its floats.
        is_fused: Whether ``fma`` rounds once; some GPUs multiply and add.
    """
    raw = blocks.reshape(-1, type.type_size)
    ones = raw.copy()
    for at in scales.values():
        ones[:, at : at + 2] = 0x00, 0x3C  # 1.0: what is left are whole numbers
    halves = {name: raw[:, at : at + 2].copy().view("<f2")[:, 0] for name, at in scales.items()}
    halves = {name: half.astype(np.float32) for name, half in halves.items()}
    quants = q[: len(raw) * type.block_size].reshape(len(raw), -1).astype(np.float64)
    weights, minima = (
        (part.reshape(quants.shape) * quants).sum(axis=1).astype(np.float32)
        for part in scaled_and_minimum(type, ones)
    )
    lanes = np.zeros(8, np.float32)
    for b in range(len(raw)):
        terms = [(halves["scale"][b] * f[b], weights[b])]
        if "minimum" in scales and type.block_size == 256:
            terms.insert(0, (-halves["minimum"][b] * f[b], minima[b]))
        elif "minimum" in scales:
            terms.append((halves["minimum"][b], f[len(raw) + b]))
        for factor, number in terms:
            lanes[b % 8] = multiply_add(factor, number, lanes[b % 8], is_fused=is_fused)
    total = np.float32(0)
    for lane in lanes:
        total += lane
    return total


def ordered_code_dot(
    type: QuantType, blocks: np.ndarray, q: np.ndarray, f: np.ndarray, *, is_fused: bool = True
) -> np.float32:
    """Return what ``ordered_dot`` does, of a type whose weights are codes.

    Of blocks of 256 the sum is that of scales times whole numbers, one ``fma`` a block; of others
    32 weights count as a block, with one ``fma`` for each group that has a factor of its own.
    """
    fields = np.ascontiguousarray(blocks).reshape(-1).view(np.dtype(STRUCTS[type]))
    quants, factors, _ = _PARTS[type](fields)
    size = 256 if type.block_size == 256 else 32
    if size == 256:
        factors, numbers = naive_codes.block_factors(fields), dequantize(type, blocks)
        numbers = numbers.reshape(-1, 256) / factors.astype(np.float64)[:, None]
    else:
        numbers = quants.reshape(-1, quants.size // factors.size).astype(np.float64)
        factors = np.repeat(factors.reshape(-1), max(1, numbers.shape[1] // 32))
        numbers = numbers.reshape(len(factors), -1)
    products = numbers * q[: numbers.size].reshape(numbers.shape).astype(np.float64)
    lanes = np.zeros(8, np.float32)
    for unit, total in enumerate(products.sum(axis=1).astype(np.float32)):
        b = unit * numbers.shape[1] // size
        factor = factors[unit] * f[b]
        lanes[b % 8] = multiply_add(factor, total, lanes[b % 8], is_fused=is_fused)
    result = np.float32(0)
    for lane in lanes:
        result += lane
    return result


def ordered_float_dot(weights: np.ndarray, values: np.ndarray) -> np.float32:
    """Return the dot product of a row of floats with a token, to the last bit.

    The kernels' definition of the sum: weight k to sum k % 16 by one ``fma``, the upper eight to
    the lower, what is over to the first, then upper halves to lower ones.
    """
    sums = np.zeros(16, np.float32)
    products = weights.astype(np.float64) * values.astype(np.float64)  # exact
    n_full = len(weights) // 16 * 16
    for sixteen in products[:n_full].reshape(-1, 16):
        sums = (sixteen + sums).astype(np.float32)
    sums = sums[:8] + sums[8:]
    for product in products[n_full:]:
        sums[0] = np.float32(product + np.float64(sums[0]))
    while len(sums) > 1:
        half = len(sums) // 2
        sums = sums[:half] + sums[half:]
    return np.float32(sums[0])
