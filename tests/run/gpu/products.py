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
from gguf_hub.run.gpu.weights import WeightStore
from gguf_hub.run.kernels.vm.ops import N_PAIRS, N_TOKENS, SCRATCH, Step, step
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
        sizes = {"n": HEADER + len(n), "f": self.y + n_results, "q": rows.q.size, "kv": 0}
        self.part = GpuPart(WeightStore(device, file), sizes | {"kv": 0}, [], 1, tables or {})  # type: ignore[arg-type]
        self.part.write("n", 0, np.concatenate([self.header, np.array(n, np.int64)]))
        self.part.write("f", 0, rows.f.reshape(-1))
        if rows.q.size:
            self.part.write("q", 0, rows.q.reshape(-1))

    def run(self, step: Step, before: np.ndarray) -> np.ndarray:
        """Return the results of a step whose memory held ``before``."""
        self.part.write("f", self.y, before.reshape(-1).astype(np.float32))
        self.part.begin(self.header)
        self.part.run(self.part.load([step]))
        return self.part.read([("f", self.y, self.n_results)])[0]


class Experts:
    """A product of (token, expert) pairs with six experts, two for each token.

    Args:
        type_: Of the experts.
        n_tokens: Of the call.
        pairs_per_x: Pairs that share a row of activations: 2 for each token's, 1 for rows of pairs.
        n_out: Rows of an expert.
        missing: An expert of another type.
        unused: An expert without pairs.
        gap: Bytes of the file between experts.
    """

    def __init__(
        self, type_: QuantType, n_tokens: int, pairs_per_x: int, *, n_out: int = 70,
        missing: int | None = None, unused: int | None = None, gap: int = 96,
    ) -> None:  # fmt: skip
        n_in = 43 if type_.block_size == 1 else 512
        self.type, self.n_tokens = type_, n_tokens
        self.weights = random_rows(type_, 6 * n_out, n_in).reshape(6, n_out, -1)
        size = gap + self.weights[0].size
        self.file = np.zeros(32 + 6 * size, np.uint8)
        self.file[32:].reshape(6, size)[:, gap:] = self.weights.reshape(6, -1)
        table = [32 + gap + size * i if i != missing else 0 for i in range(6)]
        choices = [e for e in range(6) if e != unused]
        rng = np.random.default_rng(n_tokens)
        self.chosen = np.stack([rng.permutation(choices)[:2] for _ in range(n_tokens)]).reshape(-1)
        self.has = [offset > 0 for offset in table]
        order = np.argsort(self.chosen, kind="stable")
        starts = np.searchsorted(self.chosen[order], np.arange(7))
        self.n = [*table, *starts.tolist(), *order.tolist()]
        self.tables = {HEADER: tuple(table)}
        n_rows = 2 * n_tokens // pairs_per_x
        self.rows = rows_of(type_, tokens(n_rows, n_in))
        self.row_of_pair = np.arange(2 * n_tokens) // pairs_per_x
        self.y = -(-self.rows.f.size // 64) * 64
        self.step = step(
            f"expert_matmul.{type_.name}", experts=HEADER, n_expert=6,
            row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out, expert_starts=HEADER + 6,
            assignments=HEADER + 13, pairs_per_x=pairs_per_x, xq=0, xf=0, **self.rows.strides,
            y=self.y, y_stride=n_out, **NO_SCRATCH,
        )  # fmt: skip

    def run(self, device: Any) -> np.ndarray:
        """Return the results of pairs, [P, n_out], which were 7 before."""
        shape = len(self.chosen), self.weights.shape[1]
        bench = Bench(
            device, self.rows, self.file, self.n_tokens, shape[0] * shape[1], n=self.n, n_used=2,
            tables=self.tables,
        )  # fmt: skip
        assert bench.y == self.y
        return bench.run(self.step, np.full(shape, 7)).reshape(shape)

    def check(self, found: np.ndarray, tolerance: float) -> None:
        """Compare results with the oracle's."""
        for expert, weights in enumerate(self.weights):
            pairs = np.flatnonzero(self.chosen == expert)
            if not self.has[expert]:
                assert (found[pairs] == 7).all()
                continue
            values, magnitude = expected(self.type, weights, self.rows)
            rows = self.row_of_pair[pairs]
            assert (np.abs(found[pairs] - values[rows]) <= tolerance * magnitude[rows]).all()
