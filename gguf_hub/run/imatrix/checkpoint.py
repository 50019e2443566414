"""An importance matrix that is not finished: which run it is of, and how many chunks are left.

It is a valid file all the same, with two keys more, which the finished one lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote

from gguf_hub.errors import GgufError, GgufHubError
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.shards import Gguf
from gguf_hub.run.perplexity.measure import Chunks
from gguf_hub.run.quants.imatrix import ImportanceMatrix
from gguf_hub.run.quants.imatrix_file import read_unfinished

_RUN, _LEFT = "gguf_hub.imatrix.run", "gguf_hub.imatrix.chunks_left"


def identity_of(
    file: Gguf, chunks: Chunks, inputs: Iterable[ImportanceMatrix], settings: Iterable[object]
) -> str:
    """Return what tells a run from others: its model, text, matrices and settings.

    Of a model its size, names, shapes, types and metadata count, not the weights.
    """
    digest = hashlib.sha256()
    digest.update(repr((chunks.shape, tuple(settings), file.size_bytes)).encode())
    digest.update(chunks.tobytes())
    for info in file.tensors.values():
        digest.update(repr((info.name, info.shape, int(info.type))).encode())
    for key in sorted(file.fields):
        if not key.startswith("tokenizer."):
            digest.update(repr((key, file.metadata[key])).encode())
    for matrix in inputs:
        for name, entry in sorted(matrix.entries.items()):
            digest.update(name.encode())
            digest.update(entry.sums.tobytes())
            digest.update(entry.counts.tobytes())
    return digest.hexdigest()


def fields_of(run: str, n_left: int) -> dict[str, Field]:
    """Return the keys of a run that has ``n_left`` chunks left."""
    return {_RUN: Field.of(run), _LEFT: Field.of(n_left)}


def find_checkpoint(path: Path, run: str) -> tuple[ImportanceMatrix, int] | None:
    """Return what a killed run left, and how many of its chunks are left; None if nothing is there.

    Raises:
        GgufHubError: Something else is there.
    """
    if not path.exists():
        return None
    try:
        matrix, fields = read_unfinished(path)
    except GgufError as exc:
        raise _taken(path, "exists already", "--force overwrites it") from exc
    if _LEFT not in fields:
        raise _taken(path, "exists already", "--force overwrites it; `--in-file` adds to it")
    if _value(fields, _RUN) != run:
        hint = f"repeat that command to go on, or `rm {quote(str(path))}`, or --force"
        raise _taken(path, "is unfinished, and of another model, text or setting", hint)
    left = _value(fields, _LEFT)
    return matrix, left if isinstance(left, int) else 0


def _value(fields: Mapping[str, Field], key: str) -> object:
    return fields[key].value if key in fields else None


def _taken(path: Path, problem: str, hint: str) -> GgufHubError:
    return GgufHubError(f"`{path}` {problem}", hint=hint)
