"""The ``general.*`` metadata: what people call the model and how large it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gguf_hub.run.convert.keys import ModelKeys
from gguf_hub.run.convert.tensors import Part, is_expert


def general(name: str, parts: Sequence[Part], keys: ModelKeys) -> dict[str, Any]:
    """Return the ``general.*`` keys that come first in a file."""
    values: dict[str, Any] = {
        "general.architecture": keys.family.arch,
        "general.type": "model",
        "general.name": name,
    }
    if parts:
        values["general.size_label"] = size_label(parts, keys.number("expert_count"))
    return values


def size_label(parts: Sequence[Part], n_expert: int) -> str:
    """Return the size as people say it: ``7.2B``, ``8x7.2B``.

    Of a mixture it is the weights that all tokens share and those of one expert.

    Source: size_label in gguf-py/gguf/utility.py of llama.cpp.
    """
    shared = experts = 0
    for part in parts:
        n = math.prod(part.ne)
        if is_expert(part.name):
            experts += n
        else:
            shared += n
    if n_expert:
        return f"{n_expert}x{_format_count(shared + experts // n_expert)}"
    return _format_count(shared)


def _format_count(n: int) -> str:
    """Two digits at least: ``260K``, ``5.9M``, ``47B``."""
    units = ((10**12, "T"), (10**9, "B"), (10**6, "M"))
    unit, suffix = next(((u, s) for u, s in units if n > u), (10**3, "K"))
    scaled = n / unit
    digits = max(0, 2 - len(str(round(scaled)).lstrip("0")))
    return f"{scaled:.{digits}f}{suffix}"
