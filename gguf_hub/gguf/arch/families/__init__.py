"""The architectures that run here, a record each."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_hub.gguf.arch.architecture import Architecture
from gguf_hub.gguf.arch.families import deepseek, encoders, gemma, hybrid, llama, more, qwen

_MODULES = (deepseek, encoders, gemma, hybrid, llama, more, qwen)

ARCHITECTURES: Mapping[str, Architecture] = {
    record.name: record
    for module in _MODULES
    for record in vars(module).values()
    if isinstance(record, Architecture)
}
"""Name -> record of every architecture that runs here."""
