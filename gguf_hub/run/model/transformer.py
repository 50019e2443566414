"""A model ready to compute: mapped weights, a program, a cache, worker threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CacheLostError, GpuError, UsageError
from gguf_hub.gguf.memory import cache
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.shards import Gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.resources import usable_threads
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.extents import Bounds, prove
from gguf_hub.run.kernels.vm.machine import LoadedProgram, Machine
from gguf_hub.run.kernels.vm.ops import N_OUTPUT_PAIRS, N_OUTPUTS, N_PAIRS, Step
from gguf_hub.run.kernels.vm.sequences import (
    SequenceTokens,
    ends_of,
    parts_as_sequences,
    positions_of,
    sequences_of,
    write_sequences,
)
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.limits import (
    auto_threads,
    cache_read_bytes,
    check_outputs,
    check_range,
    check_text,
    limits_of,
    require_generation,
)
from gguf_hub.run.model.machines import MachineOpener, Opened
from gguf_hub.run.model.program import Program
from gguf_hub.run.model.residency import apply_residency, should_prefetch_experts
from gguf_hub.run.model.routing import Routing, read_routing
from gguf_hub.run.model.settings import DEFAULTS, ModelSettings
from gguf_hub.run.model.slot_states import SlotStates
from gguf_hub.run.model.slot_windows import SlotWindows
from gguf_hub.run.model.token_ids import check_token_ids
from gguf_hub.run.model.weights import read_model, require_little_endian

_MANY_TOKENS = 64  # from which large pages help


class Transformer:
    """Token ids in, logits out. The cache is a row of positions that the caller counts.

    There may be several caches, called slots, for sequences that do not know of each other.

    Attributes:
        config: Sizes of the model.
        n_ctx: Positions that the cache holds.
        n_batch: Most tokens of one pass.
        n_threads: Threads that compute.
        n_slots: How many caches there are.
        cache_types: Of keys and values in them.
        has_states: Whether a cache cannot be gone on with from any position (see ``reusable``).
    """

    def __init__(
        self,
        config: ModelConfig,
        program: Program,
        machine: Machine,
        limits: Limits,
        check_file: Callable[[], None] = lambda: None,
        reopen: Callable[[GpuError], Opened] | None = None,
    ) -> None:
        self.config = config
        self.n_ctx, self.n_slots = limits.n_ctx, limits.n_slots
        self.cache_types = limits.key_type, limits.value_type
        self.has_states = config.has_states
        self._check_file, self._reopen = check_file, reopen
        self._lost: set[int] = set()  # slots whose caches went with a GPU
        self._use(program, machine, limits)

    def _use(self, program: Program, machine: Machine, limits: Limits) -> None:
        """Compute with a machine from now on; its caches are empty."""
        self.n_batch, self._n_outputs = limits.n_batch, limits.n_outputs
        self.n_threads = limits.n_threads
        self._program, self._limits = program, limits
        self._machine, self._memory = machine, machine.memory
        layers = zip(program.layout.layers, program.layout.layer_sizes, strict=True)
        self._states = SlotStates(machine, layers, limits.n_slots)
        self._windows = SlotWindows(program.layout.layer_sizes, limits)
        self._code = self._load(program.steps, program.bounds)
        layout, c = program.layout, self.config
        self._results = (layout.hidden.x, c.n_embd) if c.is_encoder else (layout.logits, c.n_vocab)

    @classmethod
    def open(
        cls,
        file: Gguf,
        settings: ModelSettings = DEFAULTS,
        *,
        builder: KernelBuilder | None = None,
        progress: Progress = SILENT,
    ) -> Transformer:
        """Make a model of an open file ready; weights stay where they are, in the mapped file.

        Args:
            file: The GGUF, in one file or in shards; keep it open as long as the model is used.
            settings: How to open it.
            builder: Where machine code comes from; for this CPU when None.
            progress: Shows the compiling, once per machine, and what memory does not allow.

        Raises:
            UnsupportedGgufError: Not a model that runs here.
            UsageError: A setting that cannot be.
        """
        settings.check()
        require_little_endian(file)
        config, weights = read_model(file, settings.adapters, progress)
        config = replace(config, rope=config.rope.with_changes(settings.rope))
        n_threads = auto_threads(weights.active_bytes(config), usable_threads())
        is_encoder = config.is_encoder
        limits = limits_of(config.n_ctx_train, settings, n_threads, is_encoder=is_encoder)
        if settings.gpu.n_layers <= config.n_layer:  # else nothing is read while it runs
            prefetches = should_prefetch_experts(file, settings, progress)
            limits = replace(limits, prefetch_experts=prefetches)
        apply_residency(file, weights, limits, settings.lock, progress)
        opener = MachineOpener(file, config, weights, builder or KernelBuilder(), progress)
        program, machine, limits = opener.open(limits, settings.gpu)
        try:
            return cls(config, program, machine, limits, file.check_size, opener.reopen)
        except GpuError as error:  # no room for the steps beside the weights
            machine.close()
            return cls(config, *opener.reopen(error), file.check_size, opener.reopen)
        except BaseException:
            machine.close()
            raise

    def watch(self, wrap: Callable[[Machine, Program], Machine]) -> None:
        """Compute from now on with what ``wrap`` makes of the machine, that of the CPU."""
        assert not self.n_gpu_layers
        self._machine = wrap(self._machine, self._program)
        self._code = self._load(self._program.steps, self._program.bounds)

    def _load(self, steps: Sequence[Step], bounds: Bounds) -> LoadedProgram:
        """Return steps as code; none of them can leave its memory.

        Raises:
            ProgramError: One could.
        """
        prove(steps, self._program.layout.blocks(), self._memory.files, bounds)
        return self._machine.load(steps)

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> NDArray[np.float32]:
        """Compute logits of ``tokens``, which stand at ``position`` and after in the cache.

        Positions before must have been computed; those after are overwritten. How far a slot
        can be gone back, ``reusable`` tells.

        Args:
            tokens: Token ids, at least one.
            position: Cache position of the first one.
            all_logits: Return logits of every token, not of the last only.
            slot: Which cache.

        Returns:
            Logits [len(tokens), V] or [1, V], float32; yours to keep.

        Raises:
            ContextFullError: The tokens do not fit the cache.
            TokenIdError: A token id that the model does not have.
            UsageError: No tokens, no such position or slot, or it cannot be gone back to.
            CacheLostError: A GPU failed; compute the slot from position 0 on.
            GgufError: The file has become shorter or longer.
        """
        self._check_range(position, len(tokens), slot)
        try:
            return self._forward(tokens, position, slot, all_logits=all_logits)
        except CacheLostError:
            if position:
                raise
        return self._forward(tokens, 0, slot, all_logits=all_logits)

    def _forward(
        self, tokens: Sequence[int], position: int, slot: int, *, all_logits: bool
    ) -> NDArray[np.float32]:
        self._seek({slot: position})
        logits = []
        for start in range(0, len(tokens), self.n_batch):
            batch = tokens[start : start + self.n_batch]
            is_last = start + len(batch) == len(tokens)
            n_rows = len(batch) if all_logits else int(is_last)
            rows = range(len(batch) - n_rows, len(batch))
            own = SequenceTokens(slot, position + start, len(batch))
            logits.append(self._pass(batch, [own], rows))
        return np.concatenate(logits)

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        """Compute tokens of several sequences, in one pass over the weights.

        Args:
            rows: (slot, token id, position) of each; those of a slot follow one another.

        Returns:
            Logits [len(rows), V]; a row's bits are those of ``forward``.

        Raises:
            ContextFullError: A token does not fit its cache.
            TokenIdError: A token id that the model does not have.
            UsageError: No such position or slot, or it cannot be gone back to.
            CacheLostError: A GPU failed; compute all slots from position 0 on.
        """
        max_rows = min(self.n_batch, self._n_outputs, self._limits.n_rows)
        if len(rows) == 1 or max_rows == 1:
            return np.concatenate([self.forward([t], at, slot=slot) for slot, t, at in rows])
        batches = range(0, len(rows), max_rows)
        return np.concatenate([self._row_pass(rows[at : at + max_rows]) for at in batches])

    @property
    def can_mix(self) -> bool:
        """Whether ``forward_parts`` pays: a GPU takes tokens of several sequences one by one."""
        return self._limits.n_slots > 1 and not self.n_gpu_layers

    def forward_parts(
        self, parts: Sequence[tuple[int, Sequence[int], int, int]]
    ) -> NDArray[np.float32]:
        """Compute parts of prompts and tokens of texts, in one pass over the weights.

        Args:
            parts: (slot, token ids, position of the first, how many of the last want logits) of
                each slot, ``n_batch`` tokens at most.

        Returns:
            Logits of those that want some, [n, V], with the bits of ``forward``.

        Raises:
            UsageError: Too many tokens or parts; and all errors of ``decode``.
        """
        tokens, sequences, outputs = parts_as_sequences(parts)
        if len(tokens) > self.n_batch or len(parts) > self._limits.n_rows:
            raise UsageError(
                f"{len(tokens)} tokens of {len(parts)} slots: expected at most {self.n_batch} of "
                f"{self._limits.n_rows} in one pass"
            )
        if not self.can_mix:
            return np.concatenate([self._part_alone(*part) for part in parts])
        self._begin(sequences)
        return self._pass(tokens, sequences, outputs)

    def _part_alone(
        self, slot: int, tokens: Sequence[int], position: int, n_logits: int
    ) -> NDArray[np.float32]:
        logits = self.forward(tokens, position, all_logits=n_logits > 1, slot=slot)
        return logits[len(logits) - n_logits :]

    def _row_pass(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        """Run the program once, with tokens of several sequences."""
        sequences = sequences_of((slot, position) for slot, _, position in rows)
        self._begin(sequences)
        return self._pass([token for _, token, _ in rows], sequences, range(len(rows)))

    def _begin(self, sequences: Sequence[SequenceTokens]) -> None:
        """Make the caches and states of slots stand where their sequences begin."""
        for slot, position, n_tokens in sequences:
            self._check_range(position, n_tokens, slot)
        ends_of(sequences)
        self._seek({slot: position for slot, position, _ in reversed(sequences)})

    def embed(self, tokens: Sequence[int], slot: int = 0) -> NDArray[np.float32]:
        """Return the normalised hidden state of every token, [len(tokens), D].

        The cache of that slot is overwritten; the model must have been opened with ``n_logits``
        None, or be an encoder.

        Raises:
            ContextFullError: The tokens do not fit the cache.
        """
        if self.config.is_encoder:
            check_text(len(tokens), self.config.n_ctx_train, self._limits)
        self._check_range(0, len(tokens), slot)
        if self.config.is_encoder:
            return self._pass(tokens, [SequenceTokens(slot, 0, len(tokens))], range(len(tokens)))
        try:
            return self._embed(tokens, slot)
        except CacheLostError:
            return self._embed(tokens, slot)

    def _embed(self, tokens: Sequence[int], slot: int) -> NDArray[np.float32]:
        width, at, hidden = self.config.n_embd, self._program.layout.hidden.x, []
        for start in range(0, len(tokens), self.n_batch):
            batch = tokens[start : start + self.n_batch]
            self._forward(batch, start, slot, all_logits=True)
            rows = self._memory.f[at : at + len(batch) * width]
            with self._recovering():
                self._machine.pull(rows)
            hidden.append(rows.reshape(len(batch), width).copy())
        return np.concatenate(hidden)

    def reusable(self, n_positions: int, slot: int = 0) -> int:
        """Return how many of the first positions of a cache can be gone on from.

        All of them where every layer keeps all positions. With states as many as these have read,
        or the last checkpoint before, or none; with windows all, or none if these have moved on.
        """
        if slot in self._lost:
            return 0
        return self._windows.reusable(self._states.reusable(n_positions, slot), slot)

    def _seek(self, positions: Mapping[int, int]) -> None:
        """Let slots go on from positions."""
        require_generation(self.config.arch)
        for slot, position in positions.items():
            self._require_cache(position, slot)
        self._lost.difference_update(positions)
        if self.has_states:
            with self._recovering():
                for slot, position in positions.items():
                    self._states.seek(slot, position)
        for slot, position in positions.items():
            self._windows.seek(slot, position)

    def _require_cache(self, n_positions: int, slot: int) -> None:
        if n_positions and slot in self._lost:
            raise CacheLostError(f"the cache of slot {slot} was lost with a GPU")

    def checkpoint(self, n_positions: int, slot: int = 0) -> None:
        """Keep a copy of a slot's state, if it stands there, so that it can be gone back to."""
        with self._recovering():
            self._states.checkpoint(n_positions, slot)

    def save_cache(self, n_positions: int, slot: int = 0) -> NDArray[np.uint16]:
        """Return a copy of the first positions of a cache, for ``load_cache`` alone to read.

        Raises:
            UsageError: So many cannot be gone on from (see ``reusable``).
            CacheLostError: A GPU failed; compute all slots from position 0 on.
        """
        self._require_cache(n_positions, slot)
        views = self._parts(n_positions, slot)
        with self._recovering():
            state = self._states.save(slot, n_positions).view(np.uint16)
            self._machine.pull(*views)
        end = self._windows.save(slot, n_positions)
        parts = [part.ravel() for part in views]
        return np.concatenate([*parts, end, state])

    def cache_size(self, n_positions: int, slot: int = 0) -> int:
        """Return how many numbers ``save_cache`` returns for as many positions."""
        others = self._windows.saved_size(n_positions)
        others += 2 * self._states.n_elements if n_positions else 0
        return sum(part.size for part in self._parts(n_positions, slot)) + others

    def load_cache(self, saved: NDArray[np.uint16], n_positions: int, slot: int = 0) -> None:
        """Restore what ``save_cache`` returned for as many positions.

        Raises:
            UsageError: It is of another size.
        """
        if saved.size != (size := self.cache_size(n_positions, slot)):
            raise UsageError(f"a saved cache of {saved.size} numbers: expected {size}")
        at, views = 0, self._parts(n_positions, slot)
        for part in views:
            part[:] = saved[at : at + part.size].reshape(part.shape)
            at += part.size
        after = at + self._windows.saved_size(n_positions)
        state = np.frombuffer(saved[after:].tobytes(), np.float32)
        with self._recovering():
            self._machine.push(*views)
            self._windows.load(slot, saved[at:after])
            self._states.load(slot, n_positions, state)
        self._lost.discard(slot)

    def copy_cache(self, source: int, target: int, n_positions: int) -> None:
        """Copy the first positions of one slot's cache into another's.

        Raises:
            UsageError: So many cannot be gone on from (see ``reusable``).
            CacheLostError: A GPU failed; compute all slots from position 0 on.
        """
        self._require_cache(n_positions, source)
        old, new = self._parts(n_positions, source), self._parts(n_positions, target)
        with self._recovering():
            self._states.copy(source, target, n_positions)
            self._windows.load(target, self._windows.save(source, n_positions))
            self._machine.pull(*old)
            for source_part, target_part in zip(old, new, strict=True):
                target_part[:] = source_part
            self._machine.push(*new)
        self._lost.discard(target)

    def _parts(self, n_positions: int, slot: int) -> list[NDArray[np.uint16]]:
        """Return views of the first positions of a cache, in tiles of 32 positions.

        Of a cache that is shorter, all of it.
        """
        layout = self._program.layout
        kv, (key_type, value_type) = self._memory.kv[slot * layout.sizes["kv"] :], self.cache_types
        parts = []
        for at, layer in zip(layout.layers, layout.layer_sizes, strict=True):
            if layer.n_back_kv:
                continue
            n_ctx = self._limits.cache_length(layer)
            length = n_ctx, min(n_ctx, n_positions)
            n_head, (n_k, n_v) = layer.n_head_kv, (layer.head_dim, layer.n_embd_head_v)
            parts += cache.key_parts(kv[at.k_cache :], key_type, n_head, n_k, *length)
            parts += cache.value_parts(kv[at.v_cache :], value_type, n_head, n_v, *length)
        return parts

    def _check_range(self, position: int, n_tokens: int, slot: int) -> None:
        check_range(position, n_tokens, slot, self._limits)

    def routing(self, n_tokens: int) -> list[Routing]:
        """Return the routing of the last pass, for each layer with experts.

        Args:
            n_tokens: How many tokens that pass had, all with logits: the last layer routes only
                those that want some.
        """
        return read_routing(self._machine, self._program.layout, self.config, n_tokens)

    @property
    def n_gpu_layers(self) -> int:
        """How many layers GPUs compute, the output layer among them."""
        return self._machine.n_gpu_layers

    @property
    def active_bytes(self) -> int:
        """Bytes of weights that one token reads: of the experts only those in use."""
        return self._program.active_bytes

    def cache_bytes(self, n_positions: int) -> int:
        """Return the bytes that a token at a position reads of the K/V cache."""
        return cache_read_bytes(self._program.layout.layer_sizes, self.cache_types, n_positions)

    def close(self) -> None:
        """End the worker threads."""
        self._machine.close()

    def __enter__(self) -> Transformer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _pass(
        self, tokens: Sequence[int], sequences: Sequence[SequenceTokens], rows: Sequence[int]
    ) -> NDArray[np.float32]:
        """Run the program once; return logits, or vectors of an encoder.

        Args:
            tokens: At most ``n_batch``.
            sequences: That they belong to.
            rows: Which of them want logits.
        """
        if len(tokens) >= _MANY_TOKENS:
            self._memory.use_large_pages()
        check_outputs(len(rows), self._limits)
        check_token_ids(tokens, positions_of(sequences), self.config.n_vocab)
        self._check_file()
        n, layout = self._memory.n, self._program.layout
        write_sequences(n, sequences, layout.sizes["kv"])
        n[N_OUTPUTS] = len(rows)
        n[N_PAIRS] = len(tokens) * self.config.n_expert_used
        n[N_OUTPUT_PAIRS] = len(rows) * self.config.n_expert_used
        n[layout.ids : layout.ids + len(tokens)] = tokens
        n[layout.rows : layout.rows + len(rows)] = rows
        ends = list({slot: at + n_tokens for slot, at, n_tokens in sequences}.items())
        self._states.leave(slot for slot, _ in ends)
        self._windows.reach(ends)
        at, width = self._results
        logits: NDArray[np.float32] = self._memory.f[at : at + len(rows) * width]
        with self._recovering():
            self._machine.run(self._code)
            self._machine.pull(logits)
        self._states.arrive(ends)
        logits = logits.copy()
        return logits.reshape(len(rows), width)

    @contextmanager
    def _recovering(self) -> Iterator[None]:
        """Go on without a GPU that fails in here; tell the caller so.

        Raises:
            CacheLostError: It failed.
        """
        try:
            yield
        except CacheLostError:
            raise
        except GpuError as error:
            if self._reopen is None:
                raise
            self._machine.close()
            self._use(*self._reopen(error))
            self._lost = set(range(self.n_slots))
            raise CacheLostError(f"{error.message}: the caches are computed anew") from error
