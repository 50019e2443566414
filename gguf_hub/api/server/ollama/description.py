"""A model as Ollama describes models."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from typing import Any

from gguf_hub.api.server.replies import dumps
from gguf_hub.api.server.service import ModelInfo
from gguf_hub.gguf.hparams import CacheHyperParameters
from gguf_hub.run.generation.harmony import is_harmony
from gguf_hub.run.generation.reasoning import MARKS

Fields = dict[str, Any]

NEVER = "9999-12-31T23:59:59Z"
"""When the model is unloaded."""


def listed(info: ModelInfo, name: str) -> Fields:
    """Return the entry of ``/api/tags``."""
    return {**_entry(info, name), "modified_at": time_text(info.modified_time)}


def running(
    info: ModelInfo,
    name: str,
    *,
    expires_at: str = NEVER,
    memory_bytes: int | None = None,
    vram_bytes: int = 0,
) -> Fields:
    """Return the entry of ``/api/ps``.

    Args:
        info: The model.
        name: Its name.
        expires_at: When it is unloaded.
        memory_bytes: What it takes in all; the size of its file when None.
        vram_bytes: What of that is memory of GPUs.
    """
    more = {"expires_at": expires_at, "size_vram": vram_bytes, "context_length": info.n_ctx}
    size = {} if memory_bytes is None else {"size": memory_bytes}
    return {**_entry(info, name), **size, **more}


def shown(info: ModelInfo) -> Fields:
    """Return the reply of ``/api/show``.

    The context length is the one that requests have, which clients divide their prompts by.
    """
    architecture = _architecture(info)
    limits = {f"{architecture}.{CacheHyperParameters.n_ctx_train.name}": info.n_ctx,
              f"{architecture}.{CacheHyperParameters.n_embd.name}": info.n_embd}  # fmt: skip
    counted = {"general.architecture": architecture, "general.parameter_count": info.n_params}
    return {
        "modelfile": f"FROM {info.path}\n",
        "parameters": f"num_ctx {info.n_ctx}",
        "template": info.chat_template,
        "license": str(info.metadata.get("general.license", "")),
        "details": _details(info),
        "model_info": {**info.metadata, **counted, **limits},
        "capabilities": _capabilities(info),
        "modified_at": time_text(info.modified_time),
    }


def _entry(info: ModelInfo, name: str) -> Fields:
    fields = {"name": name, "model": name, "size": info.size_bytes, "details": _details(info)}
    # identifies the model, as a manifest's does; it is not the hash of the file
    digest = hashlib.sha256(dumps([fields, info.path, info.modified_time]).encode()).hexdigest()
    return {**fields, "digest": digest}


def _details(info: ModelInfo) -> Fields:
    architecture = _architecture(info)
    return {"parent_model": "", "format": "gguf", "family": architecture,
            "families": [architecture], "parameter_size": _parameters(info.n_params),
            "quantization_level": info.quant}  # fmt: skip


def _architecture(info: ModelInfo) -> str:
    return str(info.metadata.get("general.architecture", "llama"))


def _parameters(n_params: int) -> str:
    """Return a number of weights as model cards write it, such as ``46.7B``."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if n_params >= size:
            return f"{n_params / size:.1f}{unit}"
    return str(n_params)


def time_text(seconds: float) -> str:
    """Return a time as Ollama writes it.

    Args:
        seconds: Since 1970.
    """
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def _capabilities(info: ModelInfo) -> list[str]:
    template = info.chat_template
    has_marks = any(start in template or end in template for start, end in MARKS)
    is_thinking = has_marks or is_harmony(template)
    more = ["thinking"] * is_thinking + ["insert"] * info.can_infill
    return ["completion", "tools", *more]
