"""llama.cpp's C functions, as far as programs use them: those of models, texts and contexts.

The others are there by name, so that they can be imported, and refuse to be called.
"""

from __future__ import annotations

import ctypes
import time
from functools import cache
from types import SimpleNamespace
from typing import Any

from gguf_hub import __version__
from gguf_hub.api.compat.llama_cpp import c_context, c_model, constants
from gguf_hub.api.compat.llama_cpp.c_names import NAMES
from gguf_hub.api.compat.llama_cpp.unavailable import function

OURS = {
    name: value
    for module in (constants, c_model, c_context)
    for name, value in vars(module).items()
    if name.startswith(("llama_", "LLAMA_", "GGML_"))
}
globals().update(OURS)

ggml_log_callback = llama_log_callback = ctypes.CFUNCTYPE(
    None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
)


def llama_log_set(log_callback: Any, user_data: Any, /) -> None:
    """Take a callback for llama.cpp's log, which does not exist; gguf-hub logs as ``gguf_hub``."""


def llama_backend_init() -> None:
    """Nothing has to be prepared."""


def llama_backend_free() -> None:
    """Nothing has to be cleared up."""


def llama_numa_init(numa: int, /) -> None:
    """Nothing is placed by NUMA nodes."""


def llama_max_devices() -> int:
    """Return for how many GPUs there may be numbers in ``tensor_split``."""
    return constants.LLAMA_MAX_DEVICES


def llama_max_parallel_sequences() -> int:
    """Return how many sequences a context has."""
    return 1


def llama_supports_mmap() -> bool:
    """Return whether files can be mapped."""
    return True


def llama_supports_mlock() -> bool:
    """Return whether weights can be locked in memory."""
    return True


def llama_supports_rpc() -> bool:
    """Return whether there is llama.cpp's RPC: there is not; see ``Llama(cluster=...)``."""
    return False


def llama_supports_gpu_offload() -> bool:
    """Return whether there is a GPU that computes layers."""
    from gguf_hub.run.gpu.adapters import find_gpus

    return bool(find_gpus().usable)


def llama_print_system_info() -> bytes:
    """Return a line about what computes."""
    return f"gguf-hub = {__version__} | ".encode()


def llama_time_us() -> int:
    """Return a time in microseconds."""
    return time.monotonic_ns() // 1000


@cache
def _library() -> SimpleNamespace:
    """Return functions as native code can call them, by their addresses."""
    tokenize = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32,
        ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool,
    )  # fmt: skip

    def llama_tokenize(vocab: Any, text: Any, text_len: int, *others: Any) -> int:
        """Take the text by its address and length, as the C function does."""
        return c_model.llama_tokenize(vocab, ctypes.string_at(text, text_len), text_len, *others)

    return SimpleNamespace(llama_tokenize=tokenize(llama_tokenize))


def __getattr__(name: str) -> Any:
    if name == "_lib":
        return _library()
    if name in NAMES:
        return function(f"llama_cpp.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
