"""A cache of states in a folder, for later processes too.

One file for each state, little-endian; other files of the folder are neither read nor removed.

    24 bytes signature · uint32 CRC-32 of the rest · uint32 length of the head · JSON head ·
    int32 [key] · int32 [tokens of the state] · float32 [scores] · uint16 [K/V cache]

No file is unpickled: what others put there can be wrong, but not run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.llama.cache import BaseLlamaCache, Key, nearest
from gguf_hub.api.llama.parts import LlamaState
from gguf_hub.errors import GgufHubError
from gguf_hub.files import open_regular, remove_if
from gguf_hub.gguf.atomic import new_file
from gguf_hub.gguf.copying import write_all
from gguf_hub.oserrors import reason_with_name

SIGNATURE = b"gguf-hub llama state 01\n"
_START = struct.Struct("<24sII")
_NAME = re.compile(r"[0-9a-f]{64}\.state")
_MOST_HEAD = 1 << 16


@dataclass(frozen=True)
class _Entry:
    """A file of ours: what its head says."""

    path: Path
    status: os.stat_result
    head: dict[str, Any]
    body_offset: int
    crc: int

    @property
    def sizes_bytes(self) -> tuple[int, int, int, int]:
        """Bytes of the key, the tokens, their scores and their K/V cache."""
        head = self.head
        n_scores = math.prod(head["scores"])
        return 4 * head["n_key"], 4 * head["n_tokens"], 4 * n_scores, 2 * head["n_cache"]


class LlamaDiskCache(BaseLlamaCache):
    """Keeps states in a folder.

    Args:
        cache_dir: The folder; it is made.
        capacity_bytes: Maximum size of all states.

    Raises:
        GgufHubError: The folder cannot be made.
    """

    def __init__(
        self, cache_dir: str | os.PathLike[str] = ".cache/llama_cache",
        capacity_bytes: int = 2 << 30,
    ) -> None:  # fmt: skip
        super().__init__(capacity_bytes)
        self._folder = Path(cache_dir)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise GgufHubError(
                f"cannot make the cache folder `{cache_dir}`: {reason_with_name(exc)}"
            ) from exc

    @property
    def cache_size(self) -> int:
        """Bytes in use."""
        return sum(entry.status.st_size for entry in self._entries())

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        """Return the state with the longest common prefix with ``key``; KeyError if none.

        A damaged file is as good as none.
        """
        entries = self._by_key()
        while (best := nearest(entries, key)) is not None:
            if (state := _read_state(entries.pop(best))) is not None:
                return state
        raise KeyError("no state begins like this prompt")

    def __contains__(self, key: Sequence[int]) -> bool:
        return nearest(self._by_key(), key) is not None

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        """Write a state; the least recently used files are removed beyond the capacity.

        Raises:
            GgufHubError: It cannot be written.
        """
        tokens = np.array(key, "<i4")
        name = hashlib.sha256(value.model_id.encode() + tokens.tobytes()).hexdigest()
        _write_state(self._folder / f"{name}.state", tokens, value)
        entries = sorted(self._entries(), key=lambda entry: entry.status.st_mtime_ns)
        excess = sum(entry.status.st_size for entry in entries) - self.capacity_bytes
        for entry in entries:
            if excess <= 0:
                break
            remove_if(entry.path, entry.status)
            excess -= entry.status.st_size

    def _by_key(self) -> dict[Key, _Entry]:
        """Return what is there by its tokens, the most recently used first, and of twins alone."""
        by_key: dict[Key, _Entry] = {}
        for entry in sorted(self._entries(), key=lambda entry: -entry.status.st_mtime_ns):
            with contextlib.suppress(OSError):
                data = _read(entry, entry.body_offset, entry.sizes_bytes[0])
                by_key.setdefault(tuple(np.frombuffer(data, "<i4").tolist()), entry)
        return by_key

    def _entries(self) -> Iterator[_Entry]:
        """Yield what is there: nothing where the folder cannot be read."""
        paths: list[Path] = []
        with contextlib.suppress(OSError):
            paths += self._folder.iterdir()
        for path in paths:
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    if (entry := _read_entry(path)) is not None:
                        yield entry


def _read_entry(path: Path) -> _Entry | None:
    """Return what a file's head says; None if it is not one of ours, or not whole."""
    with os.fdopen(open_regular(path), "rb") as file:
        start = file.read(_START.size)
        if len(start) < _START.size or not start.startswith(SIGNATURE):
            return None
        _, crc, n_head = _START.unpack(start)
        status, text = os.fstat(file.fileno()), file.read(min(n_head, _MOST_HEAD))
    try:
        entry = _Entry(path, status, json.loads(text), _START.size + n_head, crc)
        sizes_bytes = entry.sizes_bytes
        are_sizes = all(isinstance(size, int) and size >= 0 for size in sizes_bytes)
        is_whole = entry.body_offset + sum(sizes_bytes) == status.st_size
        return entry if are_sizes and is_whole else None
    except (ValueError, TypeError, LookupError, OverflowError):
        return None


def _read(entry: _Entry, offset: int, size_bytes: int) -> bytes:
    with os.fdopen(open_regular(entry.path), "rb") as file:
        file.seek(offset)
        return file.read(size_bytes)


def _read_state(entry: _Entry) -> LlamaState | None:
    """Return the state of a file, which counts as used now; None if it is damaged or gone."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        data = _read(entry, _START.size, entry.status.st_size)
        if zlib.crc32(data) == entry.crc:
            os.utime(entry.path)
            return _state_of(entry, data)
    return None


def _state_of(entry: _Entry, data: bytes) -> LlamaState:
    head = entry.head
    ends = accumulate(entry.sizes_bytes, initial=entry.body_offset - _START.size)
    _, ids, scores, cache = (data[start:end] for start, end in pairwise(ends))
    return LlamaState(
        input_ids=np.frombuffer(ids, "<i4").astype(np.intc),
        scores=np.frombuffer(scores, "<f4").reshape(head["scores"]),
        n_tokens=head["n_tokens"],
        cache=np.frombuffer(cache, "<u2"),
        seed=head["seed"],
        cache_types=(head["cache_types"][0], head["cache_types"][1]),
        model_id=head["model_id"],
    )


def _write_state(path: Path, key: NDArray[np.int32], state: LlamaState) -> None:
    head = json.dumps({
        "n_key": len(key), "n_tokens": state.n_tokens, "seed": state.seed,
        "cache_types": state.cache_types, "model_id": state.model_id,
        "scores": state.scores.shape, "n_cache": state.cache.size,
    }).encode()  # fmt: skip
    ids, scores = state.input_ids.astype("<i4"), state.scores.astype("<f4")
    parts = [head, *(a.tobytes() for a in (key, ids, scores, state.cache.astype("<u2")))]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    start = _START.pack(SIGNATURE, crc, len(head))
    with new_file(path, len(start) + sum(map(len, parts))) as new:
        for part in (start, *parts):
            write_all(new.descriptor, part)
