"""A model ready to compute: mapped weights, a program, a cache, worker threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import ContextFullError, UsageError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.kernels.build import KernelBuilder
from gguf_hub.kernels.cache import CACHE_TYPES
from gguf_hub.kernels.cpu import usable_cores
from gguf_hub.kernels.machine import Machine
from gguf_hub.kernels.ops import N_OUTPUT_PAIRS, N_OUTPUTS, N_PAIRS, N_TOKENS, POSITION
from gguf_hub.model.config import ModelConfig, read_config
from gguf_hub.model.program import Limits, Program, ProgramBuilder
from gguf_hub.model.residency import (
    Lock,
    ask_for,
    dense_ranges,
    is_advisable,
    use_small_pages,
)
from gguf_hub.model.residency import lock as lock_ranges
from gguf_hub.model.weights import Weights, read_weights
from gguf_hub.progress import SILENT, Progress

N_BATCH = 512
"""Most tokens of one pass over the weights, as llama.cpp's ``--ubatch-size``."""

_BYTES_WORTH_A_THREAD = 8 * 10**6  # of weights per token: some 0.4 ms of one core


@dataclass(frozen=True)
class Routing:
    """Which experts a layer gave its tokens to.

    Attributes:
        experts: [T, A] int64, largest weight first.
        weights: [T, A] float32, each row sums to 1.
    """

    experts: NDArray[np.int64]
    weights: NDArray[np.float32]


class Transformer:
    """Token ids in, logits out. The cache is a row of positions that the caller counts.

    Attributes:
        config: Sizes of the model.
        n_ctx: Positions that the cache holds.
        n_batch: Most tokens of one pass.
        n_threads: Threads that compute.
    """

    def __init__(
        self, config: ModelConfig, program: Program, machine: Machine, limits: Limits
    ) -> None:
        self.config = config
        self.n_ctx = limits.n_ctx
        self.n_batch = limits.n_batch
        self.n_threads = limits.n_threads
        self._n_outputs = limits.n_outputs
        self._program = program
        self._machine = machine
        self._memory = machine.memory
        self._code = machine.load(program.steps)

    @classmethod
    def open(
        cls,
        file: GgufFile,
        *,
        n_ctx: int = 0,
        n_batch: int = N_BATCH,
        n_threads: int = 0,
        n_cores: int = 0,
        all_logits: bool = False,
        n_logits: int = 1,
        key_type: str = "F16",
        value_type: str = "F16",
        is_paged: bool = False,
        lock: Lock = "none",
        builder: KernelBuilder | None = None,
        progress: Progress = SILENT,
    ) -> Transformer:
        """Make a model of an open file ready; weights stay where they are, in the mapped file.

        Args:
            file: The GGUF file; keep it open as long as the model is used.
            n_ctx: Positions of the cache; 0 for as many as the model was trained on.
            n_batch: Most tokens of one pass over the weights.
            n_threads: Threads that compute; 0 for as many as pay, see ``paying_threads``.
            n_cores: The most of those; 0 for all cores that this process may run on.
            all_logits: Lay out memory for logits of every token of a batch, not of the last only.
            n_logits: Or for so many, of batches that are no larger.
            key_type: Type of the keys in the cache: ``F16`` or ``Q8_0``.
            value_type: Type of the values in the cache.
            is_paged: The file is larger than memory: read ahead what each token needs of it.
            lock: What of the weights must stay in memory.
            builder: Where machine code comes from; for this CPU when None.
            progress: Told about compiling, once per machine, and when locking is refused.

        Raises:
            UnsupportedGgufError: Not a model that runs here.
            UsageError: A size that cannot be.
        """
        if file.byte_order != "little":
            raise _big_endian(file.path)
        config = read_config(file.metadata, _n_vocab(file))
        weights = read_weights(file, config)
        n_threads = n_threads or paying_threads(
            weights.active_bytes(config), n_cores or usable_cores()
        )
        _check_cache_types(key_type, value_type)
        limits = replace(
            _limits(config, n_ctx, n_batch, n_threads, 0 if all_logits else n_logits),
            key_type=key_type,
            value_type=value_type,
            is_paged=is_paged and is_advisable(),
        )
        _settle(file, weights, limits, lock, progress)
        program = ProgramBuilder(config, weights, limits).build()
        builder = builder or KernelBuilder()
        builder.addresses([step.kernel for step in program.steps] + ["run_program"], progress)
        memory = program.memory([file.data])
        use_small_pages(memory.kv)
        machine = Machine(builder, memory, limits.n_threads)
        return cls(config, program, machine, limits)

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False
    ) -> NDArray[np.float32]:
        """Compute logits of ``tokens``, which stand at ``position`` and after in the cache.

        Positions before must have been computed; those after are overwritten.

        Args:
            tokens: Token ids, at least one.
            position: Cache position of the first one.
            all_logits: Return logits of every token, not of the last only.

        Returns:
            Logits [len(tokens), V] or [1, V], float32; yours to keep.

        Raises:
            ContextFullError: The tokens do not fit the cache.
        """
        if position + len(tokens) > self.n_ctx:
            raise ContextFullError(
                f"{position + len(tokens)} tokens do not fit a context of {self.n_ctx}",
                hint="ask for a larger context with `-c`",
            )
        logits = []
        for start in range(0, len(tokens), self.n_batch):
            batch = tokens[start : start + self.n_batch]
            is_last = start + len(batch) == len(tokens)
            wanted = range(len(batch)) if all_logits else range(len(batch) - 1, len(batch))
            rows = wanted if all_logits or is_last else range(0)
            logits.append(self._pass(batch, position + start, rows))
        return np.concatenate(logits)

    def routing(self, n_tokens: int) -> list[Routing]:
        """Return the routing of the last pass, layer by layer; empty for a dense model.

        Args:
            n_tokens: How many tokens that pass had, all with logits: the last layer routes only
                those that want some.
        """
        n, f, a = self._memory.n, self._memory.f, self.config.n_expert_used
        places = zip(self._program.chosen, self._program.expert_weights, strict=True)
        return [
            Routing(
                n[chosen : chosen + n_tokens * a].reshape(n_tokens, a).copy(),
                f[weights : weights + n_tokens * a].reshape(n_tokens, a).copy(),
            )
            for chosen, weights in places
        ]

    @property
    def active_bytes(self) -> int:
        """Bytes of weights that one token reads: of the experts only those in use."""
        return self._program.active_bytes

    def cache_bytes(self, n_positions: int) -> int:
        """Return the bytes that some positions take in the K/V cache."""
        return self._program.cache_token_bytes * n_positions

    def close(self) -> None:
        """End the worker threads."""
        self._machine.close()

    def __enter__(self) -> Transformer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _pass(self, tokens: Sequence[int], position: int, rows: range) -> NDArray[np.float32]:
        """Run the program once: at most ``n_batch`` tokens."""
        assert len(rows) <= self._n_outputs, "laid out for fewer rows of logits"
        n, program = self._memory.n, self._program
        n[N_TOKENS], n[POSITION], n[N_OUTPUTS] = len(tokens), position, len(rows)
        n[N_PAIRS] = len(tokens) * self.config.n_expert_used
        n[N_OUTPUT_PAIRS] = len(rows) * self.config.n_expert_used
        n[program.ids : program.ids + len(tokens)] = tokens
        n[program.rows : program.rows + len(rows)] = rows
        self._machine.run(self._code)
        size = len(rows) * self.config.n_vocab
        logits: NDArray[np.float32] = self._memory.f[program.logits : program.logits + size].copy()
        return logits.reshape(len(rows), self.config.n_vocab)


def paying_threads(active_bytes: int, n_cores: int) -> int:
    """Return how many threads to compute with: no more than have work worth a barrier.

    A token of a small model takes less time than waking a thread on a busy machine.

    Args:
        active_bytes: Bytes of weights that one token reads.
        n_cores: Most threads there may be.
    """
    return max(1, min(n_cores, active_bytes // _BYTES_WORTH_A_THREAD))


def _settle(
    file: GgufFile, weights: Weights, limits: Limits, lock: Lock, progress: Progress
) -> None:
    """Bring weights into memory, and keep them there, as far as that was asked for."""
    dense = dense_ranges(weights)
    if limits.is_paged:
        ask_for(file.data, dense)
    if lock != "none":
        refusal = lock_ranges(file.data, dense if lock == "dense" else [(0, file.data.size)])
        if refusal:
            progress.note(refusal)


def _check_cache_types(*names: str) -> None:
    for name in names:
        if name not in CACHE_TYPES:
            raise UsageError(f"cache type `{name}`: expected one of {', '.join(CACHE_TYPES)}")


def _n_vocab(file: GgufFile) -> int:
    """Return the rows of the embedding matrix: what token ids may be."""
    embedding = file.tensors.get("token_embd.weight")
    return embedding.shape[1] if embedding is not None and len(embedding.shape) == 2 else 0


def _big_endian(path: Path) -> Exception:
    from gguf_hub.errors import UnsupportedGgufError

    return UnsupportedGgufError(
        f"`{path}` is big-endian: expected little-endian",
        path=path,
        hint=f"`gguf-hub upgrade {path} OUT` converts it",
    )


def _limits(config: ModelConfig, n_ctx: int, n_batch: int, n_threads: int, n_logits: int) -> Limits:
    """Return checked limits; 0 stands for defaults, and ``n_logits`` 0 for all of a batch."""
    for name, value in (("n_ctx", n_ctx), ("n_batch", n_batch), ("n_threads", n_threads)):
        if value < 0:
            raise UsageError(f"{name} {value}: expected 0 (the default) or more")
    n_ctx = n_ctx or config.n_ctx_train
    n_batch = min(n_batch or N_BATCH, n_ctx)
    return Limits(n_ctx, n_batch, min(n_logits or n_batch, n_batch), n_threads)
