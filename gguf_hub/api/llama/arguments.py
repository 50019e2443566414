"""Arguments of llama-cpp-python's constructor: what they mean, or that they change nothing here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from gguf_hub.api.llama.parts import LlamaValueError
from gguf_hub.errors import UsageError
from gguf_hub.run.model.rope import SCALINGS, RopeChange
from gguf_hub.run.model.settings import ModelSettings

# argument -> the values that need no word, because they ask for nothing that is not so anyway
_IDLE: dict[str, tuple[Any, ...]] = {
    "kv_overrides": (None, {}),
    "tokenizer": (None,),
    "type_k": (None, 1, 8),
    "type_v": (None, 1, 8),
    "spm_infill": (None, False),
}
"""Of these a caller may expect another result; what only steers a GPU or memory is not here."""

_REFUSED = {"lora_path": "LoRA adapters", "lora_base": "LoRA adapters"}

_CACHE_TYPES = {8: "Q8_0"}
"""ggml's number -> type of keys or values in the cache; ``F16`` where there is no other."""

_ROPE = frozenset({
    "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast",
    "yarn_beta_slow", "yarn_orig_ctx",
})  # fmt: skip
"""Arguments of ``RopeChange.from_options``, under the same names."""

STEERING = frozenset({
    "n_gpu_layers", "split_mode", "main_gpu", "tensor_split",
    "n_ubatch", "n_threads_batch", "attention_type", "offload_kqv", "flash_attn", "op_offload",
    "swa_full", "no_perf", "lora_scale", "numa",
})  # fmt: skip
"""Arguments about where and how fast, not about what: accepted silently."""

_FOLLOWED = frozenset({"draft_model", "rope_scaling_type", "use_mmap", "use_mlock"})


def check_extra(given: Mapping[str, Any]) -> None:
    """Refuse or mention arguments that cannot be followed.

    Raises:
        LlamaValueError: Following it would change every result, and it cannot be done.
    """
    for name, what in _REFUSED.items():
        if given.get(name):
            raise LlamaValueError(f"{name}: {what} are not supported, found `{given[name]}`",
                                  hint="merge the adapter into the model first")  # fmt: skip
    known = STEERING | _ROPE | _FOLLOWED | _IDLE.keys() | _REFUSED.keys()
    unknown = sorted(given.keys() - known)
    idle = sorted(
        name for name, silent in _IDLE.items() if name in given and given[name] not in silent
    )
    if unknown:
        _warn(f"unknown arguments are ignored: {', '.join(unknown)}")
    if idle:
        _warn(f"arguments that this version does not follow: {', '.join(idle)}")


def model_settings(
    given: Mapping[str, Any],
    *,
    n_ctx: int,
    n_batch: int,
    n_threads: int | None,
    n_logits: int | None,
) -> ModelSettings:
    """Return how the constructor's arguments want the model to be opened.

    Args:
        given: Those that are no parameter of the constructor.
        n_ctx: As given to it.
        n_batch: As given to it.
        n_threads: As given to it; None or less than 1 for as many as help.
        n_logits: Rows of logits of one pass; None for all of a batch.

    Raises:
        LlamaValueError: A value that cannot be.
    """
    return ModelSettings(
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_threads=max(0, n_threads or 0),
        n_logits=n_logits,
        key_type=_CACHE_TYPES.get(given.get("type_k") or 1, "F16"),
        value_type=_CACHE_TYPES.get(given.get("type_v") or 1, "F16"),
        is_mapped=given.get("use_mmap") in (None, True),
        lock="all" if given.get("use_mlock") else "none",
        rope=rope_change(given),
    )


def rope_change(given: Mapping[str, Any]) -> RopeChange:
    """Return what the arguments want of position embedding otherwise than the model says.

    Raises:
        LlamaValueError: A value that cannot be.
    """
    kind = given.get("rope_scaling_type")
    if kind not in (None, -1, 0, 1, 2):
        raise LlamaValueError(
            f"rope_scaling_type: expected -1 (the model's), 0 (none), 1 (linear) or 2 (yarn), "
            f"found {kind!r}"
        )
    options = {name: value for name, value in given.items() if name in _ROPE and value is not None}
    try:
        scaling = None if kind in (None, -1) else SCALINGS[kind]
        return RopeChange.from_options(rope_scaling=scaling, **options)
    except UsageError as exc:
        raise LlamaValueError(exc.message, hint=exc.hint) from exc


def _warn(text: str) -> None:
    warnings.warn(f"Llama: {text}", UserWarning, stacklevel=5)
