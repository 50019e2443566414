"""``llama_cpp.llama_cache``."""

from __future__ import annotations

from gguf_hub.api.llama import BaseLlamaCache, LlamaCache, LlamaDiskCache, LlamaRAMCache

__all__ = ["BaseLlamaCache", "LlamaCache", "LlamaDiskCache", "LlamaRAMCache"]
