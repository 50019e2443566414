"""Quantised checkpoints: packed as the formats document it, and what they stand for.

Written from the layouts alone, bit by bit, with no function of the package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.run.convert import checkpoints

Arrays = dict[str, np.ndarray]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")
DTYPES = {"<f4": "F32", "<f2": "F16", "<i4": "I32", "<i8": "I64", "|i1": "I8", "|u1": "U8"}


@dataclass
class Quantised:
    """A matrix as codes; groups of columns have a scale and a zero point."""

    codes: np.ndarray  # [out, in]
    scales: np.ndarray  # [out, groups], halves
    zeros: np.ndarray  # [out, groups]
    groups: np.ndarray  # [in]

    @property
    def weights(self) -> np.ndarray:
        steps = self.codes.astype(int) - self.zeros.astype(int)[:, self.groups]
        return self.scales.astype(np.float64)[:, self.groups] * steps


def quantised(
    shape: tuple[int, int], bits: int, size: int, zero: int | None, seed: int, order: bool = False
) -> Quantised:
    """Random codes; one zero point, or random ones; groups in order or in act-order."""
    rng = np.random.default_rng(seed)
    n_out, n_in = shape
    size = n_in if size < 0 else size
    groups = np.arange(n_in) // size
    n_group = groups[-1] + 1
    zeros = rng.integers(1, 1 << bits, (n_out, n_group))
    return Quantised(
        rng.integers(0, 1 << bits, shape),
        rng.uniform(0.001, 0.02, (n_out, n_group)).astype("<f2"),
        zeros if zero is None else np.full_like(zeros, zero),
        rng.permutation(groups) if order else groups,
    )


def words(values: np.ndarray, bits: int) -> np.ndarray:
    """Each row of values as a stream of bits, the lowest first, cut into 32-bit words."""
    stream = (values[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(len(values), -1)
    padding = -stream.shape[1] % 32
    stream = np.pad(stream, ((0, 0), (0, padding)))
    return np.packbits(stream, axis=1, bitorder="little").view("<i4")


def gptq(prefix: str, q: Quantised, bits: int, *, v2: bool = False) -> Arrays:
    stored = q.zeros.T - (0 if v2 else 1)
    return {
        f"{prefix}.qweight": np.ascontiguousarray(words(q.codes, bits).T),
        f"{prefix}.qzeros": words(stored, bits),
        f"{prefix}.scales": np.ascontiguousarray(q.scales.T),
        f"{prefix}.g_idx": q.groups.astype("<i4"),
    }


def awq_gemm(prefix: str, q: Quantised, bits: int = 4) -> Arrays:
    def interleaved(values: np.ndarray) -> np.ndarray:
        eights = values.reshape(len(values), -1, 8)[:, :, AWQ_ORDER]
        return words(eights.reshape(len(values), -1), 4)

    return {
        f"{prefix}.qweight": interleaved(q.codes.T),
        f"{prefix}.qzeros": interleaved(q.zeros.T),
        f"{prefix}.scales": np.ascontiguousarray(q.scales.T),
    }


def awq_gemv(prefix: str, q: Quantised, bits: int = 4) -> Arrays:
    n_out, n_group = q.zeros.shape
    padded = -(-n_group // 8) * 8
    scales = np.zeros((n_out, padded), "<f2")
    scales[:, :n_group] = q.scales
    return {
        f"{prefix}.qweight": words(q.codes, 4),
        f"{prefix}.qzeros": words(q.zeros, 4),
        f"{prefix}.scales": scales,
    }


def compressed(
    prefix: str, q: Quantised, bits: int, *, symmetric: bool, has_packed_zeros: bool = True
) -> Arrays:
    arrays = {
        f"{prefix}.weight_packed": words(q.codes, bits),
        f"{prefix}.weight_scale": q.scales,
        f"{prefix}.weight_shape": np.array(q.codes.shape, "<i8"),
    }
    if not symmetric and not has_packed_zeros:
        zeros = q.zeros.astype(np.int16) - (1 << (bits - 1))
        arrays[f"{prefix}.weight_zero_point"] = zeros.astype("i1")
    elif not symmetric:
        arrays[f"{prefix}.weight_zero_point"] = np.ascontiguousarray(words(q.zeros.T, bits).T)
    return arrays


def int8(prefix: str, q: Quantised, bits: int = 8) -> Arrays:
    return {
        f"{prefix}.weight": (q.codes - 128).astype("i1"),
        f"{prefix}.weight_scale": q.scales,
    }


def write(
    folder: Path,
    pack: Callable[[str, Quantised], Arrays],
    quantization: Mapping[str, Any],
    make: Callable[[tuple[int, int], int], Quantised],
    **changes: Any,
) -> dict[str, np.ndarray]:
    """Write a checkpoint whose layers' matrices are quantised; return what they stand for."""
    config = {**checkpoints.CONFIG, **SIZES, **changes, "quantization_config": dict(quantization)}
    expected: dict[str, np.ndarray] = {}
    tensors: Arrays = {}
    for name, array in checkpoints.arrays(config).items():
        is_kept = array.ndim < 2 or ".layers." not in name or name.endswith("moe.gate.weight")
        if is_kept:
            tensors[name] = array.astype("<f2")
            continue
        q = make(array.shape, len(expected))
        expected[name] = q.weights
        tensors |= pack(name.removesuffix(".weight"), q)
    save(folder, tensors, config)
    return expected


SIZES = {"hidden_size": 64, "intermediate_size": 128}


def save(
    folder: Path,
    tensors: Arrays,
    config: Mapping[str, Any],
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Write one safetensors file of arrays of any type, and config.json.

    ``dtypes`` has the types of tensors that numpy does not know.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        (name, (dtypes or {}).get(name) or DTYPES[array.dtype.str], array.shape,
         np.ascontiguousarray(array).tobytes())
        for name, array in tensors.items()
    ]  # fmt: skip
    (folder / "model.safetensors").write_bytes(checkpoints.safetensors_bytes(entries))
    (folder / "config.json").write_text(json.dumps(config))
