"""Norms of vectors, by their definition."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_hub.errors import UsageError
from gguf_hub.run.generation.pooling import check_norm, scaled

VECTORS = np.random.default_rng(3).standard_normal((4, 9)).astype(np.float32)


@pytest.mark.parametrize("norm", [1, 2, 3, 4, 7, 400])
def test_the_p_norm_of_a_vector_is_1(norm: int) -> None:
    found = scaled(VECTORS, norm).astype(float)
    largest = np.abs(found).max(axis=-1)
    powers = ((np.abs(found).T / largest) ** norm).sum(axis=0)
    np.testing.assert_allclose(largest * powers ** (1 / norm), 1, rtol=1e-6)
    ratio = found / VECTORS
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(9, axis=1), rtol=1e-6)


def test_the_largest_number_becomes_that_of_16_bits() -> None:
    np.testing.assert_allclose(np.abs(scaled(VECTORS, 0)).max(axis=-1), 32760, rtol=1e-6)


def test_no_norm_leaves_vectors_alone() -> None:
    assert scaled(VECTORS, -1) is VECTORS


@pytest.mark.parametrize("norm", [-1, 0, 1, 2, 3])
def test_zeros_stay_zeros(norm: int) -> None:
    assert not scaled(np.zeros((2, 3), np.float32), norm).any()


@pytest.mark.parametrize("norm", [0, 1, 2, 3])
def test_large_and_small_numbers_keep_their_length(norm: int) -> None:
    for factor in (1e30, 1e-30):
        scaled_up = scaled(VECTORS * np.float32(factor), norm)
        np.testing.assert_allclose(scaled_up, scaled(VECTORS, norm), rtol=1e-5)


def test_there_is_no_norm_below_minus_1() -> None:
    with pytest.raises(UsageError, match=r"norm: expected -1 \(none\).*, found -2"):
        check_norm(-2, "norm")
