"""The steps of attention: projections, norms of heads, rotation, the cache, scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.memory.layout import Activations, LayerOffsets
from gguf_hub.run.kernels.vm.ops import N_TOKENS
from gguf_hub.run.model.latents import LatentWriter
from gguf_hub.run.model.made_vectors import ONES, SLOPES
from gguf_hub.run.model.rope import RopeConfig
from gguf_hub.run.model.steps import Stream
from gguf_hub.run.model.weights import Layer

_OUTPUTS = {"": "attn_output", "short_conv": "shortconv.out_proj", "mamba": "ssm_out",
            "mamba2": "ssm_out", "delta_net": "ssm_out"}  # fmt: skip
"""What projects the result of attention, or of a state in its place."""


class AttentionWriter(LatentWriter):
    """Writes what each layer computes up to the residual stream."""

    @property
    def _has_rope(self) -> bool:
        layers = self._weights.layers
        return any(layer.graph.n_head_kv and layer.graph.has_rope for layer in layers)

    def _rope_tables(self) -> None:
        c, at = self._config, self._at
        if not self._has_rope:
            return
        ropes = [c.rope] if c.rope_of_windows is None else [c.rope, c.rope_of_windows]
        for rope, table, place in zip(ropes, at.rope_tables, at.frequencies, strict=True):
            has_factors = rope is c.rope or not (c.arch.windows and c.arch.windows.has_own_heads)
            self._constants[place] = self._frequencies(rope, has_factors=has_factors)
            self._add(
                "rope_table", is_last=rope is ropes[-1], half=rope.n_rot // 2, table=table,
                frequencies=place, factor=self._scalar(rope.magnitude()),
            )  # fmt: skip

    def _frequencies(self, rope: RopeConfig, *, has_factors: bool) -> NDArray[np.float32]:
        """Return the frequencies as float32, then what these lack of double precision."""
        exact = np.array(rope.frequencies())
        is_long = self._limits.n_ctx > rope.n_ctx_orig
        found = self._weights.rope_factors
        factors = found.get("", found.get("long" if is_long else "short"))
        with np.errstate(all="ignore"):  # checked below
            if factors is not None and has_factors:
                exact = exact / factors[: len(exact)]
            rounded = exact.astype(np.float32)
        if not np.isfinite(rounded).all():
            raise UnsupportedGgufError(
                "the angles of the position embedding are no finite numbers: `rope_freqs.weight` "
                "or a factor of `rope.scaling` makes no sense"
            )
        return np.concatenate((rounded, (exact - rounded).astype(np.float32)))

    def _attention(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int]
    ) -> Activations:
        """Attend; return what attention has read, which a parallel network reads, too."""
        at, limits = self._at, self._limits
        has_own = "attn_norm_2.weight" in vectors and not self._config.arch.is_post_normed
        own_norm = "attn_norm_2.weight" if has_own else "attn_norm.weight"
        source = self._normed(vectors, own_norm, at.residual, N_TOKENS)
        if self._config.latents:
            self._project_latents(layer, self._config.latents, vectors, source)
        else:
            self._project_qkv(layer, vectors, source)
        types = f"{limits.key_type}.{limits.value_type}"
        self._rotate_and_store(layer, own, vectors, types)
        self._attend(layer, own, vectors, types)
        if self._config.latents:
            self._expand_values(layer, self._config.latents)
        for name in ("ffn_norm.weight", "attn_norm.weight"):
            if self._config.is_parallel and name in vectors and name != own_norm:
                return self._normed(vectors, name, at.residual, N_TOKENS)
        return source

    def _linear_attention(self, layer: Layer, vectors: Mapping[str, int]) -> Activations:
        """Add what a matrix makes of each token; return what it has read."""
        x, matrix = self._at.residual, layer.matrices["attn_output"]
        source = self._normed(vectors, "attn_norm.weight", x, N_TOKENS)
        self._quantize(source, [matrix], N_TOKENS)
        self._matmul(matrix, source, x, is_added=True, is_last=True)
        return source

    def _project_qkv(self, layer: Layer, vectors: Mapping[str, int], source: Activations) -> None:
        c, at, own = self._config, self._at, layer.matrices
        queries = at.gated_queries if c.has_query_gates else at.queries
        places = {"attn_q": queries, "attn_k": at.keys, "attn_v": at.values,
                  "attn_gate": at.attn_gates}  # fmt: skip
        parts = {name: y for name, y in places.items() if name in own}
        self._quantize(source, [own[name] for name in parts], N_TOKENS)
        for name, y in parts.items():
            self._matmul(own[name], source, y, is_last=name == list(parts)[-1])
        biased = [name for name in parts if f"{name}.bias" in vectors]
        for name in biased:
            is_last = name == biased[-1]
            self._bias(vectors, name, parts[name], own[name].n_out, N_TOKENS, is_last=is_last)
        for name in parts if c.clamp_kqv else ():
            self._add("clamp_rows", x=parts[name], width=own[name].n_out,
                      cap=self._scalar(c.clamp_kqv), count=N_TOKENS,
                      is_last=name == list(parts)[-1])  # fmt: skip
        if c.has_query_gates:  # behind each head's queries
            d, n_q, n_head = layer.graph.head_dim, layer.graph.n_embd_q, layer.graph.n_head
            self._add("copy_parts", x=queries, x_stride=2 * n_q, x_step=2 * d, y=at.queries,
                      y_stride=n_q, y_step=d, width=d, per_row=n_head, count=N_TOKENS)  # fmt: skip
        if c.arch.has_value_norms and "attn_k" in own:
            x = at.values if "attn_v" in own else at.keys
            self._norm(vectors, ONES, x, at.values, layer.graph.n_embd_head_v, N_TOKENS,
                       per_row=layer.graph.n_head_kv)  # fmt: skip
        if not c.arch.has_norms_after_rope:
            self._norm_heads(layer, vectors, ("attn_q_norm.weight", "attn_k_norm.weight"))

    def _norm_heads(self, layer: Layer, vectors: Mapping[str, int], names: tuple[str, str]) -> None:
        """Norm q and k, each head by itself or all of a token at once, where there are norms."""
        c, at, g = self._config, self._at, layer.graph
        heads = zip(names, (at.queries, at.keys), (g.n_head, g.n_head_kv), strict=True)
        present = [each for each in heads if each[0] in vectors]
        for name, x, n_head in present:
            per_row = 1 if c.arch.has_whole_norms and name != ONES else n_head
            width = n_head * g.head_dim // per_row
            self._norm(vectors, name, x, x, width, N_TOKENS, per_row=per_row,
                       is_last=x == present[-1][1], has_own=c.arch.has_own_norms)  # fmt: skip

    def _rotate_and_store(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], types: str
    ) -> None:
        c, at, g, arch = self._config, self._at, layer.graph, self._config.arch
        is_other = g.is_windowed and c.rope_of_windows is not None
        table, is_neox = at.rope_tables[-1 if is_other else 0], g.has_halves
        rope = c.rope_of_windows if is_other and c.rope_of_windows else c.rope
        n_rot = rope.n_rot if g.has_rope else 0
        after = [name for name, is_there in (
            ("attn_q_norm.weight", arch.has_norms_after_rope),
            (ONES, g.has_plain_norms),
        ) if is_there]  # fmt: skip
        if after and n_rot:
            for x, n_head in ((at.queries, g.n_head), (at.keys, g.n_head_kv)):
                self._add("rotate", x=x, n_head=n_head, head_dim=g.head_dim, n_rot=n_rot,
                          is_neox=is_neox, table=table)  # fmt: skip
            n_rot = 0
        for name in after:
            self._norm_heads(layer, vectors, (name, name.replace("attn_q", "attn_k")))
        if c.temperature is not None and self._is_heated(layer):
            self._add("scale_by_position", x=at.queries, width=g.n_embd_q,
                      scale=self._scalar(c.temperature.scale), length=c.temperature.length or 0,
                      offset=c.temperature.offset)  # fmt: skip
        if g.n_back_kv:
            self._add("rotate", x=at.queries, n_head=g.n_head, head_dim=g.head_dim, n_rot=n_rot,
                      is_neox=is_neox, table=table)  # fmt: skip
            return
        self._add(
            f"rope_store.{types}", is_last=True, q0=at.queries, k0=at.keys, v0=at.values,
            n_rot=n_rot, is_neox=is_neox, table=table, **self._cache(layer, own),
        )  # fmt: skip

    def _is_heated(self, layer: Layer) -> bool:
        """Whether queries of a layer depend on their position otherwise than by rotation.

        Where some layers have windows, it is the others.
        """
        return self._config.arch.windows is None or not layer.graph.has_rope

    def _cache(self, layer: Layer, own: LayerOffsets) -> dict[str, int]:
        g = layer.graph
        return {
            "n_head": g.n_head, "n_head_kv": g.n_head_kv, "head_dim": g.head_dim,
            "value_dim": g.n_embd_head_v,
            "k_cache": own.k_cache, "v_cache": own.v_cache,
            "n_ctx": self._limits.cache_length(g),
        }  # fmt: skip

    def _attend(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], types: str
    ) -> None:
        c, at, g = self._config, self._at, layer.graph
        if c.is_encoder:
            self._add(f"text_attention.{types}", is_last=True, q0=at.queries,
                      scratch=at.attention_scratch, y=at.attn_out.x,
                      scale=self._scalar(self._score_scale(g.head_dim)), window=g.window,
                      slopes=vectors.get(SLOPES, 0), has_slopes=SLOPES in vectors,
                      **self._cache(layer, own))  # fmt: skip
            return
        sinks = vectors.get("attn_sinks.weight")
        self._add(
            f"attention.{types}", is_last=True, q0=at.queries, scratch=at.attention_scratch,
            y=at.latent_out.x if g.n_embd_head_out else at.attn_out.x,
            scale=self._scalar(self._score_scale(g.head_dim)),
            window=g.window, chunk=g.chunk, cap=self._scalar(c.score_cap),
            sinks=sinks or 0, has_sinks=sinks is not None, slopes=vectors.get(SLOPES, 0),
            has_slopes=SLOPES in vectors, **self._cache(layer, own),
        )  # fmt: skip
        if g.n_attn_gate == g.n_head:
            self._add("sigmoid_scale", y=at.attn_out.x, gate=at.attn_gates, width=g.n_embd_head_v,
                      per_row=g.n_head, count=N_TOKENS)  # fmt: skip
        elif g.n_attn_gate:
            self._add("sigmoid_gate", y=at.attn_out.x, gate=at.attn_gates, stride=g.n_attn_gate,
                      width=g.n_attn_gate, per_row=1, count=N_TOKENS)  # fmt: skip
        if c.value_scale != 1:
            self._add("scale_rows", x=at.attn_out.x, width=g.n_embd_attn,
                      factor=self._scalar(c.value_scale), count=N_TOKENS)  # fmt: skip
        if c.has_query_gates:
            self._add("sigmoid_gate", y=at.attn_out.x, gate=at.gated_queries + g.head_dim,
                      stride=2 * g.head_dim, width=g.head_dim, per_row=g.n_head,
                      count=N_TOKENS)  # fmt: skip

    def _score_scale(self, head_dim: int) -> float:
        """Return the factor of scores."""
        c = self._config
        if c.latents is None:
            return c.score_scale or 1 / math.sqrt(head_dim)
        return self._latent_score_scale(c.latents)

    def _project(self, layer: Layer, vectors: Mapping[str, int], stream: Stream, kind: str) -> None:
        """Add the result of attention, or of a state of this kind; "" for attention."""
        matrix = layer.matrices[_OUTPUTS[kind]]
        rows = replace(stream.attn_out, width=matrix.n_in)
        if "attn_sub_norm.weight" in vectors:
            name = "attn_sub_norm.weight"
            self._norm(vectors, name, rows.x, rows.x, rows.width, stream.count)
        is_twice = self._config.arch.is_post_normed and "attn_norm_2.weight" in vectors
        if is_twice:  # what a layer has read is added to it twice
            d = self._config.n_embd
            self._add("copy_parts", x=stream.x, x_stride=d, x_step=0, y=self._at.normed.x,
                      y_stride=d, y_step=0, width=d, per_row=1, count=stream.count)  # fmt: skip
        self._quantize(rows, [matrix], stream.count)
        target = self._target(stream)
        self._matmul(
            matrix, rows, target, count=stream.count, is_added=target == stream.x,
            is_last=True,
        )  # fmt: skip
        if not kind:
            self._bias(vectors, "attn_output", target, matrix.n_out, stream.count)
        is_after = not self._config.arch.post_attention_norm_is_before_ffn
        self._join(vectors, "post_attention_norm.weight" if is_after else "", stream)
        self._post_norm(vectors, "attn_output_norm.weight", stream)
        if is_twice:
            self._add("add_rows", x=stream.x, y=self._at.normed.x, width=self._config.n_embd,
                      factor=self._scalar(1.0), count=stream.count)  # fmt: skip
            self._post_norm(vectors, "attn_norm_2.weight", stream)
