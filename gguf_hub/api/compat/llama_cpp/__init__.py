"""The package ``llama_cpp`` on gguf-hub: llama-cpp-python's names, modules and signatures.

``install()`` puts it where ``import llama_cpp`` finds it, so that programs and libraries written
for llama-cpp-python run on gguf-hub::

    from gguf_hub.api.compat import llama_cpp
    llama_cpp.install()
    from llama_cpp import Llama, LlamaGrammar

The distribution ``gguf-hub-llama-cpp`` does that for every process of an environment. There is no
llama.cpp here: C functions about models, texts and contexts are there in Python, the others refuse
to be called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from gguf_hub.api.compat.llama_cpp import (
    _internals,
    _logger,
    _utils,
    llama,
    llama_cache,
    llama_chat_format,
    llama_cpp,
    llama_grammar,
    llama_speculative,
    llama_tokenizer,
    llama_types,
)
from gguf_hub.api.compat.llama_cpp.llama import (
    Llama,
    LlamaState,
    LogitsProcessor,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from gguf_hub.api.compat.llama_cpp.llama_cache import (
    BaseLlamaCache,
    LlamaCache,
    LlamaDiskCache,
    LlamaRAMCache,
)
from gguf_hub.api.compat.llama_cpp.llama_grammar import LlamaGrammar
from gguf_hub.api.compat.llama_cpp.llama_speculative import (
    LlamaDraftModel,
    LlamaPromptLookupDecoding,
)
from gguf_hub.api.compat.llama_cpp.llama_tokenizer import (
    BaseLlamaTokenizer,
    LlamaHFTokenizer,
    LlamaTokenizer,
)

__version__ = "0.3.36"
"""The version whose interface this follows."""

__all__ = [
    "BaseLlamaCache", "BaseLlamaTokenizer", "Llama", "LlamaCache", "LlamaDiskCache",
    "LlamaDraftModel", "LlamaGrammar", "LlamaHFTokenizer", "LlamaPromptLookupDecoding",
    "LlamaRAMCache", "LlamaState", "LlamaTokenizer", "LogitsProcessor", "LogitsProcessorList",
    "MinTokensLogitsProcessor", "StoppingCriteria", "StoppingCriteriaList", "install",
    "llama_chat_format", "llama_cpp", "llama_grammar", "llama_types", "uninstall",
]  # fmt: skip

# the types, C functions and numbers, which llama-cpp-python has at the top, too
for _module, _begins in (
    (llama_types, ("Chat", "Comp", "Create", "Emb", "Json")),
    (llama_cpp, ("llama_", "LLAMA_", "GGML_")),
):
    globals().update(
        {
            name: value
            for name, value in vars(_module).items()
            if name.startswith(_begins) and name not in globals()
        }
    )

vars(llama).update({name: value for name, value in vars().items() if name[0].isupper()})

_MODULES: tuple[ModuleType, ...] = (
    _internals, _logger, _utils, llama, llama_cache, llama_chat_format, llama_cpp, llama_grammar,
    llama_speculative, llama_tokenizer, llama_types,
)  # fmt: skip
_SERVER = ("server", "server.app")


def __getattr__(name: str) -> Any:
    """Return a C function that is there by name alone."""
    if name.startswith(("llama_", "ggml_", "gguf_")):
        return getattr(llama_cpp, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def install(stand_in: ModuleType | None = None) -> ModuleType:
    """Let ``import llama_cpp`` find this package from now on; return it.

    Args:
        stand_in: A module of that name that calls this and may be replaced.

    Raises:
        ImportError: The real package is imported already: its classes would live on in parallel.
    """
    package = sys.modules[__name__]
    present = sys.modules.get("llama_cpp")
    if present is not None and present is not package and present is not stand_in:
        raise ImportError(
            "llama_cpp is imported already, from llama-cpp-python: call "
            "`gguf_hub.api.compat.llama_cpp.install()` before the first `import llama_cpp`"
        )
    sys.modules["llama_cpp"] = package
    for name, module in _modules().items():
        sys.modules[f"llama_cpp.{name}"] = module
    return package


def uninstall() -> None:
    """Undo ``install``."""
    if sys.modules.get("llama_cpp") is sys.modules[__name__]:
        for name in ("llama_cpp", *(f"llama_cpp.{part}" for part in _modules())):
            sys.modules.pop(name, None)


def _modules() -> dict[str, ModuleType]:
    """Return the modules of the package by their names in it."""
    named = {module.__name__.removeprefix(f"{__name__}."): module for module in _MODULES}
    return named | {name: import_module(f"{__name__}.{name}") for name in _SERVER}
