"""From the path of a GGUF to a model that is ready to compute, for every surface."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.errors import UsageError
from gguf_hub.gguf.roles import require_model
from gguf_hub.gguf.shards import Gguf, open_gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.resources import limit_threads
from gguf_hub.run.generation.engine import Drafter, Engine
from gguf_hub.run.generation.model_drafter import (
    NO_DRAFT,
    DraftSettings,
    ModelDrafter,
    require_same_vocabulary,
)
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.config import read_graph
from gguf_hub.run.model.limits import require_generation
from gguf_hub.run.model.rope import AS_TRAINED
from gguf_hub.run.model.settings import DEFAULTS, NO_GPU, ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from gguf_hub.run.cluster.hosts import Host
    from gguf_hub.run.cluster.model import Model


@dataclass(frozen=True)
class LoadedModel:
    """An open model; close it, or use it as a context manager.

    Attributes:
        path: As it was asked for.
        file: The GGUF, in one file or in shards.
        model: Computes.
        tokenizer: Of the same file.
        drafter: Drafts tokens for the model to check; None for none.
        draft_model: The model that drafts, if one does.
    """

    path: Path
    file: Gguf
    model: Model
    tokenizer: Tokenizer
    drafter: Drafter | None = None
    draft_model: LoadedModel | None = None

    def engine(self, slot: int = 0) -> Engine:
        """Return what generates with one of the model's caches."""
        return Engine(self.model, slot=slot, drafter=self.drafter)

    def close(self) -> None:
        """End the worker threads and close the file."""
        if self.draft_model is not None:
            self.draft_model.close()
        self.model.close()
        self.file.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_model(
    path: Path,
    settings: ModelSettings = DEFAULTS,
    *,
    drafter: Drafter | None = None,
    draft: DraftSettings = NO_DRAFT,
    builder: KernelBuilder | None = None,
    host: Host | None = None,
    is_generating: bool = False,
    progress: Progress = SILENT,
) -> LoadedModel:
    """Open a model.

    Args:
        path: The GGUF file, or any shard of a set.
        settings: How; more threads than can run at once are not started.
        drafter: Drafts tokens for the model to check.
        draft: A second model that drafts them; its file is opened, too.
        builder: Where machine code comes from; for this CPU when None, kernels that only prompts
            gain by in the background.
        host: The cluster whose machines compute it; closed with the model. None for this machine.
        is_generating: Refuse a model that computes no logits, before anything is compiled.
        progress: Notified about reading, compiling, and what memory or CPUs do not allow.

    Raises:
        GgufError: The file is damaged.
        UnsupportedGgufError: It holds no model that runs here.
        UsageError: A setting that cannot be.
        UsageError: It makes embeddings alone, and is to generate.
        ResourceError: Not enough memory or threads.
        ClusterError: The cluster does not hold the model, or a machine of it cannot open its part.
    """
    has_drafts = drafter is not None or draft.path is not None
    n_draft = drafter.n_draft if drafter is not None else draft.n_max
    if has_drafts and settings.n_logits is not None:
        settings = replace(settings, n_logits=max(settings.n_logits, n_draft + 1))
    with ExitStack() as opened:
        if host is not None:
            opened.callback(host.close)
        settings.check()
        draft.check()
        builder = builder or KernelBuilder(is_staged=True)
        # 1) read both files: what cannot be is refused before anything is compiled
        check = require_drafts if has_drafts else require_logits if is_generating else None
        file, tokenizer = _read(path, settings, check, progress, opened)
        second = None
        if draft.path is not None:
            own = replace(settings, **_SETTINGS_OF_DRAFTS)
            second = _read(draft.path, own, check, progress, opened)
            require_same_vocabulary(tokenizer, second[1], draft.path.name)
        # 2) make them ready
        model = load_model(file, settings, builder=builder, host=host, progress=progress)
        opened.enter_context(model)
        loaded = LoadedModel(path, file, model, tokenizer, drafter)
        if second is not None and draft.path is not None:
            own = replace(own, n_ctx=model.n_ctx)
            own_model = load_model(second[0], own, builder=builder, progress=progress)
            opened.enter_context(own_model)
            loaded = _drafted_by(
                loaded, LoadedModel(draft.path, second[0], own_model, second[1]), draft
            )
        opened.pop_all()
    return loaded


_SETTINGS_OF_DRAFTS: dict[str, Any] = {
    "n_logits": 1, "lock": "none", "overrides": (), "gpu": NO_GPU, "rope": AS_TRAINED,
    "adapters": (),
}  # fmt: skip
"""Settings in which a draft model differs: as its file has it, on the CPU."""


def _read(
    path: Path,
    settings: ModelSettings,
    check: Callable[[Gguf], None] | None,
    progress: Progress,
    opened: ExitStack,
) -> tuple[Gguf, Tokenizer]:
    """Open the file of a model, and its tokenizer; ``check`` judges the file in between."""
    file = open_gguf(path, is_mapped=settings.is_mapped, progress=progress)
    opened.callback(file.close)
    if settings.overrides:
        from gguf_hub.gguf.overrides import overridden

        file.read_as(overridden(file.fields, settings.overrides))
    require_model(path, file.fields, file.tensors)
    for issue in file.header.issues:
        if issue.code == "GGUF-LEFT-OUT":
            progress.note(f"`{path.name}`: {issue.location} {issue.message}")
    if check is not None:
        check(file)
    return file, load_tokenizer(file.metadata)


def _drafted_by(loaded: LoadedModel, second: LoadedModel, draft: DraftSettings) -> LoadedModel:
    sizes = second.model.config.n_vocab, loaded.model.config.n_vocab
    return replace(loaded, drafter=ModelDrafter(second.engine, sizes, draft), draft_model=second)


def require_drafts(file: Gguf) -> None:
    """Refuse drafts for a model whose layers carry a state.

    Raises:
        UsageError: A draft that is wrong could not be taken back from the state.
    """
    graph = read_graph(file.hparams)
    require_generation(graph.arch)
    if any(layer.state for layer in graph.layers()):
        raise UsageError(
            f"drafts of tokens cannot be checked by architecture `{graph.arch.name}`: its layers "
            "carry a state, from which wrong tokens cannot be taken back",
            hint="leave `--lookup` or the draft model out",
        )


def require_logits(file: Gguf) -> None:
    """Refuse a model that makes embeddings and generates no text.

    Raises:
        UsageError: It is one.
    """
    require_generation(read_graph(file.hparams).arch)


def load_model(
    file: Gguf,
    settings: ModelSettings = DEFAULTS,
    *,
    builder: KernelBuilder | None = None,
    host: Host | None = None,
    progress: Progress = SILENT,
) -> Model:
    """Make the model of an open file ready; see ``open_model``."""
    if host is not None:
        if settings.adapters:
            raise UsageError(
                "LoRA adapters do not work with `--cluster`: one machine computes the model",
                hint="`gguf-hub convert HF_DIR OUT --merge-lora ADAPTER_DIR` merges one into its "
                "model",
            )
        from gguf_hub.run.cluster.model import ClusterModel  # 40 ms that others need not wait

        return ClusterModel.open(file, settings, host=host, progress=progress)
    settings = replace(settings, n_threads=limit_threads(settings.n_threads, progress))
    return Transformer.open(file, settings, builder=builder, progress=progress)
