"""Models with something in them that a sound model of ours lacks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from gguf_hub.gguf.format import Field, TensorSpec, tensor_size_bytes
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from tests.synth import TINY, Shape, blocks, metadata, tensors

_FLOATS = (QuantType.F32, QuantType.F16, QuantType.BF16)


def write_model(
    path: Path,
    shape: Shape = TINY,
    *,
    layout: str = "split",
    fields: Mapping[str, Field] | None = None,
    add: Iterable[TensorSpec] = (),
    change: Callable[[TensorSpec], TensorSpec | None] = lambda spec: spec,
) -> Path:
    """Write a small model, changed.

    Args:
        path: The file.
        shape: Its size.
        layout: Of the experts.
        fields: Metadata to add or replace.
        add: More tensors: of ones where they are floats, else of zeros.
        change: Returns what becomes of each tensor: another one, or None for none.
    """
    rng = np.random.default_rng(0)
    kept = [spec for spec in map(change, tensors(shape, layout, "F32")) if spec is not None]
    pairs = [(s, blocks(s, rng) if s.type in _FLOATS else zeros(s)) for s in kept]
    extra = [(spec, plain(spec)) for spec in add]
    write_gguf(path, {**metadata(shape), **(fields or {})}, [*pairs, *extra])
    return path


def plain(spec: TensorSpec) -> bytes:
    """The data of a tensor that is harmless in any role: ones, or zeros in other types."""
    return np.ones(spec.shape, np.float32).tobytes() if spec.type is QuantType.F32 else zeros(spec)


def zeros(spec: TensorSpec) -> bytes:
    """The data of a tensor, all zero."""
    return bytes(tensor_size_bytes(spec.shape, spec.type))


def set_type_ids(path: Path, ids: Mapping[str, int]) -> Path:
    """Give tensors of a file other type ids, in place: their data stays as long as it is."""
    with path.open("r+b") as file:
        header = read_header(file)
        for entry in header.entries:
            if entry.name in ids:
                # name with its length, number of dimensions, dimensions, type
                file.seek(entry.at + 8 + len(entry.name.encode()) + 4 + 8 * len(entry.shape))
                file.write(struct.pack("<I", ids[entry.name]))
    return path
