"""Reading the header of a GGUF: keys, values and the tensor table, with every problem noted.

The parser never trusts a count or a length: nothing is allocated for bytes that are not there. It
reads on as long as it knows where the next thing starts, so that one look finds as many problems
as possible.

Source: docs/gguf.md and ggml/src/gguf.cpp of ggml at commit c2cdd2b2; v1 from the first release
of the format (32-bit counts and lengths).
"""

from __future__ import annotations

import array
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from gguf_hub.gguf.format import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMS,
    MAX_FIELDS,
    MAX_HEADER_BYTES,
    MAX_STRING_BYTES,
    MAX_STRINGS,
    MAX_TENSORS,
    VALUE_TYPES,
    VERSION,
    ByteOrder,
    Field,
    StructOrder,
    ValueType,
    align,
    array_view,
    is_power_of_two,
)
from gguf_hub.gguf.hparams import architecture
from gguf_hub.gguf.issues import Issue, Issues
from gguf_hub.gguf.ollama import as_llama_cpp
from gguf_hub.gguf.senses import left_out
from gguf_hub.gguf.sniff import sniff
from gguf_hub.gguf.source import Window
from gguf_hub.gguf.strings import StringArray, decode, shown, walk


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A row of the tensor table as it stands in the file, believed in nothing.

    Attributes:
        name: Name; bytes that are not UTF-8 as surrogates.
        shape: GGUF's ``ne``, signed.
        type_id: Type id, perhaps of no known type.
        offset: First byte of the data, from the start of the data section.
        at: Where the row starts in the file.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    at: int


@dataclass(frozen=True)
class Header:
    """What stands before the data, under llama.cpp's names.

    Attributes:
        version: Format version: 1, 2 or 3.
        byte_order: Of the whole file.
        fields: Metadata in file order.
        entries: Rows of the tensor table in file order.
        alignment: Bytes; the default where the file names none, or a wrong one.
        data_offset: Where the data section starts, in bytes.
        size_bytes: Length of the whole file.
        is_whole: Whether the parser reached the end of the header.
        issues: Problems of the header itself.
    """

    version: int
    byte_order: ByteOrder
    fields: Mapping[str, Field]
    entries: tuple[TensorEntry, ...]
    alignment: int
    data_offset: int
    size_bytes: int
    is_whole: bool
    issues: tuple[Issue, ...]


class _StopError(Exception):
    """The parser cannot know where the next thing starts."""


def read_header(source: Any) -> Header:
    """Read the header of a GGUF.

    Args:
        source: Bytes, a memory map, a seekable binary file, or a ``RangeSource``.

    Returns:
        What could be read; problems stand in ``issues`` and are never raised.
    """
    header = _Parser(Window(source)).parse()
    return _say_left_out(_under_llama_cpps_names(header)) if header.is_whole else header


def _under_llama_cpps_names(header: Header) -> Header:
    """Return the header of a file of Ollama's converter as llama.cpp's would have written it."""
    shapes = {entry.name: entry.shape for entry in header.entries}
    reading = as_llama_cpp(header.fields, shapes)
    if reading is None:
        return header
    there, here = architecture(header.fields), architecture(reading.fields)
    entries = (replace(e, name=reading.names.get(e.name, e.name)) for e in header.entries)
    issues = Issues()
    message = f"`{there}` as Ollama's converter writes it, read as llama.cpp's `{here}`"
    issues.add("GGUF-OLLAMA-NAMES", "keys and tensors", message)
    return replace(
        header,
        fields=reading.fields,
        entries=tuple(entries),
        issues=header.issues + issues.collected(),
    )


def _say_left_out(header: Header) -> Header:
    """Note the tensors that a text does without."""
    issues = Issues()
    names = (entry.name for entry in header.entries)
    for kind, group in left_out(header.fields, architecture(header.fields), names).items():
        message = f"for {kind}; gguf-hub leaves them out"
        issues.add("GGUF-LEFT-OUT", f"{len(group):,} tensors", message)
    return replace(header, issues=header.issues + issues.collected())


class _Parser:
    """One pass over one header."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.at = 0
        self.issues = Issues()
        self.version = 0
        self.order: StructOrder = "<"
        self.word, self.count = struct.Struct("<I"), struct.Struct("<Q")
        self.rows: list[struct.Struct] = []
        self.fields: dict[str, Field] = {}
        self.entries: list[TensorEntry] = []
        self.alignment = DEFAULT_ALIGNMENT
        self.n_strings = 0

    def parse(self) -> Header:
        """Read as far as possible."""
        is_whole = False
        try:
            n_tensors, n_fields = self.start()
            for _ in range(n_fields):
                self.field()
            self.choose_alignment()
            for _ in range(n_tensors):
                self.tensor()
            is_whole = True
        except _StopError:
            pass
        return Header(
            version=self.version,
            byte_order="big" if self.order == ">" else "little",
            fields=self.fields,
            entries=tuple(self.entries),
            alignment=self.alignment,
            data_offset=align(self.at, self.alignment),
            size_bytes=self.window.size_bytes,
            is_whole=is_whole,
            issues=self.issues.collected(),
        )

    # -- the first 24 bytes ------------------------------------------------------------------

    def start(self) -> tuple[int, int]:
        """Read magic, version and counts; return how many tensors and fields follow."""
        self.magic()
        self.read_version()
        at = self.at
        n_tensors, n_fields = self.number(self.count), self.number(self.count)
        if self.version == 1:
            least_field, least_tensor = 4 + 4 + 1, 4 + 4 + 4 + 8
        else:
            least_field, least_tensor = 8 + 4 + 1, 8 + 4 + 4 + 8
        room = self.window.size_bytes - self.at
        if n_fields * least_field + n_tensors * least_tensor > room:
            self.stop(
                "GGUF-COUNT",
                f"offset {at}",
                f"{n_fields:,} keys and {n_tensors:,} tensors announced, "
                f"but only {room:,} bytes follow",
                at,
            )
        if n_fields > MAX_FIELDS or n_tensors > MAX_TENSORS:
            self.stop(
                "GGUF-LIMIT",
                f"offset {at}",
                f"{n_fields:,} keys and {n_tensors:,} tensors; "
                f"at most {MAX_FIELDS:,} and {MAX_TENSORS:,} are read",
                at,
            )
        return n_tensors, n_fields

    def magic(self) -> None:
        """Check the first four bytes; say what the file is instead."""
        self.window.see(min(512, self.window.size_bytes))
        start = bytes(self.window.buffer[:512])
        if start[:4] != MAGIC:
            code, what = sniff(start)
            self.stop(code, "offset 0", what, 0)
        self.at = 4

    def read_version(self) -> None:
        """Read the version and, from it, the byte order and the width of counts."""
        version = self.number(self.word)
        if version and version & 0xFFFF == 0:
            self.order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
            self.issues.add(
                "GGUF-BIG-ENDIAN", "offset 4", "big-endian: numbers are stored high byte first", 4
            )
        if not 1 <= version <= VERSION:
            self.stop("GGUF-VERSION", "offset 4", f"version {version}, expected 1 to {VERSION}", 4)
        if version == 1:
            self.issues.add("GGUF-VERSION-OLD", "offset 4", "version 1, of August 2023", 4)
        self.version = version
        self.word = struct.Struct(self.order + "I")
        self.count = struct.Struct(self.order + ("I" if version == 1 else "Q"))
        width = "I" if version == 1 else "q"
        self.rows = [struct.Struct(f"{self.order}{n}{width}IQ") for n in range(MAX_DIMS + 1)]

    # -- keys and values ---------------------------------------------------------------------

    def field(self) -> None:
        """Read one key and its value."""
        at = self.at
        key = self.string("key", f"offset {at}")
        location = f"key `{shown(key)}`"
        if not key:
            self.issues.add("GGUF-KEY-EMPTY", f"offset {at}", "a key without a name", at)
        if key in self.fields:
            first = self.fields[key].offset
            self.issues.add(
                "GGUF-KEY-DUPLICATE", location, f"stands at offset {first} and again at {at}", at
            )
        type = self.value_type(location)
        if type is ValueType.ARRAY:
            element, value = self.array_value(location)
            self.fields.setdefault(key, Field(type, value, element, at))
        else:
            self.fields.setdefault(key, Field(type, self.scalar(type, location), None, at))

    def value_type(self, location: str, *, code: str = "GGUF-VALUE-TYPE") -> ValueType:
        """Read a value type."""
        at = self.at
        number = self.number(self.word)
        if number not in VALUE_TYPES:
            self.stop(code, location, f"value type {number}, expected 0 to {max(VALUE_TYPES)}", at)
        return VALUE_TYPES[number]

    def scalar(self, type: ValueType, location: str) -> Any:
        """Read one value of fixed size, or a string."""
        if type is ValueType.STRING:
            return self.string("value", location)
        at = self.at
        if type is ValueType.BOOL:
            value = self.number(struct.Struct("B"))
            if value > 1:
                self.issues.add("GGUF-BOOL-VALUE", location, f"{value} is neither 0 nor 1", at)
            return value != 0
        return self.number(struct.Struct(self.order + type.code))

    def array_value(self, location: str) -> tuple[ValueType, Any]:
        """Read an array; return the type of its elements and the elements."""
        at = self.at
        element = self.value_type(location, code="GGUF-ARRAY-TYPE")
        if element is ValueType.ARRAY:
            self.stop("GGUF-ARRAY-TYPE", location, "an array of arrays", at)
        count_at = self.at
        n = self.number(self.count)
        room = self.window.size_bytes - self.at
        least = self.count.size if element is ValueType.STRING else element.dtype.itemsize
        if n * least > room:
            self.stop(
                "GGUF-ARRAY-LENGTH",
                location,
                f"{n:,} elements of at least {least} bytes announced, {room:,} bytes follow",
                count_at,
            )
        self.require_bound(n * least, location)
        if element is ValueType.STRING:
            self.n_strings += n
            if self.n_strings > MAX_STRINGS:
                message = f"{self.n_strings:,} strings in arrays; at most {MAX_STRINGS:,} are read"
                self.stop("GGUF-LIMIT", location, message, count_at)
            return element, self.strings(n, location)
        return element, self.numbers(element, n, location)

    def numbers(self, element: ValueType, n: int, location: str) -> Any:
        """Read an array of numbers or truth values, without copying."""
        at = self.at
        self.need(n * element.dtype.itemsize)
        values = array_view(self.window.buffer, element, n, at, self.order)
        self.at = at + n * element.dtype.itemsize
        if element is ValueType.BOOL:
            if n and values.max() > 1:
                worst = int(np.argmax(values > 1))
                self.issues.add(
                    "GGUF-BOOL-VALUE",
                    location,
                    f"element {worst} is {values[worst]}, neither 0 nor 1",
                    at + worst,
                )
                return values != 0
            return values.view(np.bool_)
        return values

    def strings(self, n: int, location: str) -> StringArray:
        """Find the strings of an array in one pass."""
        starts: array.array[int] = array.array("Q", [self.at])
        while True:
            n_missing = n - len(starts) + 1
            more = walk(
                self.window.buffer, starts[-1], n_missing, self.count.unpack_from, self.count.size
            )
            starts.extend(more[1:])
            is_done = len(starts) == n + 1
            end = starts[-1] + (0 if is_done else self.count.size)
            if not self.window.see(end):
                self.strings_cut(starts, location)
            if is_done:
                self.at = starts[-1]
                return StringArray(self.window.buffer, starts, self.count)

    def strings_cut(self, starts: array.array[int], location: str) -> NoReturn:
        """Say which string of an array does not fit, and stop."""
        self.require_bound(starts[-1] - self.at, location)
        which = len(starts) - 1 if starts[-1] <= self.window.size_bytes else len(starts) - 2
        self.stop(
            "GGUF-STRING-LENGTH",
            location,
            f"string {which:,} of the array reaches past the end of the file "
            f"({self.window.size_bytes:,} bytes)",
            starts[which],
        )

    # -- the tensor table --------------------------------------------------------------------

    def choose_alignment(self) -> None:
        """Take the alignment from the metadata."""
        field = self.fields.get(ALIGNMENT_KEY)
        if field is None:
            return
        location = f"key `{ALIGNMENT_KEY}`"
        if field.type is not ValueType.UINT32:
            self.issues.add(
                "GGUF-ALIGNMENT", location, f"is {field.type_name}, expected uint32", field.offset
            )
        elif not is_power_of_two(field.value):
            self.issues.add(
                "GGUF-ALIGNMENT", location, f"{field.value} is not a power of two", field.offset
            )
        else:
            self.alignment = field.value

    def tensor(self) -> None:
        """Read one row of the tensor table."""
        at = self.at
        name = self.string("tensor name", f"offset {at}")
        n_dims_at = self.at
        n_dims = self.number(self.word)
        if n_dims > MAX_DIMS:
            self.stop(
                "GGUF-TENSOR-DIMS",
                f"tensor `{shown(name)}`",
                f"{n_dims:,} dimensions, at most {MAX_DIMS}",
                n_dims_at,
            )
        row = self.rows[n_dims]
        self.need(row.size)
        *shape, type_id, offset = row.unpack_from(self.window.buffer, self.at)
        self.at += row.size
        self.entries.append(TensorEntry(name, tuple(shape), type_id, offset, at))

    # -- primitives --------------------------------------------------------------------------

    def number(self, kind: struct.Struct) -> Any:
        """Read one number."""
        self.need(kind.size)
        (value,) = kind.unpack_from(self.window.buffer, self.at)
        self.at += kind.size
        return value

    def string(self, what: str, location: str) -> str:
        """Read one string."""
        at = self.at
        n = self.number(self.count)
        room = self.window.size_bytes - self.at
        if n > room:
            self.stop(
                "GGUF-STRING-LENGTH",
                location,
                f"{what} of {n:,} bytes announced, {room:,} bytes follow",
                at,
            )
        if n > MAX_STRING_BYTES:
            message = f"{what} of {n:,} bytes; at most {MAX_STRING_BYTES:,} are read"
            self.stop("GGUF-LIMIT", location, message, at)
        self.need(n)
        raw = bytes(self.window.buffer[self.at : self.at + n])
        self.at += n
        return decode(raw)

    def need(self, n: int) -> None:
        """See ``n`` more bytes or stop."""
        if self.window.see(self.at + n):
            return
        location = f"offset {self.at}"
        self.require_bound(n, location)
        missing = self.at + n - self.window.size_bytes
        message = f"the header is cut: {missing:,} more bytes expected"
        self.stop("GGUF-TRUNCATED", location, message, self.at)

    def require_bound(self, n: int, location: str) -> None:
        """Stop where ``n`` more bytes, which the file has, make the header longer than any."""
        if self.at + n > MAX_HEADER_BYTES and self.at + n <= self.window.size_bytes:
            message = (
                f"the header is longer than {MAX_HEADER_BYTES:,} bytes, the most that are read"
            )
            self.stop("GGUF-LIMIT", location, message, self.at)

    def stop(self, code: str, location: str, message: str, offset: int) -> NoReturn:
        """Note a problem behind which nothing can be read."""
        self.issues.add(code, location, message, offset)
        raise _StopError
