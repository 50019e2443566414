"""What all parts of a graph write steps with: memory, constants, norms, biases, products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.memory.activations import ACTIVATION_OF, activation_bytes, activation_floats
from gguf_hub.gguf.memory.layout import Activations, Limits, MemoryLayout
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.vm.ops import N_PAIRS, N_TOKENS, Step, step
from gguf_hub.run.model.adapters import LowRank
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.program import ADAPTERS, FULL_GRAPH, MODEL, Stage
from gguf_hub.run.model.weights import Matrix, Weights


@dataclass(frozen=True)
class Stream:
    """The tokens that a layer computes on after its attention.

    Attributes:
        x: Offset in ``f`` of the residual stream, [T, D].
        attn_out: Output of attention, [T, H, d].
        count: Index in the header of their number.
        pairs: Index in the header of the number of their (token, expert) pairs.
    """

    x: int
    attn_out: Activations
    count: int = N_TOKENS
    pairs: int = N_PAIRS


class StepWriter:
    """Collects the steps of a model, or of a stage, for given limits."""

    def __init__(
        self, config: ModelConfig, weights: Weights, limits: Limits, stage: Stage = FULL_GRAPH
    ) -> None:
        self._config = config
        self._weights = replace(weights, layers=weights.layers[stage.first : stage.end])
        self._limits = limits
        self._stage = stage
        layers = tuple(layer.graph for layer in self._weights.layers)
        sizes = replace(config, n_layer=len(layers), layers=layers)
        tables = _expert_tables(self._weights, limits)
        vectors = [layer.vectors for layer in self._weights.layers] + [weights.vectors]
        lengths = [{name: len(values) for name, values in own.items()} for own in vectors]
        self._at = MemoryLayout(sizes, limits, len(tables), lengths)
        self._tables = dict(zip(tables, self._at.tables, strict=True))
        self._steps: list[Step] = []
        self._constants: dict[int, NDArray[np.float32]] = {}
        self._scalars: dict[float, int] = {}
        self._layer, self._of_experts = -1, False  # of the steps that are written next

    def _place(
        self, vectors: Mapping[str, NDArray[np.float32]], offsets: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Put vectors in place; return where they are."""
        for name, values in vectors.items():
            self._constants[offsets[name]] = values
        return offsets

    def _scalar(self, value: float) -> int:
        """Return where a number lies; equal ones are one."""
        if value not in self._scalars:
            self._scalars[value] = self._at.scalars[len(self._scalars)]
            with np.errstate(over="ignore"):
                number = np.array([value], np.float32)
            if not np.isfinite(number).all():
                raise UnsupportedGgufError(
                    f"metadata: a factor of {value:g} follows from it, which no float32 holds",
                    hint="`gguf-hub inspect` shows the file's keys",
                )
            self._constants[self._scalars[value]] = number
        return self._scalars[value]

    def _add(
        self, kernel: str, *, is_last: bool = True, file: int = MODEL, **arguments: int
    ) -> None:
        """Append a step; the next one waits for it only if it is the last of its group."""
        written = step(kernel, file=file, barrier=is_last, **arguments)
        self._steps.append(replace(written, layer=self._layer, of_experts=self._of_experts))

    def _norm(
        self, vectors: Mapping[str, int], name: str, x: int, y: int, width: int, count: int,
        *, per_row: int = 1, is_last: bool = True, has_own: bool = False,
    ) -> None:  # fmt: skip
        """Norm rows of ``width``, ``per_row`` of them for each counted one.

        Of a layer norm, each of these may have its own weights.
        """
        epsilon, gain = self._scalar(self._config.epsilon), vectors[name]
        if self._config.arch.has_layer_norm:
            bias = vectors[name.replace(".weight", ".bias")]
            self._add("layer_norm", is_last=is_last, x=x, gain=gain, bias=bias, width=width,
                      epsilon=epsilon, y=y, count=count, per_row=per_row,
                      step=width if has_own else 0)  # fmt: skip
        else:
            self._add("rms_norm", is_last=is_last, x=x, gain=gain, width=width, epsilon=epsilon,
                      y=y, count=count, per_row=per_row)  # fmt: skip

    def _bias(
        self, vectors: Mapping[str, int], name: str, y: int, width: int, count: int,
        *, is_last: bool = True,
    ) -> None:  # fmt: skip
        """Add a bias to rows, if there is one."""
        if f"{name}.bias" in vectors:
            self._add("add_bias", is_last=is_last, y=y, bias=vectors[f"{name}.bias"], width=width,
                      count=count)  # fmt: skip

    def _quantize(
        self, rows: Activations, readers: list[Matrix], count: int, *, per_row: int = 1
    ) -> None:
        """Quantise activation rows to every kind that their readers are multiplied with.

        There are ``per_row`` of them for each counted one.
        """
        kinds = dict.fromkeys(ACTIVATION_OF[matrix.type] for matrix in readers)
        for kind in kinds:
            if kind != "f32":
                xq, xf = rows.offsets[kind]
                self._add(
                    f"quantize_{kind}",
                    x=rows.x,
                    width=rows.width,
                    xq=xq,
                    xf=xf,
                    count=count,
                    per_row=per_row,
                )

    def _matmul(
        self,
        matrix: Matrix,
        rows: Activations,
        y: int,
        *,
        count: int = N_TOKENS,
        is_added: bool = False,
        is_last: bool = False,
        is_adapter: bool = False,
    ) -> None:
        """Multiply activation rows with a matrix: [rows, n_in] -> [rows, n_out].

        It is one of the model, with what adapters add to it; or of an adapter itself.
        """
        kind = ACTIVATION_OF[matrix.type]
        xq, xf = rows.offsets[kind]
        self._add(
            f"matmul.{matrix.type.name}", is_last=is_last and not matrix.delta,
            file=ADAPTERS if is_adapter else MODEL,
            w0=matrix.offset, row_bytes=matrix.row_bytes, n_in=matrix.n_in, n_out=matrix.n_out,
            xq=xq, xq_stride=activation_bytes(kind, rows.width),
            xf=xf, xf_stride=activation_floats(kind, rows.width),
            y=y, y_stride=matrix.n_out, is_added=is_added, count=count, **self._at.product_scratch,
        )  # fmt: skip
        if delta := matrix.delta:
            a = Matrix(QuantType.F32, delta.a, matrix.n_in, delta.rank)
            self._matmul(a, rows, self._at.adapter_rows, count=count, is_last=True, is_adapter=True)
            self._add_adapted(delta, matrix.n_out, y, count)

    def _add_adapted(self, delta: LowRank, n_out: int, y: int, count: int) -> None:
        """Add what a LoRA adapter makes of its rows, A x: [rows, r] -> [rows, n_out]."""
        at = self._at.adapter_rows
        rows = Activations(at, delta.rank, {"f32": (0, at)})
        b = Matrix(QuantType.F32, delta.b, delta.rank, n_out)
        # the last of its group, as the next adapter writes the same rows
        self._matmul(b, rows, y, count=count, is_added=True, is_last=True, is_adapter=True)

    def _target(self, stream: Stream) -> int:
        """Return where a branch is computed: in the residual stream itself, or beside it."""
        return self._at.branch if self._config.has_branches else stream.x

    def _join(self, vectors: Mapping[str, int], norm: str, stream: Stream) -> None:
        """Add a branch that was computed beside the residual stream, normed if there is a norm."""
        c, at = self._config, self._at
        if not c.has_branches:
            return
        if norm in vectors:
            self._norm(vectors, norm, at.branch, at.branch, c.n_embd, stream.count)
        self._add("add_rows", x=stream.x, y=at.branch, width=c.n_embd,
                  factor=self._scalar(c.residual_scale), count=stream.count)  # fmt: skip

    def _post_norm(self, vectors: Mapping[str, int], name: str, stream: Stream) -> None:
        """Norm the residual stream itself, where norms stand behind what is added to it."""
        if self._config.arch.is_post_normed:
            self._norm(vectors, name, stream.x, stream.x, self._config.n_embd, stream.count)

    def _normed(self, vectors: Mapping[str, int], name: str, x: int, count: int) -> Activations:
        """Norm the residual stream, where there is a norm; return what is read of it."""
        normed = self._at.normed
        if name not in vectors:
            return replace(normed, x=x, offsets=normed.offsets | {"f32": (0, x)})
        self._norm(vectors, name, x, normed.x, normed.width, count)
        return normed


def _expert_tables(weights: Weights, limits: Limits) -> list[tuple[int, ...]]:
    """Return the distinct tables of expert offsets that steps read."""
    tables: dict[tuple[int, ...], None] = {}
    for layer in weights.layers:
        for part in layer.experts.values():
            tables |= dict.fromkeys(part.offsets(type_) for type_ in part.types)
            if part.deltas:
                tables |= dict.fromkeys(part.delta_offsets)
            if limits.prefetch_experts:
                tables[part.offsets()] = None
    return list(tables)
