"""Writing GGUF files: header, then tensors in a stream, under a temporary name until all is there.

Memory stays constant: data comes as arrays, as chunks, or as ranges of other files that the
kernel copies. Nothing appears under the final name unless it is whole.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.errors import GgufError
from gguf_hub.gguf.atomic import NewFile, new_file
from gguf_hub.gguf.copying import FileRange, copy_range, write_all
from gguf_hub.gguf.direct import LEAST_BYTES, Direct, open_direct
from gguf_hub.gguf.format import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    VERSION,
    ByteOrder,
    Field,
    TensorInfo,
    TensorLike,
    ValueType,
    align,
    tensor_size_bytes,
)
from gguf_hub.gguf.reserve import reserve
from gguf_hub.gguf.strings import StringArray, encode, shown
from gguf_hub.progress import SILENT, Progress, Task

TensorData = Any
"""Bytes-like, an array, one ``FileRange`` or a tuple, or a function that yields chunks."""

_LARGE_ALIGNMENT = 1 << 20
"""Up to this many bytes space is set aside; beyond, padding may be most of the file."""


@dataclass(frozen=True)
class Plan:
    """Where everything will stand in a file.

    Attributes:
        header: The bytes before the data section, without padding.
        data_offset: Where the data section starts, in bytes.
        tensors: In file order, with their offsets.
        size_bytes: Length of the whole file.
        alignment: Bytes.
    """

    header: bytes
    data_offset: int
    tensors: tuple[TensorInfo, ...]
    size_bytes: int
    alignment: int


def plan_file(
    fields: Mapping[str, Field],
    tensors: Iterable[TensorLike],
    *,
    alignment: int | None = None,
    version: int = VERSION,
    byte_order: ByteOrder = "little",
) -> Plan:
    """Lay out a file without writing it.

    Args:
        fields: Metadata in the order to write it.
        tensors: Name, shape and type of each tensor, in the order to write them.
        alignment: Bytes, a power of two; by default what ``fields`` says, or else 32.
        version: 1, 2 or 3.
        byte_order: Of numbers in the header; data is written as it is given.
    """
    fields, alignment = _with_alignment(fields, alignment)
    infos, at = [], 0
    for spec in tensors:
        size_bytes = tensor_size_bytes(spec.shape, spec.type)
        infos.append(TensorInfo(spec.name, tuple(spec.shape), spec.type, at, size_bytes))
        at += align(size_bytes, alignment)
    header = encode_header(fields, infos, version=version, byte_order=byte_order)
    data_offset = align(len(header), alignment)
    return Plan(header, data_offset, tuple(infos), data_offset + at, alignment)


def _with_alignment(
    fields: Mapping[str, Field], alignment: int | None
) -> tuple[Mapping[str, Field], int]:
    """Make the metadata say the alignment when it is not the default."""
    stated = fields[ALIGNMENT_KEY].value if ALIGNMENT_KEY in fields else None
    if alignment is None:
        return fields, stated or DEFAULT_ALIGNMENT
    if alignment == (stated or DEFAULT_ALIGNMENT):
        return fields, alignment
    return {**fields, ALIGNMENT_KEY: Field(ValueType.UINT32, alignment)}, alignment


def encode_header(
    fields: Mapping[str, Field],
    tensors: Sequence[TensorInfo],
    *,
    version: int = VERSION,
    byte_order: ByteOrder = "little",
) -> bytes:
    """Return the bytes of a header, without padding behind it."""
    encoder = _Encoder(version, byte_order)
    encoder.start(len(tensors), len(fields))
    for key, field in fields.items():
        encoder.field(key, field)
    for info in tensors:
        encoder.tensor(info)
    return b"".join(encoder.parts)


class _Encoder:
    """Turns a header into bytes."""

    def __init__(self, version: int, byte_order: ByteOrder) -> None:
        self.version = version
        self.order = "<" if byte_order == "little" else ">"
        self.count = struct.Struct(self.order + ("I" if version == 1 else "Q"))
        self.parts: list[bytes] = []

    def start(self, n_tensors: int, n_fields: int) -> None:
        """Add magic, version and the numbers of tensors and fields."""
        self.parts.append(MAGIC + struct.pack(self.order + "I", self.version))
        self.parts.append(self.count.pack(n_tensors) + self.count.pack(n_fields))

    def string(self, text: str | bytes) -> None:
        """Add a length and the bytes."""
        raw = encode(text) if isinstance(text, str) else text
        self.parts += [self.count.pack(len(raw)), raw]

    def field(self, key: str, field: Field) -> None:
        """Add a key, its type and value; raise ``GgufError`` where the type cannot hold it."""
        self.string(key)
        self.parts.append(struct.pack(self.order + "I", field.type))
        try:
            if field.type is ValueType.ARRAY:
                self.array(field)
            elif field.type is ValueType.STRING:
                self.string(field.value)
            else:
                self.parts.append(struct.pack(self.order + field.type.code, field.value))
        except (struct.error, OverflowError) as exc:
            raise GgufError(
                f"key `{shown(key)}`: {field.value!r:.60} does not fit {field.type_name}"
            ) from exc

    def array(self, field: Field) -> None:
        """Add the type and number of elements, then these."""
        element = field.element_type
        assert element is not None, "an array knows the type of its elements"
        self.parts.append(struct.pack(self.order + "I", element))
        self.parts.append(self.count.pack(len(field.value)))
        if element is ValueType.STRING:
            value = field.value
            packed = value.packed(self.count) if isinstance(value, StringArray) else None
            if packed is not None:
                self.parts.append(packed)
            else:
                for raw in value.iter_bytes() if isinstance(value, StringArray) else value:
                    self.string(raw)
        else:
            dtype = element.dtype.newbyteorder(self.order)  # type: ignore[arg-type]
            self.parts.append(np.asarray(field.value).astype(dtype).tobytes())

    def tensor(self, info: TensorInfo) -> None:
        """Add what describes a tensor; in version 1 sizes have 32 bits."""
        self.string(info.name)
        width = "I" if self.version == 1 else "q"
        row = f"{self.order}I{len(info.shape)}{width}iQ"
        self.parts.append(struct.pack(row, len(info.shape), *info.shape, info.type, info.offset))


def write_gguf(
    path: Path | str,
    fields: Mapping[str, Field],
    tensors: Iterable[tuple[TensorLike, TensorData]],
    *,
    alignment: int | None = None,
    version: int = VERSION,
    byte_order: ByteOrder = "little",
    progress: Progress = SILENT,
    prove: Callable[[Path], None] | None = None,
) -> tuple[TensorInfo, ...]:
    """Write a GGUF file; it appears under its name only when it is whole and on the disk.

    Args:
        path: The file; an existing one is replaced at the very end.
        fields: Metadata with its GGUF types, in the order to write it.
        tensors: Pairs of a tensor's name, shape and type, and its data: bytes, an array, one
            ``FileRange`` or a tuple of them, or a function that yields chunks when its turn comes.
        alignment: Bytes; by default what ``fields`` says, or else 32.
        version: 1, 2 or 3.
        byte_order: Of numbers in the header; data is written as it is given.
        progress: Where to report bytes written.
        prove: Called with the temporary file before it takes its name; what it raises removes it.

    Returns:
        The tensors as they stand in the file.

    Raises:
        GgufError: Data that is not as long as its shape and type say, or a value that its type
            cannot hold.
        DiskFullError: Not enough space in the folder.
        LockedError: Another process writes the same file.
    """
    path = Path(path)
    pairs = list(tensors)
    plan = plan_file(
        fields,
        [spec for spec, _ in pairs],
        alignment=alignment,
        version=version,
        byte_order=byte_order,
    )
    with new_file(path, plan.size_bytes) as new:
        target = new.descriptor
        if plan.alignment <= _LARGE_ALIGNMENT:
            reserve(target, plan.size_bytes)
        with (
            progress.task(f"write {path.name}", plan.size_bytes) as task,
            _direct(new, pairs) as direct,
        ):
            write_all(target, plan.header)
            task.advance(plan.data_offset)
            for info, (_, data) in zip(plan.tensors, pairs, strict=True):
                # padding is left to the file system: nobody has to hold or write zeros
                at = plan.data_offset + info.offset
                _write_tensor(_Target(target, at, direct), info, data, task)
                task.advance(align(info.size_bytes, plan.alignment) - info.size_bytes)
        os.ftruncate(target, plan.size_bytes)
        if prove:
            prove(new.path)
    return plan.tensors


def _direct(
    new: NewFile, pairs: Sequence[tuple[TensorLike, TensorData]]
) -> contextlib.AbstractContextManager[Direct | None]:
    """Return what copies ranges past the cache, where there are any and that pays."""
    ranges = [file_range for _, data in pairs for file_range in _ranges(data)]
    is_large = sum(file_range.size_bytes for file_range in ranges) >= LEAST_BYTES
    sources = {file_range.path for file_range in ranges}
    direct = open_direct(new.path, new.descriptor, sources) if is_large else None
    return direct or contextlib.nullcontext()


def _ranges(data: TensorData) -> tuple[FileRange, ...]:
    """Return the ranges that data consists of; none for data of another kind."""
    if isinstance(data, FileRange):
        return (data,)
    return data if isinstance(data, tuple) else ()


@dataclass(frozen=True)
class _Target:
    """Where a tensor is written."""

    descriptor: int
    offset: int
    direct: Direct | None


def _write_tensor(target: _Target, info: TensorInfo, data: TensorData, task: Task) -> None:
    n_bytes = 0
    for n in _write_data(target, data):
        n_bytes += n
        task.advance(n)
    if n_bytes != info.size_bytes:
        raise GgufError(
            f"tensor `{shown(info.name)}`: {n_bytes:,} bytes of data, "
            f"but shape {list(info.shape)} of {info.type.name} is {info.size_bytes:,}"
        )


def _write_data(target: _Target, data: TensorData) -> Iterator[int]:
    """Write data of any kind; yield how many bytes each chunk had."""
    if isinstance(data, FileRange | tuple):
        yield from _write_ranges(target, _ranges(data))
        return
    os.lseek(target.descriptor, target.offset, os.SEEK_SET)
    for chunk in data() if callable(data) else (data,):
        view = _as_bytes(chunk)
        write_all(target.descriptor, view)
        yield view.nbytes


def _write_ranges(target: _Target, ranges: Sequence[FileRange]) -> Iterator[int]:
    at = target.offset
    for file_range in ranges:
        if target.direct:
            yield from target.direct.copy(file_range, at)
        else:
            os.lseek(target.descriptor, at, os.SEEK_SET)
            yield from copy_range(file_range, target.descriptor)
        at += file_range.size_bytes


def _as_bytes(chunk: Any) -> memoryview:
    if isinstance(chunk, np.ndarray):
        chunk = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
    return memoryview(chunk).cast("B")
