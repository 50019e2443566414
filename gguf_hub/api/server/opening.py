"""From a GGUF file to a service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gguf_hub.api.server.scheduler import Scheduler
from gguf_hub.api.server.service import Facts, Service
from gguf_hub.gguf.shard_names import model_name
from gguf_hub.gguf.shards import Gguf, open_gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.chat import TEMPLATE_KEY
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.tokenizer import load_tokenizer


@contextmanager
def open_service(
    path: Path,
    *,
    name: str | None = None,
    n_ctx: int = 0,
    n_slots: int = 4,
    n_waiting: int = 64,
    chat_format: str | None = None,
    n_keep: int | None = None,
    defaults: Mapping[str, Any] | None = None,
    n_predict: int = -1,
    is_mapped: bool = True,
    progress: Progress = SILENT,
    **options: Any,
) -> Iterator[Service]:
    """Open a model and yield a service of it; the model is closed at the end.

    Args:
        path: The GGUF file, or any shard of a set.
        name: Under which clients ask for it; the file's name when None.
        n_ctx: Positions of each slot; 0 for as many as the model was trained on.
        n_slots: Requests that are computed at once.
        n_waiting: Requests that may wait besides.
        chat_format: A format by name, in place of the model's template.
        n_keep: What stays of a prompt where a context goes on when it is full; None to stop there.
        defaults: Sampling settings of requests that do not name them, for ``SamplerConfig``.
        n_predict: Tokens of an answer, for requests that do not limit it; negative for no limit.
        is_mapped: Map the file, or read it into memory first.
        progress: Told about compiling.
        options: For ``Transformer.open``: ``n_batch``, ``n_threads``, ``n_cores``, ``rope``,
            ``key_type``, ``value_type``, ``lock``.

    Raises:
        GgufHubError: It holds no model that runs here.
    """
    with (
        open_gguf(path, is_mapped=is_mapped, progress=progress) as file,
        Transformer.open(
            file, n_ctx=n_ctx, n_slots=n_slots, all_logits=True, progress=progress, **options
        ) as model,
    ):
        tokenizer = load_tokenizer(file.metadata)
        facts = _facts(path, name, file, model)
        scheduler = Scheduler(model, n_waiting=n_waiting)
        service = Service(
            facts, tokenizer, file.metadata, scheduler, chat_format, n_keep,
            defaults=defaults or {}, n_predict=n_predict,
        )  # fmt: skip
        try:
            yield service
        finally:
            service.close()


def _facts(path: Path, name: str | None, file: Gguf, model: Transformer) -> Facts:
    bytes_of: dict[str, int] = {}
    for info in file.tensors.values():
        kind = getattr(info.type, "name", str(info.type))
        bytes_of[kind] = bytes_of.get(kind, 0) + info.size_bytes
    return Facts(
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
        quant=max(bytes_of, key=bytes_of.__getitem__),
        chat_template=file.metadata.text(TEMPLATE_KEY, ""),
    )
