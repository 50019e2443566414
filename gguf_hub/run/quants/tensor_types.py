"""``REGEX=TYPE``: types of tensors that a user names, as llama-quantize reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from gguf_hub.errors import UsageError
from gguf_hub.gguf.types import QuantType
from gguf_hub.oserrors import reason_of
from gguf_hub.run.quants.recipes import parse_tensor_type

TensorTypes = list[tuple[re.Pattern[str], QuantType]]


def parse_tensor_types(texts: Iterable[str], option: str) -> TensorTypes:
    """Return the patterns, for any case of letters, and their types.

    Args:
        texts: ``REGEX=TYPE`` each.
        option: Where they come from, for messages.

    Raises:
        UsageError: One of them is something else.
    """
    return [_parse(text, option) for text in texts]


def read_tensor_types(path: Path) -> TensorTypes:
    """Return the patterns and types of a file, separated by blanks or ends of lines.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = reason_of(exc) if isinstance(exc, OSError) else "it is not UTF-8"
        raise UsageError(f"`--tensor-type-file`: cannot read `{path}`: {reason}") from exc
    return parse_tensor_types(text.split(), f"--tensor-type-file {path}")


def _parse(text: str, option: str) -> tuple[re.Pattern[str], QuantType]:
    pattern, sign, type_name = text.rpartition("=")
    if not sign or not pattern:
        raise UsageError(
            f"`{option}`: expected REGEX=TYPE, found `{text}`", hint="e.g. `attn_v=q6_k`"
        )
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as exc:
        raise UsageError(f"`{option}`: `{pattern}` is not a pattern: {exc}") from exc
    return compiled, parse_tensor_type(type_name, option)
