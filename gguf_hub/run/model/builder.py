"""A model's graph as a list of steps: what is computed, in which order, and where it lies.

Shape letters: T tokens of a call (at most ``n_batch``), D n_embd, H heads, K kv heads, d head_dim,
F n_ff, E experts, A active experts, P = T x A pairs, V vocab, S positions of the cache.

The graph is Llama's (arXiv 2302.13971) with grouped-query attention, and Mixtral's sparse mixture
of experts (arXiv 2401.04088), with what the architecture and the tensors of a file change about it.
"""

from __future__ import annotations

from collections.abc import Mapping

from gguf_hub.gguf.memory.layout import Activations, LayerOffsets
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.vm.extents import Bounds, Span
from gguf_hub.run.kernels.vm.ops import N_OUTPUT_PAIRS, N_OUTPUTS, N_PAIRS, N_TOKENS
from gguf_hub.run.model.attention import AttentionWriter
from gguf_hub.run.model.feed_forward import FeedForwardWriter
from gguf_hub.run.model.per_layer import PerLayerWriter
from gguf_hub.run.model.program import ADAPTERS, FULL_GRAPH, Program
from gguf_hub.run.model.state import StateWriter
from gguf_hub.run.model.steps import Stream
from gguf_hub.run.model.weights import Layer


class ProgramBuilder(AttentionWriter, StateWriter, FeedForwardWriter, PerLayerWriter):
    """Writes the steps of a model, or of a stage, for given limits; ``build`` returns them."""

    def build(self) -> Program:
        """Return the program of one forward pass."""
        at, limits, stage, layers = self._at, self._limits, self._stage, self._weights.layers
        if stage.has_embedding:
            self._embed()
        if self._config.n_embd_per_layer:
            assert stage == FULL_GRAPH
            self._per_layer_inputs()
        if layers:
            self._rope_tables()
        stream = Stream(at.residual, at.attn_out)
        is_parallel = self._config.arch.is_parallel  # all tokens of the last layer go on, too
        for i, (layer, own) in enumerate(zip(layers, at.layers, strict=True)):
            self._layer = stage.first + i
            vectors = self._place(layer.vectors, own.vectors)
            source = self._mix(layer, own, vectors)
            if stage.has_head and layer is layers[-1] and not is_parallel:
                stream = self._outputs(stream, layer.graph.n_embd_attn)
            if layer.graph.n_embd_attn:
                self._project(layer, vectors, stream)
            if layer.graph.has_ffn:
                self._feed_forward(layer, own, vectors, stream, source)
            if self._config.n_embd_per_layer:
                self._per_layer_branch(i, layer, vectors, stream)
            if "layer_output_scale.weight" in vectors:
                self._add("scale_rows", x=stream.x, width=self._config.n_embd,
                          factor=vectors["layer_output_scale.weight"],
                          count=stream.count)  # fmt: skip
        self._layer = self._config.n_layer
        if stage.has_head:
            self._head(stream if layers and not is_parallel else self._outputs(stream, 0))
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
        if layer.graph.state:
            return self._carry_on(layer, own, vectors)
        if layer.graph.n_head_kv:
            return self._attention(layer, own, vectors)
        return self._at.normed  # a feed-forward network alone

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
        if c.logit_scale != 1:
            self._add("scale_rows", x=at.logits, width=c.n_vocab,
                      factor=self._scalar(c.logit_scale), count=stream.count)  # fmt: skip
        if c.logit_cap:
            self._add("soft_cap", x=at.logits, width=c.n_vocab, cap=self._scalar(c.logit_cap),
                      count=stream.count)  # fmt: skip
