"""The llama graph as a list of steps: what is computed, in which order, and where it lies.

Shape letters: T tokens of a call (at most ``n_batch``), D n_embd, H heads, K kv heads, d head_dim,
F n_ff, E experts, A active experts, P = T x A pairs, V vocab, S positions of the cache.

The graph is Llama's (arXiv 2302.13971) with grouped-query attention, and Mixtral's sparse mixture
of experts (arXiv 2401.04088): softmax over the router's two best of eight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.run.kernels.attention import cache
from gguf_hub.run.kernels.matmul.scratch import panel_bytes, partial_floats
from gguf_hub.run.kernels.quantize.activations import (
    ACTIVATION_OF,
    ActivationKind,
    activation_bytes,
    activation_floats,
)
from gguf_hub.run.kernels.vm.extents import Block, Bounds, Layout, Span
from gguf_hub.run.kernels.vm.machine import Memory
from gguf_hub.run.kernels.vm.ops import (
    HEADER,
    N_OUTPUT_PAIRS,
    N_OUTPUTS,
    N_PAIRS,
    N_TOKENS,
    Step,
    step,
)
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.weights import Experts, Layer, Matrix, Weights

_ALIGN = 64  # elements; keeps rows and panels on cache lines


class Arena:
    """Hands out places in one array of ``Memory``; ``size`` is what must be allocated."""

    def __init__(self, start: int = 0) -> None:
        self.size = start
        self.blocks: list[Block] = []

    def take(self, n: int) -> int:
        """Return the offset of ``n`` fresh elements."""
        offset = self.size
        self.blocks.append((offset, offset + n))
        self.size += -(-n // _ALIGN) * _ALIGN
        return offset


@dataclass(frozen=True)
class Activations:
    """Rows of activations as the weights that read them want them.

    Attributes:
        x: Offset in ``f`` of the plain rows, [rows, width].
        width: Elements of a row.
        places: Kind of activation (see ``kernels.activations``) -> offsets in ``q`` and ``f``.
    """

    x: int
    width: int
    places: dict[ActivationKind, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """The tokens that a layer computes on after its attention.

    Attributes:
        x: Offset in ``f`` of the residual stream, [T, D].
        attended: What attention made of them, [T, H, d].
        count: Place in the header of their number.
        pairs: Place in the header of the number of their (token, expert) pairs.
    """

    x: int
    attended: Activations
    count: int = N_TOKENS
    pairs: int = N_PAIRS


@dataclass(frozen=True)
class Limits:
    """How much memory a program is laid out for.

    Attributes:
        n_ctx: Positions of the cache, S.
        n_batch: Most tokens of one call, T.
        n_outputs: Most rows of logits of one call.
        n_threads: Threads that run it.
        n_slots: Caches, of which a call may use one for each token (see ``model.rows``).
        key_type: Type of the keys in the cache, one of ``cache.CACHE_TYPES``.
        value_type: Type of the values.
        prefetch_experts: Whether steps ask the system for the experts of each token ahead.
    """

    n_ctx: int
    n_batch: int
    n_outputs: int
    n_threads: int
    n_slots: int = 1
    key_type: str = "F16"
    value_type: str = "F16"
    prefetch_experts: bool = False


@dataclass(frozen=True)
class Program:
    """Steps and where their inputs and outputs lie.

    Attributes:
        steps: In order of execution.
        ids: Offset in ``n`` of the token ids, [T].
        headers: Offset in ``n`` of (tokens, position) for each sequence, [n_slots + 1, 2].
        rows: Offset in ``n`` of the rows that want logits, [n_outputs].
        logits: Offset in ``f``, [n_outputs, V].
        hidden: Offset in ``f`` of what the logits are computed from, normed, [n_outputs, D].
        caches: Offset in ``kv`` of every layer's K and V in turn (see ``kernels.cache``).
        chosen: For each layer, offset in ``n`` of the chosen experts, [T, A]; empty when dense.
        expert_weights: For each layer, offset in ``f`` of their weights, [T, A].
        constants: Offset -> floats to be put into ``f`` before the first run.
        tables: Offset -> int64 to be put into ``n`` before the first run.
        sizes: Elements to allocate of n, f, q, and kv of one slot.
        blocks: The areas that each of these is divided into.
        bounds: The largest numbers that a call may bring.
        n_slots: How many caches, one after another.
        active_bytes: Bytes of weights that one token reads.
        cache_token_bytes: Bytes that one position takes in the K/V cache.
    """

    steps: tuple[Step, ...]
    ids: int
    headers: int
    rows: int
    logits: int
    hidden: int
    caches: tuple[int, ...]
    chosen: tuple[int, ...]
    expert_weights: tuple[int, ...]
    constants: dict[int, NDArray[np.float32]]
    tables: dict[int, NDArray[np.int64]]
    sizes: dict[str, int]
    blocks: dict[str, tuple[Block, ...]]
    bounds: Bounds
    active_bytes: int
    cache_token_bytes: int

    n_slots: int = 1

    def memory(self, files: list[NDArray[np.uint8]]) -> Memory:
        """Return memory for this program, constants and tables in place."""
        memory = Memory.allocate(
            n=self.sizes["n"] - HEADER,
            f=self.sizes["f"],
            q=self.sizes["q"],
            kv=self.sizes["kv"] * self.n_slots,
            files=files,
        )
        self.fill(memory)
        return memory

    def fill(self, memory: Memory) -> None:
        """Put constants and tables in place."""
        for offset, values in self.constants.items():
            memory.f[offset : offset + len(values)] = values
        for offset, table in self.tables.items():
            memory.n[offset : offset + len(table)] = table

    def layout(self, files: Sequence[NDArray[np.uint8]]) -> Layout:
        """Return where steps may read and write; of the cache, one slot."""
        return Layout(**self.blocks, files=[[(0, data.size)] for data in files])


class ProgramBuilder:
    """Writes the steps of a model for given limits; ``build`` returns them."""

    def __init__(self, config: ModelConfig, weights: Weights, limits: Limits) -> None:
        self._config = config
        self._weights = weights
        self._limits = limits
        self._n, self._f, self._q, self._kv = Arena(HEADER), Arena(), Arena(), Arena()
        self._steps: list[Step] = []
        self._constants: dict[int, NDArray[np.float32]] = {}
        self._tables: dict[int, NDArray[np.int64]] = {}
        self._caches: list[int] = []
        self._chosen: list[int] = []
        self._expert_weights: list[int] = []
        self._lay_out()

    def build(self) -> Program:
        """Return the program of one forward pass."""
        self._embed()
        stream = Stream(self._x, self._attended)
        for layer in self._weights.layers:
            self._attention(layer)
            if layer is self._weights.layers[-1]:
                stream = self._wanted(stream)
            self._project(layer, stream)
            self._feed_forward(layer, stream)
        logits, hidden = self._head(stream)
        arenas = {"n": self._n, "f": self._f, "q": self._q, "kv": self._kv}
        return Program(
            steps=tuple(self._steps),
            ids=self._ids,
            headers=self._headers,
            rows=self._rows,
            logits=logits,
            hidden=hidden,
            caches=tuple(self._caches),
            chosen=tuple(self._chosen),
            expert_weights=tuple(self._expert_weights),
            constants=self._constants,
            tables=self._tables,
            sizes={name: arena.size for name, arena in arenas.items()},
            blocks={name: tuple(arena.blocks) for name, arena in arenas.items()},
            bounds=self._bounds(),
            n_slots=self._limits.n_slots,
            active_bytes=self._weights.active_bytes(self._config),
            cache_token_bytes=2 * self._kv.size // cache.padded(self._limits.n_ctx),
        )

    def _bounds(self) -> Bounds:
        limits, n_expert_used = self._limits, self._config.n_expert_used
        return Bounds(
            span=Span(limits.n_batch, limits.n_ctx),
            counts={
                N_OUTPUTS: limits.n_outputs,
                N_PAIRS: limits.n_batch * n_expert_used,
                N_OUTPUT_PAIRS: limits.n_outputs * n_expert_used,
            },
            n_vocab=self._config.n_vocab,
            n_threads=limits.n_threads,
            tables={offset: table.tolist() for offset, table in self._tables.items()},
        )

    # -- memory ----------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Take the places that all layers share; a layer's results are gone with the next one."""
        c, t = self._config, self._limits.n_batch
        pairs = t * max(1, c.n_expert_used)
        d_head = c.n_head * c.head_dim
        self._ids = self._n.take(t)
        self._headers = self._n.take(2 * (self._limits.n_slots + 1))
        self._rows = self._n.take(self._limits.n_outputs)
        self._x = self._f.take(t * c.n_embd)  # the residual stream [T, D]
        self._h = self._activations(t, c.n_embd)  # what a block reads of it, normed [T, D]
        self._queries = self._f.take(t * d_head)  # [T, H, d]
        self._keys = self._f.take(t * c.n_embd_kv)  # [T, K, d]
        self._values = self._f.take(t * c.n_embd_kv)  # [T, K, d]
        self._attended = self._activations(t, d_head)  # [T, H, d]
        floats = cache.scratch_floats(c.n_head // c.n_head_kv, c.head_dim)
        self._attention_scratch = self._f.take(self._limits.n_threads * floats)
        self._gate = self._activations(pairs, c.n_ff)  # [P, F]
        self._up = self._f.take(pairs * c.n_ff)  # [P, F]
        self._answers = self._f.take(pairs * c.n_embd)  # [P, D]
        self._router_logits = self._f.take(t * max(1, c.n_expert))  # [T, E]
        self._starts = self._n.take(c.n_expert + 1)
        self._order = self._n.take(pairs)
        self._scratch = self._thread_scratch(max(c.n_embd, d_head, c.n_ff))
        self._rope_table = self._f.take(t * c.rope.n_rot)
        self._epsilon = self._constant(np.array([c.rms_epsilon], np.float32))
        self._magnitude = self._constant(np.array([c.rope.magnitude()], np.float32))
        self._frequencies = self._constant(self._rope_frequencies())

    def _activations(self, rows: int, width: int) -> Activations:
        places = Activations(self._f.take(rows * width), width)
        blocks: tuple[tuple[ActivationKind, int], ...] = (("q8_0", 32), ("q8_k", 256))
        for kind, block in blocks:
            if width % block == 0:
                steps, floats = activation_bytes(kind, width), activation_floats(kind, width)
                places.places[kind] = (self._q.take(rows * steps), self._f.take(rows * floats))
        places.places["f32"] = (0, places.x)
        return places

    def _thread_scratch(self, n_in: int) -> dict[str, int]:
        """Take what each thread needs for products of rows of up to ``n_in`` weights."""
        threads, t = self._limits.n_threads, max(self._limits.n_batch, self._limits.n_outputs)
        panel, partial = panel_bytes(n_in), partial_floats(t)
        return {
            "panel": self._q.take(threads * panel),
            "panel_stride": panel,
            "partial": self._f.take(threads * partial),
            "partial_stride": partial,
        }

    def _rope_frequencies(self) -> NDArray[np.float32]:
        """Return the frequencies as float32, then what these lack of double precision."""
        exact = np.array(self._config.rope.frequencies())
        with np.errstate(all="ignore"):  # looked at below
            if self._weights.rope_factors is not None:
                exact = exact / self._weights.rope_factors
            rounded = exact.astype(np.float32)
        if not np.isfinite(rounded).all():
            raise UnsupportedGgufError(
                "the angles of the position embedding are no finite numbers: `rope_freqs.weight` "
                "or a factor of `llama.rope.scaling` makes no sense"
            )
        return np.concatenate((rounded, (exact - rounded).astype(np.float32)))

    def _constant(self, values: NDArray[np.float32]) -> int:
        offset = self._f.take(len(values))
        self._constants[offset] = values
        return offset

    def _table(self, values: list[int]) -> int:
        offset = self._n.take(len(values))
        self._tables[offset] = np.array(values, np.int64)
        return offset

    # -- steps -----------------------------------------------------------------------------------

    def _add(self, kernel: str, *, is_last: bool = True, **arguments: int) -> None:
        """Append a step; the next one waits for it unless it is not the last of its group."""
        self._steps.append(step(kernel, barrier=is_last, **arguments))

    def _embed(self) -> None:
        c, embedding = self._config, self._weights.token_embd
        self._add(
            f"get_rows.{embedding.type.name}", is_last=False,
            w0=embedding.offset, row_bytes=embedding.row_bytes, n_in=c.n_embd, ids=self._ids,
            y=self._x,
        )  # fmt: skip
        self._add(
            "rope_table", frequencies=self._frequencies, half=c.rope.n_rot // 2,
            factor=self._magnitude, table=self._rope_table,
        )  # fmt: skip

    def _norm(self, x: int, gain: NDArray[np.float32], y: Activations, count: int) -> None:
        self._add(
            "rms_norm", x=x, gain=self._constant(gain), width=y.width, epsilon=self._epsilon,
            y=y.x, count=count,
        )  # fmt: skip

    def _quantize(self, rows: Activations, readers: list[Matrix], count: int) -> None:
        """Bring activation rows into every form that their readers want."""
        kinds = dict.fromkeys(ACTIVATION_OF[matrix.type] for matrix in readers)
        for kind in kinds:
            if kind != "f32":
                xq, xf = rows.places[kind]
                self._add(f"quantize_{kind}", x=rows.x, width=rows.width, xq=xq, xf=xf, count=count)

    def _matmul(
        self,
        matrix: Matrix,
        rows: Activations,
        y: int,
        *,
        count: int = N_TOKENS,
        is_added: bool = False,
        is_last: bool = False,
    ) -> None:
        """Multiply activation rows with a matrix: [rows, n_in] -> [rows, n_out]."""
        kind = ACTIVATION_OF[matrix.type]
        xq, xf = rows.places[kind]
        self._add(
            f"matmul.{matrix.type.name}", is_last=is_last,
            w0=matrix.offset, row_bytes=matrix.row_bytes, n_in=matrix.n_in, n_out=matrix.n_out,
            xq=xq, xq_stride=activation_bytes(kind, rows.width),
            xf=xf, xf_stride=activation_floats(kind, rows.width),
            y=y, y_stride=matrix.n_out, is_added=is_added, count=count, **self._scratch,
        )  # fmt: skip

    def _attention(self, layer: Layer) -> None:
        c, limits = self._config, self._limits
        n_ctx = cache.padded(limits.n_ctx)
        types = f"{limits.key_type}.{limits.value_type}"
        k_size = cache.key_elements(limits.key_type, c.head_dim, n_ctx)
        v_size = cache.value_elements(limits.value_type, c.head_dim, n_ctx)
        k_cache = self._kv.take(c.n_head_kv * k_size)  # [K, S, d], in pieces
        v_cache = self._kv.take(c.n_head_kv * v_size)  # [K, d, S], in pieces
        self._caches += k_cache, v_cache
        self._norm(self._x, layer.attn_norm, self._h, N_TOKENS)
        self._quantize(self._h, [layer.attn_q, layer.attn_k, layer.attn_v], N_TOKENS)
        self._matmul(layer.attn_q, self._h, self._queries)
        self._matmul(layer.attn_k, self._h, self._keys)
        self._matmul(layer.attn_v, self._h, self._values, is_last=True)
        self._add(
            f"rope_store.{types}", q0=self._queries, k0=self._keys, v0=self._values,
            n_head=c.n_head, n_head_kv=c.n_head_kv, head_dim=c.head_dim,
            n_rot=c.rope.n_rot, table=self._rope_table,
            k_cache=k_cache, v_cache=v_cache, n_ctx=n_ctx,
        )  # fmt: skip
        self._add(
            f"attention.{types}", q0=self._queries,
            n_head=c.n_head, n_head_kv=c.n_head_kv, head_dim=c.head_dim,
            k_cache=k_cache, v_cache=v_cache, n_ctx=n_ctx,
            scratch=self._attention_scratch, y=self._attended.x,
        )  # fmt: skip

    def _wanted(self, stream: Stream) -> Stream:
        """Go on with the rows that want logits: nobody reads what the last layer makes of others.

        Their keys and values are in the cache by now.
        """
        c, outputs = self._config, self._limits.n_outputs
        attended = self._activations(outputs, stream.attended.width)
        x = self._f.take(outputs * c.n_embd)
        self._add(
            "copy_rows", is_last=False, x=stream.attended.x, width=attended.width,
            rows=self._rows, y=attended.x, count=N_OUTPUTS,
        )  # fmt: skip
        self._add("copy_rows", x=stream.x, width=c.n_embd, rows=self._rows, y=x, count=N_OUTPUTS)
        return Stream(x, attended, N_OUTPUTS, N_OUTPUT_PAIRS)

    def _project(self, layer: Layer, stream: Stream) -> None:
        """Add what attention found to the residual stream."""
        self._quantize(stream.attended, [layer.attn_output], stream.count)
        self._matmul(
            layer.attn_output, stream.attended, stream.x, count=stream.count, is_added=True,
            is_last=True,
        )  # fmt: skip

    def _feed_forward(self, layer: Layer, stream: Stream) -> None:
        self._norm(stream.x, layer.ffn_norm, self._h, stream.count)
        if layer.router is None:
            self._dense(layer, stream)
        else:
            self._mixture(layer, layer.router, stream)

    def _dense(self, layer: Layer, stream: Stream) -> None:
        gate, up, down = layer.gate, layer.up, layer.down
        assert isinstance(gate, Matrix) and isinstance(up, Matrix) and isinstance(down, Matrix)
        self._quantize(self._h, [gate, up], stream.count)
        self._matmul(gate, self._h, self._gate.x, count=stream.count)
        self._matmul(up, self._h, self._up, count=stream.count, is_last=True)
        self._gated([down], stream.count)
        self._matmul(
            down, self._gate, stream.x, count=stream.count, is_added=True, is_last=True
        )  # fmt: skip

    def _mixture(self, layer: Layer, router: Matrix, stream: Stream) -> None:
        c = self._config
        gate, up, down = layer.gate, layer.up, layer.down
        assert isinstance(gate, Experts) and isinstance(up, Experts) and isinstance(down, Experts)
        chosen = self._n.take(self._limits.n_batch * c.n_expert_used)  # [T, A]
        weights = self._f.take(self._limits.n_batch * c.n_expert_used)  # [T, A]
        self._chosen.append(chosen)
        self._expert_weights.append(weights)
        self._quantize(self._h, [router, *gate.matrices, *up.matrices], stream.count)
        self._matmul(router, self._h, self._router_logits, count=stream.count, is_last=True)
        self._add(
            "route", logits=self._router_logits, n_expert=c.n_expert,
            n_expert_used=c.n_expert_used, chosen=chosen, weights=weights,
            starts=self._starts, order=self._order, count=stream.count,
        )  # fmt: skip
        if self._limits.prefetch_experts:
            self._ask_for(gate, up, down)
        self._expert_matmul(gate, self._h, self._gate.x, c.n_expert_used, is_last=False)
        self._expert_matmul(up, self._h, self._up, c.n_expert_used, is_last=True)
        self._gated(list(down.matrices), stream.pairs)
        self._expert_matmul(down, self._gate, self._answers, 1, is_last=True)
        self._add(
            "combine", y=self._answers, weights=weights, n_expert_used=c.n_expert_used,
            width=c.n_embd, x=stream.x, count=stream.count,
        )  # fmt: skip

    def _ask_for(self, *parts: Experts) -> None:
        """Have the chosen experts read from disk while the first of them computes."""
        for experts in parts:
            self._add(
                "advise_experts", is_last=False,
                experts=self._table([matrix.offset for matrix in experts.matrices]),
                n_expert=len(experts.matrices), starts=self._starts,
                size=max(matrix.size_bytes for matrix in experts.matrices),
            )  # fmt: skip

    def _gated(self, readers: list[Matrix], count: int) -> None:
        """SwiGLU between up and down: gate = silu(gate) * up, in the form that down wants."""
        self._add("silu_mul", gate=self._gate.x, up=self._up, width=self._config.n_ff, count=count)
        self._quantize(self._gate, readers, count)

    def _expert_matmul(
        self, experts: Experts, rows: Activations, y: int, pairs_per_x: int, *, is_last: bool
    ) -> None:
        """Multiply the rows of each pair with its expert: [P, n_in] -> [P, n_out].

        Experts of one layer may differ in type; each type is a step, whose table holds 0 for the
        experts that are not its own.
        """
        types = list(dict.fromkeys(matrix.type for matrix in experts.matrices))
        first = experts.matrices[0]
        for type_ in types:
            offsets = [m.offset if m.type == type_ else 0 for m in experts.matrices]
            kind = ACTIVATION_OF[type_]
            xq, xf = rows.places[kind]
            self._add(
                f"expert_matmul.{type_.name}", is_last=is_last and type_ == types[-1],
                experts=self._table(offsets), n_expert=len(offsets),
                row_bytes=type_.row_bytes(first.n_in), n_in=first.n_in, n_out=first.n_out,
                starts=self._starts, order=self._order, pairs_per_x=pairs_per_x,
                xq=xq, xq_stride=activation_bytes(kind, rows.width),
                xf=xf, xf_stride=activation_floats(kind, rows.width),
                y=y, y_stride=first.n_out, **self._scratch,
            )  # fmt: skip

    def _head(self, stream: Stream) -> tuple[int, int]:
        """Norm and output matrix; return where logits and what they come from lie."""
        c, outputs = self._config, self._limits.n_outputs
        final = self._activations(outputs, c.n_embd)
        logits = self._f.take(outputs * c.n_vocab)
        self._norm(stream.x, self._weights.output_norm, final, stream.count)
        self._quantize(final, [self._weights.output], stream.count)
        self._matmul(self._weights.output, final, logits, count=stream.count, is_last=True)
        return logits, final.x
