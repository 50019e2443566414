"""From a GGUF file to a service."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.api.server.scheduler import Scheduler
from gguf_hub.api.server.service import AdapterInfo, ModelInfo, Service
from gguf_hub.api.server.slot_files import SlotFiles
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.gguf.shard_names import model_name
from gguf_hub.gguf.shards import Gguf, open_gguf
from gguf_hub.hub.programs.conversations import choose_chat_format
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.chat import own_template
from gguf_hub.run.generation.chat_defaults import ChatDefaults
from gguf_hub.run.generation.engine import Drafter
from gguf_hub.run.generation.model_drafter import NO_DRAFT, DraftSettings
from gguf_hub.run.generation.pooling import EUCLIDEAN, Pooling
from gguf_hub.run.generation.saved_prompt import model_id_of
from gguf_hub.run.generation.vectors import Pooler
from gguf_hub.run.model.settings import AdapterFile, ModelSettings
from gguf_hub.run.opening import LoadedModel, open_model
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from gguf_hub.run.cluster.hosts import Host

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
    pooling: Pooling = Pooling.UNSPECIFIED,
    norm: int = EUCLIDEAN,
    chat_defaults: Mapping[str, Any] | None = None,
    reuses_cache: bool = True,
    slot_folder: str | Path | None = None,
    prints_special: bool = False,
    drafter: Drafter | None = None,
    draft: DraftSettings = NO_DRAFT,
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
        pooling: How to pool texts; ``UNSPECIFIED`` for what the file says.
        norm: Of vectors where the request names none (see ``pooling.scaled``).
        chat_defaults: Fields of ``ChatDefaults``.
        reuses_cache: Whether prompts go on from what a slot holds, unless requests say.
        slot_folder: Where clients may save slots; None for nowhere.
        prints_special: Whether control tokens are text.
        drafter: Drafts tokens of each answer.
        draft: A second model that drafts them.
        host: The cluster that computes; None for this machine.
        progress: Notified about compiling, and about limits of memory or CPUs.

    Raises:
        GgufHubError: The file contains no model that runs here, or that cannot be pooled so.
    """
    settings = replace(settings, n_logits=None)  # embeddings need those of all tokens
    with open_model(
        path, settings, drafter=drafter, draft=draft, host=host, progress=progress
    ) as loaded:
        chat_format = choose_chat_format(path, loaded.file.metadata, chat_format, progress)
        pooler = Pooler(loaded.file, pooling)
        pooler.check()
        service = Service(
            _model_info(name, loaded, settings.adapters), loaded.tokenizer, loaded.file.metadata,
            Scheduler(loaded.model, n_waiting=n_waiting, drafter=loaded.drafter),
            pooler, chat_format, n_keep,
            defaults=defaults or {}, n_predict=n_predict, norm=norm,
            chat_defaults=ChatDefaults(**(chat_defaults or {})), reuses_cache=reuses_cache,
            slot_files=_slot_files(slot_folder, loaded), prints_special=prints_special,
        )  # fmt: skip
        try:
            yield service
        finally:
            service.close()


def _slot_files(folder: str | Path | None, loaded: LoadedModel) -> SlotFiles | None:
    if folder is None:
        return None
    return SlotFiles(Path(folder), loaded.model, model_id_of(loaded.model, loaded.file))


def _model_info(
    name: str | None, loaded: LoadedModel, adapters: Sequence[AdapterFile]
) -> ModelInfo:
    model, config = loaded.model, loaded.model.config
    return ModelInfo(
        **_facts_of(name, loaded.path, loaded.file, loaded.tokenizer),
        n_ctx=model.n_ctx, n_ctx_train=config.n_ctx_train, n_embd=config.n_embd,
        n_vocab=config.n_vocab, n_slots=model.n_slots,
        adapters=tuple(map(_adapter_info, adapters)),
    )  # fmt: skip


def _adapter_info(adapter: AdapterFile) -> AdapterInfo:
    with open_gguf(adapter.path) as file:
        texts = {
            name: file.metadata.text(f"adapter.lora.{name}", "")
            for name in ("task_name", "prompt_prefix")
        }
    return AdapterInfo(str(adapter.path), adapter.scale, **texts)


def describe_file(
    path: Path,
    *,
    name: str | None = None,
    n_ctx: Callable[[int], int],
    n_slots: int,
    reads_vocabulary: bool = True,
) -> ModelInfo:
    """Return the properties of a model that is not loaded, from its header and vocabulary.

    Args:
        path: The GGUF file, or any shard of a set.
        name: The model name for clients; the file's name when None.
        n_ctx: Returns the context that it would be opened with, given the trained one.
        n_slots: Requests that would be decoded at once.
        reads_vocabulary: Whether to find out if it can fill in, which takes longest.

    Raises:
        GgufError: A file cannot be read.
        GgufHubError: It holds no model that runs here.
    """
    file = open_gguf(path)
    try:
        hparams = HyperParameters(file.fields, file.tensors, is_estimate=True)
        trained = hparams.get(HyperParameters.n_ctx_train, 0)
        tokenizer = load_tokenizer(file.metadata) if reads_vocabulary else None
        return ModelInfo(
            **_facts_of(name, path, file, tokenizer),
            n_ctx=n_ctx(trained), n_ctx_train=trained, n_embd=hparams.n_embd,
            n_vocab=hparams.n_vocab, n_slots=n_slots,
        )  # fmt: skip
    finally:
        file.close()


def _facts_of(
    name: str | None, path: Path, file: Gguf, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Return what a file says itself, however it is opened."""
    type_bytes: dict[str, int] = {}
    for info in file.tensors.values():
        kind = getattr(info.type, "name", str(info.type))
        type_bytes[kind] = type_bytes.get(kind, 0) + info.size_bytes
    return {
        "name": name or model_name(path),
        "path": str(path),
        "description": file.metadata.text("general.name", model_name(path)),
        "n_params": sum(info.n_elements for info in file.tensors.values()),
        "size_bytes": file.size_bytes,
        "quant": max(type_bytes, key=type_bytes.__getitem__),
        "chat_template": own_template(file.metadata),
        "metadata": dict(_short_values(file.metadata)),
        "modified_time": path.stat().st_mtime,
        "can_infill": tokenizer is not None and tokenizer.vocab.infill_ids is not None,
    }


def _short_values(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield keys with one number, flag or short text as their value."""
    for key, value in metadata.items():
        is_text = isinstance(value, str) and len(value) <= MAX_VALUE_LENGTH
        is_number = isinstance(value, (bool, int, float)) and math.isfinite(value)
        if is_text or is_number:
            yield key, value
