"""Slices: local files with some tensors of a model, for a machine that computes only with those.

A slice is as long as the whole file and each of its tensors lies where it lies in that; the others
are holes. Its name ends in ``.gguf-slice``, not in ``.gguf``, and nothing opens it as a model but
whoever says that a slice is meant (``shards.open_slice``).
"""

from __future__ import annotations

from pathlib import Path

from gguf_hub.errors import GgufError

SLICE_SUFFIX = ".gguf-slice"


def slice_name(name: str) -> str:
    """Return what the slice of a file is called."""
    return f"{name[: -len('.gguf')] if name.lower().endswith('.gguf') else name}{SLICE_SUFFIX}"


def is_slice(path: Path) -> bool:
    """Return whether a name is that of a slice."""
    return path.name.lower().endswith(SLICE_SUFFIX)


def refuse_slice(path: Path) -> None:
    """Refuse to take a slice for a model.

    Raises:
        GgufError: It is one.
    """
    if is_slice(path):
        raise GgufError(
            f"`{path}` is a slice: it has only the tensors that this machine computes in a cluster",
            path=path,
            hint="name the whole file; `gguf-hub gc` removes slices",
        )
