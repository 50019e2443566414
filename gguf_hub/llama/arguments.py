"""Arguments of llama-cpp-python's constructor that change nothing here, and saying so."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from gguf_hub.llama.parts import LlamaValueError

# argument -> the values that need no word, because they ask for nothing that is not so anyway
_IDLE: dict[str, tuple[Any, ...]] = {
    "kv_overrides": (None, {}),
    "rope_scaling_type": (None, -1),
    "rope_freq_base": (None, 0.0),
    "rope_freq_scale": (None, 0.0),
    "yarn_ext_factor": (None, -1.0),
    "yarn_attn_factor": (None, 1.0, -1.0),
    "yarn_beta_fast": (None, 32.0, -1.0),
    "yarn_beta_slow": (None, 1.0, -1.0),
    "yarn_orig_ctx": (None, 0),
    "draft_model": (None,),
    "tokenizer": (None,),
    "type_k": (None, 1, 8),
    "type_v": (None, 1, 8),
    "spm_infill": (None, False),
}
"""Of these a caller may expect another result; what only steers a GPU or memory is not here."""

_REFUSED = {"lora_path": "LoRA adapters", "lora_base": "LoRA adapters"}

CACHE_TYPES = {8: "Q8_0"}
"""ggml's number -> type of keys or values in the cache; ``F16`` where there is no other."""

STEERING = frozenset({
    "n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "use_mmap", "use_mlock",
    "n_ubatch", "n_threads_batch", "attention_type", "offload_kqv", "flash_attn", "op_offload",
    "swa_full", "no_perf", "lora_scale", "numa",
})  # fmt: skip
"""Arguments about where and how fast, not about what: taken in silence."""


def check_extra(given: Mapping[str, Any]) -> None:
    """Refuse or mention arguments that cannot be followed.

    Raises:
        LlamaValueError: Following it would change every result, and it cannot be done.
    """
    for name, what in _REFUSED.items():
        if given.get(name):
            raise LlamaValueError(f"{name}: {what} are not supported, found `{given[name]}`",
                                  hint="merge the adapter into the model first")  # fmt: skip
    known = STEERING | _IDLE.keys() | _REFUSED.keys()
    unknown = sorted(given.keys() - known)
    idle = sorted(
        name for name, silent in _IDLE.items() if name in given and given[name] not in silent
    )
    if unknown:
        _warn(f"unknown arguments are ignored: {', '.join(unknown)}")
    if idle:
        _warn(f"arguments that this version does not follow: {', '.join(idle)}")


def _warn(text: str) -> None:
    warnings.warn(f"Llama: {text}", UserWarning, stacklevel=5)
