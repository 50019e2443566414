"""The words of the GGUF format: value types, fields, tensors, limits and alignment.

Knows the numbers of the specification and nothing about files.

Source: docs/gguf.md and ggml/include/gguf.h of ggml at commit c2cdd2b2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from gguf_hub.gguf.strings import StringArray
from gguf_hub.gguf.types import QuantType

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"

MAX_DIMS = 4
MAX_NAME_BYTES = 63
"""llama.cpp keeps names in 64 bytes with a final NUL; the specification says 64."""
MAX_KEY_BYTES = 65_535
MAX_HEADER_BYTES = 64 << 20
MAX_STRING_BYTES = 32 << 20
MAX_STRINGS = 1 << 21
MAX_FIELDS = 1 << 16
MAX_TENSORS = 1 << 16
"""Bounds of this reader, far above any real file: what a header may make it read and keep. The
strings are those of all arrays together: a vocabulary of 262,144 tokens has 0.8 million."""
INT64_MAX = 2**63 - 1

ByteOrder = Literal["little", "big"]
StructOrder = Literal["<", ">"]


class ValueType(IntEnum):
    """Type id of a metadata value."""

    code: str

    UINT8 = (0, "B")
    INT8 = (1, "b")
    UINT16 = (2, "H")
    INT16 = (3, "h")
    UINT32 = (4, "I")
    INT32 = (5, "i")
    FLOAT32 = (6, "f")
    BOOL = (7, "?")
    STRING = (8, "")
    ARRAY = (9, "")
    UINT64 = (10, "Q")
    INT64 = (11, "q")
    FLOAT64 = (12, "d")

    def __new__(cls, value: int, code: str) -> ValueType:
        """Keep the struct code beside the id; empty for what has no fixed size."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.code = code
        return member

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native numpy type of one value; scalars only."""
        return np.dtype(self.code)

    @property
    def is_number(self) -> bool:
        """Whether it is a number of fixed size (not bool, string or array)."""
        return self.code not in ("", "?")

    @property
    def is_integer(self) -> bool:
        """Whether it is an integer of any width."""
        return self.code != "" and self.code in "BbHhIiQq"


VALUE_TYPES = {int(member): member for member in ValueType}
"""Value type by its id."""
_BY_DTYPE = {member.dtype: member for member in ValueType if member.code}


@dataclass(frozen=True, eq=False)
class Field:
    """A metadata value with the type that the file stores it in.

    Attributes:
        type: Type of the value; ARRAY for arrays.
        value: int, float, bool or str; for arrays a ``StringArray`` or a numpy array.
        element_type: Type of an array's elements, else None.
        offset: Where the key starts in the file, in bytes; -1 when it came from no file.
    """

    type: ValueType
    value: Any
    element_type: ValueType | None = None
    offset: int = -1

    @classmethod
    def of(cls, value: Any, type: ValueType | None = None) -> Field:
        """Return a field for a Python value.

        Args:
            value: bool, int, float, str, a sequence of str, or a numeric array.
            type: The type to store a scalar in; by default the one that llama.cpp's converters
                use: UINT32 for integers that fit, FLOAT32 for floats.

        Raises:
            TypeError: No GGUF type holds such a value.
            ValueError: An integer that no GGUF type holds.
        """
        if isinstance(value, (str, bool, int, float, np.generic)):
            plain = value.item() if isinstance(value, np.generic) else value
            return cls(type or _type_of(value), plain)
        if isinstance(value, StringArray):
            return cls(ValueType.ARRAY, value, ValueType.STRING)
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return cls(ValueType.ARRAY, StringArray.of(value), ValueType.STRING)
        array = np.asarray(value)
        if array.ndim != 1 or array.dtype.newbyteorder("=") not in _BY_DTYPE:
            raise TypeError(f"no GGUF type holds {value!r:.80}")
        return cls(ValueType.ARRAY, array, _BY_DTYPE[array.dtype.newbyteorder("=")])

    @property
    def type_name(self) -> str:
        """The type in words: ``uint32``, ``array of string``."""
        if self.element_type is None:
            return self.type.name.lower()
        return f"array of {self.element_type.name.lower()}"

    def __eq__(self, other: object) -> bool:
        """Compare types and values; NaN equals NaN, and where it was found does not count."""
        if not isinstance(other, Field):
            return NotImplemented
        if (self.type, self.element_type) != (other.type, other.element_type):
            return False
        if isinstance(self.value, np.ndarray) and isinstance(other.value, np.ndarray):
            return np.array_equal(self.value, other.value, equal_nan=self.value.dtype.kind == "f")
        both_nan = self.value != self.value and other.value != other.value
        return bool(self.value == other.value) or both_nan

    __hash__ = None  # type: ignore[assignment]


def _type_of(value: Any) -> ValueType:
    """Choose the type for a scalar as llama.cpp's converters do."""
    if isinstance(value, np.generic):
        return _BY_DTYPE[value.dtype]
    if isinstance(value, str):
        return ValueType.STRING
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, float):
        return ValueType.FLOAT32
    for kind, low, high in (
        (ValueType.UINT32, 0, 2**32),
        (ValueType.INT32, -(2**31), 0),
        (ValueType.UINT64, 0, 2**64),
        (ValueType.INT64, -(2**63), 0),
    ):
        if low <= value < high:
            return kind
    raise ValueError(f"no GGUF type holds the integer {value}")


class TensorLike(Protocol):
    """What has a tensor's name, shape and type: a ``TensorInfo`` or a ``TensorSpec``."""

    @property
    def name(self) -> str:
        """Name in the file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """GGUF's ``ne``: shape[0] is the row length."""
        ...

    @property
    def type(self) -> QuantType:
        """Storage type."""
        ...


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that is to be written."""

    name: str
    shape: tuple[int, ...]
    type: QuantType


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as a GGUF file describes it.

    Attributes:
        name: Name in the file.
        shape: GGUF's ``ne``: shape[0] is the row length; ``()`` is a scalar.
        type: Storage type.
        offset: First byte, counted from the start of the data section.
        size_bytes: Bytes of the data, without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: QuantType
    offset: int
    size_bytes: int

    @property
    def n_elements(self) -> int:
        """How many weights it holds."""
        return count_elements(self.shape)

    @property
    def type_name(self) -> str:
        """The type in words."""
        return self.type.name


@dataclass(frozen=True, slots=True)
class OpaqueTensor:
    """A tensor of a type that is not known here: its place in the file is, its content is not.

    Attributes:
        name: Name in the file.
        shape: GGUF's ``ne``.
        type_id: Type id in the file.
        offset: First byte, counted from the start of the data section.
        size_bytes: Bytes up to the next tensor or the end of the file: no fewer than it has.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    size_bytes: int

    @property
    def n_elements(self) -> int:
        """How many weights it holds."""
        return count_elements(self.shape)

    @property
    def type_name(self) -> str:
        """The type in words."""
        return f"type {self.type_id}"


AnyTensor = TensorInfo | OpaqueTensor


def count_elements(shape: tuple[int, ...]) -> int:
    """Return the product of the dimensions, as an unbounded integer."""
    product = 1
    for n in shape:
        product *= n
    return product


def tensor_size_bytes(shape: tuple[int, ...], type: QuantType) -> int:
    """Return the bytes of a tensor whose rows fill whole blocks."""
    return count_elements(shape) // type.block_size * type.type_size


def align(position: int, alignment: int) -> int:
    """Return the first multiple of ``alignment`` at or after ``position``."""
    return -(-position // alignment) * alignment


def is_power_of_two(n: int) -> bool:
    """Return whether ``n`` is 1, 2, 4, ..."""
    return n > 0 and n & (n - 1) == 0


def array_view(
    buffer: Any, type: ValueType, count: int, at: int, order: StructOrder
) -> NDArray[Any]:
    """Return ``count`` numbers at ``at`` as a native array; a view unless bytes must be swapped."""
    dtype = type.dtype if type is not ValueType.BOOL else np.dtype(np.uint8)
    view = np.frombuffer(buffer, dtype.newbyteorder(order), count, at)
    return view.astype(dtype) if order == ">" and dtype.itemsize > 1 else view
