"""A model's graph as a list of steps: what is computed, in which order, and where it lies.

Shape letters: T tokens of a call (at most ``n_batch``), D n_embd, H heads, K kv heads, d head_dim,
F n_ff, E experts, A active experts, P = T x A pairs, V vocab, S positions of the cache.

The graph is Llama's (arXiv 2302.13971) with grouped-query attention, and Mixtral's sparse mixture
of experts (arXiv 2401.04088), with what the architecture and the tensors of a file change about it.
"""

from __future__ import annotations

from collections.abc import Mapping

from gguf_hub.errors import UsageError
from gguf_hub.gguf.arch.encoders import TOKEN_TYPES
from gguf_hub.gguf.memory.layout import Activations, LayerOffsets
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.vm.extents import Bounds, Span
from gguf_hub.run.kernels.vm.ops import N_OUTPUT_PAIRS, N_OUTPUTS, N_PAIRS, N_TOKENS
from gguf_hub.run.model.altup import AltupWriter
from gguf_hub.run.model.attention import AttentionWriter
from gguf_hub.run.model.feed_forward import FeedForwardWriter
from gguf_hub.run.model.program import ADAPTERS, FULL_GRAPH, Program
from gguf_hub.run.model.state import StateWriter
from gguf_hub.run.model.steps import Stream
from gguf_hub.run.model.weights import DENSE_LAYERS, Layer, Matrix


class ProgramBuilder(AttentionWriter, StateWriter, FeedForwardWriter, AltupWriter):
    """Writes the steps of a model, or of a stage, for given limits; ``build`` returns them."""

    def build(self) -> Program:
        """Return the program of one forward pass."""
        at, limits, stage, layers = self._at, self._limits, self._stage, self._weights.layers
        if stage.has_embedding:
            self._embed()
        if self._config.n_embd_per_layer:
            assert stage == FULL_GRAPH
            self._per_layer_inputs()
        if self._config.n_altup:
            self._spread()
        if layers:
            self._rope_tables()
        stream = Stream(at.residual, at.attn_out)
        # all tokens of the last layer go on, too
        c = self._config
        keeps_all = c.is_parallel or c.is_encoder or c.n_altup > 0
        for i, (layer, own) in enumerate(zip(layers, at.layers, strict=True)):
            self._layer = stage.first + i
            vectors = self._place(layer.vectors, own.vectors)
            if self._config.n_altup:
                self._predict(layer, vectors)
            source = self._mix(layer, own, vectors)
            if self._config.n_altup:
                self._low_rank(layer, vectors, source)
            if stage.has_head and layer is layers[-1] and not keeps_all:
                stream = self._outputs(stream, layer.graph.n_embd_attn)
            if layer.experts and self._config.arch.routes_before_attention:
                self._route_early(layer, own, vectors, stream)
            if layer.graph.n_embd_attn:
                kind = layer.graph.state.kind if layer.graph.state else ""
                self._project(layer, vectors, stream, kind)
            if self._config.n_altup:
                self._add_low_rank()
            if layer.graph.has_ffn:
                self._feed_forward(layer, own, vectors, stream, source)
            if self._config.n_altup:
                self._correct(layer, vectors)
                self._per_layer_update(i, layer, vectors)
            elif self._config.n_embd_per_layer:
                self._per_layer_branch(i, layer, vectors, stream)
            if "layer_output_scale.weight" in vectors:
                self._add("scale_rows", x=stream.x, width=self._config.n_embd,
                          factor=vectors["layer_output_scale.weight"],
                          count=stream.count)  # fmt: skip
        self._layer = self._config.n_layer
        if self._config.n_altup:
            self._merge()
        if stage.has_head and self._config.is_encoder:
            self._token_vectors()
        elif stage.has_head:
            self._head(stream if layers and not keeps_all else self._outputs(stream, 0))
        return Program(
            steps=tuple(self._steps),
            layout=at,
            constants=self._constants,
            bounds=self._bounds(),
            n_slots=limits.n_slots,
            active_bytes=self._weights.active_bytes(self._config, has_head=stage.has_head),
        )

    def _mix(self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int]) -> Activations:
        """Let tokens read of each other; return what was read of them."""
        at, graph, source = self._at, layer.graph, None
        if graph.n_head_kv:
            source = self._attention(layer, own, vectors)
        elif graph.is_linear:
            source = self._linear_attention(layer, vectors)
        if graph.n_head_kv and graph.state:
            self._project(layer, vectors, Stream(at.residual, at.attn_out), "")
        if graph.state:
            return self._carry_on(layer, own, vectors, source)
        return source or at.normed  # of a feed-forward network alone nothing

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
            n_slots=limits.n_slots,
            n_sequences=limits.n_rows,
            tables={offset: table for table, offset in self._tables.items()},
        )

    def _embed(self) -> None:
        at, c, embedding = self._at, self._config, self._weights.token_embd
        is_scaled, is_last = c.embedding_scale != 1, not self._has_rope
        is_last |= c.arch.has_positions or c.arch.has_embedding_norm
        self._add(
            f"get_rows.{embedding.type.name}", is_last=is_scaled or is_last,
            w0=embedding.offset, row_bytes=embedding.row_bytes, n_in=embedding.n_in,
            ids=at.ids, y=at.residual,
        )  # fmt: skip
        if delta := embedding.delta:
            self._add(
                "get_rows.F32", file=ADAPTERS, w0=delta.a, n_in=delta.rank, ids=at.ids,
                row_bytes=QuantType.F32.row_bytes(delta.rank), y=at.adapter_rows,
            )  # fmt: skip
            self._add_adapted(delta, c.n_embd, at.residual, N_TOKENS)
        if is_scaled:
            self._add("scale_rows", is_last=is_last, x=at.residual, width=c.n_embd,
                      factor=self._scalar(c.embedding_scale), count=N_TOKENS)  # fmt: skip
        vectors = self._place(self._weights.vectors, at.head)
        if TOKEN_TYPES in vectors:
            self._add("add_bias", y=at.residual, bias=vectors[TOKEN_TYPES], width=c.n_embd,
                      count=N_TOKENS)  # fmt: skip
        if positions := self._weights.matrices.get("position_embd"):
            self._add_positions(positions)
        if c.arch.has_embedding_norm:
            x, name = at.residual, "token_embd_norm.weight"
            self._norm(vectors, name, x, x, c.n_embd, N_TOKENS)

    def _add_positions(self, rows: Matrix) -> None:
        """Add the embedding of each token's position.

        Raises:
            UsageError: The context is longer than there are positions.
        """
        at, width = self._at, self._config.n_embd
        if self._limits.n_ctx > rows.n_out:
            raise UsageError(
                f"a context of {self._limits.n_ctx:,} tokens: expected up to {rows.n_out:,}, as "
                "this model has learned no more positions",
                hint=f"ask for a context of {rows.n_out} with `-c {rows.n_out}`",
            )
        self._add(f"get_position_rows.{rows.type.name}", w0=rows.offset, row_bytes=rows.row_bytes,
                  n_in=rows.n_in, n_rows=rows.n_out, y=at.normed.x)  # fmt: skip
        self._add("add_rows", x=at.residual, y=at.normed.x, width=width,
                  factor=self._scalar(1.0), count=N_TOKENS)  # fmt: skip

    def _token_vectors(self) -> None:
        """Write what an encoder makes of each token."""
        c, at = self._config, self._at
        vectors = self._place(self._weights.vectors, at.head)
        if c.arch.output_norm:
            name = f"{c.arch.output_norm}.weight"
            self._norm(vectors, name, at.residual, at.hidden.x, c.n_embd, N_TOKENS)
        else:
            self._add("copy_rows", x=at.residual, width=c.n_embd, rows=at.rows, y=at.hidden.x,
                      count=N_OUTPUTS)  # fmt: skip
        rows, others = at.hidden, at.dense
        for matrix in filter(None, map(self._weights.matrices.get, DENSE_LAYERS)):
            self._quantize(rows, [matrix], N_TOKENS)
            self._matmul(matrix, rows, others.x, is_last=True)
            rows, others = others, rows

    def _outputs(self, stream: Stream, n_embd_attn: int) -> Stream:
        """Go on with the rows that want logits; keys and values of the others are in the cache.

        Args:
            stream: All rows.
            n_embd_attn: How wide those of attention are; 0 where they are added already.
        """
        at, d, y = self._at, self._config.n_embd, self._at.output_attn_out
        if n_embd_attn:
            self._add(
                "copy_rows", is_last=False, x=stream.attn_out.x, width=n_embd_attn, rows=at.rows,
                y=y.x, count=N_OUTPUTS,
            )  # fmt: skip
        self._add(
            "copy_rows", x=stream.x, width=d, rows=at.rows, y=at.output_residual, count=N_OUTPUTS
        )
        return Stream(at.output_residual, y, N_OUTPUTS, N_OUTPUT_PAIRS)

    def _head(self, stream: Stream) -> None:
        c, at, output = self._config, self._at, self._weights.output
        vectors = self._place(self._weights.vectors, at.head)
        self._norm(
            vectors, f"{c.arch.output_norm}.weight", stream.x, at.hidden.x, c.n_embd, stream.count
        )
        self._quantize(at.hidden, [output], stream.count)
        self._matmul(output, at.hidden, at.logits, count=stream.count, is_last=True)
        self._bias(vectors, "output", at.logits, c.n_vocab, stream.count)
        if c.logit_scale != 1:
            self._add("scale_rows", x=at.logits, width=c.n_vocab,
                      factor=self._scalar(c.logit_scale), count=stream.count)  # fmt: skip
        if c.logit_cap:
            self._add("soft_cap", x=at.logits, width=c.n_vocab, cap=self._scalar(c.logit_cap),
                      count=stream.count)  # fmt: skip
