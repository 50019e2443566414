"""Sizes of activation rows."""

from __future__ import annotations

import pytest

from gguf_hub.gguf.memory.activations import (
    ACTIVATION_OF,
    activation_bytes,
    activation_floats,
)
from gguf_hub.gguf.types import RUNNABLE_TYPES


def test_every_type_that_the_runner_computes_with_has_a_kind_of_activations() -> None:
    assert ACTIVATION_OF.keys() == RUNNABLE_TYPES


@pytest.mark.parametrize(
    ("kind", "n", "floats", "size_bytes"),
    [
        ("f32", 7, 7, 0),
        ("q8_0", 96, 3 + 3, 96 + 3 * 4),
        ("q8_k", 512, 2 + 2 * 16 + 2 * 8, 512 + 2 * (16 + 8) * 2),
    ],
)
def test_row_sizes_count_scales_and_sums(kind, n: int, floats: int, size_bytes: int) -> None:
    assert (activation_floats(kind, n), activation_bytes(kind, n)) == (floats, size_bytes)


@pytest.mark.parametrize(("kind", "n"), [("q8_0", 33), ("q8_k", 128)])
def test_a_part_of_a_block_is_refused(kind, n: int) -> None:
    with pytest.raises(AssertionError, match="do not fill"):
        activation_floats(kind, n)
