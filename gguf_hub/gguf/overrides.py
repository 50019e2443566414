"""Metadata that is read otherwise than the file has it: llama.cpp's ``--override-kv``.

Nothing is written. A value must be of the type that programs expect under its key.

Source: parse_kv_override in common/common.cpp, llama_model_kv_override in include/llama.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gguf_hub.errors import UsageError
from gguf_hub.gguf.edit import parse_value
from gguf_hub.gguf.format import Field, ValueType
from gguf_hub.gguf.hparams import architecture
from gguf_hub.gguf.strings import shown

_SPLIT = re.compile(r",(?=[\w.-]+=(?:int|float|bool|str):)")


@dataclass(frozen=True)
class Override:
    """One value: its key, ``int``, ``float``, ``bool`` or ``str``, and how it is written."""

    key: str
    kind: str
    text: str


def parse_overrides(arguments: Iterable[str]) -> tuple[Override, ...]:
    """Read ``KEY=TYPE:VALUE``, or several of them with commas between.

    Raises:
        UsageError: A text is none.
    """
    overrides = []
    for argument in arguments:
        for text in _SPLIT.split(argument):
            key, equals, value = text.partition("=")
            kind, colon, value = value.partition(":")
            if not (key and equals and colon) or kind not in ("int", "float", "bool", "str"):
                raise UsageError(
                    f"--override-kv {shown(text)}: expected KEY=TYPE:VALUE, TYPE one of int, "
                    "float, bool, str",
                    hint="for example `--override-kv tokenizer.ggml.add_bos_token=bool:false`",
                )
            overrides.append(Override(key, kind, value))
    return tuple(overrides)


def overrides_of(values: Mapping[str, Any]) -> tuple[Override, ...]:
    """Return Python values as overrides.

    Raises:
        UsageError: A value is no bool, int, float or str.
    """
    kinds = {bool: "bool", int: "int", float: "float", str: "str"}
    overrides = []
    for key, value in values.items():
        if type(value) not in kinds:
            raise UsageError(
                f"kv_overrides {key!r}: expected bool, int, float or str, found "
                f"{type(value).__name__}"
            )
        text = str(value).lower() if isinstance(value, bool) else str(value)
        overrides.append(Override(str(key), kinds[type(value)], text))
    return tuple(overrides)


def overridden(fields: Mapping[str, Field], overrides: Iterable[Override]) -> dict[str, Field]:
    """Return metadata with other values.

    Raises:
        UsageError: No program knows a key that the file lacks, too, or its value is of another
            type.
    """
    changed = dict(fields)
    for override in overrides:
        arch = architecture(changed)
        field = parse_value(override.key, override.text, "", fields.get(override.key), arch)
        if _kind_of(field.type) != override.kind:
            raise UsageError(
                f"`{shown(override.key)}`: expected {_kind_of(field.type)}, found {override.kind}",
                hint=f"write `{shown(override.key)}={_kind_of(field.type)}:{shown(override.text)}`",
            )
        changed[override.key] = field
    return changed


def _kind_of(type_: ValueType) -> str:
    if type_ is ValueType.STRING:
        return "str"
    if type_ is ValueType.BOOL:
        return "bool"
    return "int" if type_.is_integer else "float" if type_.is_number else "array"
