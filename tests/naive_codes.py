"""Oracles of the types whose weights are codes; see ``naive``.

A function takes blocks, as an array of structs, and returns whole numbers or magnitudes of the
weights, the factor of each group, and minima of zero.
"""

from __future__ import annotations

import numpy as np

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.generic import grids
from tests.naive_fields import F16, U8, U16, U32, bits, nibbles, pairs, single

STRUCTS = {
    QuantType.IQ1_S: [("d", F16), ("qs", U8, 32), ("qh", U16, 8)],
    QuantType.IQ1_M: [("qs", U8, 32), ("qh", U8, 16), ("scales", U16, 4)],
    QuantType.IQ2_XXS: [("d", F16), ("groups", [("qs", U8, 4), ("signs", U32)], 8)],
    QuantType.IQ2_XS: [("d", F16), ("qs", U16, 32), ("scales", U8, 8)],
    QuantType.IQ2_S: [
        ("d", F16), ("qs", U8, 32), ("signs", U8, 32), ("qh", U8, 8), ("scales", U8, 8),
    ],
    QuantType.IQ3_XXS: [("d", F16), ("qs", U8, 64), ("signs", U32, 8)],
    QuantType.IQ3_S: [
        ("d", F16), ("qs", U8, 64), ("qh", U8, 8), ("signs", U8, 32), ("scales", U8, 4),
    ],
    QuantType.IQ4_NL: [("d", F16), ("qs", U8, 16)],
    QuantType.IQ4_XS: [("d", F16), ("high", U16), ("low", U8, 4), ("qs", U8, 128)],
    QuantType.TQ1_0: [("qs", U8, 48), ("qh", U8, 4), ("d", F16)],
    QuantType.TQ2_0: [("qs", U8, 64), ("d", F16)],
    QuantType.MXFP4: [("e", U8), ("qs", U8, 16)],
    QuantType.NVFP4: [("scales", U8, 4), ("qs", U8, 32)],
    QuantType.Q1_0: [("d", F16), ("qs", U8, 16)],
    QuantType.Q2_0: [("d", F16), ("qs", U8, 16)],
}  # fmt: skip

# The grids' vectors are the package's own; ggml's weights of real blocks hold them right.
_BYTES = {name: getattr(grids, name).view(np.uint8).reshape(-1, 8).astype(np.int32) for name in (
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1",
)}  # fmt: skip


def _book(name: str, codes: np.ndarray) -> np.ndarray:
    """[..., b] numbers of vectors -> [..., 8 b] or [..., 4 b] magnitudes."""
    length = 4 if name.startswith("IQ3") else 8
    vectors = _BYTES[name][:, :length] - grids.OFFSET
    return vectors[codes].reshape(*codes.shape[:-1], -1)


def _signs(of_eight: np.ndarray) -> np.ndarray:
    """[..., b] bytes -> [..., 8 b] of 1 or -1."""
    return 1 - 2 * bits(of_eight.astype(np.uint8))


def _seven_signs(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[B, 8] of 32 bits -> signs [B, 256], an even number of each eight negative, scale [B, 8]."""
    seven = np.stack([packed >> 7 * i & 127 for i in range(4)], axis=-1).astype(np.uint8)
    odd = np.unpackbits(seven[..., None], axis=-1).sum(axis=-1) & 1
    return _signs((seven | odd << 7).reshape(len(packed), 32)), 0.5 + (packed >> 28)


def _halves(scales: np.ndarray) -> np.ndarray:
    """[B, b] bytes -> [B, 2 b]: the low and the high half of each in turn."""
    return np.stack([scales & 15, scales >> 4], axis=-1).reshape(len(scales), -1).astype(np.float32)


def _scaled(d: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of all groups, [B, groups], and minima of zero."""
    both = (d.reshape(-1, 1) * scale.astype(np.float32)).astype(np.float32)
    return both, np.zeros_like(both)


def _iq2_xxs(x):
    signs, scale = _seven_signs(x["groups"]["signs"])
    quants = _book("IQ2_XXS", x["groups"]["qs"].reshape(len(x), 32)) * signs
    return quants, *_scaled(single(x["d"]) / 4, scale)


def _iq2_xs(x):
    seven = (x["qs"] >> 9).astype(np.uint8)
    odd = np.unpackbits(seven[..., None], axis=-1).sum(axis=-1) & 1
    quants = _book("IQ2_XS", x["qs"] & 511) * _signs(seven | odd << 7)
    return quants, *_scaled(single(x["d"]) / 4, 0.5 + _halves(x["scales"]))


def _iq2_s(x):
    high = pairs(x["qh"][..., None]).reshape(len(x), 32)
    quants = _book("IQ2_S", x["qs"] | high << 8) * _signs(x["signs"])
    return quants, *_scaled(single(x["d"]) / 4, 0.5 + _halves(x["scales"]))


def _iq3_xxs(x):
    signs, scale = _seven_signs(x["signs"])
    return _book("IQ3_XXS", x["qs"]) * signs, *_scaled(single(x["d"]) / 2, scale)


def _iq3_s(x):
    quants = _book("IQ3_S", x["qs"] | bits(x["qh"]) << 8) * _signs(x["signs"])
    return quants, *_scaled(single(x["d"]), 1 + 2 * _halves(x["scales"]))


def _eighths(codes: np.ndarray, is_less: np.ndarray) -> np.ndarray:
    """[B, 32] numbers of vectors -> [B, 256] of -1, 0, 1, plus or minus an eighth."""
    vectors = (_BYTES["IQ1"][codes] - grids.TERNARY_OFFSET - 1) // 8
    return (vectors + np.where(is_less, -0.125, 0.125)[..., None]).reshape(len(codes), 256)


def _iq1_s(x):
    qh = x["qh"].astype(np.int32)
    high = np.stack([qh >> 3 * i & 7 for i in range(4)], axis=-1).reshape(len(x), 32)
    quants = _eighths(x["qs"] | high << 8, np.repeat(qh >> 15 == 1, 4, axis=1))
    return quants, *_scaled(single(x["d"]), 2 * (qh >> 12 & 7) + 1)


def _iq1_m(x):
    high = _halves(x["qh"]).astype(np.int32)
    quants = _eighths(x["qs"] | (high & 7) << 8, high >> 3 == 1)
    scale = np.stack([x["scales"] >> 3 * i & 7 for i in range(4)], axis=-1).reshape(len(x), 16)
    return quants, *_scaled(_iq1_m_d(x), 2 * scale.astype(np.int32) + 1)


def _iq1_m_d(x):
    """Four bits of a half at the top of each word."""
    top = (x["scales"] >> 12).astype(np.uint16)
    return single((top << np.arange(0, 16, 4, dtype=np.uint16)).sum(1, np.uint16).view("<f2"))


def block_factors(x: np.ndarray) -> np.ndarray:
    """Return d of blocks of 256."""
    return single(x["d"]) if "d" in x.dtype.names else _iq1_m_d(x)


def _iq4_nl(x):
    return grids.NONLINEAR[nibbles(x["qs"])], single(x["d"]), np.zeros(len(x), np.float32)


def _iq4_xs(x):
    high = np.stack([x["high"] >> 2 * i & 3 for i in range(8)], axis=-1).astype(np.float32)
    quants = grids.NONLINEAR[nibbles(x["qs"].reshape(len(x), 8, 16))]
    return quants, *_scaled(single(x["d"]), _halves(x["low"]) + 16 * high - 32)


def _trits(packed: np.ndarray, count: int) -> np.ndarray:
    """[B, b] bytes -> [B, count * b] of 0, 1, 2: the first digit of all bytes, then the second."""
    digits = [(packed.astype(int) * 3**n % 256) * 3 // 256 for n in range(count)]
    return np.concatenate(digits, axis=-1)


def _tq1_0(x):
    parts = _trits(x["qs"][:, :32], 5), _trits(x["qs"][:, 32:], 5), _trits(x["qh"], 4)
    return np.concatenate(parts, axis=1) - 1, *_scaled(single(x["d"]), np.ones((len(x), 1)))


def _tq2_0(x):
    quants = pairs(x["qs"].reshape(-1, 2, 32)).reshape(len(x), 256)
    return quants - 1, *_scaled(single(x["d"]), np.ones((len(x), 1)))


def _mxfp4(x):
    d = np.ldexp(np.float64(1), x["e"].astype(int) - 128).astype(np.float32)
    return grids.E2M1[nibbles(x["qs"])], d, np.zeros(len(x), np.float32)


def _nvfp4(x):
    d = _ue4m3_half(x["scales"])
    return grids.E2M1[nibbles(x["qs"].reshape(-1, 4, 8))], d, np.zeros_like(d)


def _ue4m3_half(code: np.ndarray) -> np.ndarray:
    """Half of the value: (8 + m) * 2**(e - 10), m * 2**-9 where e is 0; ggml takes NaN as 0."""
    e, m = (code >> 3 & 15).astype(int), (code & 7).astype(float)
    value = np.where(e == 0, np.ldexp(m, -9), np.ldexp(8 + m, e - 10)) / 2
    return np.where(code & 127 == 127, 0, value).astype(np.float32)


def _q1_0(x):
    return 2 * bits(x["qs"]) - 1, single(x["d"]), np.zeros(len(x), np.float32)


def _q2_0(x):
    quants = np.stack([x["qs"] >> s & 3 for s in (0, 2, 4, 6)], axis=-1).astype(np.int32)
    return quants.reshape(len(x), 64) - 1, single(x["d"]), np.zeros(len(x), np.float32)


PARTS = {
    QuantType.IQ1_S: _iq1_s,
    QuantType.IQ1_M: _iq1_m,
    QuantType.IQ2_XXS: _iq2_xxs,
    QuantType.IQ2_XS: _iq2_xs,
    QuantType.IQ2_S: _iq2_s,
    QuantType.IQ3_XXS: _iq3_xxs,
    QuantType.IQ3_S: _iq3_s,
    QuantType.IQ4_NL: _iq4_nl,
    QuantType.IQ4_XS: _iq4_xs,
    QuantType.TQ1_0: _tq1_0,
    QuantType.TQ2_0: _tq2_0,
    QuantType.MXFP4: _mxfp4,
    QuantType.NVFP4: _nvfp4,
    QuantType.Q1_0: _q1_0,
    QuantType.Q2_0: _q2_0,
}
