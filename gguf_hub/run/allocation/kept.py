"""Measurements that are kept, so that another size, or an interrupted run, costs none again.

They lie below gguf-hub's cache folder, ``allocation/KEY.json``; the key stands for the source, the
importance matrix and the text. A file that cannot be read or written costs the time to measure
again, and is no error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gguf_hub.files import write_atomically
from gguf_hub.gguf.identity import tensors_id
from gguf_hub.gguf.shards import Gguf
from gguf_hub.gguf.types import QuantType
from gguf_hub.paths import cache_dir
from gguf_hub.run.imatrix.checkpoint import identity_of
from gguf_hub.run.perplexity.measure import Chunks
from gguf_hub.run.quants.imatrix import ImportanceMatrix

_FORMAT = 1
"""Raised when a measurement means something else."""

ByType = dict[str, dict[QuantType, float]]


class Kept:
    """The measurements of one source, matrix and text.

    Attributes:
        errors: Unit -> type -> relative error.
        probes: Key of a group -> probe -> KL divergence.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        data = _read(path)
        self.errors: ByType = _by_type(data.get("errors"))
        self.probes: ByType = _by_type(data.get("probes"))

    @classmethod
    def of(cls, file: Gguf, imatrix: ImportanceMatrix | None, chunks: Chunks) -> Kept:
        """Return what is kept of a source; nothing where it was never measured."""
        matrices = [] if imatrix is None else [imatrix]
        key = identity_of(file, chunks, matrices, [_FORMAT, tensors_id(file, file.tensors)])
        return cls(cache_dir() / "allocation" / f"{key[:32]}.json")

    def save(self) -> None:
        """Write all, if the cache can be written."""
        data = {"errors": _by_name(self.errors), "probes": _by_name(self.probes)}
        with suppress(OSError):
            write_atomically(self._path, json.dumps(data))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _by_type(data: Any) -> ByType:
    """Return numbers by types; nothing of what is something else."""
    if not isinstance(data, dict):
        return {}
    return {
        name: {QuantType[t]: float(x) for t, x in row.items() if t in QuantType.__members__}
        for name, row in data.items()
        if isinstance(row, dict) and all(isinstance(x, (int, float)) for x in row.values())
    }


def _by_name(data: Mapping[str, Mapping[QuantType, float]]) -> dict[str, dict[str, float]]:
    return {name: {type.name: x for type, x in row.items()} for name, row in data.items()}
