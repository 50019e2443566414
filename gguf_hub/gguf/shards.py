"""Models in several files: finding the shards, reading them as one, cutting and joining.

Shard ``i`` of ``n`` is ``NAME-0000i-of-0000n.gguf``. The first holds all metadata, every one holds
three keys: ``split.no`` (from 0), ``split.count`` and ``split.tensors.count`` (of the whole model).

Source: tools/gguf-split/gguf-split.cpp and llama_split_path in src/llama.cpp of llama.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import numpy as np

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.files import remove_if, require_distinct
from gguf_hub.gguf.atomic import require_space
from gguf_hub.gguf.format import Field, TensorInfo, TensorSpec, ValueType, align
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.gguf.keys import number
from gguf_hub.gguf.mapping import Extent, map_together, read_errors, read_together, starts_of
from gguf_hub.gguf.metadata import Metadata
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.rewrite import Part, Rewrite, detached, range_of
from gguf_hub.gguf.shard_names import parse_shard, require_shards, shard_path
from gguf_hub.gguf.strings import shown
from gguf_hub.progress import SILENT, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
MAX_SHARDS = 99_999


class GgufSet:
    """The shards of a model as one file; also a context manager.

    Attributes:
        files: The shards in order.
        path: The first of them.
        fields: Metadata of the first, without ``SPLIT_KEYS``.
        metadata: The same as plain Python values.
        hparams: What it says of the model's sizes.
        tensors: Of all shards, in order; offsets are those in their own file.
        starts: Where each shard begins in ``data``.
    """

    def __init__(self, files: Sequence[GgufFile], data: NDArray[np.uint8] | None = None) -> None:
        self.files = tuple(files)
        self.path = files[0].path
        self.header = files[0].header
        self.byte_order = files[0].byte_order
        self._owner = {name: file for file in self.files for name in file.tensors}
        self.tensors: Mapping[str, TensorInfo] = {
            name: info for file in self.files for name, info in file.tensors.items()
        }
        self.read_as({k: field for k, field in files[0].fields.items() if k not in SPLIT_KEYS})
        self._sizes = [file.size_bytes for file in self.files]
        paths = (file.path for file in self.files)
        self.starts: Mapping[Path, int] = dict(zip(paths, starts_of(self._sizes), strict=False))
        if data is not None:
            self.__dict__["data"] = data

    @classmethod
    def open(
        cls, path: Path | str, *, is_mapped: bool = True, progress: Progress = SILENT
    ) -> GgufSet:
        """Open the whole set that a shard belongs to.

        Args:
            path: Any shard.
            is_mapped: False to read all of it into memory of our own.
            progress: Where to report that reading.

        Raises:
            GgufError: A shard is missing, damaged, or of another set.
        """
        shards = require_shards(Path(path))
        if is_mapped:
            return cls(_require_set(map(GgufFile.open, shards)))
        data, parts = read_together(shards, progress)
        return cls(_require_set(map(GgufFile.in_memory, shards, parts)), data)

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        """All shards, ``uint8[...]``, read-only, each at its ``starts``: mapped, or copied."""
        mapped = map_together([_extent(file) for file in self.files])
        if mapped is not None:
            return mapped
        data, parts = read_together([file.path for file in self.files])
        if [part.size for part in parts] != self._sizes:
            raise GgufError(f"the shards of `{self.path}` have changed while they were opened")
        return data

    @property
    def size_bytes(self) -> int:
        """Length of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def data_offset(self) -> int:
        """Where the data section of the first shard starts, in bytes."""
        return self.files[0].data_offset

    def owner(self, name: str) -> GgufFile:
        """Return the shard that holds a tensor."""
        return self._owner[name]

    def start_of(self, name: str) -> int:
        """Return the byte of ``data`` where a tensor begins."""
        owner = self._owner[name]
        return self.starts[owner.path] + owner.start_of(name)

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's data, ``uint8[size_bytes]``, read-only and not copied.

        Raises:
            KeyError: The model has no such tensor.
        """
        return self._owner[name].tensor_bytes(name)

    def check_size(self) -> None:
        """Raise if a mapped shard has another size by now, see ``GgufFile.check_size``.

        Raises:
            GgufError: One has.
        """
        for file in self.files:
            file.check_size()

    def close(self) -> None:
        """Let go of all files; views that others hold stay valid."""
        for file in self.files:
            file.close()
        self.__dict__["data"] = np.empty(0, np.uint8)

    def __enter__(self) -> GgufSet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read_as(self, fields: Mapping[str, Field]) -> None:
        """Have other metadata than the files', see ``overrides``."""
        self.fields: Mapping[str, Field] = fields
        self.metadata = Metadata(fields)
        self.hparams = HyperParameters(fields, self.tensors)


Gguf = GgufFile | GgufSet
"""A model in one file or in several."""


def open_gguf(path: Path | str, *, is_mapped: bool = True, progress: Progress = SILENT) -> Gguf:
    """Open a model in one file or in several.

    Args:
        path: The file, or any shard.
        is_mapped: False to read all of it into memory of our own.
        progress: Where to report that reading.

    Raises:
        GgufError: It, or one of the other shards, is missing or cannot be read safely.
    """
    path = Path(path)
    if not is_mapped:
        kind = GgufSet if _is_shard(path) else GgufFile
        return kind.open(path, is_mapped=False, progress=progress)
    file = GgufFile.open(path)
    return GgufSet.open(path) if _count(file.fields) > 1 else file


def open_slice(paths: Sequence[Path]) -> Gguf:
    """Open slices of all files of a model: as the model, but some of its tensors are holes.

    Raises:
        GgufError: One is missing, or not of the same model.
    """
    files = [GgufFile.open(path, is_slice=True) for path in paths]
    return files[0] if len(files) == 1 else GgufSet(_require_set(files))


def _is_shard(path: Path) -> bool:
    """Return whether a file is one of several, without mapping it."""
    with read_errors(path), path.open("rb") as file:
        return _count(read_header(file).fields) > 1


def _count(fields: Mapping[str, Field]) -> int:
    return number(fields, "split.count") or 1


def set_problem(file: GgufFile, no: int, before: Sequence[GgufFile]) -> tuple[str, str] | None:
    """Check whether a file is shard ``no`` of the set of those before it.

    Returns:
        Code of the rule and what is wrong, or None when it is.
    """
    parts = parse_shard(file.path)
    stated, count = number(file.fields, "split.no"), number(file.fields, "split.count")
    if stated is None or count is None:
        return "GGUF-SPLIT-KEY", "does not say which shard it is"
    if stated != no:
        return "GGUF-SPLIT-NO", f"is number {stated} (from 0), expected {no}"
    if parts and parts[2] != count:
        return "GGUF-SPLIT-COUNT", f"says {count} shards, its name {parts[2]}"
    if before and file.byte_order != before[0].byte_order:
        return "GGUF-SPLIT-KEY", f"is {file.byte_order}-endian, unlike the first shard"
    for other in before:
        duplicate = next((name for name in file.tensors if name in other.tensors), None)
        if duplicate is not None:
            where = other.path.name
            return "GGUF-SPLIT-DUPLICATE", f"tensor `{shown(duplicate)}` is in `{where}` too"
    return None


def _extent(file: GgufFile) -> Extent:
    assert file.status is not None, "read files are in memory together already"
    return Extent(file.path, file.size_bytes, file.status)


def _require_set(opened: Iterable[GgufFile]) -> list[GgufFile]:
    """Return the shards, in order, if they are those of one model."""
    files: list[GgufFile] = []
    for no, file in enumerate(opened):
        problem = set_problem(file, no, files)
        if problem:
            raise GgufError(f"`{file.path}`: {problem[1]}", path=file.path)
        files.append(file)
    return _require_complete(files)


def _require_complete(files: list[GgufFile]) -> list[GgufFile]:
    """Return the shards if they hold as many tensors as the model has."""
    announced = number(files[0].fields, "split.tensors.count")
    n_tensors = sum(len(file.tensors) for file in files)
    if announced is not None and announced != n_tensors:
        raise GgufError(
            f"`{files[0].path}`: its {len(files)} shards hold {n_tensors:,} tensors, "
            f"{announced:,} are announced",
            path=files[0].path,
        )
    return files


# -- joining and cutting ---------------------------------------------------------------------


def plan_merge(path: Path | str) -> Rewrite:
    """Plan one file for all shards.

    Args:
        path: Any shard.

    Raises:
        GgufError: A shard is missing, damaged, or of another set, or the file is a whole model.
        UnsupportedGgufError: They are big-endian.
    """
    if parse_shard(Path(path)) is None and _count(GgufFile.open(path).fields) <= 1:
        raise GgufError(
            f"`{path}` is a whole model: there is nothing to merge",
            path=path,
            hint="`gguf-hub merge NAME-00001-of-00003.gguf OUT` merges the shards of a set",
        )
    model = GgufSet.open(path)
    _require_little_endian(model)
    parts = tuple(
        Part(TensorSpec(name, info.shape, info.type), (range_of(model.owner(name), info),))
        for name, info in model.tensors.items()
    )
    change = f"{len(model.files)} shards become one file of {len(parts):,} tensors"
    return Rewrite(detached(model.fields), parts, (change,))


def plan_split(
    path: Path | str,
    *,
    max_size_bytes: int | None = None,
    max_tensors: int | None = None,
    is_first_empty: bool = False,
) -> tuple[Rewrite, ...]:
    """Plan the shards of a file, its tensors in order.

    Args:
        path: A whole model.
        max_size_bytes: Most bytes of tensors in a shard; one larger tensor stands alone.
        max_tensors: Most tensors in a shard.
        is_first_empty: Put metadata alone into the first shard.

    Raises:
        GgufError: The file is damaged, a shard itself, or big-endian.
    """
    file = GgufFile.open(path)
    if _count(file.fields) > 1:
        raise GgufError(f"`{path}` is a shard already", path=path)
    _require_little_endian(file)
    groups = list(_groups(file, max_size_bytes, max_tensors))
    if is_first_empty or not groups:
        groups.insert(0, [])
    if len(groups) > MAX_SHARDS:
        raise GgufError(f"{len(groups):,} shards, at most {MAX_SHARDS:,}", path=path)
    return tuple(_shard(file, no, groups) for no in range(len(groups)))


def _require_little_endian(model: Gguf) -> None:
    """Refuse data whose words would have to be turned round."""
    if model.byte_order == "big":
        raise UnsupportedGgufError(
            f"`{model.path}` is big-endian: expected little-endian",
            path=model.path,
            hint=f"`gguf-hub upgrade {quote(str(model.path))} OUT.gguf` converts it",
        )


def _groups(
    file: GgufFile, max_size_bytes: int | None, max_tensors: int | None
) -> Iterator[list[TensorInfo]]:
    """Cut the tensors into groups that keep to the limits."""
    group: list[TensorInfo] = []
    size_bytes = 0
    for info in file.tensors.values():
        padded = align(info.size_bytes, file.alignment)
        is_too_large = max_size_bytes is not None and size_bytes + padded > max_size_bytes
        if group and (is_too_large or len(group) == max_tensors):
            yield group
            group, size_bytes = [], 0
        group.append(info)
        size_bytes += padded
    if group:
        yield group


def _shard(file: GgufFile, no: int, groups: Sequence[Sequence[TensorInfo]]) -> Rewrite:
    fields = fields_of_shard(detached(file.fields), no, len(groups), len(file.tensors))
    parts = tuple(
        Part(TensorSpec(info.name, info.shape, info.type), (range_of(file, info),))
        for info in groups[no]
    )
    return Rewrite(fields, parts, (f"{len(parts):,} tensors",))


def fields_of_shard(
    fields: Mapping[str, Field], no: int, count: int, n_tensors: int
) -> dict[str, Field]:
    """Return the metadata of one of several files: all of it stands in the first.

    Args:
        fields: Those of the model.
        no: Which shard, from 0.
        count: How many there are.
        n_tensors: Tensors in all of them.
    """
    split = {
        "split.no": Field(ValueType.UINT16, no),
        "split.count": Field(ValueType.UINT16, count),
        "split.tensors.count": Field(ValueType.INT32, n_tensors),
    }
    if no == 0:
        return {**{k: f for k, f in fields.items() if k not in SPLIT_KEYS}, **split}
    if "general.alignment" in fields:
        split["general.alignment"] = fields["general.alignment"]
    return split


def write_shards(
    prefix: Path, shards: Sequence[Rewrite], *, progress: Progress = SILENT
) -> tuple[Path, ...]:
    """Write all shards, or none: what was written before a failure is removed.

    Raises:
        UsageError: One of them would replace the file that they are cut from.
        DiskFullError: Not enough space for all of them.
    """
    paths = tuple(shard_path(prefix, no, len(shards)) for no in range(len(shards)))
    require_distinct(paths, {path for shard in shards for path in shard.sources})
    require_space(prefix.parent, sum(shard.size_bytes for shard in shards))
    write_together(paths, [partial(shard.write, progress=progress) for shard in shards])
    return paths


def write_together(paths: Sequence[Path], writes: Sequence[Callable[[Path], object]]) -> None:
    """Write all files, or none: what was written before a failure is removed.

    Args:
        paths: The files.
        writes: Each writes one of them.
    """
    done: list[tuple[Path, os.stat_result]] = []
    try:
        for path, write in zip(paths, writes, strict=True):
            write(path)
            done.append((path, path.lstat()))
    except BaseException:
        for path, status in done:
            remove_if(path, status)
        raise
