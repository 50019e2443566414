"""The areas of a program's memory: ``run.model`` puts its program there, ``hub.fit`` adds them up.

Knows sizes, not steps: what is computed in which order is ``run.model.program``'s.

Shape letters: T tokens of a call (at most ``n_batch``), D n_embd, H heads, K kv heads, d head_dim,
F n_ff, E experts, A active experts, P = T x A pairs, V vocab, S positions of the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from gguf_hub.gguf.memory import cache
from gguf_hub.gguf.memory.activations import (
    BLOCKS,
    ActivationKind,
    activation_bytes,
    activation_floats,
)
from gguf_hub.gguf.memory.latents import Latents
from gguf_hub.gguf.memory.scratch import partial_floats, tile_bytes
from gguf_hub.gguf.memory.sizes import LAUREL_RANK, LayerSizes, ModelSizes
from gguf_hub.gguf.memory.states import StateSizes, state_elements, state_stride

N_BATCH = 512
"""Most tokens of one pass over the weights by default, as llama.cpp's ``--ubatch``."""

N_SCALARS = 16
"""Floats that steps share: epsilon of norms, factors, caps."""

HEADER = 16
"""Elements of ``n`` that are reserved for the header (see ``run.kernels.vm.ops``)."""

Array = Literal["n", "f", "q", "kv"]
"""An array of int64, of float32, of int8, or of the K/V cache in elements of two bytes."""

STATES = "a state of each slot"
"""Name of the areas that hold states."""

_ELEMENT_BYTES: dict[Array, int] = {"n": 8, "f": 4, "q": 1, "kv": 2}
_N_ROWS = 32  # tokens of several sequences in one pass, where there are fewer slots
_ALIGN = 64  # elements; keeps rows and weight tiles on cache lines


@dataclass(frozen=True)
class Limits:
    """The largest calls that memory is laid out for.

    Attributes:
        n_ctx: Positions of the cache, S.
        n_batch: Most tokens of one call, T.
        n_outputs: Most rows of logits of one call.
        n_threads: Threads that compute.
        n_slots: Caches, of which a call may use another for each token (``kernels.vm.sequences``).
        key_type: Type of the keys in the cache, one of ``cache.CACHE_TYPES``.
        value_type: Type of the values.
        prefetch_experts: Whether steps prefetch the experts of each token.
        swa_full: Whether layers with windows have caches as long as the others'.
    """

    n_ctx: int
    n_batch: int
    n_outputs: int
    n_threads: int
    n_slots: int = 1
    key_type: str = "F16"
    value_type: str = "F16"
    prefetch_experts: bool = False
    swa_full: bool = False

    @property
    def n_rows(self) -> int:
        """Most tokens of several sequences in one pass, drafted ones among them."""
        return max(self.n_slots, min(_N_ROWS, self.n_batch)) if self.n_slots > 1 else 1

    def of_encoder(self, n_ctx_train: int) -> Limits:
        """Return the limits of an encoder: a text is one batch, no longer than was trained on.

        Nothing is kept of it: its keys and values stay the floats that they are.
        """
        n = min(self.n_ctx, n_ctx_train)
        return replace(
            self, n_ctx=n, n_batch=n, n_outputs=n, key_type="F32", value_type="F32", swa_full=True
        )

    def cache_length(self, sizes: LayerSizes) -> int:
        """Return how many positions a layer's cache holds, a multiple of 32.

        All of them; or those that a batch behind a window sees, in whole chunks: the next position
        takes the place of the oldest.
        """
        full = cache.padded(self.n_ctx)
        if self.swa_full or not sizes.is_windowed:
            return full
        n_seen = (sizes.window or sizes.chunk) + self.n_batch - 1
        return min(full, -(-n_seen // cache.CHUNK) * cache.CHUNK)


class Area(NamedTuple):  # made by thousands: a dataclass takes three times as long
    """Some elements of one array, of which nothing else lies among them.

    Attributes:
        kind: Written only where weights are multiplied with activations of that kind; None for
            always.
    """

    array: Array
    name: str
    offset: int
    n_elements: int
    kind: ActivationKind | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes up to the next area."""
        return _aligned(self.n_elements) * _ELEMENT_BYTES[self.array]


@dataclass(frozen=True)
class Activations:
    """Rows of activations in each form that weights may be multiplied with.

    Attributes:
        x: Offset in ``f`` of the plain rows, [rows, width].
        width: Elements of a row.
        offsets: Kind of activation (see ``activations``) -> offsets in ``q`` and ``f``.
    """

    x: int
    width: int
    offsets: dict[ActivationKind, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerOffsets:
    """Where a layer's own numbers lie; ``expert_ids`` has no elements when dense.

    ``vectors`` are norms, biases and the like, by their names without ``blk.N.``. States of all
    slots lie one after another, ``state_stride`` of their elements apart.
    """

    vectors: Mapping[str, int]
    k_cache: int
    v_cache: int
    expert_ids: int
    expert_weights: int
    conv_state: int = 0
    scan_state: int = 0


class MemoryLayout:
    """Where everything lies that a program computes with, besides the weights.

    Args:
        model: Sizes of the model.
        limits: The largest calls.
        n_tables: Tables of the experts' offsets in the file. By default three for each layer, as
            where all experts of a layer have tensors of one type.
        vectors: Of each layer, the lengths of its vectors by name, and last those of the head. By
            default the norms of Llama.

    Attributes:
        areas: All of them, those of an array in order; of ``kv`` one slot.
        sizes: Elements to allocate of each array, of ``kv`` for one slot.
        layer_sizes: Sizes of each layer.

    The others are offsets; the areas' names say what lies there.
    """

    def __init__(
        self,
        model: ModelSizes,
        limits: Limits,
        n_tables: int | None = None,
        vectors: Sequence[Mapping[str, int]] | None = None,
    ) -> None:
        self.areas: list[Area] = []
        self.sizes: dict[Array, int] = {"n": HEADER, "f": 0, "q": 0, "kv": 0}
        self._lay_out_batch(model, limits)
        self._lay_out_scratch(model, limits)
        if n_tables is None:
            n_tables = 3 * len(model.layer_sizes) if model.n_expert else 0
        self.tables = [self._take("n", "expert offsets", model.n_expert) for _ in range(n_tables)]
        if vectors is None:
            norms = dict.fromkeys(("attn_norm.weight", "ffn_norm.weight"), model.n_embd)
            vectors = [norms] * len(model.layer_sizes) + [{"output_norm.weight": model.n_embd}]
        *of_layers, of_head = vectors
        self.layer_sizes = model.layer_sizes
        self.layers: list[LayerOffsets] = []
        for sizes, own in zip(model.layer_sizes, of_layers, strict=True):
            self.layers.append(self._layer(model, sizes, limits, own))
        self.head = self._lay_out_vectors(of_head)
        self._lay_out_outputs(model, limits)

    def blocks(self) -> dict[str, list[tuple[int, int]]]:
        """Return first element and end of each area, in order, by array."""
        blocks: dict[str, list[tuple[int, int]]] = {array: [] for array in self.sizes}
        for area in self.areas:
            blocks[area.array].append((area.offset, area.offset + area.n_elements))
        return blocks

    def _lay_out_batch(self, model: ModelSizes, limits: Limits) -> None:
        """Take what all layers share; each layer overwrites the results of the one before."""
        t, d, layers = limits.n_batch, model.n_embd, model.layer_sizes
        pairs = t * max(1, model.n_expert_used)
        n_ff = {sizes.n_ff for sizes in layers}
        wide = {model.n_ff_of_experts} if model.n_expert else n_ff | {model.n_ff}
        # first of all: steps find it behind the header (``run.kernels.vm.ops.SEQUENCES``)
        self._take("n", "sequences of a call [rows, 5]", 5 * limits.n_rows)
        self.ids = self._take("n", "token ids [T]", t)
        self.rows = self._take("n", "rows that want logits [n_outputs]", limits.n_outputs)
        self.residual = self._take("f", "residual [T, D]", t * d)
        self.normed = self._activations("normed", t, d)  # what a block reads of it
        n_q, n_k, n_v = (
            max((getattr(sizes, name) for sizes in layers), default=0)
            for name in ("n_embd_q", "n_embd_k", "n_embd_v")
        )
        self.queries = self._take("f", "queries [T, H, d]", t * n_q)
        self.keys = self._take("f", "keys [T, K, d]", t * n_k)
        self.values = self._take("f", "values [T, K, d]", t * n_v)
        widths = (width for sizes in layers for width in sizes.n_embd_results)
        self.attn_out = self._activations("attn_out", t, *widths)
        n_gate = max((s.n_attn_gate for s in layers), default=0)
        self.attn_gates = self._take("f", "gates of attention's results [T, H d]", t * n_gate)
        if model.has_query_gates:
            self.gated_queries = self._take("f", "queries and gates [T, H, 2 d]", 2 * t * n_q)
        self._lay_out_state_batch([s.state for s in layers if s.state], t)
        self.gate = self._activations("gate", pairs, *wide)
        self.up = self._take("f", "up [P, F]", pairs * max(wide))
        self.dense_gate, self.dense_up = self.gate, self.up
        if model.has_dense_layers:
            self.dense_gate = self._activations("gate", t, *n_ff)
            self.dense_up = self._take("f", "up [T, F]", t * max(n_ff))
        if model.n_ff_shexp:
            self.shared_gate = self._activations("shared gate", t, model.n_ff_shexp)
            self.shared_up = self._take("f", "shared up [T, S]", t * model.n_ff_shexp)
            self.shared_weight = self._take("f", "weight of a shared expert [T]", t)
            self.shared_out = self._take("f", "shared expert [T, D]", t * d)
        if model.has_branches:
            self.branch = self._take("f", "what a layer adds [T, D]", t * d)
        if model.has_dense_beside:
            self.expert_sum = self._take("f", "experts beside a dense network [T, D]", t * d)
        if model.latents:
            self._lay_out_latents(model.latents, model.n_head, t)
        if model.n_embd_per_layer:
            self._lay_out_per_layer(model, t)
        if model.n_altup:
            self._lay_out_altup(model.n_altup, d, t)
        if model.weighs_inputs:
            self.weighted = self._activations("weighted", pairs, d)
        d_exp = model.n_embd_of_experts
        if model.n_embd_moe:
            self.moe_in = self._activations("latent that experts read", t, d_exp)
            self.moe_out = self._activations("latent that they write", t, d_exp)
        self.expert_out = self._take("f", "expert_out [P, D]", pairs * d_exp)
        self._lay_out_adapters(model, t, pairs)
        self.router_logits = self._take("f", "router logits [T, E]", t * max(1, model.n_expert))
        self.expert_starts = self._take("n", "expert starts [E + 1]", model.n_expert + 1)
        self.expert_assignments = self._take("n", "pairs sorted by expert [P]", pairs)
        self.rope_tables = [
            self._take("f", "cosines and sines [T, d]", t * model.head_dim)
            for _ in range(model.n_rope)
        ]

    def _lay_out_state_batch(self, states: Sequence[StateSizes], t: int) -> None:
        """Take what layers with a state compute in."""
        n_in, n_convolved = (
            max((getattr(sizes, name) for sizes in states), default=0)
            for name in ("n_in", "n_convolved")
        )
        n_gate, n_rate = (max((s.n_gates[i] for s in states), default=0) for i in range(2))
        self.state_in = self._take("f", "projected for a state [T, n_in]", t * n_in)
        ranks = [s for s in states if s.n_rank]
        if ranks:
            self._lay_out_mamba(ranks[0], t)
        else:
            self.convolved = self._take("f", "convolved [T, C]", t * n_convolved)
        self.state_gate = self._take("f", "gates of what a state gives [T, n_inner]", t * n_gate)
        self.state_rates = self._take("f", "rates of a state's heads [T, 2 H]", t * n_rate)

    def _lay_out_mamba(self, sizes: StateSizes, t: int) -> None:
        """Take what Mamba's channels are scanned by."""
        width, n_state, n_rank = sizes.n_channels, sizes.n_state, sizes.n_rank
        self.scan_in = self._activations("convolved [T, C]", t, width)
        self.convolved = self.scan_in.x
        self.scan_mixed = self._take("f", "what a scan is steered by", t * (n_rank + 2 * n_state))
        self.scan_rank = self._activations("rates before they are spread", t, n_rank)
        self.scan_rates = self._take("f", "rates of channels [T, C]", t * width)
        self.scan_b = self._take("f", "what enters a state [T, n_state]", t * n_state)
        self.scan_c = self._take("f", "what is read of a state [T, n_state]", t * n_state)

    def _lay_out_latents(self, sizes: Latents, n_head: int, t: int) -> None:
        """Take what queries, keys and values are made of."""
        n_q = n_head * (sizes.n_plain + sizes.n_rot)
        if sizes.n_lora_q:
            self.q_latent = self._activations("latent of queries", t, sizes.n_lora_q)
        self.mixed_queries = self._take("f", "queries, their rotated part last", t * n_q)
        self.mixed_latent = self._take(
            "f", "latent and rotated part of keys", t * (sizes.n_lora_kv + sizes.n_rot)
        )
        self.kv_latent = self._activations("latent of keys and values", t, sizes.n_lora_kv)
        if sizes.is_absorbed:
            self.plain_queries = self._activations(
                "part of queries that is not rotated [T, H]", t * n_head, sizes.n_plain
            )
            self.latent_out = self._activations(
                "latent result of attention [T, H]", t * n_head, sizes.n_lora_kv
            )
        else:
            n_kv = n_head * (sizes.n_plain + sizes.n_value)
            self.mixed_keys = self._take("f", "keys that are not rotated, and values", t * n_kv)

    def _lay_out_adapters(self, model: ModelSizes, t: int, pairs: int) -> None:
        """Take what LoRA adapters are computed in: A x, and of experts B (A x), too."""
        rank = model.expert_adapter_rank
        rows = max(t * model.adapter_rank, pairs * rank)
        self.adapter_rows = self._take("f", "A x of adapters [T or P, r]", rows)
        width = max(model.n_embd_of_experts, model.n_ff_of_experts) if rank else 0
        self.adapter_out = self._take("f", "B (A x) of experts' adapters [P, F]", pairs * width)

    def _lay_out_per_layer(self, model: ModelSizes, t: int) -> None:
        """Take what layers have embeddings of their own for, [T, n_layer, P]."""
        p, width = model.n_embd_per_layer, model.n_embd_per_layer * model.n_layer
        self.per_layer = self._take("f", "embeddings of all layers", t * width)
        self.per_layer_rows = self._take("f", "looked-up embeddings of all layers", t * width)
        self.per_layer_part = self._take("f", "embeddings of a layer [T, P]", t * p)
        self.per_layer_gate = self._activations("gate of a layer's embeddings", t, p)

    def _lay_out_altup(self, n: int, d: int, t: int) -> None:
        """Take the streams of alternating updates, each [T, D], and what is beside attention."""
        self.streams = [self._take("f", "a stream [T, D]", t * d) for _ in range(n)]
        self.predicted = [self._take("f", "a predicted stream [T, D]", t * d) for _ in range(n)]
        self.stream_gates = self._take("f", "gates of streams [T, A]", t * n)
        self.laurel_in = self._activations("low-rank part [T, R]", t, LAUREL_RANK)
        self.laurel = self._take("f", "what is beside attention [T, D]", t * d)

    def _lay_out_scratch(self, model: ModelSizes, limits: Limits) -> None:
        """Take what each thread needs for attention and for products; and constants."""
        threads, layers = limits.n_threads, model.layer_sizes
        groups = {(s.n_head // s.n_head_kv, s.n_embd_head_v) for s in layers if s.n_head_kv}
        floats = max((cache.scratch_floats(*group) for group in groups), default=0)
        widths = {width for sizes in layers for width in (*sizes.n_embd_results, sizes.n_ff)}
        if model.latents:
            widths |= {model.latents.n_lora_q, model.latents.n_lora_kv, model.latents.n_plain}
        widths |= {sizes.state.n_rank for sizes in layers if sizes.state}
        widths |= {model.n_embd, model.n_embd_moe, model.n_ff, model.n_ff_of_experts}
        widths |= {model.adapter_rank, model.expert_adapter_rank}
        packed = tile_bytes(max(*widths, model.n_ff_shexp, model.n_embd_dense))
        partial = partial_floats(max(limits.n_batch, limits.n_outputs))
        self.attention_scratch = self._take("f", "attention of each thread", threads * floats)
        self.product_scratch = {  # arguments of products, see ``run.kernels.vm.ops.SCRATCH``
            "packed": self._take("q", "weight tile of each thread", threads * packed),
            "packed_stride": packed,
            "partial": self._take("f", "sums of each thread's tile", threads * partial),
            "partial_stride": partial,
        }
        self.scalars = [self._take("f", "a factor or the like", 1) for _ in range(N_SCALARS)]
        self.frequencies = [
            self._take("f", "frequencies of rotations [d]", model.head_dim)
            for _ in range(model.n_rope)
        ]

    def _lay_out_vectors(self, lengths: Mapping[str, int]) -> dict[str, int]:
        return {name: self._take("f", name, n) for name, n in lengths.items()}

    def _layer(
        self, model: ModelSizes, sizes: LayerSizes, limits: Limits, vectors: Mapping[str, int]
    ) -> LayerOffsets:
        keys, values = _cache_elements(sizes, limits)
        if model.is_encoder and self.layers:  # those of one layer, after which no step reads them
            keys = values = 0
        k_cache = self._take("kv", "keys [K, S, d] in tiles (see ``cache``)", keys)
        v_cache = self._take("kv", "values [K, d, S] in tiles", values)
        if sizes.n_back_kv:
            source = self.layers[-sizes.n_back_kv]
            k_cache, v_cache = source.k_cache, source.v_cache
        if model.is_encoder and self.layers:
            k_cache, v_cache = self.layers[0].k_cache, self.layers[0].v_cache
        n_pairs = limits.n_batch * model.n_expert_used if model.n_expert else 0
        return LayerOffsets(
            vectors=self._lay_out_vectors(vectors),
            k_cache=k_cache,
            v_cache=v_cache,
            expert_ids=self._take("n", "expert ids [T, A]", n_pairs),
            expert_weights=self._take("f", "expert weights [T, A]", n_pairs),
            conv_state=self._states(sizes.state.conv_elements if sizes.state else 0, limits),
            scan_state=self._states(sizes.state.scan_elements if sizes.state else 0, limits),
        )

    def _states(self, n_elements: int, limits: Limits) -> int:
        """Take room for a state of each slot, ``state_stride`` apart."""
        return self._take("f", STATES, state_stride(n_elements) * limits.n_slots)

    def _lay_out_outputs(self, model: ModelSizes, limits: Limits) -> None:
        """Take what is computed of the rows that want logits alone."""
        n, d = limits.n_outputs, model.n_embd
        self.hidden = self._activations("hidden", n, d)  # normed, for the logits
        if model.is_encoder:
            self.dense = self._activations("between dense layers", n, model.n_embd_dense)
            return
        widths = (sizes.n_embd_attn for sizes in model.layer_sizes)
        self.output_attn_out = self._activations("attn_out", n, *widths)
        self.output_residual = self._take("f", "residual [n_outputs, D]", n * d)
        self.output_per_layer = self._take(
            "f", "embeddings of a layer [n_outputs, P]", n * model.n_embd_per_layer
        )
        self.logits = self._take("f", "logits [n_outputs, V]", n * model.n_vocab)

    def _activations(self, name: str, rows: int, *widths: int) -> Activations:
        """Take rows as they are, and room for each quantised kind whose blocks they fill.

        Args:
            name: Of the area.
            rows: How many.
            widths: Of a row; the activations are those of the largest.
        """
        width = max(widths, default=0)
        x = self._take("f", name, rows * width)
        activations = Activations(x, width, {"f32": (0, x)})
        for kind, (block_size, _, _) in BLOCKS.items():
            width = max((w for w in widths if w % block_size == 0), default=0)
            if kind != "f32" and width:
                activations.offsets[kind] = (
                    self._take("q", name, rows * activation_bytes(kind, width), kind),
                    self._take("f", name, rows * activation_floats(kind, width), kind),
                )
        return activations

    def _take(
        self, array: Array, name: str, n_elements: int, kind: ActivationKind | None = None
    ) -> int:
        offset = self.sizes[array]
        if n_elements:
            self.areas.append(Area(array, name, offset, n_elements, kind))
        self.sizes[array] += _aligned(n_elements)
        return offset


def cache_bytes(model: ModelSizes, limits: Limits) -> int:
    """Return what the cache of one slot takes, without laying out the rest.

    With its state, and the most copies of it that are kept.
    """
    layers = model.layer_sizes[: 1 if model.is_encoder else None]
    counts = Counter(_cache_elements(sizes, limits) for sizes in layers)
    elements = sum(n * sum(map(_aligned, each)) for each, n in counts.items())
    return elements * _ELEMENT_BYTES["kv"] + _ELEMENT_BYTES["f"] * sum(
        state_elements(sizes.state) for sizes in model.layer_sizes if sizes.state
    )


def layer_cache_bytes(sizes: LayerSizes, limits: Limits) -> int:
    """Return what the keys and values of one layer take, of all slots."""
    elements = sum(map(_aligned, _cache_elements(sizes, limits)))
    return elements * limits.n_slots * _ELEMENT_BYTES["kv"]


def _cache_elements(sizes: LayerSizes, limits: Limits) -> tuple[int, int]:
    """Return the elements of a layer's own keys, and of its values."""
    if sizes.n_back_kv:
        return 0, 0
    n_ctx = limits.cache_length(sizes)
    keys = cache.key_elements(limits.key_type, sizes.head_dim, n_ctx)
    values = cache.value_elements(limits.value_type, sizes.n_embd_head_v, n_ctx)
    return sizes.n_head_kv * keys, sizes.n_head_kv * values


def _aligned(n_elements: int) -> int:
    return -(-n_elements // _ALIGN) * _ALIGN
