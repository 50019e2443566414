"""Arguments of llama-cpp-python's constructor: their meaning, or that they have no effect here."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.api.llama.parts import LlamaValueError
from gguf_hub.api.offload import OffloadRequest, SplitMode
from gguf_hub.errors import UsageError
from gguf_hub.run.model.rope import SCALINGS, RopeChange
from gguf_hub.run.model.settings import ALL_LAYERS, AdapterFile, ModelSettings

if TYPE_CHECKING:
    from gguf_hub.gguf.overrides import Override

_CACHE_TYPES: dict[Any, str] = {0: "F32", 1: "F16", 8: "Q8_0"}
"""ggml's number -> type of keys or values in the cache; ``F16`` where there is no other."""

# argument -> values without a warning, because they change nothing
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tokenizer": (None,),
    "type_k": (None, *_CACHE_TYPES),
    "type_v": (None, *_CACHE_TYPES),
    "spm_infill": (None, False),
    "lora_base": (None,),
}
"""Arguments that would change results; those about speed alone are in ``STEERING``."""

_ROPE = frozenset({
    "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast",
    "yarn_beta_slow", "yarn_orig_ctx",
})  # fmt: skip
"""Arguments of ``RopeChange.from_options``, under the same names."""

SPLIT_MODES: tuple[SplitMode, ...] = ("none", "layer", "row")
"""llama.cpp's number -> how several GPUs are used."""

STEERING = frozenset({
    "n_ubatch", "n_threads_batch", "attention_type", "offload_kqv", "flash_attn", "op_offload",
    "no_perf", "numa",
})  # fmt: skip
"""Arguments about placement and speed, not results: accepted silently."""

_SUPPORTED = frozenset({
    "draft_model", "kv_overrides", "rope_scaling_type", "swa_full", "use_mmap", "use_mlock",
    "n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "lora_path", "lora_scale",
})  # fmt: skip


def check_extra(arguments: Mapping[str, Any]) -> None:
    """Warn about unknown and unsupported arguments."""
    known = STEERING | _ROPE | _SUPPORTED | _UNSUPPORTED.keys()
    unknown = sorted(arguments.keys() - known)
    unsupported = sorted(
        name
        for name, defaults in _UNSUPPORTED.items()
        if name in arguments and arguments[name] not in defaults
    )
    if unknown:
        _warn(f"unknown arguments are ignored: {', '.join(unknown)}")
    if unsupported:
        _warn(f"unsupported arguments are ignored: {', '.join(unsupported)}")


def model_settings(
    arguments: Mapping[str, Any],
    *,
    n_ctx: int,
    n_batch: int,
    n_threads: int | None,
    n_logits: int | None,
) -> ModelSettings:
    """Return the model settings of the constructor's arguments.

    Args:
        arguments: Those that are not parameters of the constructor.
        n_ctx: See ``LlamaBase``.
        n_batch: See ``LlamaBase``.
        n_threads: None or less than 1 for as many as help.
        n_logits: Rows of logits of one pass; None for all of a batch.

    Raises:
        LlamaValueError: A value is invalid.
    """
    return ModelSettings(
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_threads=max(0, n_threads or 0),
        n_logits=n_logits,
        key_type=_CACHE_TYPES.get(arguments.get("type_k"), "F16"),
        value_type=_CACHE_TYPES.get(arguments.get("type_v"), "F16"),
        is_mapped=arguments.get("use_mmap") in (None, True),
        lock="all" if arguments.get("use_mlock") else "none",
        rope=rope_change(arguments),
        swa_full=arguments.get("swa_full") in (None, True),
        overrides=_overrides(arguments.get("kv_overrides") or {}),
        adapters=_adapters(arguments.get("lora_path"), arguments.get("lora_scale")),
    )


def offload_request(arguments: Mapping[str, Any]) -> OffloadRequest:
    """Return what the arguments ask for of GPUs: nothing by default, as in llama-cpp-python.

    Raises:
        LlamaValueError: A value is invalid.
    """
    n, mode = arguments.get("n_gpu_layers") or 0, arguments.get("split_mode")
    if not isinstance(n, int):
        raise LlamaValueError(f"n_gpu_layers: expected a number of layers, -1 for all, found {n!r}")
    if mode not in (None, 0, 1, 2):
        raise LlamaValueError(
            f"split_mode: expected 0 (one GPU), 1 (by layers) or 2 (by rows), found {mode!r}"
        )
    request = OffloadRequest(
        n_layers=ALL_LAYERS if n < 0 else n,
        split=tuple(arguments.get("tensor_split") or ()),
        mode=SPLIT_MODES[1 if mode is None else mode],
        main_gpu=arguments.get("main_gpu") or 0,
        label=f"n_gpu_layers={n}",
        is_quiet=True,
    )
    try:
        request.check()
    except UsageError as exc:
        raise LlamaValueError(exc.message, hint=exc.hint) from exc
    return request


def _adapters(path: Any, scale: Any) -> tuple[AdapterFile, ...]:
    if not path:
        return ()
    if not isinstance(path, str | os.PathLike):
        raise LlamaValueError(f"lora_path: expected the path of an adapter, found {path!r}")
    if not Path(path).exists():
        raise LlamaValueError(
            f"Failed to initialize LoRA adapter from lora path: {os.fspath(path)} does not exist"
        )
    scale = 1.0 if scale is None else scale
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise LlamaValueError(f"lora_scale: expected a number, found {scale!r}")
    return (AdapterFile(Path(path), float(scale)),)


def _overrides(values: Mapping[str, Any]) -> tuple[Override, ...]:
    from gguf_hub.gguf.overrides import overrides_of

    try:
        return overrides_of(values)
    except UsageError as exc:
        raise LlamaValueError(exc.message, hint=exc.hint) from exc


def rope_change(arguments: Mapping[str, Any]) -> RopeChange:
    """Return what the arguments change in the position embedding.

    Raises:
        LlamaValueError: A value is invalid.
    """
    kind = arguments.get("rope_scaling_type")
    if kind not in (None, -1, 0, 1, 2):
        raise LlamaValueError(
            f"rope_scaling_type: expected -1 (the model's), 0 (none), 1 (linear) or 2 (yarn), "
            f"found {kind!r}"
        )
    options = {
        name: value for name, value in arguments.items() if name in _ROPE and value is not None
    }
    try:
        scaling = None if kind in (None, -1) else SCALINGS[kind]
        return RopeChange.from_options(rope_scaling=scaling, **options)
    except UsageError as exc:
        raise LlamaValueError(exc.message, hint=exc.hint) from exc


def _warn(text: str) -> None:
    warnings.warn(f"Llama: {text}", UserWarning, stacklevel=6)
