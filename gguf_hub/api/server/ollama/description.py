"""The served model as Ollama describes models."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from typing import Any

from gguf_hub.api.server.replies import dumps
from gguf_hub.api.server.service import ModelInfo, Service
from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.hparams import CacheHyperParameters
from gguf_hub.run.generation.harmony import is_harmony
from gguf_hub.run.generation.reasoning import MARKS

Fields = dict[str, Any]

NEVER = "9999-12-31T23:59:59Z"
"""When the model is unloaded."""


def listed(service: Service, name: str) -> Fields:
    """Return the entry of ``/api/tags``."""
    info = service.model_info
    return {**_entry(info, name), "modified_at": _modified(info)}


def running(service: Service, name: str) -> Fields:
    """Return the entry of ``/api/ps``."""
    info = service.model_info
    more = {"expires_at": NEVER, "size_vram": 0, "context_length": info.n_ctx}
    return {**_entry(info, name), **more}


def shown(service: Service) -> Fields:
    """Return the reply of ``/api/show``.

    The context length is the one that requests have, which clients divide their prompts by.
    """
    info, architecture = service.model_info, _architecture(service.model_info)
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
        "capabilities": _capabilities(service),
        "modified_at": _modified(info),
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


def _modified(info: ModelInfo) -> str:
    time = datetime.fromtimestamp(info.modified_time, timezone.utc)
    return time.isoformat().replace("+00:00", "Z")


def _capabilities(service: Service) -> list[str]:
    template = service.model_info.chat_template
    capabilities = ["completion", "tools"]
    has_marks = any(start in template or end in template for start, end in MARKS)
    if has_marks or is_harmony(template):
        capabilities.append("thinking")
    try:
        service.encode_infill("", "")
    except GgufHubError:
        return capabilities
    return [*capabilities, "insert"]
