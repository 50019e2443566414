"""GGUF bytes written by hand, so that anything in them can be wrong."""

from __future__ import annotations

import struct
from typing import Any


def text(value: str | bytes) -> bytes:
    """A string with its length."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def kv(key: str | bytes, type_id: int, payload: bytes) -> bytes:
    """A key and its value."""
    return text(key) + struct.pack("<I", type_id) + payload


def u32(key: str, value: int) -> bytes:
    """A uint32."""
    return kv(key, 4, struct.pack("<I", value))


def string(key: str | bytes, value: str | bytes) -> bytes:
    """A string."""
    return kv(key, 8, text(value))


def array(key: str, type_id: int, count: int, payload: bytes) -> bytes:
    """An array."""
    return kv(key, 9, struct.pack("<IQ", type_id, count) + payload)


def tensor(name: str | bytes = "t", shape: Any = (32,), type_id: int = 0, offset: int = 0) -> bytes:
    """A row of the tensor table."""
    dims = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", type_id, offset)


def gguf(
    *parts: bytes, n_kv: int = 0, n_tensors: int = 0, data: bytes = b"", version: int = 3
) -> bytes:
    """A file: header, the given parts, padding to 32, data."""
    raw = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_kv) + b"".join(parts)
    return raw + bytes(-len(raw) % 32) + data


def with_kv(*parts: bytes) -> bytes:
    """A file of keys alone."""
    return gguf(*parts, n_kv=len(parts))


def with_tensors(*parts: bytes, size: int = 128) -> bytes:
    """A file of tensors alone, with ``size`` bytes of data."""
    return gguf(*parts, n_tensors=len(parts), data=bytes(size))
