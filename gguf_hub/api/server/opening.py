"""From a GGUF file to a service."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf_hub.api.server.scheduler import Scheduler
from gguf_hub.api.server.service import ModelInfo, Service
from gguf_hub.gguf.shard_names import model_name
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.chat import own_template
from gguf_hub.run.cluster.hosts import Host
from gguf_hub.run.generation.engine import Drafter
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.opening import LoadedModel, open_model

MAX_VALUE_LENGTH = 1000
"""Characters of a text of the metadata that the server reports."""


@contextmanager
def open_service(
    path: Path,
    settings: ModelSettings,
    *,
    name: str | None = None,
    n_waiting: int = 64,
    chat_format: str | None = None,
    n_keep: int | None = None,
    defaults: Mapping[str, Any] | None = None,
    n_predict: int = -1,
    drafter: Drafter | None = None,
    host: Host | None = None,
    progress: Progress = SILENT,
) -> Iterator[Service]:
    """Open a model and yield a service of it; the model is closed at the end.

    Args:
        path: The GGUF file, or any shard of a set.
        settings: How to open it; each slot computes one request at a time.
        name: The model name for clients; the file's name when None.
        n_waiting: Requests that may wait for a slot.
        chat_format: A format by name instead of the model's template.
        n_keep: Prompt tokens to keep on a context shift; None to stop at a full context.
        defaults: Sampling settings of requests that do not name them, for ``SamplerConfig``.
        n_predict: Tokens of an answer where the request sets no limit; negative for no limit.
        drafter: Drafts tokens while a single request is answered.
        host: The cluster that computes; None for this machine.
        progress: Notified about compiling, and about limits of memory or CPUs.

    Raises:
        GgufHubError: The file contains no model that runs here.
    """
    settings = replace(settings, n_logits=None)  # embeddings need those of all tokens
    with open_model(path, settings, drafter=drafter, host=host, progress=progress) as loaded:
        service = Service(
            _model_info(name, loaded), loaded.tokenizer, loaded.file.metadata,
            Scheduler(loaded.model, n_waiting=n_waiting, drafter=drafter), chat_format, n_keep,
            defaults=defaults or {}, n_predict=n_predict,
        )  # fmt: skip
        try:
            yield service
        finally:
            service.close()


def _model_info(name: str | None, loaded: LoadedModel) -> ModelInfo:
    path, file, model = loaded.path, loaded.file, loaded.model
    type_bytes: dict[str, int] = {}
    for info in file.tensors.values():
        kind = getattr(info.type, "name", str(info.type))
        type_bytes[kind] = type_bytes.get(kind, 0) + info.size_bytes
    return ModelInfo(
        name=name or model_name(path),
        path=str(path),
        description=file.metadata.text("general.name", model_name(path)),
        n_params=sum(info.n_elements for info in file.tensors.values()),
        size_bytes=file.size_bytes,
        n_ctx=model.n_ctx,
        n_ctx_train=model.config.n_ctx_train,
        n_embd=model.config.n_embd,
        n_vocab=model.config.n_vocab,
        n_slots=model.n_slots,
        quant=max(type_bytes, key=type_bytes.__getitem__),
        chat_template=own_template(file.metadata),
        metadata=dict(_short_values(file.metadata)),
        modified_time=path.stat().st_mtime,
    )


def _short_values(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield keys with one number, flag or short text as their value."""
    for key, value in metadata.items():
        is_text = isinstance(value, str) and len(value) <= MAX_VALUE_LENGTH
        is_number = isinstance(value, (bool, int, float)) and math.isfinite(value)
        if is_text or is_number:
            yield key, value
