"""Which tensors a graph has, and their shapes; whoever judges a file and whoever runs it ask here.

Shape letters: D n_embd, Q all heads of q, K those of k (and of v), d head_dim, H heads, F n_ff,
E experts, X the width of an expert, S of a shared one, V rows of the embeddings.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from itertools import starmap
from typing import NamedTuple

from gguf_hub.gguf.arch.architecture import BIASES, H
from gguf_hub.gguf.arch.classifier import CLASSIFIERS
from gguf_hub.gguf.arch.encoders import encoder_tensors
from gguf_hub.gguf.arch.graph import OF_KEYS, Graph, LayerGraph
from gguf_hub.gguf.arch.latents import latent_matrices
from gguf_hub.gguf.arch.residuals import layer_tensors, model_tensors
from gguf_hub.gguf.experts import FUSED_EXPERTS, group_split, has_fused_experts, wanted_experts
from gguf_hub.gguf.format import AnyTensor

Shape = tuple[int, ...]
Tensors = Mapping[str, AnyTensor]

_OF_EXPERTS = ("ffn_gate_inp.bias", "exp_probs_b.bias", "ffn_gate_exps.bias", "ffn_up_exps.bias",
               "ffn_down_exps.bias", "ffn_gate_inp_shexp.weight", "ffn_gate_inp.scale",
               "ffn_down_exps.scale", "pre_ffw_norm_2.weight", "post_ffw_norm_1.weight",
               "post_ffw_norm_2.weight")  # fmt: skip
_OF_DENSE = ("ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")
_BEFORE_FFN = ("ffn_norm.weight", "ffn_norm.bias")
_OF_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_sinks", "attn_output")


class GraphTensor(NamedTuple):
    """A tensor of the graph.

    Attributes:
        name: As in the file.
        shape: As in the file, the fastest dimension first.
        is_vector: A norm, bias or the like, which is never quantised.
    """

    name: str
    shape: Shape
    is_vector: bool = False


def tensors_of(graph: Graph, there: Tensors) -> Iterator[GraphTensor]:
    """Yield the tensors that a graph needs, and of those that it may have the ones it has.

    No more blocks than a header has tensors, and one: so many cannot all be there.

    Args:
        graph: The graph.
        there: What the file has.
    """
    return _Tensors(graph, there).all()


class _Tensors:
    def __init__(self, graph: Graph, there: Tensors) -> None:
        self.graph, self.arch, self.hparams = graph, graph.arch, graph.hparams
        self.there = there
        # the runner takes merged experts where there are both
        self.split = {
            name: parts for name, parts in group_split(there).items() if name not in there
        }

    def all(self) -> Iterator[GraphTensor]:
        h, d = self.hparams, self.hparams.n_embd
        n_rows, half = h.n_embd_rows, h.n_rot // 2
        yield GraphTensor("token_embd.weight", (d, n_rows))
        yield from starmap(GraphTensor, encoder_tensors(self.arch, h, self.there))
        if self.arch.has_positions:
            yield GraphTensor("position_embd.weight", (d, h.n_ctx_train))
        if self.arch.output_norm and not self.arch.has_weightless_norms:
            yield GraphTensor(f"{self.arch.output_norm}.weight", (d,), True)
        is_optional = "attn_norm.bias" in self.arch.may_have and "output_norm.bias" in self.there
        if "attn_norm.bias" in self.arch.needs or is_optional:
            yield GraphTensor("output_norm.bias", (d,), True)
        if "output.weight" in self.there and not self.arch.is_encoder:
            yield GraphTensor("output.weight", (d, n_rows))
        if self.arch.has_head_bias:
            yield GraphTensor("output.bias", (n_rows,), True)
        if classifier := CLASSIFIERS.get(self.arch.name):
            yield from starmap(GraphTensor, classifier.tensors(h, self.there))
        for name in ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"):
            if name in self.there:
                yield GraphTensor(name, (half,), True)
        extra = model_tensors(
            d, n_rows, self.graph.n_embd_per_layer, self.graph.n_layer, self.graph.n_altup
        )
        yield from starmap(GraphTensor, extra)
        for i in range(min(self.graph.n_layer, len(self.there) + 1)):
            for name, shape, is_vector in self._block(i):
                yield GraphTensor(f"blk.{i}.{name}", shape, is_vector)

    def _block(self, i: int) -> Iterator[GraphTensor]:
        """Yield the tensors of a layer, without ``blk.N.``."""
        layer, b, h = self.graph.layer(i), f"blk.{i}.", self.hparams
        if layer.n_head_kv and self.graph.latents:
            matrices = latent_matrices(self.graph.latents, h.n_embd, layer.n_head)
            yield from starmap(GraphTensor, matrices)
        elif layer.n_head_kv:
            yield from self._attention(layer, b)
        elif layer.is_linear:
            yield GraphTensor("attn_output.weight", (h.n_embd, h.n_embd))
        if layer.has_experts:
            yield GraphTensor("ffn_gate_inp.weight", (h.n_embd, h.n_expert))
            if latent := self.graph.n_embd_moe:
                yield GraphTensor("ffn_latent_down.weight", (h.n_embd, latent))
                yield GraphTensor("ffn_latent_up.weight", (latent, h.n_embd))
            yield from self._experts(b)
            yield from self._shared(b)
        is_dense = self.arch.has_dense_beside or not layer.has_experts
        is_fused = self.arch.fuses_gate(b, self.there)
        if layer.has_ffn and layer.n_ff and is_dense:
            yield from self._dense("", layer.n_ff, is_fused=is_fused)
        extra = layer_tensors(self.hparams.n_embd, self.graph.n_embd_per_layer, self.graph.n_altup)
        yield from starmap(GraphTensor, extra)
        is_parallel = self.graph.is_parallel(self.there)
        is_told = "ffn_norm.weight" in self.arch.may_have
        for name, shape in self._vectors(layer, is_fused=is_fused).items():
            is_needed = name in self.arch.needed(i)
            is_there = f"{b}{name}" in self.there and not _is_alone(b, name, self.there)
            if is_told and name in _BEFORE_FFN:  # in all layers or in none
                is_needed, is_there = not is_parallel, False
            if is_needed or is_there:
                yield GraphTensor(name, shape, True)
        if layer.state:
            yield from starmap(GraphTensor, self.graph.states.tensors(b, self.there))

    def _attention(self, layer: LayerGraph, b: str) -> Iterator[GraphTensor]:
        d, n_kv, n_v = self.hparams.n_embd, layer.n_embd_k, layer.n_embd_v
        n_q = layer.n_embd_q * (1 + self.arch.has_query_gates)
        has_own = not layer.n_back_kv
        if has_own and f"{b}attn_qkv.weight" in self.there:
            yield GraphTensor("attn_qkv.weight", (d, n_q + n_kv + n_v))
        else:
            yield GraphTensor("attn_q.weight", (d, n_q))
            if has_own:
                yield GraphTensor("attn_k.weight", (d, n_kv))
            is_shared = self.arch.may_share_values and f"{b}attn_v.weight" not in self.there
            if has_own and not is_shared:
                yield GraphTensor("attn_v.weight", (d, n_v))
        if layer.n_attn_gate:
            yield GraphTensor("attn_gate.weight", (d, layer.n_attn_gate))
        yield GraphTensor("attn_output.weight", (layer.n_head * layer.n_embd_head_v, d))

    def _dense(self, suffix: str, width: int, *, is_fused: bool) -> Iterator[GraphTensor]:
        d = self.hparams.n_embd
        if self.arch.is_gated and not is_fused:
            yield GraphTensor(f"ffn_gate{suffix}.weight", (d, width))
        yield GraphTensor(f"ffn_up{suffix}.weight", (d, width * (1 + is_fused)))
        yield GraphTensor(f"ffn_down{suffix}.weight", (width, d))

    def _shared(self, b: str) -> Iterator[GraphTensor]:
        """Yield a shared expert; how wide it is, its own matrix tells."""
        up = self.there.get(f"{b}ffn_up_shexp.weight")
        keys = {H.n_expert_shared.name, H.n_ff_shexp.name}
        if up is not None and len(up.shape) == 2 and keys & set(self.arch.reads):
            yield from self._dense("_shexp", up.shape[1], is_fused=self.arch.has_fused_gate)

    def _experts(self, b: str) -> Iterator[GraphTensor]:
        d = self.graph.n_embd_moe or self.hparams.n_embd
        width, n_expert = self.graph.n_ff_exp, self.hparams.n_expert
        if is_fused := has_fused_experts(b, self.there):
            yield GraphTensor(f"{FUSED_EXPERTS}.weight", (d, 2 * width, n_expert))
        planes = {"gate": (d, width), "up": (d, width), "down": (width, d)}
        if not self.arch.is_gated:
            del planes["gate"]
        for part, plane in planes.items():
            merged = f"{b}ffn_{part}_exps.weight"
            if part != "down" and is_fused:
                continue
            if merged in self.split:
                names = wanted_experts(f"ffn_{part}", n_expert, self.split[merged])
                yield from (GraphTensor(name, plane) for name in names)
            else:
                yield GraphTensor(f"ffn_{part}_exps.weight", (*plane, n_expert))

    def _vectors(self, layer: LayerGraph, *, is_fused: bool) -> dict[str, Shape]:
        """Return the vectors that a layer must or may have."""
        h, arch, n_q, n_kv = self.hparams, self.arch, layer.n_embd_q, layer.n_embd_k
        d, n_expert, width, n_ff = h.n_embd, h.n_expert, self.graph.n_ff_exp, layer.n_ff
        is_whole, n_gated = arch.has_whole_norms, n_q * (1 + arch.has_query_gates)
        heads: list[Shape] = [(n,) for n in ((n_q, n_kv) if is_whole else (layer.head_dim,) * 2)]
        if arch.has_own_norms:
            heads = [(layer.head_dim, n) for n in (layer.n_head, layer.n_head_kv)]
        shapes: dict[str, Shape] = dict.fromkeys(arch.needs + arch.may_have + BIASES, (d,)) | {
            "attn_q.bias": (n_gated,), "attn_k.bias": (n_kv,), "attn_v.bias": (layer.n_embd_v,),
            "attn_qkv.bias": (n_gated + n_kv + layer.n_embd_v,),
            "attn_q_norm.weight": heads[0], "attn_k_norm.weight": heads[1],
            "attn_sinks.weight": (layer.n_head,),
            "ffn_gate.bias": (n_ff,), "ffn_up.bias": (n_ff * (1 + is_fused),),
            "ffn_gate_inp.bias": (n_expert,), "exp_probs_b.bias": (n_expert,),
            "ffn_gate_exps.bias": (width, n_expert), "ffn_up_exps.bias": (width, n_expert),
            "ffn_down_exps.bias": (d, n_expert),
            "ffn_gate_inp_shexp.weight": (d,), "ffn_down_exps.scale": (n_expert,),
            "layer_output_scale.weight": (1,),
            "attn_sub_norm.weight": (n_q,), "ffn_sub_norm.weight": (n_ff,),
        }  # fmt: skip
        if latents := self.graph.latents:
            shapes |= {"attn_q_a_norm.weight": (latents.n_lora_q,),
                       "attn_kv_a_norm.weight": (latents.n_lora_kv,)}  # fmt: skip
        others = set() if layer.has_experts else set(_OF_EXPERTS)
        if not layer.has_ffn or (layer.has_experts and not arch.has_dense_beside):
            others |= {*_OF_DENSE}
        if not layer.n_head_kv:
            others |= {name for name in shapes if name.startswith(_OF_ATTENTION)}
        if arch.may_lack_parts:
            others |= set() if layer.n_head_kv or layer.is_linear else {"attn_norm.weight"}
            others |= set() if layer.has_ffn else {"ffn_norm.weight"}
        if not arch.is_gated:
            others.add("ffn_gate.bias")
        if layer.n_back_kv:
            others |= {*OF_KEYS, "attn_qkv.bias"}
        if not self.graph.n_embd_per_layer:
            others.add("post_norm.weight")
        if latents:
            others |= {"attn_q.bias", *OF_KEYS, "attn_qkv.bias"}
            others |= set() if latents.n_lora_q else {"attn_q_a_norm.weight"}
        allowed = {*arch.needs, *arch.may_have, *BIASES, "attn_qkv.bias"}.difference(others)
        return {name: shapes[name] for name in shapes if name in allowed}


def _is_alone(b: str, name: str, there: Container[str]) -> bool:
    """Tell whether it is the bias of a norm that a layer does not have."""
    stem = name.removesuffix(".bias")
    return "_norm" in stem and name != stem and f"{b}{stem}.weight" not in there
