"""What every matrix of a checkpoint can do, and those that are stored as plain floats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.convert.checkpoint import StoredTensor
from gguf_hub.run.convert.encode import decode, encode

Rows = slice | NDArray[np.int64]
"""Which rows, all leading dimensions taken as one."""


@dataclass(frozen=True)
class Matrix(ABC):
    """Weights under one name; a vector is one row.

    Attributes:
        name: In the checkpoint, as if it were stored as floats.
        path: The file.
        shape: Rows first.
        kind: What holds it, for messages.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    kind: str

    @property
    def n_in(self) -> int:
        """Length of a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def is_packed(self) -> bool:
        """Whether ``type`` is the blocks of its codes."""
        return False

    @property
    @abstractmethod
    def type(self) -> QuantType:
        """The smallest type that loses nothing, or no more than ``note`` says."""

    @property
    def note(self) -> str:
        """What is lost, or why it takes more room than it did; empty for nothing."""
        return ""

    def source_row(self, row: int) -> int:
        """Return the stored row that a row is, for messages."""
        return row

    @abstractmethod
    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""

    def encoded(self, rows: Rows, type: QuantType) -> NDArray[np.uint8]:
        """Return the bytes of rows in a type.

        Raises:
            NotEncodableError: A weight is not finite, or too large for the type.
        """
        return encode(self.floats(rows), type)


_TYPES = {"F32": QuantType.F32, "F16": QuantType.F16, "BF16": QuantType.BF16,
          "F8_E4M3": QuantType.F16, "F8_E5M2": QuantType.F16}  # fmt: skip


@dataclass(frozen=True)
class Plain(Matrix):
    """Floats."""

    stored: StoredTensor

    @classmethod
    def of(cls, stored: StoredTensor) -> Plain:
        """Return a stored tensor as weights."""
        return cls(stored.name, stored.path, stored.shape, stored.dtype, stored)

    @property
    def type(self) -> QuantType:
        """The stored type; F16 for those of eight bits."""
        return _TYPES[self.kind]

    @cached_property
    def _array(self) -> NDArray[Any]:
        return self.stored.open().reshape(-1, self.n_in)

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        return decode(self._array[rows], self.kind)
