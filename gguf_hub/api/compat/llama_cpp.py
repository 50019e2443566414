"""The package ``llama_cpp`` as far as programs use its high-level side.

``install()`` puts it where ``import llama_cpp`` finds it, so that programs and libraries written
for llama-cpp-python run on gguf-hub::

    from gguf_hub.api.compat import llama_cpp
    llama_cpp.install()
    from llama_cpp import Llama, LlamaGrammar

There are no bindings of llama.cpp's C functions here, only the constants that arguments take.
"""

from __future__ import annotations

import sys
from types import ModuleType

from gguf_hub.api.llama import (
    Llama,
    LlamaCache,
    LlamaGrammar,
    LlamaPromptLookupDecoding,
    LlamaRAMCache,
    LlamaState,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteriaList,
)

__version__ = "0.3.36"
"""The version whose interface this follows."""

LLAMA_DEFAULT_SEED = 0xFFFFFFFF
LLAMA_SPLIT_MODE_NONE, LLAMA_SPLIT_MODE_LAYER, LLAMA_SPLIT_MODE_ROW = range(3)
LLAMA_POOLING_TYPE_UNSPECIFIED = -1
LLAMA_POOLING_TYPE_NONE, LLAMA_POOLING_TYPE_MEAN = 0, 1
LLAMA_POOLING_TYPE_CLS, LLAMA_POOLING_TYPE_LAST = 2, 3
LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED = -1
LLAMA_ROPE_SCALING_TYPE_NONE, LLAMA_ROPE_SCALING_TYPE_LINEAR = 0, 1
LLAMA_ROPE_SCALING_TYPE_YARN = 2
GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q4_0, GGML_TYPE_Q8_0 = 0, 1, 2, 8

__all__ = [
    "Llama", "LlamaCache", "LlamaGrammar", "LlamaPromptLookupDecoding", "LlamaRAMCache",
    "LlamaState", "LogitsProcessorList", "MinTokensLogitsProcessor", "StoppingCriteriaList",
    "install", "uninstall",
]  # fmt: skip

# submodule of llama_cpp -> names that programs import from there
_SUBMODULES = {
    "llama": ("Llama", "LlamaState", "LogitsProcessorList", "MinTokensLogitsProcessor",
              "StoppingCriteriaList"),
    "llama_grammar": ("LlamaGrammar",),
    "llama_cache": ("LlamaCache", "LlamaRAMCache"),
    "llama_speculative": ("LlamaPromptLookupDecoding",),
}  # fmt: skip


def install() -> ModuleType:
    """Let ``import llama_cpp`` find this module from now on; return it.

    Raises:
        ImportError: The real package is imported already: its classes would live on in parallel.
    """
    module = sys.modules[__name__]
    present = sys.modules.get("llama_cpp")
    if present is not None and present is not module:
        raise ImportError(
            "llama_cpp is imported already, from llama-cpp-python: call "
            "`gguf_hub.api.compat.llama_cpp.install()` before the first `import llama_cpp`"
        )
    sys.modules["llama_cpp"] = module
    for name, exported in _SUBMODULES.items():
        part = ModuleType(f"llama_cpp.{name}")
        part.__dict__.update({key: globals()[key] for key in exported})
        sys.modules[part.__name__] = part
    return module


def uninstall() -> None:
    """Undo ``install``."""
    if sys.modules.get("llama_cpp") is sys.modules[__name__]:
        for name in ("llama_cpp", *(f"llama_cpp.{part}" for part in _SUBMODULES)):
            sys.modules.pop(name, None)
