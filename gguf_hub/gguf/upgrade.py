"""Bringing an old GGUF up to date without touching a weight.

The Mixtral files of December 2023 hold one tensor per expert, which llama.cpp has not loaded since
October 2024. The merged tensor is nothing but the bytes of expert 0, 1, ... one after another, so
that no weight changes: 995 tensors become 323.

Source: build_moe of llama.cpp (ne[2] counts experts); pull requests #6387 and #10026.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Literal

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.copying import FileRange
from gguf_hub.gguf.experts import MAX_EXPERTS, group_split, is_merged, parse_split, split_name
from gguf_hub.gguf.format import VERSION, Field, TensorInfo, TensorSpec, ValueType
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.rewrite import Part, Rewrite, align_to_source, detached, joined, range_of
from gguf_hub.gguf.shards import Gguf, GgufSet, open_gguf
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.swap import WORDS
from gguf_hub.gguf.types import QuantType

Target = Literal["merged", "split"]
_QUANTIZATION_KEY = "general.quantization_version"
_UNQUANTISED = {QuantType.F32, QuantType.F16, QuantType.BF16, QuantType.F64}
_UNTIDY = {
    "GGUF-TENSOR-ORDER": "tensor data is put in the order of the table",
    "GGUF-TENSOR-GAP": "unused bytes between tensors are left out",
    "GGUF-TRAILING-BYTES": "bytes after the last tensor are left out",
}


def plan_upgrade(path: Path | str, layout: Target = "merged") -> Rewrite:
    """Find out what must change for today's loaders.

    Args:
        path: A GGUF file of any version and byte order, or any shard of a set.
        layout: ``"merged"`` for today's programs; ``"split"`` for those of early 2024.

    Returns:
        The new file; its ``changes`` are empty when nothing has to change.

    Raises:
        GgufError: The file is damaged, or experts are missing or differ from each other.
        UnsupportedGgufError: Big-endian data of a type without a rule.
    """
    file = open_gguf(path)
    swaps = file.byte_order == "big"
    changes = [*_header_changes(file)]
    parts = tuple(_merged(file, changes) if layout == "merged" else _split(file, changes))
    if swaps:
        _refuse_unswappable(file)
        parts = tuple(Part(part.spec, part.ranges, True) for part in parts)
    headers = [each.header for each in file.files]
    issues = (issue for header in headers for issue in read_table(header).issues)
    changes += {_UNTIDY[issue.code]: 0 for issue in issues if issue.code in _UNTIDY}
    rewrite = Rewrite(_fields(file, changes), parts, tuple(changes))
    return align_to_source(rewrite) if changes else rewrite


def _refuse_unswappable(file: Gguf) -> None:
    """Refuse big-endian types whose words are not known."""
    for info in file.tensors.values():
        if info.type not in WORDS:
            raise UnsupportedGgufError(
                f"`{file.path}`: tensor `{shown(info.name)}` is big-endian {info.type.name}, "
                "for which there is no rule",
                path=file.path,
            )


def _header_changes(file: Gguf) -> Iterator[str]:
    """What changes for the format's sake."""
    if isinstance(file, GgufSet):
        yield f"{len(file.files)} shards become one file"
    version = file.header.version
    if version != VERSION:
        yield f"version {version} becomes {VERSION}"
    if file.byte_order == "big":
        yield "big-endian becomes little-endian"


def _fields(file: Gguf, changes: list[str]) -> dict[str, Field]:
    """Metadata, with the key that the specification asks for where weights are quantised."""
    fields = detached(file.fields)
    is_quantised = any(info.type not in _UNQUANTISED for info in file.tensors.values())
    if is_quantised and _QUANTIZATION_KEY not in fields:
        # every GGUF that ever was holds blocks of version 2, that of May 2023
        fields[_QUANTIZATION_KEY] = Field(ValueType.UINT32, 2)
        changes.append(f"`{_QUANTIZATION_KEY}` is added")
    return fields


def _range(file: Gguf, info: TensorInfo) -> FileRange:
    return range_of(file.owner(info.name), info)


# -- one tensor per expert -> one for all ----------------------------------------------------


def _merged(file: Gguf, changes: list[str]) -> Iterator[Part]:
    """Yield the tensors with all experts merged, each where its first expert stood."""
    groups = group_split(file.tensors)
    if groups:
        before = len(file.tensors)
        after = before - sum(map(len, groups.values())) + len(groups)
        changes.append(
            f"one tensor per expert becomes one for all: {before:,} tensors, then {after:,}"
        )
    done: set[str] = set()
    for name, info in file.tensors.items():
        expert = parse_split(name)
        if expert is None:
            yield Part(TensorSpec(name, info.shape, info.type), (_range(file, info),))
        elif expert.merged_name not in done:
            done.add(expert.merged_name)
            yield _merge(file, expert.merged_name, groups[expert.merged_name])


def _merge(file: Gguf, merged_name: str, names: dict[int, str]) -> Part:
    """Return one merged tensor."""
    if merged_name in file.tensors:
        raise GgufError(f"`{file.path}` holds `{merged_name}` both split and merged")
    count = file.hparams.stated(HyperParameters.n_expert) or max(names) + 1
    missing = [i for i in range(min(count, len(names) + 1)) if i not in names]
    if missing or len(names) != count:
        raise GgufError(
            f"`{file.path}`: `{merged_name}` needs {count} experts, {len(names)} are there",
            path=file.path,
            hint=f"`gguf-hub verify {quote(str(file.path))}` lists what is missing",
        )
    infos = [file.tensors[names[i]] for i in range(count)]
    if len({(info.shape, info.type) for info in infos}) > 1:
        kinds = sorted({f"{info.type.name} {list(info.shape)}" for info in infos})
        raise GgufError(
            f"`{file.path}`: the experts of `{merged_name}` differ: {', '.join(kinds)}",
            path=file.path,
            hint="such experts cannot be merged without quantising them anew",
        )
    spec = TensorSpec(merged_name, (*infos[0].shape, count), infos[0].type)
    return Part(spec, joined(_range(file, info) for info in infos))


# -- and back --------------------------------------------------------------------------------


def _split(file: Gguf, changes: list[str]) -> Iterator[Part]:
    """Yield the tensors with all experts split."""
    merged = [info for name, info in file.tensors.items() if is_merged(name)]
    if merged:
        after = len(file.tensors) + sum(info.shape[-1] - 1 for info in merged)
        changes.append(
            "one tensor for all experts becomes one for each: "
            f"{len(file.tensors):,} tensors, then {after:,}"
        )
    for name, info in file.tensors.items():
        if is_merged(name):
            yield from _slices(file, info)
        else:
            yield Part(TensorSpec(name, info.shape, info.type), (_range(file, info),))


def _slices(file: Gguf, info: TensorInfo) -> Iterator[Part]:
    """Yield the experts of one merged tensor."""
    if len(info.shape) != 3:
        raise GgufError(f"`{file.path}`: `{info.name}` has shape {list(info.shape)}, expected 3")
    _, block, stem, _ = info.name.split(".")
    part = stem.removeprefix("ffn_").removesuffix("_exps")
    merged, n = _range(file, info), info.shape[2]
    if n > MAX_EXPERTS:
        raise GgufError(
            f"`{file.path}`: `{info.name}` holds {n:,} experts, expected at most {MAX_EXPERTS:,}",
            path=file.path,
        )
    size_bytes = info.size_bytes // max(n, 1)
    for i in range(n):
        spec = TensorSpec(split_name(int(block), part, i), info.shape[:2], info.type)
        expert = type(merged)(merged.path, merged.offset + i * size_bytes, size_bytes)
        yield Part(spec, (expert,))
