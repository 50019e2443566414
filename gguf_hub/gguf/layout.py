"""The tensor table against the file: types, shapes, sizes, and where the data lies.

llama.cpp wants the data of all tensors in the order of the table, one after another, padded to the
alignment, and inside of the file. So does this room.

Source: gguf_init_from_reader in ggml/src/gguf.cpp at ggml commit c2cdd2b2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gguf_hub.gguf.format import (
    INT64_MAX,
    AnyTensor,
    OpaqueTensor,
    TensorInfo,
    align,
    count_elements,
    tensor_size_bytes,
)
from gguf_hub.gguf.header import Header, TensorEntry
from gguf_hub.gguf.hparams import architecture
from gguf_hub.gguf.issues import Issue, Issues
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import REMOVED_TYPE_IDS, TYPE_COUNT, QuantType

_TYPES = {int(type): type for type in QuantType}
_EARLY_MXFP4, _OF_EARLY_MXFP4 = 4, ("gptoss", "gpt-oss")
"""What Ollama's first files of gpt-oss called MXFP4, whose blocks they had in another order.

Source: ``createTensor`` in ml/backend/ggml/ggml.go of Ollama 0.11."""
_USUAL_LENGTH = 2**15
"""Four dimensions of no more than that are below every bound."""
_NEWER_BELOW = 256
"""Type ids from TYPE_COUNT up to here are taken for newer types, beyond for damage."""


@dataclass(frozen=True)
class TensorTable:
    """The tensors that can be believed in, and what is wrong with the others.

    Attributes:
        tensors: By name, in file order; those whose shape and type make sense.
        issues: Problems of rows and of the places of their data.
        opaque: By name; those of a type that is not known here.
    """

    tensors: dict[str, TensorInfo]
    issues: tuple[Issue, ...]
    opaque: dict[str, OpaqueTensor] = field(default_factory=dict)

    @property
    def all(self) -> dict[str, AnyTensor]:
        """All that have a place in the file."""
        return {**self.tensors, **self.opaque}


def read_table(header: Header) -> TensorTable:
    """Check the rows of the tensor table and where they say that their data lies."""
    issues = Issues()
    rows: dict[str, AnyTensor] = {}
    sizes = _opaque_sizes(header)
    for entry in header.entries:
        if entry.name in rows:
            issues.add(
                "GGUF-TENSOR-NAME-DUPLICATE", _location(entry), "is in the table twice", entry.at
            )
        info = _check_row(entry, header, sizes, issues)
        if info:
            rows.setdefault(entry.name, info)
    tensors = {name: info for name, info in rows.items() if isinstance(info, TensorInfo)}
    opaque = {name: info for name, info in rows.items() if isinstance(info, OpaqueTensor)}
    if header.is_whole:
        _check_order(header, issues)
        _check_bounds(header, tuple(rows.values()), issues)
        _check_totals(header, rows, issues)
    return TensorTable(tensors, issues.collected(), opaque)


def _opaque_sizes(header: Header) -> dict[int, int]:
    """Return the most bytes that data at an offset can have, where a type is not known.

    They end where the next data starts, or the file.
    """
    if all(entry.type_id in _TYPES for entry in header.entries):
        return {}
    room = max(0, header.size_bytes - header.data_offset)
    starts = sorted({entry.offset for entry in header.entries})
    ends = [min(end, room) for end in starts[1:]] + [room]
    return {start: max(0, end - start) for start, end in zip(starts, ends, strict=False)}


def _location(entry: TensorEntry) -> str:
    return f"tensor `{shown(entry.name)}`"


def _check_row(
    entry: TensorEntry, header: Header, opaque_sizes: Mapping[int, int], issues: Issues
) -> AnyTensor | None:
    """Check one row by itself; None when the size of its data cannot be known."""
    type = _check_type(entry, header, issues)
    if not _check_shape(entry, issues):
        return None
    if type is None:
        size_bytes = opaque_sizes[entry.offset]
        return OpaqueTensor(entry.name, entry.shape, entry.type_id, entry.offset, size_bytes)
    row = entry.shape[0] if entry.shape else 1
    if row % type.block_size:
        issues.add(
            "GGUF-TENSOR-BLOCK",
            _location(entry),
            f"rows of {row:,} weights do not fill {type.name} blocks of {type.block_size}",
            entry.at,
        )
        return None
    size_bytes = tensor_size_bytes(entry.shape, type)
    if size_bytes > INT64_MAX - header.alignment:
        issues.add(
            "GGUF-TENSOR-OVERFLOW",
            _location(entry),
            f"shape {list(entry.shape)} of {type.name} is {size_bytes:,} bytes",
            entry.at,
        )
        return None
    return TensorInfo(entry.name, entry.shape, type, entry.offset, size_bytes)


def _check_type(entry: TensorEntry, header: Header, issues: Issues) -> QuantType | None:
    id = entry.type_id
    if id in _TYPES:
        return _TYPES[id]
    if id == _EARLY_MXFP4 and architecture(header.fields) in _OF_EARLY_MXFP4:
        code = "GGUF-OLLAMA-TYPE"
        what = f"type {id}: MXFP4 in the order of checkpoints, as Ollama wrote it until August 2025"
    elif TYPE_COUNT <= id < _NEWER_BELOW:
        code, what = "GGUF-TENSOR-TYPE-UNKNOWN", f"type {id} is newer than this version knows"
    elif id in REMOVED_TYPE_IDS:
        code, what = "GGUF-TENSOR-TYPE", f"type {id} was removed from the format"
    else:
        code, what = "GGUF-TENSOR-TYPE", f"type {id}, expected 0 to {TYPE_COUNT - 1}"
    issues.add(code, _location(entry), what, entry.at)
    return None


def _check_shape(entry: TensorEntry, issues: Issues) -> bool:
    """Check the dimensions; False when the number of elements means nothing."""
    shape = entry.shape
    if shape and min(shape) >= 1 and max(shape) <= _USUAL_LENGTH:
        return True
    location, at = _location(entry), entry.at
    if not shape:
        issues.add("GGUF-TENSOR-SCALAR", location, "has no dimension: a single number", at)
    if any(n < 0 for n in shape):
        issues.add(
            "GGUF-TENSOR-DIM-NEGATIVE", location, f"shape {list(shape)} as 64-bit integers", at
        )
        return False
    if any(n > 2**32 for n in shape):
        issues.add("GGUF-TENSOR-DIM-HUGE", location, f"shape {list(shape)}", at)
    if 0 in shape:
        issues.add("GGUF-TENSOR-DIM-ZERO", location, f"shape {list(shape)} holds no element", at)
    if count_elements(shape) > INT64_MAX:
        issues.add(
            "GGUF-TENSOR-OVERFLOW", location, f"shape {list(shape)}: 2**63 elements or more", at
        )
        return False
    return True


def _check_order(header: Header, issues: Issues) -> None:
    """Check that the data of each tensor starts where that of the one before it ends."""
    for entry in header.entries:
        if entry.offset % header.alignment:
            issues.add(
                "GGUF-TENSOR-ALIGNMENT",
                _location(entry),
                f"offset {entry.offset:,}is not a multiple of {header.alignment:,}",
                entry.at,
            )
    offsets = [entry.offset for entry in header.entries]
    for before, entry in zip(header.entries, header.entries[1:], strict=False):
        if entry.offset < before.offset:
            issues.add(
                "GGUF-TENSOR-ORDER",
                _location(entry),
                f"offset {entry.offset:,} lies before that of `{shown(before.name)}`",
                entry.at,
            )
    ordered = sorted(range(len(offsets)), key=offsets.__getitem__)
    _check_neighbours(header, [header.entries[i] for i in ordered], issues)


def _check_neighbours(header: Header, ordered: list[TensorEntry], issues: Issues) -> None:
    """Look for shared and for unused bytes between tensors that lie side by side."""
    end: int | None = 0
    owner = ""
    for entry in ordered:
        size = _size_or_none(entry)
        if end is not None and entry.offset < end and size != 0:
            message = f"starts at {entry.offset:,}, before the end of `{owner}` at {end:,}"
            issues.add("GGUF-TENSOR-OVERLAP", _location(entry), message, entry.at)
        elif end is not None and entry.offset > align(end, header.alignment):
            gap = entry.offset - align(end, header.alignment)
            issues.add(
                "GGUF-TENSOR-GAP", _location(entry), f"{gap:,} unused bytes before it", entry.at
            )
        if size is None:
            end = None
        elif end is None or entry.offset + size > end:
            end, owner = entry.offset + size, shown(entry.name)


def _size_or_none(entry: TensorEntry) -> int | None:
    """Bytes of the data, or None when the row makes no sense."""
    type = _TYPES.get(entry.type_id)
    if type is None or any(n < 0 for n in entry.shape):
        return None
    return tensor_size_bytes(entry.shape, type)


def _check_bounds(header: Header, tensors: tuple[AnyTensor, ...], issues: Issues) -> None:
    """Check that the file holds the data of every tensor; say how much is missing."""
    room = header.size_bytes - header.data_offset
    cut = [info for info in tensors if info.offset + _least_size(info) > max(room, 0)]
    if not cut:
        return
    location, start = f"tensor `{shown(cut[0].name)}`", header.data_offset + cut[0].offset
    missing = max(info.offset + _least_size(info) for info in cut) - room
    if missing > sum(align(info.size_bytes, header.alignment) for info in tensors):
        message = (
            f"its data is said to start at {start:,}, in a file of {header.size_bytes:,} bytes"
        )
    else:
        message = (
            f"the file ends too early: {missing:,} bytes are missing, "
            f"{len(cut):,} of {len(tensors):,} tensors are not whole"
        )
    issues.add("GGUF-TENSOR-BOUNDS", location, message, start)


def _least_size(info: AnyTensor) -> int:
    """Bytes that the data surely has: of an unknown type one, unless there are no weights."""
    return info.size_bytes if isinstance(info, TensorInfo) else min(1, info.n_elements)


def _check_totals(header: Header, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Check sums over all tensors, and what follows the last one."""
    n_elements = sum(info.n_elements for info in tensors.values())
    if n_elements > header.size_bytes * 8:
        issues.add(
            "GGUF-PARAMS",
            "file",
            f"{n_elements:,} parameters announced in a file of {header.size_bytes:,} bytes",
        )
    padded = sum(align(info.size_bytes, header.alignment) for info in tensors.values())
    if padded > INT64_MAX:
        issues.add("GGUF-TENSOR-OVERFLOW", "file", f"all tensors together are {padded:,} bytes")
    if len(tensors) == len(header.entries):
        ends = (info.offset + info.size_bytes for info in tensors.values())
        end = header.data_offset + align(max(ends, default=0), header.alignment)
        if header.size_bytes > end:
            extra = header.size_bytes - end
            issues.add("GGUF-TRAILING-BYTES", f"offset {end}", f"{extra:,} bytes follow", end)
