"""Rules for models in several files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gguf_hub.gguf.format import AnyTensor, Field
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.keys import expected_types, has_right_type, number
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.shard_names import parse_shard
from gguf_hub.gguf.shards import MAX_SHARDS, SPLIT_KEYS
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.validate.model import check_model
from gguf_hub.gguf.validate.report import Report


def is_shard(fields: Mapping[str, Field]) -> bool:
    """Tell whether a file holds only some of a model's tensors."""
    count = number(fields, "split.count")
    return count is not None and count > 1


def check_shard(path: Path | str, header: Header, issues: Issues) -> None:
    """Check the keys of one shard, by themselves and against the file's name."""
    fields = header.fields
    there = [key for key in SPLIT_KEYS if key in fields]
    for key in there:
        if not has_right_type(key, fields[key], ""):
            expected = " or ".join(expected_types(key, ""))
            message = f"is {fields[key].type_name}, expected {expected}"
            issues.add("GGUF-SPLIT-KEY", f"key `{key}`", message, fields[key].offset)
    if not is_shard(fields):
        return
    for key in SPLIT_KEYS:
        if key not in fields:
            issues.add("GGUF-SPLIT-KEY", f"key `{key}`", "missing, though others are there")
    _check_number(Path(path), fields, issues)


def _check_number(path: Path, fields: Mapping[str, Field], issues: Issues) -> None:
    """Check which of how many shards a file says it is."""
    no, count = number(fields, "split.no"), number(fields, "split.count")
    if no is None or count is None or count > MAX_SHARDS:
        return
    if no >= count:
        issues.add("GGUF-SPLIT-NO", "key `split.no`", f"{no} of {count}, counted from 0")
    shard_name = parse_shard(path)
    if shard_name and shard_name[1] != no:
        message = f"is {no}, but the file's name says {shard_name[1]} (from 0)"
        issues.add("GGUF-SPLIT-NO", "key `split.no`", message)
    if shard_name and shard_name[2] != count:
        issues.add(
            "GGUF-SPLIT-COUNT", "key `split.count`", f"{count}, but the name says {shard_name[2]}"
        )


def check_together(reports: Sequence[Report], *, is_complete: bool, issues: Issues) -> None:
    """Check shards against each other and the model that they make.

    Args:
        reports: Of the shards that are there, in order.
        is_complete: Whether all are there.
        issues: Takes what is found.
    """
    counts = {number(report.header.fields, "split.count") for report in reports}
    if len(counts) > 1:
        listed = ", ".join(sorted(map(str, counts)))
        issues.add("GGUF-SPLIT-COUNT", "set", f"the shards speak of {listed} shards")
    tensors: dict[str, AnyTensor] = {}
    for report in reports:
        for name, info in read_table(report.header).all.items():
            if name in tensors:
                message = "is in two shards"
                issues.add("GGUF-SPLIT-DUPLICATE", f"tensor `{shown(name)}`", message)
            tensors[name] = info
    if not is_complete:
        return
    announced = number(reports[0].header.fields, "split.tensors.count")
    if announced is not None and announced != len(tensors):
        message = f"{len(tensors):,} tensors, {announced:,} are announced"
        issues.add("GGUF-SPLIT-TENSORS", "set", message)
    if reports[0].level != "header":
        check_model(reports[0].header, tensors, issues)
