"""Patterns of tensors that stay in RAM (``-ot exps=CPU``), as a number of layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from gguf_hub.errors import UsageError
from gguf_hub.gguf.experts import holds_experts, parse_split

_HINT = (
    "`-ot exps=CPU` keeps all experts in RAM, `--n-cpu-moe N` those of the first N layers, "
    "`-ngl N` puts only the last N layers on the GPU"
)


def parse_patterns(texts: Iterable[str]) -> list[re.Pattern[str]]:
    """Return the patterns of ``PATTERN=CPU``, several of which may be joined by commas.

    Raises:
        UsageError: Another buffer than the CPU's is named, or a pattern is no regular expression.
    """
    return [_parse(each) for text in texts for each in _split(text)]


def _split(text: str) -> list[str]:
    """Cut at commas, but at none within a pattern: what has no ``=`` goes on."""
    parts, begun = [], ""
    for part in text.split(","):
        begun += part
        if "=" in part:
            parts.append(begun)
            begun = ""
        else:
            begun += ","
    return parts + [begun.rstrip(",")] * bool(begun.rstrip(","))


def _parse(text: str) -> re.Pattern[str]:
    pattern, _, buffer = text.rpartition("=")
    if not pattern or buffer.upper() != "CPU":
        raise UsageError(f"-ot `{text}`: expected PATTERN=CPU, the only place to move tensors to",
                         hint=_HINT)  # fmt: skip
    try:
        return re.compile(pattern)
    except re.error as exc:
        raise UsageError(f"-ot `{text}`: not a regular expression: {exc}", hint=_HINT) from exc


def n_cpu_moe_of(texts: Sequence[str], names: Iterable[str], n_layer: int) -> int:
    """Return of how many of the first layers all experts match.

    Args:
        texts: Patterns as the user wrote them.
        names: Tensors of the model.
        n_layer: Its layers.

    Raises:
        UsageError: The patterns match other tensors, some experts of a layer but not all, or those
            of other layers than the first ones.
    """
    patterns = parse_patterns(texts)
    matched: dict[int, set[bool]] = {}
    for name in names:
        is_match = any(pattern.search(alias) for alias in _aliases(name) for pattern in patterns)
        if holds_experts(name):
            matched.setdefault(int(name.split(".")[1]), set()).add(is_match)
        elif is_match and not _goes_along(name):
            raise _refusal(texts, f"matches `{name}`; of a layer only the experts can stay in RAM")
    if torn := [layer for layer, found in matched.items() if len(found) > 1]:
        raise _refusal(texts, f"matches some experts' tensors of layer {min(torn)} but not all")
    layers = {layer for layer, found in matched.items() if found == {True}}
    n = max(layers, default=-1) + 1
    if missing := sorted(set(matched) & set(range(n)) - layers):
        raise _refusal(
            texts,
            f"matches the experts of layer {n - 1} but not of layer {missing[0]}; only the first "
            "layers' can stay in RAM",
        )
    return min(n, n_layer)


def unmatched(texts: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the patterns, without their ``=CPU``, that match none of a model's tensors."""
    known = {alias for name in names for alias in _aliases(name)}
    patterns = parse_patterns(texts)
    return [each.pattern for each in patterns if not any(map(each.search, known))]


def _goes_along(name: str) -> bool:
    """Tell whether a tensor is where it is whatever a pattern says.

    Embeddings are in RAM, and biases of experts where the experts are.
    """
    return name == "token_embd.weight" or "_exps." in name


def _aliases(name: str) -> tuple[str, ...]:
    """Return the names that people know a tensor by: one expert's is part of the merged one."""
    expert = parse_split(name)
    return (name, expert.merged_name) if expert else (name,)


def _refusal(texts: Sequence[str], reason: str) -> UsageError:
    return UsageError(f"-ot `{','.join(texts)}` {reason}", hint=_HINT)
