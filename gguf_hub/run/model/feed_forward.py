"""The steps of feed-forward networks: dense ones, experts and their router, shared experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gguf_hub.gguf.memory.activations import ACTIVATION_OF, activation_bytes, activation_floats
from gguf_hub.gguf.memory.layout import Activations, LayerOffsets
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.model.made_vectors import XIELU
from gguf_hub.run.model.program import ADAPTERS, MODEL
from gguf_hub.run.model.steps import StepWriter, Stream
from gguf_hub.run.model.weights import Experts, Layer, Matrix

_ACTIVATIONS = {"silu": "silu_mul", "gelu": "gelu_mul", "relu": "relu_mul",
                "swiglu_oai": "swiglu_oai", "relu2": "relu2", "plain_gelu": "gelu",
                "xielu": "xielu"}  # fmt: skip
_FUNCTIONS = {"chosen": 0, "softmax": 1, "sigmoid": 2}
"""Numbers of ``top_k_gate``; 3 is ``sigmoid``, chosen by logits."""
_NO_LIMIT = 1e-6
"""No SwiGLU is clamped to less, as in llama.cpp."""
_SPARSITY = 1.6448533535003662
"""Standard deviations above the mean that a gate has to be to count: a twentieth of them are."""


class FeedForwardWriter(StepWriter):
    """Writes what each layer computes after its attention."""

    def _feed_forward(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], stream: Stream,
        source: Activations,
    ) -> None:  # fmt: skip
        arch = self._config.arch
        if layer.experts and arch.has_dense_beside:
            self._side_by_side(layer, own, vectors, stream)
            return
        if not self._config.is_parallel:
            is_other = arch.post_attention_norm_is_before_ffn
            name = "post_attention_norm.weight" if is_other else arch.ffn_norm
            name = "attn_norm.weight" if arch.is_one_part else name
            source = self._normed(vectors, name, stream.x, stream.count)
        target = self._target(stream)
        if layer.experts:
            self._mixture(layer, own, vectors, stream, source, target)
        else:
            rows = self._at.dense_gate, self._at.dense_up
            self._dense(layer, "", vectors, source, rows, target, stream.count,
                        is_added=target == stream.x)  # fmt: skip
        self._join(vectors, "post_ffw_norm.weight", stream)
        self._post_norm(vectors, "layer_output_norm.weight", stream)

    def _side_by_side(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], stream: Stream
    ) -> None:
        """Add a dense network and experts, normed each before and after, and then their sum.

        The router reads what it is to read by a norm of its own. (Gemma 4)
        """
        at, c, x, count = self._at, self._config, stream.x, stream.count
        source = self._normed(vectors, "ffn_norm.weight", x, count)
        rows = at.dense_gate, at.dense_up
        self._dense(layer, "", vectors, source, rows, at.branch, count, is_added=False)
        self._norm(vectors, "post_ffw_norm_1.weight", at.branch, at.branch, c.n_embd, count)
        source = self._normed(vectors, "ffn_gate_inp.scale", x, count)
        self._quantize(source, [layer.matrices["ffn_gate_inp"]], count)
        self._route(layer, own, vectors, source, stream)
        source = self._normed(vectors, "pre_ffw_norm_2.weight", x, count)
        self._quantize(source, _readers(layer), count)
        self._experts(layer, own, vectors, stream, source, at.expert_sum)
        self._norm(vectors, "post_ffw_norm_2.weight", at.expert_sum, at.expert_sum, c.n_embd, count)
        self._add("add_rows", x=at.branch, y=at.expert_sum, width=c.n_embd,
                  factor=self._scalar(1.0), count=count)  # fmt: skip
        self._join(vectors, "post_ffw_norm.weight", stream)

    def _dense(
        self, layer: Layer, suffix: str, vectors: Mapping[str, int], source: Activations,
        rows: tuple[Activations, int], target: int, count: int, *, is_added: bool,
    ) -> None:  # fmt: skip
        """Compute a feed-forward network, a shared expert with its ``suffix``."""
        gate_rows, up_rows = rows
        names = [f"{part}{suffix}" for part in ("ffn_gate", "ffn_up", "ffn_down")]
        gate, up, down = (layer.matrices.get(name) for name in names)
        assert up is not None and down is not None
        self._quantize(source, [matrix for matrix in (gate, up) if matrix], count)
        places = {up: gate_rows.x} if gate is None else {gate: gate_rows.x, up: up_rows}
        for matrix, y in places.items():
            self._matmul(matrix, source, y, count=count, is_last=matrix is up)
        for name, y in zip(names[:2], (gate_rows.x, places[up]), strict=True):
            self._bias(vectors, name, y, up.n_out, count)
        gate_rows = replace(gate_rows, width=up.n_out)
        if layer.graph.is_sparse:
            self._add("sparsify", x=gate_rows.x, width=up.n_out,
                      factor=self._scalar(_SPARSITY), count=count)  # fmt: skip
        numbers = {"a": vectors[XIELU]} if XIELU in vectors else {}
        self._activate(gate_rows, up_rows, [] if "ffn_sub_norm.weight" in vectors else [down],
                       count, layer.graph.swiglu_limit, **numbers)  # fmt: skip
        if "ffn_sub_norm.weight" in vectors:
            x, width = gate_rows.x, gate_rows.width
            self._norm(vectors, "ffn_sub_norm.weight", x, x, width, count)
            self._quantize(gate_rows, [down], count)
        self._matmul(down, gate_rows, target, count=count, is_added=is_added, is_last=True)
        self._bias(vectors, names[2], target, down.n_out, count)

    def _activate(
        self, gate: Activations, up: int, readers: list[Matrix], count: int, limit: float,
        **numbers: int,
    ) -> None:  # fmt: skip
        """Compute the activation over the gate's rows, quantised for what reads them."""
        kernel = _ACTIVATIONS[self._config.activation]
        if limit > _NO_LIMIT:
            self._add("swiglu_clamp", gate=gate.x, up=up, width=gate.width,
                      limit=self._scalar(limit), count=count)  # fmt: skip
        elif not self._config.arch.is_gated:
            self._add(kernel, is_last=True, gate=gate.x, width=gate.width, count=count, **numbers)
        else:
            self._add(kernel, gate=gate.x, up=up, width=gate.width, count=count)
        self._quantize(gate, readers, count)

    def _mixture(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], stream: Stream,
        source: Activations, target: int,
    ) -> None:  # fmt: skip
        down = layer.matrices.get("ffn_latent_down")
        readers = [down] if down else [] if self._config.router.is_first else _readers(layer)
        if self._config.arch.routes_before_attention:
            self._quantize(source, readers, stream.count)
        else:
            self._quantize(source, [layer.matrices["ffn_gate_inp"], *readers], stream.count)
            self._route(layer, own, vectors, source, stream)
        if self._config.n_embd_moe:
            self._latent_experts(layer, own, vectors, stream, source, target)
        else:
            self._experts(layer, own, vectors, stream, source, target)
        if "ffn_up_shexp" in layer.matrices:
            self._shared_expert(layer, vectors, stream, source, target)

    def _latent_experts(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], stream: Stream,
        source: Activations, target: int,
    ) -> None:  # fmt: skip
        """Compute experts that read a narrower vector and write one, as of Nemotron 3 Super."""
        down, up = layer.matrices["ffn_latent_down"], layer.matrices["ffn_latent_up"]
        read, written, count = self._at.moe_in, self._at.moe_out, stream.count
        self._matmul(down, source, read.x, count=count, is_last=True)
        self._quantize(read, _readers(layer), count)
        self._experts(layer, own, vectors, stream, read, written.x)
        self._quantize(written, [up], count)
        self._matmul(up, written, target, count=count, is_added=target == stream.x, is_last=True)

    def _experts(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], stream: Stream,
        source: Activations, target: int,
    ) -> None:  # fmt: skip
        """Compute the chosen experts; write their sum, or add it to the residual stream."""
        self._of_experts = True
        c, at, experts = self._config, self._at, layer.experts
        up, down, gate = experts["up"], experts["down"], experts.get("gate")
        first, is_first = [part for part in (gate, up) if part], c.router.is_first
        if self._limits.prefetch_experts:
            self._prefetch(*first, down)
        rows, pairs_per_x = source, c.n_expert_used
        if is_first:
            rows, pairs_per_x = at.weighted, 1
            self._add("scale_pairs", x=source.x, weights=own.expert_weights,
                      n_expert_used=c.n_expert_used, width=c.n_embd, y=rows.x,
                      count=stream.count)  # fmt: skip
            self._quantize(rows, _readers(layer), stream.pairs)
        places = {"up": at.gate.x} if gate is None else {"gate": at.gate.x, "up": at.up}
        for part, y in places.items():
            self._expert_matmul(
                experts[part], rows, y, pairs_per_x, stream.pairs, is_last=part == "up"
            )
        for part, y in places.items():
            self._expert_bias(vectors, part, y, own, stream)
        limit = layer.graph.swiglu_limit_exp
        self._activate(at.gate, at.up, list(down.matrices), stream.pairs, limit)
        self._expert_matmul(down, at.gate, at.expert_out, 1, stream.pairs, is_last=True)
        if "ffn_down_exps.scale" in vectors:
            self._add("scale_by_expert", y=at.expert_out, scales=vectors["ffn_down_exps.scale"],
                      width=c.n_embd_of_experts, n_expert=c.n_expert, expert_ids=own.expert_ids,
                      count=stream.pairs)  # fmt: skip
        self._expert_bias(vectors, "down", at.expert_out, own, stream)
        self._add(
            "combine", y=at.expert_out, weights=own.expert_weights, width=c.n_embd_of_experts,
            n_expert_used=c.n_expert_used, x=target, count=stream.count,
            is_added=target == stream.x, is_weighted=not is_first,
        )  # fmt: skip
        self._of_experts = False

    def _route_early(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], stream: Stream
    ) -> None:
        """Choose the experts by the residual stream, before attention is added to it."""
        source = self._normed({}, "", stream.x, stream.count)
        self._quantize(source, [layer.matrices["ffn_gate_inp"]], stream.count)
        self._route(layer, own, vectors, source, stream)

    def _route(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], source: Activations,
        stream: Stream,
    ) -> None:  # fmt: skip
        """Choose the experts of each token."""
        c, at, r = self._config, self._at, self._config.router
        self._matmul(
            layer.matrices["ffn_gate_inp"],
            source,
            at.router_logits,
            count=stream.count,
            is_last=True,
        )
        self._bias(vectors, "ffn_gate_inp", at.router_logits, c.n_expert, stream.count)
        bias = vectors.get("exp_probs_b.bias")
        self._add(
            "top_k_gate", logits=at.router_logits, n_expert=c.n_expert,
            n_expert_used=c.n_expert_used, expert_ids=own.expert_ids, weights=own.expert_weights,
            expert_starts=at.expert_starts, assignments=at.expert_assignments,
            count=stream.count, function=3 if r.is_first else _FUNCTIONS[r.function],
            bias=bias or 0, has_bias=bias is not None, n_group=r.n_group,
            n_group_used=r.n_group_used, is_normalized=r.is_normalized,
            scale=self._scalar(r.scale * self._share(layer)),
        )  # fmt: skip

    def _expert_bias(
        self, vectors: Mapping[str, int], part: str, y: int, own: LayerOffsets, stream: Stream
    ) -> None:
        c, name = self._config, f"ffn_{part}_exps.bias"
        if name in vectors:
            width = c.n_embd_of_experts if part == "down" else c.n_ff_of_experts
            self._add(
                "add_expert_bias", y=y, biases=vectors[name], width=width, n_expert=c.n_expert,
                expert_ids=own.expert_ids, count=stream.pairs,
            )  # fmt: skip

    def _shared_expert(
        self, layer: Layer, vectors: Mapping[str, int], stream: Stream, source: Activations,
        target: int,
    ) -> None:  # fmt: skip
        """Add a network that every token goes through, weighted by a gate if it has one."""
        c, at, gate = self._config, self._at, layer.matrices.get("ffn_gate_inp_shexp")
        rows = at.shared_gate, at.shared_up
        if gate is None and self._share(layer) != 1:
            self._dense(layer, "_shexp", vectors, source, rows, at.shared_out, stream.count,
                        is_added=False)  # fmt: skip
            self._add("add_rows", x=target, y=at.shared_out, width=c.n_embd,
                      factor=self._scalar(self._share(layer)), count=stream.count)  # fmt: skip
            return
        if gate is None:
            self._dense(layer, "_shexp", vectors, source, rows, target, stream.count, is_added=True)
            return
        self._quantize(source, [gate], stream.count)
        self._matmul(gate, source, at.shared_weight, count=stream.count, is_last=True)
        self._dense(layer, "_shexp", vectors, source, rows, at.shared_out, stream.count,
                    is_added=False)  # fmt: skip
        self._add("sigmoid_scale", y=at.shared_out, gate=at.shared_weight, width=c.n_embd,
                  per_row=1, count=stream.count)  # fmt: skip
        self._add("add_rows", x=target, y=at.shared_out, width=c.n_embd, factor=self._scalar(1.0),
                  count=stream.count)  # fmt: skip

    def _share(self, layer: Layer) -> float:
        """Return the factor of what experts add, and of what a shared expert adds."""
        is_half = self._config.arch.averages_shared and "ffn_up_shexp" in layer.matrices
        return 0.5 if is_half else 1.0

    def _prefetch(self, *parts: Experts) -> None:
        """Prefetch the chosen experts from disk while the first of them computes."""
        for experts in parts:
            self._add(
                "prefetch_experts", is_last=False, experts=self._tables[experts.offsets()],
                n_expert=len(experts.matrices), expert_starts=self._at.expert_starts,
                size=max(matrix.size_bytes for matrix in experts.matrices),
            )  # fmt: skip

    def _expert_matmul(
        self, experts: Experts, rows: Activations, y: int, pairs_per_x: int, count: int,
        *, is_last: bool,
    ) -> None:  # fmt: skip
        """Multiply the rows of each pair with its expert: [P, n_in] -> [P, n_out].

        Experts of one layer may differ in type; each type is a step with a table of its own.
        """
        first, types = experts.matrices[0], experts.types
        for type_ in types:
            self._expert_product(
                experts.offsets(type_), replace(first, type=type_), rows, y, pairs_per_x,
                is_last=is_last and type_ == types[-1] and not experts.deltas,
            )  # fmt: skip
        if experts.deltas:
            self._add_adapted_experts(experts, rows, y, pairs_per_x, count)

    def _add_adapted_experts(
        self, experts: Experts, rows: Activations, y: int, pairs_per_x: int, count: int
    ) -> None:
        """Add what LoRA adapters make of the rows of each pair: B (A x) of its expert."""
        at, first, rank = self._at, experts.matrices[0], experts.deltas[0].rank
        a, b = experts.delta_offsets
        inner = Activations(at.adapter_rows, rank, {"f32": (0, at.adapter_rows)})
        self._expert_product(a, Matrix(QuantType.F32, a[0], first.n_in, rank), rows,
                             at.adapter_rows, pairs_per_x, file=ADAPTERS, is_last=True)  # fmt: skip
        self._expert_product(b, Matrix(QuantType.F32, b[0], rank, first.n_out), inner,
                             at.adapter_out, 1, file=ADAPTERS, is_last=True)  # fmt: skip
        self._add("add_rows", x=y, y=at.adapter_out, width=first.n_out, factor=self._scalar(1.0),
                  count=count)  # fmt: skip

    def _expert_product(
        self, offsets: tuple[int, ...], like: Matrix, rows: Activations, y: int, pairs_per_x: int,
        *, is_last: bool, file: int = MODEL,
    ) -> None:  # fmt: skip
        """Multiply the rows of each pair with its expert's matrix, all ``like`` one of them."""
        kind = ACTIVATION_OF[like.type]
        xq, xf = rows.offsets[kind]
        self._add(
            f"expert_matmul.{like.type.name}", is_last=is_last, file=file,
            experts=self._tables[offsets], n_expert=len(offsets),
            row_bytes=like.row_bytes, n_in=like.n_in, n_out=like.n_out,
            expert_starts=self._at.expert_starts, assignments=self._at.expert_assignments,
            pairs_per_x=pairs_per_x,
            xq=xq, xq_stride=activation_bytes(kind, rows.width),
            xf=xf, xf_stride=activation_floats(kind, rows.width),
            y=y, y_stride=like.n_out, **self._at.product_scratch,
        )  # fmt: skip


def _readers(layer: Layer) -> list[Matrix]:
    """Return the matrices that read what experts read."""
    parts = [layer.experts[part] for part in ("gate", "up") if part in layer.experts]
    return [matrix for part in parts for matrix in part.matrices]
