"""``Llama``: llama-cpp-python's class, with the same methods and results.

The names of arguments, methods and keys are llama-cpp-python's (0.3.x), so that programs written
for it run here. ``compat`` puts this room under the name ``llama_cpp``.
"""

from __future__ import annotations

from gguf_hub.api.llama.cache import BaseLlamaCache, LlamaCache, LlamaRAMCache
from gguf_hub.api.llama.disk_cache import LlamaDiskCache
from gguf_hub.api.llama.drafting import LlamaDraftModel, LlamaPromptLookupDecoding
from gguf_hub.api.llama.grammar import LlamaGrammar
from gguf_hub.api.llama.model import Llama
from gguf_hub.api.llama.parts import (
    LlamaState,
    LlamaValueError,
    LogitsProcessor,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

__all__ = [
    "BaseLlamaCache", "Llama", "LlamaCache", "LlamaDiskCache", "LlamaDraftModel", "LlamaGrammar",
    "LlamaPromptLookupDecoding", "LlamaRAMCache", "LlamaState", "LlamaValueError",
    "LogitsProcessor", "LogitsProcessorList", "MinTokensLogitsProcessor", "StoppingCriteria",
    "StoppingCriteriaList",
]  # fmt: skip
