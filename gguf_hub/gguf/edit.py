"""Changing metadata and names of tensors: in place where every length stays, else anew.

Values get the type that programs insist on (``gguf_hub.gguf.keys``), or that which the key has.
What would make the file worse is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from gguf_hub.errors import GgufError, UsageError
from gguf_hub.gguf.format import MAX_NAME_BYTES, VERSION, Field, TensorSpec, ValueType
from gguf_hub.gguf.hparams import architecture
from gguf_hub.gguf.issues import Severity
from gguf_hub.gguf.journal import Patch
from gguf_hub.gguf.keys import expected_types
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.rewrite import Part, Rewrite, detached, range_of
from gguf_hub.gguf.strings import StringArray, encode, shown
from gguf_hub.gguf.validate import validate_file, validate_source
from gguf_hub.gguf.writer import plan_file

_TYPES = {type.name.lower(): type for type in ValueType if type is not ValueType.ARRAY}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Edits:
    """What shall change.

    Attributes:
        values: Key -> value as text; the key may name a type: ``general.x:uint32``.
        removed: Keys to remove.
        renamed: Tensor -> its new name.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    removed: Sequence[str] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EditPlan:
    """How a file will change.

    Attributes:
        changes: One sentence each.
        patches: Bytes to change in place; None when the file must be written anew.
        rewrite: The new file as a whole.
        new_errors: What would be wrong with it that is not wrong now.
    """

    changes: tuple[str, ...]
    patches: tuple[Patch, ...] | None
    rewrite: Rewrite
    new_errors: tuple[str, ...]


def plan_edit(path: Path | str, edits: Edits) -> EditPlan:
    """Work out what editing a file means, without touching it.

    Args:
        path: A GGUF file.
        edits: What shall change.

    Raises:
        GgufError: The file is damaged, or has no such key or tensor.
        UsageError: A value that its key cannot have, or a name that no tensor can have.
    """
    file = GgufFile.open(path)
    changes: list[str] = []
    fields = _edited_fields(file, edits, changes)
    names = _edited_names(file, edits, changes)
    parts = tuple(
        Part(TensorSpec(names[name], info.shape, info.type), (range_of(file, info),))
        for name, info in file.tensors.items()
    )
    if file.byte_order == "big":
        raise GgufError(
            f"`{path}` is big-endian",
            path=path,
            hint=f"bring it up to date first: `gguf-hub upgrade {quote(str(path))} OUT.gguf`",
        )
    patches = _patches(file, fields, names)
    if patches is None and file.version != VERSION:
        changes.append(f"version {file.version} becomes {VERSION}")
    rewrite = Rewrite(fields, parts, tuple(changes))
    return EditPlan(tuple(changes), patches, rewrite, _new_errors(file, rewrite))


# -- metadata --------------------------------------------------------------------------------


def _edited_fields(file: GgufFile, edits: Edits, changes: list[str]) -> dict[str, Field]:
    """Return the metadata after the edits; note each change."""
    fields = detached(file.fields)
    for key in edits.removed:
        if key not in fields:
            raise GgufError(f"`{file.path}` has no key `{shown(key)}`", path=file.path)
        del fields[key]
        changes.append(f"`{shown(key)}` is removed")
    arch = architecture(fields)
    for argument, text in edits.values.items():
        key, _, type_name = argument.partition(":")
        new = parse_value(key, text, type_name, fields.get(key), arch)
        old = fields.get(key)
        fields[key] = new
        if old != new:
            before = f"{_brief(old)} -> " if old else ""
            changes.append(f"`{shown(key)}`: {before}{_brief(new)} ({new.type_name})")
    return fields


def _brief(value: Field) -> str:
    if value.element_type is not None:
        return f"{len(value.value):,} elements"
    return shown(str(value.value))


def parse_value(
    key: str, text: str, type_name: str = "", old: Field | None = None, arch: str = ""
) -> Field:
    """Return the field that a text means.

    Args:
        key: Decides the type when programs know it.
        text: A number, ``true`` or ``false``, text, or a JSON array.
        type_name: Type that the user names, e.g. ``uint32`` or ``array of string``.
        old: What the key holds now; decides the type of keys that no program knows.
        arch: Architecture, for keys that begin with it.

    Raises:
        UsageError: No type is known, the named one is not the one that programs take, or the text
            does not fit it.
    """
    known = expected_types(key, arch)
    if type_name and known and type_name not in known:
        raise UsageError(f"`{key}` is {type_name} here, but programs expect {' or '.join(known)}")
    now = old.type_name if old is not None else ""
    chosen = type_name or (now if now in known else "") or (known[0] if known else now)
    if not chosen:
        raise UsageError(
            f"`{key}` is a key that no program knows, so that its type must be named",
            hint=f"for example `--set {key}:uint32={text}`; types: {', '.join(_TYPES)}",
        )
    try:
        return _parse_as(chosen, text)
    except (ValueError, TypeError, KeyError, OverflowError) as exc:
        raise UsageError(f"`{key}`: `{shown(text)}` is not of type {chosen}") from exc


def _parse_as(type_name: str, text: str) -> Field:
    """Read a text as a type; raises what Python raises when it does not fit."""
    if type_name.startswith("array of "):
        element = _TYPES[type_name.removeprefix("array of ")]
        items = json.loads(text)
        if not isinstance(items, list):
            raise ValueError("no array")
        return Field(ValueType.ARRAY, _parse_items(items, element), element)
    type = _TYPES[type_name]
    if type is ValueType.STRING:
        return Field(type, text)
    if type is ValueType.BOOL:
        return Field(type, _TRUTH[text.lower()])
    if type.is_integer:
        number = int(text, 0)
        limits = np.iinfo(type.dtype)
        if not limits.min <= number <= limits.max:
            raise ValueError("out of range")
        return Field(type, number)
    with np.errstate(over="ignore"):
        value = float(np.array(float(text), type.dtype))
    if not math.isfinite(value):
        raise ValueError("no finite number")
    return Field(type, value)


def _parse_items(items: list[Any], element: ValueType) -> Any:
    """Elements of an array, checked one by one."""
    if element is ValueType.STRING:
        if not all(isinstance(item, str) for item in items):
            raise ValueError("no text")
        return StringArray.of(items)
    parsed = [_parse_as(element.name.lower(), json.dumps(item)).value for item in items]
    return np.array(parsed, element.dtype)


# -- tensors ---------------------------------------------------------------------------------


def _edited_names(file: GgufFile, edits: Edits, changes: list[str]) -> dict[str, str]:
    """Return old -> new name of every tensor; note each change."""
    names = {name: name for name in file.tensors}
    for old, new in edits.renamed.items():
        if old not in names:
            raise GgufError(f"`{file.path}` has no tensor `{shown(old)}`", path=file.path)
        if not new or "\0" in new or len(encode(new)) > MAX_NAME_BYTES:
            raise UsageError(
                f"`{shown(new)}`is not a valid tensor name: expected 1 to {MAX_NAME_BYTES} bytes"
            )
        names[old] = new
        changes.append(f"tensor `{shown(old)}` is renamed `{shown(new)}`")
    if len(set(names.values())) < len(names):
        raise UsageError("two tensors would have the same name")
    return names


# -- in place or anew ------------------------------------------------------------------------


def _patches(
    file: GgufFile, fields: dict[str, Field], names: dict[str, str]
) -> tuple[Patch, ...] | None:
    """Return the bytes to change, or None when something changes its length or place."""
    old_plan = plan_file(file.fields, tuple(file.tensors.values()), version=file.version)
    specs = [dataclasses.replace(info, name=names[name]) for name, info in file.tensors.items()]
    new_plan = plan_file(fields, specs, version=file.version)
    start = file.data[: len(old_plan.header)].tobytes()
    if old_plan.header != start or len(new_plan.header) != len(start):
        return None
    if [t.offset for t in old_plan.tensors] != [t.offset for t in new_plan.tensors]:
        return None
    old, new = np.frombuffer(start, np.uint8), np.frombuffer(new_plan.header, np.uint8)
    changed = np.flatnonzero(old != new)
    if not changed.size:
        return ()
    if list(fields) != list(file.fields) or not _same_lengths(file.fields, fields, names):
        return None
    runs = np.split(changed, np.flatnonzero(np.diff(changed) > 8) + 1)
    return tuple(_patch(start, new_plan.header, int(run[0]), int(run[-1]) + 1) for run in runs)


def _patch(old: bytes, new: bytes, first: int, end: int) -> Patch:
    return Patch(first, old[first:end], new[first:end])


def _same_lengths(
    old: Mapping[str, Field], new: Mapping[str, Field], names: Mapping[str, str]
) -> bool:
    """Return whether every value and name keeps its length: then nothing moves."""
    if any(len(encode(before)) != len(encode(after)) for before, after in names.items()):
        return False
    return all(
        old[key].type == field.type
        and old[key].element_type == field.element_type
        and (field.type is not ValueType.STRING or _length(old[key]) == _length(field))
        and (field.type is not ValueType.ARRAY or old[key] == field)
        for key, field in new.items()
    )


def _length(field: Field) -> int:
    return len(encode(field.value))


def _new_errors(file: GgufFile, rewrite: Rewrite) -> tuple[str, ...]:
    plan = plan_file(rewrite.fields, [part.spec for part in rewrite.parts])
    after = validate_source(_Start(plan.header, plan.size_bytes), str(file.path))
    before = {str(issue) for issue in validate_file(file.path).issues}
    return tuple(str(issue) for issue in after.of(Severity.ERROR) if str(issue) not in before)


class _Start:
    """The start of a file that is not written yet, as a ``RangeSource``."""

    def __init__(self, header: bytes, size_bytes: int) -> None:
        self._header = header
        self.size_bytes = size_bytes

    def read(self, offset: int, n: int) -> bytes:
        """Return bytes; behind the header they are zeros."""
        return self._header[offset : offset + n].ljust(n, b"\0")
