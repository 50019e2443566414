"""Output of ``gguf-hub inspect``: text, tables and JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console
from gguf_hub.gguf.strings import shown, valid
from gguf_hub.printable import printable

if TYPE_CHECKING:
    from gguf_hub.gguf.format import AnyTensor, Field
    from gguf_hub.gguf.inspection import Inspection
    from gguf_hub.gguf.summary import Share, Summary

_FEW = 8
_WIDE = 100
_LONG = 1 << 20
"""Characters of a text that JSON contains in full: any chat template."""
_VERDICT = {True: ("yes", "green"), False: ("no", "red"), None: ("unknown", "yellow")}


def print_summary(inspection: Inspection, chat_format: str | None = None) -> None:
    """Print the summary: properties, sizes by part and type, compatible programs."""
    console.say(console.style(inspection.name, bold=True))
    for label, text in _summary_rows(inspection.summary, chat_format):
        console.say(f"  {label:<15}{text}")
    total = inspection.summary.data_bytes or 1
    for title, shares in (("parts", inspection.summary.parts), ("types", inspection.summary.types)):
        for i, share in enumerate(shares):
            console.say(f"  {title if i == 0 else '':<15}{_format_share(share, total)}")
    for i, loader in enumerate(inspection.compatibility.loaders):
        word, colour = _VERDICT[loader.loads]
        reason = f": {loader.reason}" if loader.reason else ""
        label = "loads in" if i == 0 else ""
        console.say(f"  {label:<15}{loader.name:<30}{console.style(word, colour)}{reason}")
    command = remedy(inspection)
    if command:
        console.say(f"  {'fix':<15}{console.style(command, 'cyan')}")


def _summary_rows(summary: Summary, chat_format: str | None) -> Iterator[tuple[str, str]]:
    from gguf_hub.units import format_count, format_gib, format_size

    if summary.name:
        yield "name", shown(summary.name)
    if obstacle := summary.role.obstacle:
        yield "role", obstacle
    yield "architecture", shown(summary.architecture) or "unknown"
    if summary.n_params:
        active = summary.n_params_active != summary.n_params
        more = f", {format_count(summary.n_params_active)} active per token" if active else ""
        yield "parameters", format_count(summary.n_params) + more
    gib = f" ({format_gib(summary.size_bytes)})" if summary.size_bytes >= 1e9 else ""
    bits = f", {summary.bits_per_weight:.2f} bits per weight" if summary.bits_per_weight else ""
    yield "size", format_size(summary.size_bytes) + gib + bits
    if summary.file_type:
        yield "quantisation", summary.file_type
    if summary.n_layer is not None:
        yield "shape", _shape(summary)
    if summary.n_ctx_train is not None:
        scaling = f", {shown(summary.rope_scaling)} scaling" if summary.rope_scaling else ""
        yield "context", f"{summary.n_ctx_train:,} tokens{scaling}"
    yield "tokenizer", _tokenizer(summary)
    yield "chat template", "yes" if summary.has_chat_template else _beside(chat_format)
    if summary.license:
        yield "licence", shown(summary.license)
    yield "layout", _layout(summary)


def _beside(chat_format: str | None) -> str:
    return f"no; conversation format `{chat_format}`" if chat_format else "no"


def _shape(summary: Summary) -> str:
    parts = [f"{summary.n_layer} blocks", f"width {summary.n_embd:,}" if summary.n_embd else ""]
    if summary.n_head:
        kv = f" ({summary.n_head_kv} for keys and values)" if summary.n_head_kv else ""
        parts.append(f"{summary.n_head} heads{kv}")
    if summary.n_expert:
        parts.append(f"{summary.n_expert} experts, {summary.n_expert_used} in use")
    return ", ".join(filter(None, parts))


def _tokenizer(summary: Summary) -> str:
    tokens = f"{summary.n_vocab:,} tokens" if summary.n_vocab is not None else ""
    return ", ".join(filter(None, (shown(summary.tokenizer), tokens))) or "none"


def _layout(summary: Summary) -> str:
    kinds = {
        "split": "one tensor per expert",
        "merged": "merged experts",
        "mixed": "experts both split and merged",
    }
    endian = "big-endian" if summary.byte_order == "big" else ""
    shard = f"{summary.n_shards} shards" if summary.n_shards > 1 else ""
    if summary.shard:
        shard = f"shard {summary.shard[0]} of {summary.shard[1]}"
    kind = kinds.get(summary.layout, "")
    tensors = f"{summary.n_tensors:,} tensors"
    return ", ".join(filter(None, (f"GGUF v{summary.version}", endian, tensors, kind, shard)))


def _format_share(share: Share, total_bytes: int) -> str:
    from gguf_hub.units import format_size

    percent = f"{share.size_bytes / total_bytes * 100:.1f} %"
    tensors = f"{share.n_tensors:,} tensor{'s' * (share.n_tensors != 1)}"
    return f"{share.name:<14}{format_size(share.size_bytes):>10} {percent:>8}   {tensors}"


def remedy(inspection: Inspection) -> str:
    """Return the command that makes the file load in more programs, or ""."""
    from gguf_hub.gguf.shard_names import model_name

    path = PurePath(inspection.name)
    target_path = path.with_name(f"{model_name(Path(path))}.upgraded.gguf")
    source, target = shlex.quote(str(path)), shlex.quote(str(target_path))
    return {
        "upgrade": f"gguf-hub upgrade {source} {target}",
        "merge": f"gguf-hub merge {source} OUT.gguf",
        "download": _download_of(path),
        "": "",
    }[inspection.compatibility.remedy]


def _download_of(path: PurePath) -> str:
    """Return the command that downloads a file again; empty where nobody knows its origin."""
    from gguf_hub.hub.download.inventory import find_local_file
    from gguf_hub.hub.store import Store

    file = find_local_file(Path(path), Store())
    if file is None or not file.repo_id:
        return ""
    command = ["gguf-hub", "download", file.repo_id, file.filename]
    if file.path.as_posix().endswith(f"/{file.filename}") and "snapshots" not in file.path.parts:
        command += ["--local-dir", str(file.root)]
    return shlex.join(command)


def print_metadata(inspection: Inspection, *, full: bool) -> None:
    """Print keys, types and values."""
    rows = [
        [_truncate(key, full), field.type_name, _format_field(field, full)]
        for key, field in inspection.header.fields.items()
    ]
    console.print_table(rows, ["key", "type", "value"])


def _format_field(field: Field, full: bool) -> str:
    """Return a value on one line; long ones are truncated."""
    if field.element_type is None:
        return _truncate(_format_value(field.value, field.type.name), full)
    n = len(field.value)
    items = field.value[: n if full else _FEW]
    kind = field.element_type.name
    words = (
        repr(_truncate(item, full)) if isinstance(item, str) else _format_value(item, kind)
        for item in items
    )
    return f"[{', '.join(words)}{', ...' if n > len(items) else ''}] ({n:,})"


def _truncate(text: str, full: bool) -> str:
    is_cut = not full and len(text) > _WIDE
    return f"{text[:_WIDE]}... ({len(text):,} characters)" if is_cut else text


def _format_value(value: Any, kind: str) -> str:
    """Return a number or text; a float32 without spurious digits."""
    if kind == "FLOAT32":
        from numpy import float32

        value = float32(value)
    return str(value)


def print_tensors(inspection: Inspection, pattern: str) -> None:
    """Print a table of the tensors whose names match."""
    from gguf_hub.units import format_size

    rows = [
        [t.name, " × ".join(map(str, t.shape)), t.type_name, format_size(t.size_bytes),
         str(inspection.starts[t.name])]
        for t in _matching_tensors(inspection, pattern)
    ]  # fmt: skip
    columns = ["left", "right", "left", "right", "right"]
    console.print_table(rows, ["tensor", "shape", "type", "size", "offset"], align=columns)
    if not rows:
        console.note(f"no tensor matches `{pattern}`")


def _matching_tensors(inspection: Inspection, pattern: str) -> list[AnyTensor]:
    return [t for t in inspection.table.all.values() if fnmatchcase(t.name, pattern)]


def print_issues(inspection: Inspection) -> None:
    """Print the issues on stderr."""
    for issue in inspection.report.issues:
        if issue.severity.value == "error":
            console.error(f"{issue} [{issue.code}]")
        else:
            console.warn(f"{issue} [{issue.code}]")


def as_dict(
    inspection: Inspection, *, metadata: bool, pattern: str | None, full: bool
) -> dict[str, Any]:
    """Return everything for JSON, with stable keys."""
    summary = asdict(inspection.summary)
    data = {
        "path": inspection.name,
        **{
            key: printable(value) if isinstance(value, str) else value
            for key, value in summary.items()
        },
        "bits_per_weight": inspection.summary.bits_per_weight,
        "compatibility": [asdict(loader) for loader in inspection.compatibility.loaders],
        "remedy": remedy(inspection) or None,
        "verdict": inspection.report.verdict,
        "issues": inspection.report.as_dict()["issues"],
    }
    if metadata:
        data["metadata"] = {
            printable(key): _json_field(field, full)
            for key, field in inspection.header.fields.items()
        }
    if pattern:
        data["tensors"] = [
            _json_tensor(info, inspection) for info in _matching_tensors(inspection, pattern)
        ]
    return data


def _json_field(field: Field, full: bool) -> dict[str, Any]:
    """Return a field for JSON; arrays and very long texts are truncated unless ``full``."""
    if isinstance(field.value, str) and len(field.value) > _LONG and not full:
        text = _json_value(field.value[:_LONG])
        return {"type": field.type_name, "length": len(field.value), "value": text}
    if field.element_type is None:
        return {"type": field.type_name, "value": _json_value(field.value)}
    n = len(field.value)
    items = field.value[: n if full else _FEW]
    values = items if isinstance(items, list) else items.tolist()
    return {"type": field.type_name, "length": n, "value": [_json_value(v) for v in values]}


def _json_value(value: Any) -> Any:
    """Return a value for JSON; infinities and NaN become text."""
    if isinstance(value, str):
        return valid(value)
    is_odd = isinstance(value, float) and (value != value or value in (float("inf"), -float("inf")))
    return str(value) if is_odd else value


def _json_tensor(info: AnyTensor, inspection: Inspection) -> dict[str, Any]:
    return {
        "name": printable(info.name),
        "shape": list(info.shape),
        "type": info.type_name,
        "size_bytes": info.size_bytes,
        "offset": inspection.starts[info.name],
    }
