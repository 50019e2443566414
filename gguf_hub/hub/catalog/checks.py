"""The form of ``catalog.yaml``: how each key is checked.

A check takes a value, its place and the list of issues; it appends what is wrong and returns the
value as the dataclasses want it (anything, when it noted an issue: no object is built then).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, get_args

from gguf_hub.errors import did_you_mean
from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.catalog.entries import Layout, ModelShape, Recipe, bytes_by_role, tensor_groups

Check = Callable[[Any, str, list[str]], Any]


def check_catalog(tree: Any, issues: list[str]) -> dict[str, Any]:
    """Check a parsed ``catalog.yaml``.

    Args:
        tree: Plain data as YAML gives it.
        issues: Every problem is appended as ``place: problem``.

    Returns:
        The values with defaults filled in; of use only while ``issues`` is empty.
    """
    values = _read(tree, "", _CATALOG, issues)
    if not issues:
        _check_whole(values, issues)
    return values


@dataclass(frozen=True)
class _Key:
    """How one key is checked, and what stands for it when it is absent."""

    check: Check
    default: Any = None
    is_required: bool = False


def _read(node: Any, location: str, keys: Mapping[str, _Key], issues: list[str]) -> dict[str, Any]:
    """Check a mapping key by key; return all of ``keys``, defaults filled in."""
    if not isinstance(node, dict):
        issues.append(f"{location or 'the file'}: expected a mapping, found {_show(node)}")
        return {}
    dot = f"{location}." if location else ""
    for name in node:
        if name not in keys:
            near = did_you_mean(get_close_matches(str(name), keys, n=1))
            issues.append(f"{dot}{str(name)[:60]}: unknown key{near}")
    values = {}
    for name, key in keys.items():
        if node.get(name) is not None:
            values[name] = key.check(node[name], f"{dot}{name}", issues)
        else:
            values[name] = key.default
            if key.is_required:
                issues.append(f"{dot}{name}: missing")
    return values


def _wrong(expected: str, value: Any, location: str, issues: list[str]) -> None:
    issues.append(f"{location}: expected {expected}, found {_show(value)}")


def _show(value: Any) -> str:
    """Return a value as people wrote it, short."""
    for kind, name in ((dict, "a mapping"), (list, "a list"), (type(None), "nothing")):
        if isinstance(value, kind):
            return name
    if isinstance(value, int) and abs(value) >= 2**63:
        return "an integer of more than 63 bits"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f'"{text}"' if isinstance(value, str) else text


def _text(value: Any, location: str, issues: list[str]) -> str:
    if not isinstance(value, str):
        # YAML reads a bare `no` as false and 2024-01-01 as a date
        _wrong("text (in quotes where YAML takes it for something else)", value, location, issues)
        return ""
    return value


def _name(value: Any, location: str, issues: list[str]) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        _wrong("a name", value, location, issues)
        return ""
    return value


def _integer(least: int, expected: str) -> Check:
    def check(value: Any, location: str, issues: list[str]) -> int:
        """Return a whole number of 64 bits that is not too small, else 0 with an issue."""
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            _wrong(expected, value, location, issues)
            return 0
        return value

    return check


_positive = _integer(1, "a positive integer")
_count = _integer(0, "an integer of at least 0")


def _truth(value: Any, location: str, issues: list[str]) -> bool:
    if not isinstance(value, bool):
        _wrong("true or false", value, location, issues)
    return value is True


def _perplexity_value(value: Any, location: str, issues: list[str]) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 1 <= value < 2**63:
        _wrong("a number of at least 1", value, location, issues)
        return 1.0
    return float(value)


def _repo_id(value: Any, location: str, issues: list[str]) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", value, re.ASCII):
        _wrong("`owner/name`", value, location, issues)
    return str(value)


def _gguf_filename(value: Any, location: str, issues: list[str]) -> str:
    text = value if isinstance(value, str) and value.isprintable() else ""
    is_inside = not text.startswith("/") and "\\" not in text and ".." not in text.split("/")
    if not is_inside or not text.lower().endswith(".gguf"):
        _wrong("a path inside the repository that ends with .gguf", value, location, issues)
    return str(value)


def _layout(value: Any, location: str, issues: list[str]) -> str:
    if value not in get_args(Layout):
        _wrong("`split` or `merged`", value, location, issues)
    return str(value)


def _type(value: Any, location: str, issues: list[str]) -> QuantType | None:
    if isinstance(value, str) and value in QuantType.__members__:
        return QuantType[value]
    near = did_you_mean(get_close_matches(str(value).upper(), QuantType.__members__, n=1))
    issues.append(f"{location}: expected a GGUF tensor type, found {_show(value)}{near}")
    return None


def _texts(value: Any, location: str, issues: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list):
        _wrong("a list of texts", value, location, issues)
        return ()
    return tuple(_text(item, f"{location}[{i}]", issues) for i, item in enumerate(value))


def _files(value: Any, location: str, issues: list[str]) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        _wrong("a list of at least one file", value, location, issues)
        return []
    return [_read(item, f"{location}[{i}]", _FILE, issues) for i, item in enumerate(value)]


def _fields(keys: Mapping[str, _Key]) -> Check:
    return lambda value, location, issues: _read(value, location, keys, issues)


_ARCHITECTURE = {
    "n_layer": _Key(_positive, is_required=True),
    "n_embd": _Key(_positive, is_required=True),
    "n_head": _Key(_positive, is_required=True),
    "n_head_kv": _Key(_positive, is_required=True),
    "head_dim": _Key(_positive, is_required=True),
    "n_ff": _Key(_positive, is_required=True),
    "n_expert": _Key(_count, 0),
    "n_expert_used": _Key(_count, 0),
    "n_vocab": _Key(_positive, is_required=True),
    "n_ctx_train": _Key(_positive, is_required=True),
}
_RECIPE = {
    field.name: _Key(_type, is_required=field.name != "ffn_gate_inp") for field in fields(Recipe)
}
_PERPLEXITY = {
    "value": _Key(_perplexity_value, is_required=True),
    "source": _Key(_text, is_required=True),
    "is_estimated": _Key(_truth, False),
    "note": _Key(_text, ""),
}
_FILE = {
    "quant": _Key(_name, is_required=True),
    "filename": _Key(_gguf_filename, is_required=True),
    "bits": _Key(_positive),
    "size_bytes": _Key(_positive, is_required=True),
    "tensor_bytes": _Key(_positive),
    "max_ram_bytes": _Key(_positive),
    "use_case": _Key(_text, ""),
    "is_recommended": _Key(_truth, False),
    "recipe": _Key(_fields(_RECIPE)),
    "layout": _Key(_layout, "merged"),
    "perplexity": _Key(_fields(_PERPLEXITY)),
}
_CATALOG = {
    "repo_id": _Key(_repo_id, is_required=True),
    "revision": _Key(_name, "main"),
    "license": _Key(_text, ""),
    "languages": _Key(_texts, ()),
    "base_model": _Key(_text, ""),
    "prompt_template": _Key(_text, "{prompt}"),
    "notice": _Key(_text, ""),
    "architecture": _Key(_fields(_ARCHITECTURE), is_required=True),
    "files": _Key(_files, [], is_required=True),
}


def _check_whole(values: Mapping[str, Any], issues: list[str]) -> None:
    """Check what values say of each other."""
    shape = ModelShape(**values["architecture"])
    _check_shape(shape, issues)
    for key in ("quant", "filename"):
        _check_unique([file[key] for file in values["files"]], key, issues)
    for i, file in enumerate(values["files"]):
        if file["recipe"]:
            _check_sizes(file, shape, f"files[{i}]", issues)


def _check_shape(shape: ModelShape, issues: list[str]) -> None:
    if shape.n_head % shape.n_head_kv:
        issues.append(
            f"architecture.n_head_kv: expected a divisor of n_head ({shape.n_head}), "
            f"found {shape.n_head_kv}"
        )
    if shape.n_expert_used > shape.n_expert or bool(shape.n_expert) != bool(shape.n_expert_used):
        expected = f"1 to {shape.n_expert}" if shape.n_expert else "0 as n_expert is"
        issues.append(
            f"architecture.n_expert_used: expected {expected}, found {shape.n_expert_used}"
        )


def _check_unique(values: list[str], key: str, issues: list[str]) -> None:
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        before = first.setdefault(value.casefold(), i)
        if before != i:
            issues.append(f"files[{i}].{key}: `{value}` is already files[{before}].{key}")


def _check_sizes(
    file: Mapping[str, Any], shape: ModelShape, location: str, issues: list[str]
) -> None:
    """Compare the sizes with those that recipe and shape give."""
    recipe = Recipe(**file["recipe"])
    for group in tensor_groups(shape):
        type_ = getattr(recipe, group.role)
        if type_ is None:
            issues.append(f"{location}.recipe.{group.role}: missing, as the model has experts")
            return
        if group.row_length % type_.block_size:
            issues.append(
                f"{location}.recipe.{group.role}: rows of {group.row_length} weights do not fill "
                f"the blocks of {type_.block_size} of {type_.name}"
            )
            return
    total = sum(bytes_by_role(shape, recipe).values())
    if file["tensor_bytes"] not in (None, total):
        issues.append(
            f"{location}.tensor_bytes: expected {total} by recipe and architecture, "
            f"found {file['tensor_bytes']}"
        )
    # a card rounds, a header adds: anything further away is another file or another unit
    if not 0.99 * total <= file["size_bytes"] <= 1.01 * total + 2**24:
        issues.append(
            f"{location}.size_bytes: expected about {total} by recipe and architecture, "
            f"found {file['size_bytes']}"
        )
