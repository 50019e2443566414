"""How many bytes of weights a second a GPU reads: products of one token, as a model has them.

Half of the weights are Q8_0, half Q4_K; they come from the GPU's memory, as they are more than its
caches hold. Kernels are compiled and weights sent before the clock starts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import GpuError
from gguf_hub.gguf.memory.activations import ACTIVATION_OF, activation_bytes, activation_floats
from gguf_hub.gguf.memory.layout import HEADER, Array
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.gpu.device import Device
from gguf_hub.run.gpu.part import GpuCode, GpuPart
from gguf_hub.run.gpu.weights import WeightStore
from gguf_hub.run.kernels.vm.ops import N_TOKENS, SLOT, Step, step

N_BYTES, LIMIT_S = 300_000_000, 1.0
_TYPES = (QuantType.Q8_0, QuantType.Q4_K)
_N_IN, _N_OUT = 4096, 14336  # gate and up of a 7B model, or of an expert of Mixtral
_Y = max(activation_floats(ACTIVATION_OF[type_], _N_IN) for type_ in _TYPES)  # results lie there
SPARE_ROWS = 64
"""Rows behind the matrix, so that others of the same size begin a row further."""
_ENOUGH_S = 0.05
"""Time of passes in a row, beside which it does not count that their end must be heard of."""


def measure_bandwidth(
    device: Device, *, n_bytes: int = N_BYTES, limit_s: float = LIMIT_S, n_out: int = _N_OUT
) -> float:
    """Return how many bytes of weights a second products of one token read.

    Args:
        device: The GPU; it keeps ``n_bytes`` of weights until it is closed.
        n_bytes: Of weights: more than caches hold, about.
        limit_s: How long to measure; the fastest passes count.
        n_out: Rows of a matrix.

    Raises:
        GpuMemoryError: The GPU has no room for the weights.
        GpuError: It refuses a kernel, or is lost.
    """
    types, total = [], 0
    for type_ in _TYPES:
        size = type_.row_bytes(_N_IN) * n_out
        n = min(SPARE_ROWS, -(-n_bytes // (len(_TYPES) * size)))
        types += [(type_, i) for i in range(n)]
        total += n * size
    part = GpuPart(WeightStore(device, _weights(n_out)), _areas(n_out), [], 1, {})
    try:
        code = part.load([product(type_, i, n_in=_N_IN, n_out=n_out, y=_Y) for type_, i in types])
        return total / _seconds(part, code, limit_s)
    finally:
        part.free()


def _areas(n_out: int) -> dict[Array, int]:
    n_quants = max(activation_bytes(ACTIVATION_OF[type_], _N_IN) for type_ in _TYPES)
    return {"n": HEADER, "f": _Y + n_out, "q": n_quants, "kv": 0}


def _weights(n_out: int) -> NDArray[np.uint8]:
    """Return noise of which no two bytes are an infinite half, as scales are such."""
    size = max(type_.row_bytes(_N_IN) for type_ in _TYPES) * (n_out + SPARE_ROWS)
    noise = np.random.default_rng(0).integers(0, 0x7C, min(size, 1 << 20), np.uint8)
    return np.resize(noise, size)


def product(type_: QuantType, i: int, *, n_in: int, n_out: int, y: int) -> Step:
    """Return a product with a matrix.

    Args:
        type_: Of the weights.
        i: Which of up to ``SPARE_ROWS`` matrices; each begins a row further.
        n_in: Weights of a row.
        n_out: Rows.
        y: Where results go; activations begin at 0.
    """
    row_bytes, kind = type_.row_bytes(n_in), ACTIVATION_OF[type_]
    return step(
        f"matmul.{type_.name}", w0=i * row_bytes, row_bytes=row_bytes, n_in=n_in, n_out=n_out,
        xq=0, xq_stride=activation_bytes(kind, n_in), xf=0,
        xf_stride=activation_floats(kind, n_in), y=y, y_stride=n_out, is_added=0,
        count=N_TOKENS, packed=0, packed_stride=0, partial=0, partial_stride=0,
    )  # fmt: skip


def _seconds(part: GpuPart, code: GpuCode, limit_s: float) -> float:
    """Return the least seconds of a pass, among so many in a row that waiting does not count."""
    header = np.zeros(SLOT + 1, np.int64)
    header[N_TOKENS] = 1
    part.begin(header)
    _run(part, code, 1)  # warms up
    fastest, n_passes, end = float("inf"), 1, time.perf_counter() + limit_s
    while True:
        seconds = _run(part, code, n_passes)
        fastest = min(fastest, seconds / n_passes)
        if time.perf_counter() > end:
            return fastest
        if seconds < _ENOUGH_S:
            n_passes *= 2


def _run(part: GpuPart, code: GpuCode, n_passes: int) -> float:
    began = time.perf_counter()
    for _ in range(n_passes):
        part.run(code)
    part.read([("f", _Y, 1)])
    return time.perf_counter() - began


# ---- the child of ``probe`` --------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Print the figure of one GPU as JSON, or the problem: the child of ``probe``.

    Args:
        arguments: The number of the adapter, and its description as JSON: drivers may have changed.
    """
    from gguf_hub.run.gpu.wgpu_device import WgpuDevice, list_adapters

    number, expected = int(arguments[0]), json.loads(arguments[1])
    answer: dict[str, Any]
    try:
        adapters = list_adapters()
        if number >= len(adapters) or asdict(adapters[number][0]) != expected:
            raise GpuError("it is no longer what its driver described")
        answer = {"bytes_per_s": measure_bandwidth(WgpuDevice(adapters[number][1]))}
    except GpuError as error:
        answer = {"problem": error.message}
    print(json.dumps(answer), flush=True)  # noqa: T201
    os._exit(0)  # some drivers crash when they are unloaded
