"""The steps of embeddings that each layer has of its own (Gemma 4's E models).

Source: src/models/gemma4.cpp of llama.cpp. P is the width of a layer's embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gguf_hub.run.kernels.vm.ops import N_OUTPUTS, N_TOKENS
from gguf_hub.run.model.steps import StepWriter, Stream
from gguf_hub.run.model.weights import Layer


class PerLayerWriter(StepWriter):
    """Writes what becomes of a token besides its embedding."""

    def _per_layer_inputs(self) -> None:
        """Compute [T, n_layer, P]: looked up for each token, and projected from its embedding."""
        c, at, matrices = self._config, self._at, self._weights.matrices
        p, n_layer, vectors = c.n_embd_per_layer, c.n_layer, at.head
        rows, project = matrices["per_layer_token_embd"], matrices["per_layer_model_proj"]
        self._add(f"get_rows.{rows.type.name}", w0=rows.offset,
                  row_bytes=rows.row_bytes, n_in=rows.n_in, ids=at.ids,
                  y=at.per_layer_rows)  # fmt: skip
        source = self._normed({}, "", at.residual, N_TOKENS)
        self._quantize(source, [project], N_TOKENS)
        self._matmul(project, source, at.per_layer, is_last=True)
        y, width = at.per_layer, n_layer * p
        self._add("scale_rows", x=y, width=width, factor=self._scalar(1 / math.sqrt(c.n_embd)),
                  count=N_TOKENS)  # fmt: skip
        self._norm(vectors, "per_layer_proj_norm.weight", at.per_layer, at.per_layer, p, N_TOKENS,
                   per_row=n_layer)  # fmt: skip
        self._add("add_rows", x=y, y=at.per_layer_rows, width=width,
                  factor=self._scalar(math.sqrt(p)), count=N_TOKENS)  # fmt: skip
        self._add("scale_rows", x=y, width=width, factor=self._scalar(1 / math.sqrt(2)),
                  count=N_TOKENS)  # fmt: skip

    def _per_layer_branch(
        self, i: int, layer: Layer, vectors: Mapping[str, int], stream: Stream
    ) -> None:
        """Add what a layer makes of its own embeddings, gated by the residual stream."""
        self._per_layer_part(i, layer, stream)
        self._join(vectors, "post_norm.weight", stream)

    def _per_layer_part(self, i: int, layer: Layer, stream: Stream) -> None:
        """Compute what a layer makes of its own embeddings, gated by rows, into ``branch``."""
        c, at, count = self._config, self._at, stream.count
        p, gate, project = c.n_embd_per_layer, layer.matrices["inp_gate"], layer.matrices["proj"]
        up = at.per_layer_part
        self._add("copy_parts", x=at.per_layer + p * i, x_stride=p * c.n_layer, x_step=0, y=up,
                  y_stride=p, y_step=0, width=p, per_row=1, count=N_TOKENS)  # fmt: skip
        if count == N_OUTPUTS:
            up = at.output_per_layer
            self._add("copy_rows", x=at.per_layer_part, width=p, rows=at.rows, y=up, count=count)
        source = self._normed({}, "", stream.x, count)
        self._quantize(source, [gate], count)
        self._matmul(gate, source, at.per_layer_gate.x, count=count, is_last=True)
        self._add("gelu_mul", gate=at.per_layer_gate.x, up=up, width=p, count=count)
        self._quantize(at.per_layer_gate, [project], count)
        self._matmul(project, at.per_layer_gate, at.branch, count=count, is_last=True)
