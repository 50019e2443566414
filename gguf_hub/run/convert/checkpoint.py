"""A checkpoint folder: its JSON files, and where each tensor lies in its safetensors files.

Nothing is read but headers; a tensor is mapped when its turn comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CheckpointError
from gguf_hub.run.convert.extra import require

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{1,6}-of-(\d{1,6})\.safetensors")

# numpy has no bfloat16: its bits are read as integers
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
}
"""Stored types that can be converted."""
_OTHERS: dict[str, np.dtype[Any]] = {
    "I8": np.dtype("i1"), "U8": np.dtype("u1"), "F8_E8M0": np.dtype("u1"),
    "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
}  # fmt: skip
"""What codes, scales and indices of quantised weights may be stored in."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file.

    Attributes:
        name: Its name in the checkpoint.
        path: The file.
        dtype: ``F32``, ``F16``, ``BF16`` or another name of the format.
        shape: Rows first.
        offset: First byte in the file.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def has_known_type(self) -> bool:
        """Whether ``open`` can read it."""
        return self.dtype in DTYPES or self.dtype in _OTHERS

    def open(self) -> NDArray[Any]:
        """Map the values; bfloat16 and floats of eight bits as their bits."""
        dtype = DTYPES.get(self.dtype) or _OTHERS[self.dtype]
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        shape = self.shape or (1,)
        mapped: NDArray[Any] = np.memmap(
            self.path, dtype, mode="r", offset=self.offset, shape=shape
        )
        return mapped.reshape(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder.

    Attributes:
        folder: The folder.
        config: Contents of ``config.json``.
        tensors: By name.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, folder: Path, *, with_tensors: bool = True) -> Checkpoint:
        """Read ``config.json`` and the headers of all safetensors files.

        Args:
            folder: The folder.
            with_tensors: False to read the vocabulary alone.

        Raises:
            CheckpointError: A file is missing or damaged; all missing shards are reported at once.
        """
        if not folder.is_dir():
            hint = "name the folder that holds config.json"
            raise CheckpointError(folder, ["no such folder"], hint=hint)
        config = read_json(folder / "config.json")
        return cls(folder, config, _read_tensors(folder) if with_tensors else {})


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        CheckpointError: There is no such file, or it holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        hint = "expected a checkpoint as `hf download ORG/REPO --local-dir FOLDER` writes it"
        raise CheckpointError(path.parent, [f"no `{path.name}`"], hint=hint) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise CheckpointError(path, [f"cannot be read as JSON: {exc}"]) from exc
    if not isinstance(data, dict):
        raise CheckpointError(path, [f"expected a JSON object, found {type(data).__name__}"])
    return data


def read_json_if_any(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; empty when there is no such file."""
    return read_json(path) if path.is_file() else {}


def _read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of all files, and check them against the index."""
    names = _file_names(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        issues = [f"missing shard `{name}`" for name in missing]
        raise CheckpointError(folder, issues, hint="download the folder again: it goes on")
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        tensors |= read_header(folder / name)
    _check_index(folder, tensors)
    return tensors


def _file_names(folder: Path) -> list[str]:
    if (folder / INDEX).is_file():
        return sorted(set(_weight_map(folder).values()))
    if (folder / SINGLE).is_file():
        return [SINGLE]
    shards = sorted(path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    if shards:
        # without an index the names tell how many there are
        digits = shards[0].split("-")[1]
        count = int(shards[0].split("-of-")[1].removesuffix(".safetensors"))
        width = len(digits)
        return [f"model-{i:0{width}}-of-{count:0{width}}.safetensors" for i in range(1, count + 1)]
    raise CheckpointError(folder, [f"no `{SINGLE}` and no `{INDEX}`"], hint=_other_format(folder))


def _weight_map(folder: Path) -> dict[str, str]:
    """Return tensor -> file name, as the index says."""
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(folder / INDEX, ["expected `weight_map`, tensor names to file names"])
    for file in weight_map.values():
        # the index comes from outside: it may name files of this folder only
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(folder / INDEX, [f"`{file}` is not a file of the folder"])
    return weight_map


def _check_index(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise where the files lack what the index lists."""
    if not (folder / INDEX).is_file():
        return
    issues = []
    for name, file in _weight_map(folder).items():
        stored = tensors.get(name)
        if stored is None or stored.path.name != file:
            issues.append(f"`{file}` lacks tensor `{name}`, which the index says is there")
    if issues:
        raise CheckpointError(folder, issues, hint="the shards are not of one checkpoint")


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file.

    The library checks the header: sizes, overlaps, the end of the file. It cannot hand over
    bfloat16 as numpy arrays, so the offsets are read here: eight bytes of length, then JSON.

    Source: https://huggingface.co/docs/safetensors, "Format".
    """
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            known = set(file.keys())
        with path.open("rb") as raw:
            n = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(n))
    except (safetensors.SafetensorError, OSError) as exc:
        hint = "the file is damaged or incomplete: download it again"
        raise CheckpointError(path, [f"not a sound safetensors file: {exc}"], hint=hint) from exc
    return {
        name: StoredTensor(
            name, path, at["dtype"], tuple(at["shape"]), 8 + n + at["data_offsets"][0]
        )
        for name, at in header.items()
        if name in known
    }


def _other_format(folder: Path) -> str:
    """Return a hint by what the folder holds instead."""
    if any(folder.glob("pytorch_model*.bin")) or any(folder.glob("*.pt*")):
        return "the weights are pickled; look for a revision of the repository with safetensors"
    if any(folder.glob("consolidated*.safetensors")):
        return "these are Mistral's own names; download the files `model-*.safetensors` instead"
    return "download the repository's `*.safetensors` and `*.json` files into the folder"
