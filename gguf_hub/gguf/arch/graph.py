"""What a model's graph is: by its architecture, its keys, and the tensors that it has."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch.architecture import Architecture, H
from gguf_hub.gguf.arch.encoders import dense_width
from gguf_hub.gguf.arch.latents import latents_of
from gguf_hub.gguf.arch.states import StateLayers
from gguf_hub.gguf.format import AnyTensor
from gguf_hub.gguf.hparams import GRAPH_HPARAMS, WholeNumber
from gguf_hub.gguf.memory.latents import Latents
from gguf_hub.gguf.memory.sizes import LayerSizes

Shape = tuple[int, ...]
Tensors = Mapping[str, AnyTensor]

OF_KEYS = ("attn_k.weight", "attn_v.weight", "attn_k_norm.weight", "attn_k.bias", "attn_v.bias")
"""What makes keys and values in a layer."""
_MOST_LAYERS = 100_000  # no file that can be opened has more


@dataclass(frozen=True, kw_only=True)
class LayerGraph(LayerSizes):
    """What may differ from layer to layer, besides sizes.

    Attributes:
        has_ffn: Whether it has a feed-forward network, experts included.
        has_experts: Whether a router chooses among feed-forward networks.
        has_rope: Whether queries and keys are rotated.
        has_halves: Whether their halves are rotated, not neighbours.
        has_plain_norms: Whether they are normed without weights then.
        is_sparse: Whether most gates of the feed-forward network are 0.
        is_linear: Whether a matrix stands for attention.
        swiglu_limit: What a network's SwiGLU is clamped to; 0 for no limit.
        swiglu_limit_exp: The same of experts.
    """

    has_ffn: bool = True
    has_experts: bool = False
    has_rope: bool = True
    has_halves: bool = True
    has_plain_norms: bool = False
    is_sparse: bool = False
    is_linear: bool = False
    swiglu_limit: float = 0.0
    swiglu_limit_exp: float = 0.0


class Graph:
    """The graph of a model.

    Args:
        arch: Its architecture.
        hparams: Its keys.

    Raises:
        UnsupportedGgufError: Where a key is asked for that makes no sense.
    """

    def __init__(self, arch: Architecture, hparams: H) -> None:
        self.arch, self.hparams = arch.with_norms_of(hparams), hparams.of_graph(arch.varies)

    @property
    def n_layer(self) -> int:
        """Layers that are computed; those that predict further tokens are not."""
        return self.hparams.n_layer - self._read(H.n_layer_nextn)

    @property
    def n_ff_exp(self) -> int:
        """Width of an expert; 0 without experts."""
        h = self.hparams
        if not h.n_expert:
            return 0
        return h.n_ff_exp if H.n_ff_exp.name in self.arch.reads else h.n_ff

    def value(self, name: str) -> float:
        """Return a number that only some architectures read; 0 where this one does not."""
        if name not in self.arch.reads:
            return 0.0
        hparam = GRAPH_HPARAMS[name]
        default = self.arch.defaults.get(name)
        is_told = self.hparams.has(hparam) and name not in self.arch.ignores
        if default is None or is_told:
            return float(self.hparams.get(hparam))
        return default(self.hparams)

    @property
    def has_branches(self) -> bool:
        """Whether what a layer adds to the residual stream is computed by itself first."""
        scale = self.value(H.residual_scale.name) or 1.0
        return scale != 1 or "post_ffw_norm.weight" in self.arch.needs

    def is_parallel(self, there: Container[str]) -> bool:
        """Tell whether the feed-forward networks read what attention reads, or a norm of it.

        Args:
            there: Names of the tensors that the file has.
        """
        if H.parallel_residual.name in self.arch.reads:
            return self.hparams.parallel_residual
        norms = (f"blk.{i}.ffn_norm.weight" in there for i in (0, 1))  # all layers, or none
        return self.arch.is_parallel and not any(norms)

    def sizes(self) -> dict[str, Any]:
        """Return what ``ModelSizes`` has besides the sizes of every model."""
        arch, has_experts = self.arch, bool(self.hparams.n_expert)
        layers = self.layers()
        is_mixed = any(
            layer.has_ffn and (arch.has_dense_beside or not layer.has_experts) for layer in layers
        )
        return {
            "is_encoder": arch.is_encoder,
            "n_embd_dense": dense_width(arch, self.hparams),
            "layers": layers,
            "has_dense_layers": has_experts and is_mixed,
            "has_dense_beside": has_experts and arch.has_dense_beside,
            "has_branches": self.has_branches,
            "weighs_inputs": has_experts and bool(arch.router and arch.router.is_first),
            "n_embd_per_layer": self.n_embd_per_layer,
            "n_embd_moe": self.n_embd_moe,
            "n_altup": self.n_altup,
            "latents": self.latents,
            "has_query_gates": arch.has_query_gates,
        }

    def layers(self) -> tuple[LayerGraph, ...]:
        """Return what each layer has."""
        return tuple(map(self.layer, range(self.n_layer)))

    def layer(self, i: int) -> LayerGraph:
        """Return what layer ``i`` has."""
        arch, h = self.arch, self.hparams
        is_windowed = bool(self._window) and self._is_windowed(i)
        has_rope = not (arch.rope_skip and self._has_skips and (i + 1) % arch.rope_skip == 0)
        if arch.rope_windows_only and self._window:
            is_lead = arch.rope_dense_lead and i < self._read(H.n_dense_lead)
            has_rope = is_windowed or is_lead
        if H.rope_finetuned.name in arch.reads:
            has_rope = has_rope and h.rope_finetuned
        has_rope = has_rope and arch.rope is not None and not self.value(H.max_alibi_bias.name)
        has_plain_norms = arch.has_plain_norms and h.n_expert != arch.n_expert_unnormed
        length = self._window if is_windowed else 0
        is_chunk = bool(arch.windows and arch.windows.is_chunked)
        n_head_kv = self._number(H.n_head_kv, i)
        n_ff = self._number(H.n_ff, i) // arch.n_ff_divisor
        state = self.states.of_layer(i, n_head_kv, n_ff)
        has_ffn = n_ff > 0 or not (arch.is_one_part or arch.may_lack_parts)
        is_linear = arch.may_lack_parts and not n_head_kv and self._number(H.n_head, i) > 0
        if not has_ffn and arch.may_lack_parts and (is_linear or n_head_kv):
            raise UnsupportedGgufError(
                f"metadata `{h.key(H.n_ff)}`: 0 in layer {i}, which has heads: expected more than 0"
            )
        is_both = arch.states is not None and arch.states.is_beside_attention
        if (state and not is_both) or (arch.is_one_part and has_ffn):
            n_head_kv = 0
        latents = self.latents
        is_other = is_windowed and arch.windows is not None and arch.windows.has_own_heads
        n_head = self._number(H.n_head, i) if n_head_kv else 0
        return LayerGraph(
            n_head=n_head,
            n_head_kv=n_head_kv,
            head_dim=h.head_dim_swa if is_other else h.head_dim,
            n_embd_head_v=self._n_embd_head_v(is_other),
            n_embd_head_out=latents.n_value if latents and latents.is_absorbed else 0,
            n_attn_gate=self._n_attn_gate(i, n_head),
            n_ff=n_ff,
            n_back_kv=self._n_back_kv(i, is_windowed),
            state=state,
            has_ffn=has_ffn,
            has_experts=has_ffn and self._has_experts(i),
            has_rope=has_rope,
            is_linear=is_linear,
            has_halves=self._has_halves,
            has_plain_norms=has_plain_norms and has_rope,
            is_sparse=i < arch.n_layer_sparse,
            swiglu_limit=h.number_of(H.swiglu_clamp_shexp, i) if arch.arrays else 0.0,
            swiglu_limit_exp=h.number_of(H.swiglu_clamp_exp, i) if arch.arrays else 0.0,
            window=0 if is_chunk else length,
            chunk=length if is_chunk else 0,
        )

    def _n_attn_gate(self, i: int, n_head: int) -> int:
        """Return how many gates the result of a layer's attention has: of elements or of heads."""
        is_there = self.hparams.has_tensor(f"blk.{i}.attn_gate.weight")
        if self.arch.has_head_gates and is_there:
            return n_head
        return n_head * self.hparams.head_dim if self.arch.has_result_gates else 0

    def _has_experts(self, i: int) -> bool:
        arch, h = self.arch, self.hparams
        if H.moe_every.name in arch.reads:
            return bool(h.n_expert and h.moe_every) and i % h.moe_every == 1
        if arch.has_experts_by_tensors:
            return bool(h.n_expert) and h.has_tensor(f"blk.{i}.ffn_gate_inp.weight")
        step = h.moe_step if H.moe_step.name in arch.reads else 1
        first = self._read(H.n_dense_lead)
        return bool(h.n_expert) and i >= first and step > 0 and (i + 1) % step == 0

    @cached_property
    def states(self) -> StateLayers:
        """What its layers with states have."""
        return StateLayers(self.arch, self.hparams, min(self.n_layer, _MOST_LAYERS))

    def _n_embd_head_v(self, is_other: bool) -> int:
        """Return the length of a head of values, those of windows having another or not."""
        h = self.hparams
        if is_other:
            return h.n_embd_head_v_swa
        has_own = self.arch.has_latents or self.arch.has_value_lengths
        return h.n_embd_head_v if has_own else h.head_dim

    @cached_property
    def latents(self) -> Latents | None:
        """Sizes of latent attention; None without.

        Raises:
            UnsupportedGgufError: Keys that do not go together.
        """
        return latents_of(self.hparams) if self.arch.has_latents else None

    def _n_back_kv(self, i: int, is_windowed: bool) -> int:
        """Return how many layers before ``i`` the one is whose keys and values it reads.

        Raises:
            UnsupportedGgufError: There is none.
        """
        first = self.n_layer - self.n_layer_kv_shared
        if i < first:
            return 0
        source = self._last_own.get(is_windowed)
        if source is None:
            raise UnsupportedGgufError(
                f"metadata `{self.hparams.key(H.n_layer_kv_shared)}`: "
                f"{self.n_layer_kv_shared} of {self.n_layer} layers: expected a layer before them "
                f"that attends as layer {i} does"
            )
        return i - source

    @property
    def n_layer_kv_shared(self) -> int:
        """The last layers, without keys and values of their own."""
        return int(self.value(H.n_layer_kv_shared.name))

    @cached_property
    def _last_own(self) -> dict[bool, int]:
        """With and without a window the last layer that has keys and values of its own."""
        first = min(self.n_layer, _MOST_LAYERS) - self.n_layer_kv_shared
        return {bool(self._window) and self._is_windowed(i): i for i in range(first)}

    @property
    def n_embd_per_layer(self) -> int:
        """Width of each layer's own embeddings; 0 without."""
        return self._read(H.n_embd_per_layer)

    @property
    def n_altup(self) -> int:
        """Streams of alternating updates; 0 without."""
        return self._read(H.n_altup)

    @property
    def n_embd_moe(self) -> int:
        """Width of the vectors that experts read and write, where it is not the model's; else 0."""
        return self._read(H.n_embd_moe)

    def _read(self, hparam: WholeNumber) -> int:
        """Return a number that only some architectures read; 0 where this one does not."""
        return self.hparams.get(hparam) if hparam.name in self.arch.reads else 0

    def _number(self, hparam: WholeNumber, i: int) -> int:
        """Return a number of layer ``i``."""
        h = self.hparams
        if hparam.name not in self.arch.varies or not h.is_array(hparam):
            return h.get(hparam)
        numbers = self._arrays[hparam.name]
        return numbers[i] if i < len(numbers) else 0

    @cached_property
    def _arrays(self) -> dict[str, list[int]]:
        """What the keys that differ between layers say, by their names."""
        h, n_layer = self.hparams, min(self.n_layer, _MOST_LAYERS)
        hparams = [GRAPH_HPARAMS[name] for name in self.arch.varies]
        return {
            hparam.name: h.per_layer(hparam, n_layer)
            for hparam in hparams
            if isinstance(hparam, WholeNumber)
        }

    @property
    def _has_halves(self) -> bool:
        if self.arch.halves_with_sections and all(self.hparams.per_layer(H.rope_sections, 2)):
            return True
        return self.arch.rope == "neox"

    @property
    def _has_skips(self) -> bool:
        """Whether layers without rotation are skipped; a chunk of 0 turns that off, too."""
        return not (self.arch.windows and self.arch.windows.is_chunked) or bool(self._window)

    @cached_property
    def _window(self) -> int:
        """How many positions the layers with windows see; 0 where there are none."""
        windows, h = self.arch.windows, self.hparams
        if windows is None or windows.only_of not in (None, h.n_layer):
            return 0
        length = h.get(H.n_swa, windows.default)
        length = windows.fixed if length and windows.fixed else length
        return length // 2 + 1 if length and windows.is_symmetric else length

    def _is_windowed(self, i: int) -> bool:
        flags = self._flags
        return flags[i] if i < len(flags) else True

    @cached_property
    def _flags(self) -> list[bool]:
        """Whether each layer has a window."""
        windows, h = self.arch.windows, self.hparams
        n_layer = min(self.n_layer, _MOST_LAYERS)
        if windows is None:
            return [False] * n_layer
        if h.is_array(H.swa_pattern):
            return [flag > 0 for flag in h.per_layer(H.swa_pattern, n_layer)]
        period = h.get(H.swa_pattern, windows.period)
        return [windows.has_window(i, period) for i in range(n_layer)]

    def ignored(self, name: str) -> bool:
        """Tell whether a tensor is there for no graph to read.

        It is of a block that predicts further tokens, or makes keys and values in a layer that
        reads those of another.
        """
        block, _, rest = name.removeprefix("blk.").partition(".")
        if not (name.startswith("blk.") and rest and block.isdecimal()):
            return False
        first = self.n_layer - self.n_layer_kv_shared if rest in OF_KEYS else self.n_layer
        return first <= int(block) < self.hparams.n_layer
