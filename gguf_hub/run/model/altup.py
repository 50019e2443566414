"""The steps of alternating updates and of what is beside attention (Gemma 3n).

A token has A streams, [A, T, D]. A layer predicts all of them, computes the first in the residual
stream, and corrects all by what that changed. Source: src/models/gemma3n.cpp of llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gguf_hub.gguf.memory.layout import Activations
from gguf_hub.run.kernels.vm.ops import N_TOKENS
from gguf_hub.run.model.per_layer import PerLayerWriter
from gguf_hub.run.model.steps import Stream
from gguf_hub.run.model.weights import Layer, Matrix


class AltupWriter(PerLayerWriter):
    """Writes what becomes of the streams."""

    def _spread(self) -> None:
        """Make all streams of the embeddings, each as long as these."""
        at, project = self._at, self._weights.matrices["altup_proj"]
        self._copy(at.residual, at.streams[0])
        source = self._normed({}, "", at.residual, N_TOKENS)
        self._quantize(source, [project], N_TOKENS)
        for i, y in enumerate(at.streams[1:]):
            self._matmul(project.part(i * self._config.n_embd, self._config.n_embd), source, y,
                         is_last=True)  # fmt: skip
            self._match(y, at.residual)

    def _predict(self, layer: Layer, vectors: Mapping[str, int]) -> None:
        """Predict all streams; the first one goes on."""
        c, at = self._config, self._at
        self._gate_streams(layer, vectors, at.streams[0])
        self._add("altup_predict", x=at.streams[0], stride=at.streams[1] - at.streams[0],
                  gates=at.stream_gates, weights=vectors["altup_predict_coef.weight"],
                  n_stream=c.n_altup, width=c.n_embd, y=at.predicted[0],
                  count=N_TOKENS)  # fmt: skip
        self._copy(at.predicted[0], at.residual)

    def _correct(self, layer: Layer, vectors: Mapping[str, int]) -> None:
        """Correct all predictions by what the layer made of the first."""
        c, at = self._config, self._at
        self._gate_streams(layer, vectors, at.residual)
        self._add("altup_correct", x=at.residual, predicted=at.predicted[0],
                  stride=at.streams[1] - at.streams[0], gates=at.stream_gates,
                  weights=vectors["altup_correct_coef.weight"], n_stream=c.n_altup,
                  width=c.n_embd, y=at.streams[0], count=N_TOKENS)  # fmt: skip

    def _merge(self) -> None:
        """Put the mean of all streams, each as long as the first, into the residual stream."""
        c, at, project = self._config, self._at, self._weights.matrices["altup_unembd_proj"]
        self._copy(at.streams[0], at.residual)
        for i, x in enumerate(at.streams[1:]):
            source = self._normed({}, "", x, N_TOKENS)
            self._quantize(source, [project], N_TOKENS)
            self._matmul(project.part(i * c.n_embd, c.n_embd), source, at.laurel, is_last=True)
            self._match(at.laurel, at.streams[0])
            self._add_rows(at.residual, at.laurel)
        self._scale(at.residual, 1 / c.n_altup)

    def _low_rank(self, layer: Layer, vectors: Mapping[str, int], source: Activations) -> None:
        """Compute what is beside attention, of what attention reads."""
        c, at, (down, up) = self._config, self._at, _laurel(layer)
        self._quantize(source, [down], N_TOKENS)
        self._matmul(down, source, at.laurel_in.x, is_last=True)
        self._quantize(at.laurel_in, [up], N_TOKENS)
        self._matmul(up, at.laurel_in, at.laurel, is_last=True)
        self._norm(vectors, "laurel_post_norm.weight", at.laurel, at.laurel, c.n_embd, N_TOKENS)
        self._add_rows(at.laurel, source.x)

    def _add_low_rank(self) -> None:
        """Add it to the residual stream, both with the same share."""
        self._add_rows(self._at.residual, self._at.laurel)
        self._scale(self._at.residual, 1 / math.sqrt(2))

    def _per_layer_update(self, i: int, layer: Layer, vectors: Mapping[str, int]) -> None:
        """Add what a layer makes of its own embeddings to all streams but the first."""
        c, at, rows = self._config, self._at, self._at.laurel
        self._copy(at.streams[0], rows)
        self._add("mul_rows", y=rows, y_stride=c.n_embd, x=vectors["altup_correct_scale.weight"],
                  x_stride=0, width=c.n_embd, count=N_TOKENS)  # fmt: skip
        self._per_layer_part(i, layer, Stream(rows, at.attn_out))
        self._norm(vectors, "post_norm.weight", at.branch, at.branch, c.n_embd, N_TOKENS)
        for y in at.streams[1:]:
            self._add_rows(y, at.branch)

    def _gate_streams(self, layer: Layer, vectors: Mapping[str, int], x: int) -> None:
        """Compute a gate for each stream, in [-1, 1], of rows of one of them."""
        c, at, router = self._config, self._at, layer.matrices["altup_router"]
        source = self._normed(vectors, "altup_router_norm.weight", x, N_TOKENS)
        self._quantize(source, [router], N_TOKENS)
        self._matmul(router, source, at.stream_gates, is_last=True)
        self._add("soft_cap", x=at.stream_gates, width=c.n_altup, cap=self._scalar(1.0),
                  count=N_TOKENS)  # fmt: skip

    def _match(self, y: int, x: int) -> None:
        """Give rows the length of others."""
        self._add("match_lengths", y=y, x=x, width=self._config.n_embd, count=N_TOKENS)

    def _copy(self, x: int, y: int) -> None:
        d = self._config.n_embd
        self._add("copy_parts", x=x, x_stride=d, x_step=0, y=y, y_stride=d, y_step=0, width=d,
                  per_row=1, count=N_TOKENS)  # fmt: skip

    def _add_rows(self, x: int, y: int) -> None:
        self._add("add_rows", x=x, y=y, width=self._config.n_embd, factor=self._scalar(1.0),
                  count=N_TOKENS)  # fmt: skip

    def _scale(self, x: int, factor: float) -> None:
        self._add("scale_rows", x=x, width=self._config.n_embd, factor=self._scalar(factor),
                  count=N_TOKENS)  # fmt: skip


def _laurel(layer: Layer) -> tuple[Matrix, Matrix]:
    return layer.matrices["laurel_l"], layer.matrices["laurel_r"]
