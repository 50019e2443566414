"""Matrix products on a GPU in memory of their own, and what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.memory.activations import ACTIVATION_OF, activation_bytes, activation_floats
from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.gpu.part import GpuPart
from gguf_hub.run.kernels.vm.ops import N_PAIRS, N_TOKENS, SCRATCH, SLOT, Step
from tests import naive
from tests.synth import random_blocks

NO_SCRATCH = dict.fromkeys(SCRATCH, 0)


def random_rows(type_: QuantType, n_rows: int, n_in: int, seed: int = 0) -> np.ndarray:
    """Bytes of rows, [n_rows, row_bytes]: random bits, with factors that are finite."""
    spec = TensorSpec("w", (n_in, n_rows), type_)
    blocks = random_blocks(spec, n_rows * n_in // type_.block_size, np.random.default_rng(seed))
    return blocks.reshape(n_rows, -1)


def tokens(n_tokens: int, n_in: int) -> np.ndarray:
    """Activations, [T, n_in]."""
    return np.random.default_rng(7).standard_normal((n_tokens, n_in)).astype(np.float32)


@dataclass(frozen=True)
class Rows:
    """Activation rows as a type meets them.

    Attributes:
        q: int8, [rows, bytes].
        f: float32, [rows, floats].
        values: What they stand for, float64, [rows, n_in].
    """

    q: np.ndarray
    f: np.ndarray
    values: np.ndarray

    @property
    def strides(self) -> dict[str, int]:
        """``xq_stride`` and ``xf_stride``."""
        return {"xq_stride": self.q.shape[1], "xf_stride": self.f.shape[1]}


def rows_of(type_: QuantType, x: np.ndarray) -> Rows:
    """Return rows of activations, [rows, n_in], in the form that a type is multiplied with."""
    kind = ACTIVATION_OF[type_]
    rows = [naive.activations(kind, row) for row in x]
    q, f = (np.stack(part) for part in zip(*rows, strict=True))
    assert q.shape[1] == activation_bytes(kind, x.shape[1])
    assert f.shape[1] == activation_floats(kind, x.shape[1])
    return Rows(q, f, np.stack([naive.activation_values(kind, *row) for row in rows]))


def expected(type_: QuantType, weights: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return products in float64, [rows, n_out], and the sums of the magnitudes in them."""
    values = naive.dequantize(type_, weights).reshape(len(weights), -1).astype(np.float64)
    magnitude = np.abs(values)
    if type_.block_size > 1:
        parts = naive.scaled_and_minimum(type_, weights)
        scaled, minimum = (part.reshape(values.shape).astype(np.float64) for part in parts)
        values, magnitude = scaled - minimum, np.abs(scaled) + np.abs(minimum)
    return rows.values @ values.T, np.abs(rows.values) @ magnitude.T


class Bench:
    """A GPU with some activations and a file; results lie behind the activations.

    Args:
        device: The GPU.
        rows: Activations.
        file: Bytes of the weights.
        n_tokens: Of the call.
        n_results: Floats for results.
        n: What follows the header in ``n``.
        n_used: Experts of each token.
        tables: As ``GpuPart`` has them.
    """

    def __init__(
        self, device: Any, rows: Rows, file: np.ndarray, n_tokens: int, n_results: int, *,
        n: Sequence[int] = (), n_used: int = 1, tables: dict[int, tuple[int, ...]] | None = None,
    ) -> None:  # fmt: skip
        self.y = -(-rows.f.size // 64) * 64
        self.n_results = n_results
        self.header = np.zeros(HEADER, np.int64)
        self.header[N_TOKENS], self.header[N_PAIRS] = n_tokens, n_tokens * n_used
        sizes = {"n": HEADER + len(n), "f": self.y + n_results, "q": rows.q.size}
        self.part = GpuPart(device, sizes, [], 1, tables or {}, file)  # type: ignore[arg-type]
        self.part.write("n", 0, np.concatenate([self.header, np.array(n, np.int64)]))
        self.part.write("f", 0, rows.f.reshape(-1))
        if rows.q.size:
            self.part.write("q", 0, rows.q.reshape(-1))

    def run(self, step: Step, before: np.ndarray) -> np.ndarray:
        """Return the results of a step whose memory held ``before``."""
        self.part.write("f", self.y, before.reshape(-1).astype(np.float32))
        self.part.run(self.part.load([step]), self.header[: SLOT + 1])
        return self.part.read("f", self.y, self.n_results)
