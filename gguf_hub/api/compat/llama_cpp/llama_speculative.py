"""``llama_cpp.llama_speculative``."""

from __future__ import annotations

from gguf_hub.api.llama import LlamaDraftModel, LlamaPromptLookupDecoding

__all__ = ["LlamaDraftModel", "LlamaPromptLookupDecoding"]
