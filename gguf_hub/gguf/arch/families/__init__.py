"""The architectures that run here, a record each."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_hub.gguf.arch.architecture import Architecture
from gguf_hub.gguf.arch.families import (
    classic,
    deepseek,
    encoders,
    gemma,
    hybrid,
    llama,
    modern,
    more,
    qwen,
)

_MODULES = (classic, deepseek, encoders, gemma, hybrid, llama, modern, more, qwen)

ARCHITECTURES: Mapping[str, Architecture] = {
    record.name: record
    for module in _MODULES
    for record in vars(module).values()
    if isinstance(record, Architecture)
}
"""Name -> record of every architecture that runs here."""
