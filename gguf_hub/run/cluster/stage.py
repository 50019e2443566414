"""The part of a model that one machine computes: its layers, their caches, its activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import ResourceError, UnsupportedGgufError
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.shards import Gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.resources import limit_threads, usable_threads
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.machine import Machine
from gguf_hub.run.kernels.vm.sequences import SequenceTokens
from gguf_hub.run.model.config import ModelConfig, read_graph
from gguf_hub.run.model.limits import auto_threads, limits_of
from gguf_hub.run.model.machines import MachineOpener
from gguf_hub.run.model.program import Program, Stage
from gguf_hub.run.model.residency import Range, lock_pages, prefetch
from gguf_hub.run.model.settings import NO_GPU, ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model, require_little_endian

_OF_EMBEDDINGS = ("token_embd_norm.", "position_embd.")
"""What is added to the embeddings, or norms them."""


@dataclass(frozen=True)
class Batch:
    """What a stage computes at once.

    Attributes:
        tokens: Token ids, [T].
        positions: Of neighbours in one slot the first one's; of several slots one of each.
        slots: One slot, or one of each token.
        n_outputs: How many of the last tokens want logits.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    slots: Sequence[int]
    n_outputs: int


class StageModel(Transformer):
    """A stage of a model, on its own memory.

    Attributes:
        stage: Which part.
        weights_bytes: Bytes of its tensors.
    """

    def __init__(
        self, config: ModelConfig, program: Program, machine: Machine, limits: Limits, file: Gguf,
        stage: Stage, weights_bytes: int,
    ) -> None:  # fmt: skip
        self.stage, self.weights_bytes = stage, weights_bytes
        super().__init__(config, program, machine, limits, file.check_size)

    @classmethod
    def open_stage(
        cls,
        file: Gguf,
        stage: Stage,
        settings: ModelSettings,
        *,
        builder: KernelBuilder | None = None,
        progress: Progress = SILENT,
    ) -> StageModel:
        """Make a part of a model ready.

        Args:
            file: Of the whole model; bytes of other parts are not read.
            stage: Which part.
            settings: How; the same for all stages, but for the threads.
            builder: Where machine code comes from.
            progress: Shows the compiling.

        Raises:
            UnsupportedGgufError: Not a model that runs here, or not one that can be cut.
            ResourceError: Its weights cannot be locked in memory.
        """
        settings.check()
        require_little_endian(file)
        config, weights = read_model(file)
        check_cut(config)
        config = replace(config, rope=config.rope.with_changes(settings.rope))
        own = replace(weights, layers=weights.layers[stage.first : stage.end])
        n_threads = auto_threads(
            own.active_bytes(config, has_head=stage.has_head), usable_threads()
        )
        settings = replace(settings, n_threads=limit_threads(settings.n_threads, progress))
        limits = limits_of(config.n_ctx_train, settings, n_threads)
        ranges = tensor_ranges(file, stage_tensors(file, stage))
        prefetch(file.data, ranges)
        if settings.lock != "none" and (refusal := lock_pages(file.data, ranges)):
            raise ResourceError(refusal)
        opener = MachineOpener(file, config, weights, builder or KernelBuilder(), progress, stage)
        program, machine, limits = opener.open(limits, NO_GPU)
        try:
            return cls(config, program, machine, limits, file, stage, sum(n for _, n in ranges))
        except BaseException:
            machine.close()
            raise

    def compute(self, batch: Batch, residual: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Run the stage.

        Args:
            batch: At most ``n_batch`` tokens.
            residual: What the stage before ended with, [T, D]; None for the first.

        Returns:
            The residual stream, [T, D]; logits of the last ``n_outputs`` tokens, [n, V], of the
            stage with the head.
        """
        n, at = len(batch.tokens), self._program.residual
        stream: NDArray[np.float32] = self._memory.f[at : at + n * self.config.n_embd]
        if residual is not None:
            stream[:] = residual.ravel()
        if len(batch.slots) > 1:
            rows = list(zip(batch.slots, batch.tokens, batch.positions, strict=True))
            logits = self._row_pass(rows)
        else:
            slot, position = batch.slots[0], batch.positions[0]
            self._seek({slot: position})
            outputs = range(n - batch.n_outputs, n)
            logits = self._pass(batch.tokens, [SequenceTokens(slot, position, n)], outputs)
        return logits if self.stage.has_head else stream.reshape(n, -1).copy()

    @property
    def held_cache_bytes(self) -> int:
        """Bytes of the caches of its layers, of all slots."""
        return 2 * self._program.layout.sizes["kv"] * self.n_slots

    def hidden(self, n_tokens: int) -> NDArray[np.float32]:
        """Return the normalised hidden state of the last pass, [n_tokens, D]; of the last stage."""
        width, at = self.config.n_embd, self._program.layout.hidden.x
        rows: NDArray[np.float32] = self._memory.f[at : at + n_tokens * width]
        return np.array(rows.reshape(n_tokens, width))

    def _pass(
        self, tokens: Sequence[int], sequences: Sequence[SequenceTokens], rows: Sequence[int]
    ) -> NDArray[np.float32]:
        """Run the program once; logits are copied where there are any."""
        return super()._pass(tokens, sequences, rows if self.stage.has_head else range(0))


def check_cut(config: ModelConfig) -> None:
    """Refuse models whose layers share more than the residual stream, and encoders.

    Raises:
        UnsupportedGgufError: It is one.
    """
    if config.is_encoder:
        raise UnsupportedGgufError(
            f"architecture `{config.arch.name}`: embeddings are computed on one machine",
            hint="run it without `--cluster`",
        )
    if config.n_embd_per_layer or any(layer.n_back_kv for layer in config.layers):
        raise UnsupportedGgufError(
            f"architecture `{config.arch.name}`: layers read what others computed, so that they "
            "cannot be shared out among machines",
            hint="run it on one machine, without `--cluster`",
        )


def count_layers(file: Gguf) -> int:
    """Return how many layers of a file are computed; those that predict further tokens are not."""
    return len(read_graph(file.hparams).layers())


def stage_tensors(file: Gguf, stage: Stage) -> list[str]:
    """Return the names of the tensors that a stage reads, in the order of the file."""
    graph = read_graph(file.hparams)
    layers = range(len(graph.layers()))[stage.first : stage.end]
    is_tied = "output.weight" not in file.tensors
    readers = {
        "token_embd.weight": stage.has_embedding or (stage.has_head and is_tied),
        f"{graph.arch.output_norm}.weight": stage.has_head,
    }
    return [name for name in file.tensors if readers.get(name, _is_read(name, stage, layers))]


def _is_read(name: str, stage: Stage, layers: range) -> bool:
    if name.startswith("blk."):
        number = name.split(".")[1]
        return number.isdecimal() and int(number) in layers
    if name.startswith(_OF_EMBEDDINGS):
        return stage.has_embedding
    if name.startswith("rope_"):
        return len(layers) > 0
    return stage.has_head


def tensor_ranges(file: Gguf, names: Sequence[str]) -> list[Range]:
    """Return where tensors lie in ``file.data``: (first byte, how many) of each."""
    return [(file.start_of(name), file.tensors[name].size_bytes) for name in names]
