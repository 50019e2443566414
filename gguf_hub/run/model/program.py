"""The llama graph as a list of steps: what is computed, in which order, and where it lies.

Shape letters: T tokens of a call (at most ``n_batch``), D n_embd, H heads, K kv heads, d head_dim,
F n_ff, E experts, A active experts, P = T x A pairs, V vocab, S positions of the cache.

The graph is Llama's (arXiv 2302.13971) with grouped-query attention, and Mixtral's sparse mixture
of experts (arXiv 2401.04088): softmax over the router's two best of eight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.memory import cache
from gguf_hub.gguf.memory.activations import ACTIVATION_OF, activation_bytes, activation_floats
from gguf_hub.gguf.memory.layout import (
    HEADER,
    Activations,
    LayerOffsets,
    Limits,
    MemoryLayout,
)
from gguf_hub.run.kernels.vm.extents import Bounds, Span
from gguf_hub.run.kernels.vm.machine import Memory
from gguf_hub.run.kernels.vm.ops import N_OUTPUT_PAIRS, N_OUTPUTS, N_PAIRS, N_TOKENS, Step, step
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.weights import Experts, Layer, Matrix, Weights


@dataclass(frozen=True)
class Stream:
    """The tokens that a layer computes on after its attention.

    Attributes:
        x: Offset in ``f`` of the residual stream, [T, D].
        attn_out: Output of attention, [T, H, d].
        count: Index in the header of their number.
        pairs: Index in the header of the number of their (token, expert) pairs.
    """

    x: int
    attn_out: Activations
    count: int = N_TOKENS
    pairs: int = N_PAIRS


@dataclass(frozen=True)
class Stage:
    """A part of the graph: the embeddings, layers ``first`` to ``end``, the head; by default all.

    The residual stream that a stage ends with is what the next one begins with, for every token of
    the call (``Program.residual``).
    """

    first: int = 0
    end: int | None = None
    has_embedding: bool = True
    has_head: bool = True


FULL_GRAPH = Stage()


@dataclass(frozen=True)
class Program:
    """Steps and where their inputs and outputs lie.

    Attributes:
        steps: In order of execution.
        layout: Where everything lies.
        constants: Offset -> floats to be put into ``f`` before the first run.
        bounds: The largest numbers that a call may bring.
        active_bytes: Bytes of weights that one token reads.
        cache_token_bytes: Bytes that one position takes in the K/V cache.
        n_slots: How many caches, one after another.
    """

    steps: tuple[Step, ...]
    layout: MemoryLayout
    constants: dict[int, NDArray[np.float32]]
    bounds: Bounds
    active_bytes: int
    cache_token_bytes: int
    n_slots: int = 1

    @property
    def residual(self) -> int:
        """Offset in ``f`` of the residual stream between stages, [T, D]."""
        return self.layout.residual

    @property
    def kernels(self) -> list[str]:
        """All kernels that running it needs, each once; those of several sequences where it may."""
        names = ["run_program", *(step.kernel for step in self.steps)]
        return list(dict.fromkeys(names + ["set_row"] * (self.n_slots > 1)))

    def memory(self, files: list[NDArray[np.uint8]]) -> Memory:
        """Return memory for this program, constants and tables in place."""
        sizes = self.layout.sizes
        memory = Memory.allocate(
            n=sizes["n"] - HEADER, f=sizes["f"], q=sizes["q"], kv=sizes["kv"] * self.n_slots,
            files=files,
        )  # fmt: skip
        self.fill(memory)
        return memory

    def fill(self, memory: Memory) -> None:
        """Put constants and tables in place."""
        for offset, values in self.constants.items():
            memory.f[offset : offset + len(values)] = values
        for offset, table in self.bounds.tables.items():
            memory.n[offset : offset + len(table)] = table


class ProgramBuilder:
    """Writes the steps of a model, or of a stage, for given limits; ``build`` returns them."""

    def __init__(
        self, config: ModelConfig, weights: Weights, limits: Limits, stage: Stage = FULL_GRAPH
    ) -> None:
        self._config = config
        self._weights = replace(weights, layers=weights.layers[stage.first : stage.end])
        self._limits = limits
        self._stage = stage
        sizes = replace(config, n_layer=len(self._weights.layers))
        tables = _expert_tables(self._weights, limits)
        self._at = MemoryLayout(sizes, limits, len(tables))
        self._tables = dict(zip(tables, self._at.tables, strict=True))
        self._steps: list[Step] = []
        self._constants: dict[int, NDArray[np.float32]] = {}

    def build(self) -> Program:
        """Return the program of one forward pass."""
        at, limits, stage, layers = self._at, self._limits, self._stage, self._weights.layers
        if stage.has_embedding:
            self._embed()
        if layers:
            self._rope_table()
        stream = Stream(at.residual, at.attn_out)
        for layer, own in zip(layers, at.layers, strict=True):
            self._attention(layer, own)
            if stage.has_head and layer is layers[-1]:
                stream = self._outputs(stream)
            self._project(layer, stream)
            self._feed_forward(layer, own, stream)
        if stage.has_head:
            self._head(stream if layers else self._outputs(stream))
        return Program(
            steps=tuple(self._steps),
            layout=at,
            constants=self._constants,
            bounds=self._bounds(),
            n_slots=limits.n_slots,
            active_bytes=self._weights.active_bytes(self._config, has_head=stage.has_head),
            cache_token_bytes=2 * at.sizes["kv"] // cache.padded(limits.n_ctx),
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
            tables={offset: table for table, offset in self._tables.items()},
        )

    def _rope_frequencies(self) -> NDArray[np.float32]:
        """Return the frequencies as float32, then what these lack of double precision."""
        exact = np.array(self._config.rope.frequencies())
        with np.errstate(all="ignore"):  # checked below
            if self._weights.rope_factors is not None:
                exact = exact / self._weights.rope_factors
            rounded = exact.astype(np.float32)
        if not np.isfinite(rounded).all():
            raise UnsupportedGgufError(
                "the angles of the position embedding are no finite numbers: `rope_freqs.weight` "
                "or a factor of `llama.rope.scaling` makes no sense"
            )
        return np.concatenate((rounded, (exact - rounded).astype(np.float32)))

    def _constant(self, offset: int, values: NDArray[np.float32]) -> int:
        self._constants[offset] = values
        return offset

    # -- steps -----------------------------------------------------------------------------------

    def _add(self, kernel: str, *, is_last: bool = True, **arguments: int) -> None:
        """Append a step; the next one waits for it only if it is the last of its group."""
        self._steps.append(step(kernel, barrier=is_last, **arguments))

    def _embed(self) -> None:
        at, embedding = self._at, self._weights.token_embd
        self._add(
            f"get_rows.{embedding.type.name}", is_last=False,
            w0=embedding.offset, row_bytes=embedding.row_bytes, n_in=embedding.n_in,
            ids=at.ids, y=at.residual,
        )  # fmt: skip

    def _rope_table(self) -> None:
        c, at = self._config, self._at
        magnitude = np.array([c.rope.magnitude()], np.float32)
        self._add(
            "rope_table", half=c.rope.n_rot // 2, table=at.rope_table,
            frequencies=self._constant(at.frequencies, self._rope_frequencies()),
            factor=self._constant(at.magnitude, magnitude),
        )  # fmt: skip

    def _norm(self, x: int, gain: int, y: Activations, count: int) -> None:
        epsilon = np.array([self._config.rms_epsilon], np.float32)
        self._add(
            "rms_norm", x=x, gain=gain, width=y.width,
            epsilon=self._constant(self._at.epsilon, epsilon), y=y.x, count=count,
        )  # fmt: skip

    def _quantize(self, rows: Activations, readers: list[Matrix], count: int) -> None:
        """Quantise activation rows to every kind that their readers are multiplied with."""
        kinds = dict.fromkeys(ACTIVATION_OF[matrix.type] for matrix in readers)
        for kind in kinds:
            if kind != "f32":
                xq, xf = rows.offsets[kind]
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
        xq, xf = rows.offsets[kind]
        self._add(
            f"matmul.{matrix.type.name}", is_last=is_last,
            w0=matrix.offset, row_bytes=matrix.row_bytes, n_in=matrix.n_in, n_out=matrix.n_out,
            xq=xq, xq_stride=activation_bytes(kind, rows.width),
            xf=xf, xf_stride=activation_floats(kind, rows.width),
            y=y, y_stride=matrix.n_out, is_added=is_added, count=count, **self._at.product_scratch,
        )  # fmt: skip

    def _attention(self, layer: Layer, own: LayerOffsets) -> None:
        c, at, limits = self._config, self._at, self._limits
        types = f"{limits.key_type}.{limits.value_type}"
        shared = {
            "n_head": c.n_head, "n_head_kv": c.n_head_kv, "head_dim": c.head_dim,
            "k_cache": own.k_cache, "v_cache": own.v_cache, "n_ctx": cache.padded(limits.n_ctx),
        }  # fmt: skip
        gain = self._constant(own.attn_norm, layer.attn_norm)
        self._norm(at.residual, gain, at.normed, N_TOKENS)
        self._quantize(at.normed, [layer.attn_q, layer.attn_k, layer.attn_v], N_TOKENS)
        self._matmul(layer.attn_q, at.normed, at.queries)
        self._matmul(layer.attn_k, at.normed, at.keys)
        self._matmul(layer.attn_v, at.normed, at.values, is_last=True)
        self._add(
            f"rope_store.{types}", is_last=True, q0=at.queries, k0=at.keys, v0=at.values,
            n_rot=c.rope.n_rot, table=at.rope_table, **shared,
        )  # fmt: skip
        self._add(
            f"attention.{types}", is_last=True, q0=at.queries, scratch=at.attention_scratch,
            y=at.attn_out.x, **shared,
        )  # fmt: skip

    def _outputs(self, stream: Stream) -> Stream:
        """Go on with the rows that want logits; keys and values of the others are in the cache."""
        at, d, y = self._at, self._config.n_embd, self._at.output_attn_out
        self._add(
            "copy_rows", is_last=False, x=stream.attn_out.x, width=y.width, rows=at.rows, y=y.x,
            count=N_OUTPUTS,
        )  # fmt: skip
        self._add(
            "copy_rows", x=stream.x, width=d, rows=at.rows, y=at.output_residual, count=N_OUTPUTS
        )
        return Stream(at.output_residual, y, N_OUTPUTS, N_OUTPUT_PAIRS)

    def _project(self, layer: Layer, stream: Stream) -> None:
        self._quantize(stream.attn_out, [layer.attn_output], stream.count)
        self._matmul(
            layer.attn_output, stream.attn_out, stream.x, count=stream.count, is_added=True,
            is_last=True,
        )  # fmt: skip

    def _feed_forward(self, layer: Layer, own: LayerOffsets, stream: Stream) -> None:
        gain = self._constant(own.ffn_norm, layer.ffn_norm)
        self._norm(stream.x, gain, self._at.normed, stream.count)
        if layer.router is None:
            self._dense(layer, stream)
        else:
            self._mixture(layer, own, layer.router, stream)

    def _dense(self, layer: Layer, stream: Stream) -> None:
        at, gate, up, down = self._at, layer.gate, layer.up, layer.down
        assert isinstance(gate, Matrix) and isinstance(up, Matrix) and isinstance(down, Matrix)
        self._quantize(at.normed, [gate, up], stream.count)
        self._matmul(gate, at.normed, at.gate.x, count=stream.count)
        self._matmul(up, at.normed, at.up, count=stream.count, is_last=True)
        self._swiglu([down], stream.count)
        self._matmul(down, at.gate, stream.x, count=stream.count, is_added=True, is_last=True)

    def _mixture(self, layer: Layer, own: LayerOffsets, router: Matrix, stream: Stream) -> None:
        c, at, gate, up, down = self._config, self._at, layer.gate, layer.up, layer.down
        assert isinstance(gate, Experts) and isinstance(up, Experts) and isinstance(down, Experts)
        self._quantize(at.normed, [router, *gate.matrices, *up.matrices], stream.count)
        self._matmul(router, at.normed, at.router_logits, count=stream.count, is_last=True)
        self._add(
            "top_k_gate", logits=at.router_logits, n_expert=c.n_expert,
            n_expert_used=c.n_expert_used, expert_ids=own.expert_ids, weights=own.expert_weights,
            expert_starts=at.expert_starts, assignments=at.expert_assignments,
            count=stream.count,
        )  # fmt: skip
        if self._limits.prefetch_experts:
            self._prefetch(gate, up, down)
        self._expert_matmul(gate, at.normed, at.gate.x, c.n_expert_used, is_last=False)
        self._expert_matmul(up, at.normed, at.up, c.n_expert_used, is_last=True)
        self._swiglu(list(down.matrices), stream.pairs)
        self._expert_matmul(down, at.gate, at.expert_out, 1, is_last=True)
        self._add(
            "combine", y=at.expert_out, weights=own.expert_weights, width=c.n_embd,
            n_expert_used=c.n_expert_used, x=stream.x, count=stream.count,
        )  # fmt: skip

    def _prefetch(self, *parts: Experts) -> None:
        """Prefetch the chosen experts from disk while the first of them computes."""
        for experts in parts:
            self._add(
                "prefetch_experts", is_last=False, experts=self._tables[experts.offsets()],
                n_expert=len(experts.matrices), expert_starts=self._at.expert_starts,
                size=max(matrix.size_bytes for matrix in experts.matrices),
            )  # fmt: skip

    def _swiglu(self, readers: list[Matrix], count: int) -> None:
        """SwiGLU between up and down: gate = silu(gate) * up, quantised for down."""
        at = self._at
        self._add("silu_mul", gate=at.gate.x, up=at.up, width=at.gate.width, count=count)
        self._quantize(at.gate, readers, count)

    def _expert_matmul(
        self, experts: Experts, rows: Activations, y: int, pairs_per_x: int, *, is_last: bool
    ) -> None:
        """Multiply the rows of each pair with its expert: [P, n_in] -> [P, n_out].

        Experts of one layer may differ in type; each type is a step with a table of its own.
        """
        first, types = experts.matrices[0], experts.types
        for type_ in types:
            kind = ACTIVATION_OF[type_]
            xq, xf = rows.offsets[kind]
            self._add(
                f"expert_matmul.{type_.name}", is_last=is_last and type_ == types[-1],
                experts=self._tables[experts.offsets(type_)], n_expert=len(experts.matrices),
                row_bytes=type_.row_bytes(first.n_in), n_in=first.n_in, n_out=first.n_out,
                expert_starts=self._at.expert_starts, assignments=self._at.expert_assignments,
                pairs_per_x=pairs_per_x,
                xq=xq, xq_stride=activation_bytes(kind, rows.width),
                xf=xf, xf_stride=activation_floats(kind, rows.width),
                y=y, y_stride=first.n_out, **self._at.product_scratch,
            )  # fmt: skip

    def _head(self, stream: Stream) -> None:
        at, output = self._at, self._weights.output
        gain = self._constant(at.output_norm, self._weights.output_norm)
        self._norm(stream.x, gain, at.hidden, stream.count)
        self._quantize(at.hidden, [output], stream.count)
        self._matmul(output, at.hidden, at.logits, count=stream.count, is_last=True)


def _expert_tables(weights: Weights, limits: Limits) -> list[tuple[int, ...]]:
    """Return the distinct tables of expert offsets that steps read."""
    tables: dict[tuple[int, ...], None] = {}
    for layer in weights.layers:
        for part in (layer.gate, layer.up, layer.down):
            if isinstance(part, Experts):
                tables |= dict.fromkeys(part.offsets(type_) for type_ in part.types)
                if limits.prefetch_experts:
                    tables[part.offsets()] = None
    return list(tables)
