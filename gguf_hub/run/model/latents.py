"""The steps of latent attention: what queries, keys and values are made of, and results.

Heads of queries and keys have a part that is rotated, which comes first here and last in files, and
one that is not. Source: arXiv 2405.04434, section 2.1; src/models/deepseek2.cpp of llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gguf_hub.gguf.memory.activations import ACTIVATION_OF, activation_bytes, activation_floats
from gguf_hub.gguf.memory.latents import Latents
from gguf_hub.gguf.memory.layout import Activations
from gguf_hub.run.kernels.vm.ops import N_TOKENS
from gguf_hub.run.model.steps import StepWriter
from gguf_hub.run.model.weights import Layer, Matrix


class LatentWriter(StepWriter):
    """Writes what stands around the attention to latents."""

    def _project_latents(
        self, layer: Layer, sizes: Latents, vectors: Mapping[str, int], source: Activations
    ) -> None:
        """Compute queries, keys and values, not rotated yet."""
        at, own = self._at, layer.matrices
        down = own["attn_q_a"] if sizes.n_lora_q else own["attn_q"]
        rank = sizes.n_lora_kv
        self._quantize(source, [down, own["attn_kv_a_mqa"]], N_TOKENS)
        self._matmul(down, source, at.q_latent.x if sizes.n_lora_q else at.mixed_queries)
        self._matmul(own["attn_kv_a_mqa"], source, at.mixed_latent, is_last=True)
        if sizes.n_lora_q:
            x, up = at.q_latent.x, own["attn_q_b"]
            self._norm(vectors, "attn_q_a_norm.weight", x, x, sizes.n_lora_q, N_TOKENS)
            self._quantize(at.q_latent, [up], N_TOKENS)
            self._matmul(up, at.q_latent, at.mixed_queries, is_last=True)
        x = at.kv_latent.x
        self._parts(at.mixed_latent, (rank + sizes.n_rot, 0), x, (rank, 0), rank, 1)
        self._norm(vectors, "attn_kv_a_norm.weight", x, x, rank, N_TOKENS)
        self._rotated_parts(layer, sizes)
        if sizes.is_absorbed:
            self._absorb(layer, sizes)
        else:
            self._expand_keys(layer, sizes)

    def _rotated_parts(self, layer: Layer, sizes: Latents) -> None:
        """Put what is to be rotated in front of each head of queries and keys."""
        at, g, rot = self._at, layer.graph, sizes.n_rot
        length = sizes.n_plain + rot
        self._parts(at.mixed_queries + sizes.n_plain, (g.n_head * length, length),
                    at.queries, (g.n_embd_q, g.head_dim), rot, g.n_head)  # fmt: skip
        self._parts(at.mixed_latent + sizes.n_lora_kv, (sizes.n_lora_kv + rot, 0),
                    at.keys, (g.n_embd_k, g.head_dim), rot, g.n_head_kv)  # fmt: skip

    def _absorb(self, layer: Layer, sizes: Latents) -> None:
        """Make keys and values of the latent itself, and queries that meet it."""
        at, g, rank, plain = self._at, layer.graph, sizes.n_lora_kv, sizes.n_plain
        length, k_b = plain + sizes.n_rot, layer.matrices["attn_k_b"]
        self._parts(at.kv_latent.x, (rank, 0), at.keys + sizes.n_rot, (g.head_dim, 0), rank, 1)
        self._parts(at.kv_latent.x, (rank, 0), at.values, (rank, 0), rank, 1)
        self._parts(at.mixed_queries, (g.n_head * length, length), at.plain_queries.x,
                    (g.n_head * plain, plain), plain, g.n_head)  # fmt: skip
        self._quantize(at.plain_queries, [k_b], N_TOKENS, per_row=g.n_head)
        y = at.queries + sizes.n_rot
        self._head_matmul(k_b, at.plain_queries, y, (g.n_embd_q, g.head_dim), g.n_head)

    def _expand_keys(self, layer: Layer, sizes: Latents) -> None:
        """Make keys and values of each head."""
        at, g, rot, plain = self._at, layer.graph, sizes.n_rot, sizes.n_plain
        kv_b, length, width = layer.matrices["attn_kv_b"], plain + rot, plain + sizes.n_value
        self._quantize(at.kv_latent, [kv_b], N_TOKENS)
        self._matmul(kv_b, at.kv_latent, at.mixed_keys, is_last=True)
        mixed = g.n_head * width, width
        self._parts(at.mixed_keys, mixed, at.keys + rot, (g.n_embd_k, length), plain, g.n_head)
        self._parts(at.mixed_keys + plain, mixed, at.values, (g.n_embd_v, sizes.n_value),
                    sizes.n_value, g.n_head)  # fmt: skip
        self._parts(at.mixed_queries, (g.n_embd_q, length), at.queries + rot, (g.n_embd_q, length),
                    plain, g.n_head)  # fmt: skip

    def _expand_values(self, layer: Layer, sizes: Latents) -> None:
        """Make what attention computed of latents the sum of each head's values."""
        at, n_head = self._at, layer.graph.n_head
        if sizes.is_absorbed:
            v_b = layer.matrices["attn_v_b"]
            self._quantize(at.latent_out, [v_b], N_TOKENS, per_row=n_head)
            strides = n_head * sizes.n_value, sizes.n_value
            self._head_matmul(v_b, at.latent_out, at.attn_out.x, strides, n_head)

    def _latent_score_scale(self, sizes: Latents) -> float:
        """Return the factor of scores, which YaRN changes."""
        c, rope = self._config, self._config.rope
        scale = 1 / math.sqrt(sizes.n_plain + sizes.n_rot)
        if rope.effective_ext_factor == 0 or rope.scale <= 1:
            return scale
        log = 0.1 * math.log(rope.scale)
        return scale * (rope.magnitude() * (1 + c.score_log_multiplier * log)) ** 2

    def _parts(
        self, x: int, x_strides: tuple[int, int], y: int, y_strides: tuple[int, int], width: int,
        per_row: int,
    ) -> None:  # fmt: skip
        """Copy parts of each token's row; strides are those of rows and of parts."""
        self._add(
            "copy_parts", x=x, x_stride=x_strides[0], x_step=x_strides[1], y=y,
            y_stride=y_strides[0], y_step=y_strides[1], width=width, per_row=per_row,
            count=N_TOKENS,
        )  # fmt: skip

    def _head_matmul(
        self, matrix: Matrix, rows: Activations, y: int, strides: tuple[int, int], n_head: int
    ) -> None:
        """Multiply each head's activation row with the matrix of that head.

        Args:
            matrix: Those of all heads, one after another.
            rows: [T, H, width].
            y: Where results begin.
            strides: Between results of tokens, and of heads.
            n_head: Heads.
        """
        kind, n_out = ACTIVATION_OF[matrix.type], matrix.n_out // n_head
        xq, xf = rows.offsets[kind]
        q_step, f_step = activation_bytes(kind, rows.width), activation_floats(kind, rows.width)
        self._add(
            f"head_matmul.{matrix.type.name}", is_last=True, w0=matrix.offset,
            head_bytes=matrix.row_bytes * n_out, n_head=n_head, row_bytes=matrix.row_bytes,
            n_in=matrix.n_in, n_out=n_out, xq=xq, xq_stride=q_step * n_head, xq_step=q_step,
            xf=xf, xf_stride=f_step * n_head, xf_step=f_step, y=y, y_stride=strides[0],
            y_step=strides[1], count=N_TOKENS, **self._at.product_scratch,
        )  # fmt: skip
