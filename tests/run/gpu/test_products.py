"""Matrix products on a GPU, for every type that the runner knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("wgpu", reason="wgpu is not installed: `pip install gguf-hub[gpu]`")

from gguf_hub.gguf.types import RUNNABLE_TYPES, QuantType
from gguf_hub.run.kernels.vm.ops import N_TOKENS, step
from tests.run.gpu.products import (
    NO_SCRATCH,
    Bench,
    expected,
    random_rows,
    rows_of,
    tokens,
)

T = QuantType
TYPES = sorted(RUNNABLE_TYPES)
# integer products are exact; n/8 float32 sums err by half units of the largest partial sum
TOLERANCE = 1e-6
each_type = pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.name)


def product(
    device: Any, type_: QuantType, weights: np.ndarray, x: np.ndarray,
    added_to: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Activations [T, n_in] times rows of weights: [T, n_out], results three floats apart."""
    rows, (n_tokens, n_in), n_out = rows_of(type_, x), x.shape, len(weights)
    bench = Bench(device, rows, weights.reshape(-1), n_tokens, n_tokens * (n_out + 3))
    before = np.full((n_tokens, n_out + 3), 7, np.float32)
    if added_to is not None:
        before[:, :n_out] = added_to
    matmul = step(
        f"matmul.{type_.name}", w0=0, row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out,
        xq=0, xf=0, **rows.strides, y=bench.y, y_stride=n_out + 3,
        is_added=added_to is not None, count=N_TOKENS, **NO_SCRATCH,
    )  # fmt: skip
    found = bench.run(matmul, before).reshape(n_tokens, -1)
    assert (found[:, n_out:] == 7).all()
    return found[:, :n_out]


def assert_near(type_: QuantType, found: np.ndarray, weights: np.ndarray, x: np.ndarray) -> None:
    """Compare products with the oracle's."""
    values, magnitude = expected(type_, weights, rows_of(type_, x))
    error = np.abs(found - values) / magnitude
    print(f"{type_.name}: worst error {error.max():.1e} of the sum of magnitudes")
    assert error.max() <= TOLERANCE


def row_lengths(type_: QuantType) -> list[int]:
    """Whole lanes and not, rows of models, and lengths that are no whole vectors."""
    small = {1: 43, 32: 288, 64: 320, 128: 384, 256: 256}[type_.block_size]
    return [small, 4096, 14336]


WIDTHS = [(type_, n_in) for type_ in TYPES for n_in in row_lengths(type_)]


@pytest.mark.parametrize(
    ("type_", "n_in"), WIDTHS, ids=[f"{type_.name}-{n_in}" for type_, n_in in WIDTHS]
)
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_matmul_equals_the_oracle(device: Any, type_: QuantType, n_in: int, n_tokens: int) -> None:
    weights, x = random_rows(type_, 9, n_in), tokens(n_tokens, n_in)
    assert_near(type_, product(device, type_, weights, x), weights, x)


@each_type
def test_a_sum_does_not_depend_on_its_company(device: Any, type_: QuantType) -> None:
    """One token at a time or more than a tile of them, added or not."""
    n_in = 11 * 256
    weights, x = random_rows(type_, 67, n_in), tokens(33, n_in)
    together = product(device, type_, weights, x)
    assert_near(type_, together, weights, x)
    before = tokens(33, 67)
    np.testing.assert_array_equal(
        product(device, type_, weights, x, added_to=before), before + together
    )
    for first, last in [(0, 1), (31, 33)]:
        some = product(device, type_, weights, x[first:last])
        if type_.block_size > 1:
            np.testing.assert_array_equal(some, together[first:last])
        assert_near(type_, some, weights, x[first:last])
