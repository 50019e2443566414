"""What is done to a stored tensor so that it is GGUF's.

Shapes are rows first, as in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.hparams import GraphHyperParameters
from gguf_hub.run.convert.stored.derived import ByColumns, Computed, Reordered, Transposed
from gguf_hub.run.convert.stored.matrix import Matrix

Shape = tuple[int, ...]
H = GraphHyperParameters
Order = NDArray[np.int64]


@dataclass(frozen=True)
class Make:
    """From a stored tensor to one of the file.

    Attributes:
        expects: The stored shape, of the shape in the file and the model's sizes.
        build: The tensor of the file, of a stored one of that shape.
        share: How many rows of the stored tensor are one of this.
    """

    expects: Callable[[Shape, H], Shape]
    build: Callable[[Matrix, Shape, H], Matrix]
    share: int = 1

    def then(self, other: Make) -> Make:
        """Return what does this, and then another."""
        return Make(
            lambda shape, h: self.expects(other.expects(shape, h), h),
            lambda matrix, shape, h: other.build(
                self.build(matrix, other.expects(shape, h), h), shape, h
            ),
            self.share * other.share,
        )


def _same(shape: Shape, h: H) -> Shape:
    return shape


PLAIN = Make(_same, lambda matrix, shape, h: matrix)


def by_rows(order: Callable[[Shape, H], Order]) -> Make:
    """Return the change of places of rows, or of a vector's elements."""

    def build(matrix: Matrix, shape: Shape, h: H) -> Matrix:
        rows = order(shape, h)
        if len(shape) == 1:
            return Computed.of(matrix, shape, lambda values: values[rows])
        return Reordered.of(matrix, rows, shape)

    return Make(_same, build)


def _halves_to_neighbours(shape: Shape, h: H) -> Order:
    """Rotated elements i and i + d/2 of each head become 2i and 2i + 1.

    A head of d = 6 rows, 0 1 2 3 4 5, becomes 0 3 1 4 2 5.
    """
    n_head = shape[0] // h.head_dim
    rows = np.arange(shape[0], dtype=np.int64).reshape(n_head, 2, -1)  # [H, 2, d/2]
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)  # [H * d]


ROTATED = by_rows(_halves_to_neighbours)
"""Queries and keys of architectures that rotate neighbours, where transformers rotates halves."""


def _part_of_rows(offset: int, n_part: int, *, is_interleaved: bool) -> Make:
    """Return one of several matrices that a stored one holds, each of them or each of its rows."""

    def expects(shape: Shape, h: H) -> Shape:
        return (*shape[:-2], n_part * shape[-2], shape[-1])

    def build(matrix: Matrix, shape: Shape, h: H) -> Matrix:
        n = shape[-2]
        count = math.prod(matrix.shape[:-1])
        rows = np.arange(count, dtype=np.int64).reshape(-1, n_part * n)  # [planes, rows]
        picked = rows[:, offset::n_part] if is_interleaved else rows[:, offset * n :][:, :n]
        return Reordered.of(matrix, picked.reshape(-1), shape)

    return Make(expects, build, n_part)


FIRST_HALF = _part_of_rows(0, 2, is_interleaved=False)
SECOND_HALF = _part_of_rows(1, 2, is_interleaved=False)
EVEN_ROWS = _part_of_rows(0, 2, is_interleaved=True)
ODD_ROWS = _part_of_rows(1, 2, is_interleaved=True)

TRANSPOSED = Make(
    lambda shape, h: (*shape[:-2], shape[-1], shape[-2]),
    lambda matrix, shape, h: Transposed.of(matrix),
)


def every_other(offset: int) -> Make:
    """Return every other column: of biases of experts, [experts, 2 columns]."""
    return Make(
        lambda shape, h: (*shape[:-1], 2 * shape[-1]),
        lambda matrix, shape, h: Computed.of(matrix, shape, lambda a: a[..., offset::2]),
    )


def computed(change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Make:
    """Return a change of each element."""
    return Make(_same, lambda matrix, shape, h: Computed.of(matrix, shape, change))


PLUS_ONE = computed(lambda values: values + np.float32(1))
"""Norms that transformers adds 1 to when it computes."""
DECAY = computed(lambda values: -np.exp(values))
"""Logarithms of rates of decay."""


def reshaped(expects: Callable[[Shape], Shape]) -> Make:
    """Return the same values under another shape."""

    def build(matrix: Matrix, shape: Shape, h: H) -> Matrix:
        return Computed.of(matrix, shape, lambda values: values.reshape(shape))

    return Make(lambda shape, h: expects(shape), build)


def flattened() -> Make:
    """Return the same values, which are stored as one row."""
    return reshaped(lambda shape: (math.prod(shape),))


ONE_ROW = reshaped(lambda shape: (1, *shape))
KERNEL = reshaped(lambda shape: (shape[0], 1, shape[1]))
"""Kernels of a convolution over time: [channels, 1, taps]."""


def by_columns(order: Callable[[Shape, H], Order]) -> Make:
    """Return the change of places of columns."""
    return Make(_same, lambda matrix, shape, h: ByColumns.of(matrix, order(shape, h)))


# -- latent attention ------------------------------------------------------------------------------


def _latent(shape: Shape, h: H) -> Shape:
    n_plain = h.head_dim_mla - h.n_rot
    return (h.n_head * (n_plain + h.n_embd_head_v_mla), h.n_lora_kv)


def _latent_rows(h: H, *, is_key: bool) -> Order:
    n_plain, n_value = h.head_dim_mla - h.n_rot, h.n_embd_head_v_mla
    # each head: keys, then values
    rows = np.arange(h.n_head * (n_plain + n_value), dtype=np.int64).reshape(h.n_head, -1)
    return rows[:, :n_plain] if is_key else rows[:, n_plain:]


def _latent_keys(matrix: Matrix, shape: Shape, h: H) -> Matrix:
    """[H (plain + value), rank] -> [H, rank, plain]: queries are multiplied with it."""
    rows = _latent_rows(h, is_key=True)
    return Transposed.of(Reordered.of(matrix, rows.reshape(-1), (*rows.shape, h.n_lora_kv)))


def _latent_values(matrix: Matrix, shape: Shape, h: H) -> Matrix:
    rows = _latent_rows(h, is_key=False)
    return Reordered.of(matrix, rows.reshape(-1), shape)


LATENT_KEYS, LATENT_VALUES = Make(_latent, _latent_keys), Make(_latent, _latent_values)
