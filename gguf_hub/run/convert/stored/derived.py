"""Matrices made of others: their rows in another order, their planes transposed, or computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.convert.stored.matrix import Matrix, Rows


@dataclass(frozen=True)
class Reordered(Matrix):
    """Some rows of another matrix, in some order; codes stay codes.

    Attributes:
        base: The other matrix.
        order: Its row for each row, all leading dimensions taken as one.
    """

    base: Matrix
    order: NDArray[np.int64]

    @classmethod
    def of(cls, base: Matrix, order: NDArray[np.int64], shape: tuple[int, ...]) -> Reordered:
        """Return rows of a matrix under another shape."""
        return cls(base.name, base.path, shape, base.kind, base, order)

    @property
    def is_packed(self) -> bool:
        """As the other one's."""
        return self.base.is_packed

    @property
    def type(self) -> QuantType:
        """As the other one's."""
        return self.base.type

    @property
    def note(self) -> str:
        """As the other one's."""
        return self.base.note

    def source_row(self, row: int) -> int:
        """Return the stored row that a row is."""
        return self.base.source_row(int(self.order[row]))

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        return self.base.floats(self.order[rows])

    def encoded(self, rows: Rows, type: QuantType) -> NDArray[np.uint8]:
        """Return the bytes of rows in a type."""
        return self.base.encoded(self.order[rows], type)


@dataclass(frozen=True)
class Transposed(Matrix):
    """Planes of another matrix with rows and columns exchanged; one is in memory at a time."""

    base: Matrix
    _plane: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Matrix) -> Transposed:
        """Return the matrix with its last two dimensions exchanged."""
        *outer, n_rows, n_columns = base.shape
        return cls(base.name, base.path, (*outer, n_columns, n_rows), base.kind, base)

    @property
    def type(self) -> QuantType:
        """As the other one's; blocks of columns would not be blocks of rows."""
        return QuantType.F16 if self.base.is_packed else self.base.type

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        numbers = np.arange(math.prod(self.shape[:-1]))[rows]
        planes, within = numbers // self.shape[-2], numbers % self.shape[-2]
        found = np.empty((len(numbers), self.n_in), np.float32)
        for plane in np.unique(planes):
            is_here = planes == plane
            found[is_here] = self._of_plane(int(plane))[within[is_here]]
        return found

    def _of_plane(self, plane: int) -> NDArray[np.float32]:
        if plane not in self._plane:
            self._plane.clear()
            n = self.base.shape[-2]
            self._plane[plane] = self.base.floats(slice(plane * n, (plane + 1) * n)).T
        return self._plane[plane]


@dataclass(frozen=True)
class ByColumns(Matrix):
    """Columns of another matrix in another order."""

    base: Matrix
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, base: Matrix, columns: NDArray[np.int64]) -> ByColumns:
        """Return a matrix with its columns in an order."""
        return cls(base.name, base.path, base.shape, base.kind, base, columns)

    @property
    def type(self) -> QuantType:
        """As the other one's; its blocks would be torn apart."""
        return QuantType.F16 if self.base.is_packed else self.base.type

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        return self.base.floats(rows)[:, self.columns]


@dataclass(frozen=True)
class Computed(Matrix):
    """A small tensor that is computed from another one as a whole.

    Attributes:
        base: The other one.
        change: From its values in its shape to these.
    """

    base: Matrix
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]]

    @classmethod
    def of(
        cls,
        base: Matrix,
        shape: tuple[int, ...],
        change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    ) -> Computed:
        """Return what a change makes of a tensor."""
        return cls(base.name, base.path, shape, base.kind, base, change)

    @property
    def type(self) -> QuantType:
        """Floats as they are computed."""
        return QuantType.F32

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        values = self.base.floats(slice(None)).reshape(self.base.shape)
        changed = np.ascontiguousarray(self.change(values), np.float32)
        return changed.reshape(-1, self.n_in)[rows]
