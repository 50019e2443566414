"""From the path of a GGUF to a model that is ready to compute, for every surface."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gguf_hub.errors import UsageError
from gguf_hub.gguf.roles import require_model
from gguf_hub.gguf.shards import Gguf, open_gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.resources import limit_threads
from gguf_hub.run.cluster.hosts import Host
from gguf_hub.run.cluster.model import ClusterModel, Model
from gguf_hub.run.generation.engine import Drafter, Engine
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.config import read_graph
from gguf_hub.run.model.settings import DEFAULTS, ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """An open model; close it, or use it as a context manager.

    Attributes:
        path: As it was asked for.
        file: The GGUF, in one file or in shards.
        model: Computes.
        tokenizer: Of the same file.
        drafter: Drafts tokens for the model to check; None for none.
    """

    path: Path
    file: Gguf
    model: Model
    tokenizer: Tokenizer
    drafter: Drafter | None = None

    def engine(self, slot: int = 0) -> Engine:
        """Return what generates with one of the model's caches."""
        return Engine(self.model, slot=slot, drafter=self.drafter)

    def close(self) -> None:
        """End the worker threads and close the file."""
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
    builder: KernelBuilder | None = None,
    host: Host | None = None,
    progress: Progress = SILENT,
) -> LoadedModel:
    """Open a model.

    Args:
        path: The GGUF file, or any shard of a set.
        settings: How; more threads than can run at once are not started.
        drafter: Drafts tokens for prompt lookup decoding.
        builder: Where machine code comes from; for this CPU when None.
        host: The cluster whose machines compute it; closed with the model. None for this machine.
        progress: Notified about reading, compiling, and what memory or CPUs do not allow.

    Raises:
        GgufError: The file is damaged.
        UnsupportedGgufError: It holds no model that runs here.
        UsageError: A setting that cannot be.
        ResourceError: Not enough memory or threads.
        ClusterError: The cluster does not hold the model, or a machine of it cannot open its part.
    """
    settings.check()
    if drafter is not None and settings.n_logits is not None:
        settings = replace(settings, n_logits=max(settings.n_logits, drafter.n_draft + 1))
    file = open_gguf(path, is_mapped=settings.is_mapped, progress=progress)
    try:
        if settings.overrides:
            from gguf_hub.gguf.overrides import overridden

            file.read_as(overridden(file.fields, settings.overrides))
        require_model(path, file.fields, file.tensors)
        if drafter is not None:
            _require_drafts(file)
        tokenizer = load_tokenizer(file.metadata)
        model = load_model(file, settings, builder=builder, host=host, progress=progress)
    except BaseException:
        file.close()
        if host is not None:
            host.close()
        raise
    return LoadedModel(path, file, model, tokenizer, drafter)


def _require_drafts(file: Gguf) -> None:
    """Refuse drafts for a model whose layers carry a state.

    Raises:
        UsageError: A draft that is wrong could not be taken back from the state.
    """
    graph = read_graph(file.hparams)
    if any(layer.state for layer in graph.layers()):
        raise UsageError(
            f"drafts of tokens cannot be checked by architecture `{graph.arch.name}`: its layers "
            "carry a state, from which wrong tokens cannot be taken back",
            hint="leave `--lookup` or the draft model out",
        )


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
        return ClusterModel.open(file, settings, host=host, progress=progress)
    settings = replace(settings, n_threads=limit_threads(settings.n_threads, progress))
    return Transformer.open(file, settings, builder=builder, progress=progress)
