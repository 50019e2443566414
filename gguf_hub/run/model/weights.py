"""Where each matrix of a model lies in its file, in either layout of the experts.

``split`` (until April 2024; the catalog's files): one tensor per expert,
``blk.N.ffn_gate.E.weight``. ``merged`` (since): all experts of a layer in one tensor,
``blk.N.ffn_gate_exps.weight``, one after another. Either way an expert is an offset, so the steps
need not know the layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.arch.architecture import NORMS
from gguf_hub.gguf.arch.encoders import TOKEN_TYPES
from gguf_hub.gguf.arch.graph import Graph, LayerGraph
from gguf_hub.gguf.arch.graph_tensors import tensors_of
from gguf_hub.gguf.arch.states import CONV_KERNELS
from gguf_hub.gguf.experts import FUSED_EXPERTS, has_fused_experts, shared_width
from gguf_hub.gguf.floats import float_tensor
from gguf_hub.gguf.runnable import NOT_RUNNABLE, find_graph_obstacles, join_obstacles
from gguf_hub.gguf.shards import Gguf
from gguf_hub.gguf.types import QuantType
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.model.adapters import (
    NO_ADAPTERS,
    Adapters,
    LowRank,
    read_adapters,
    refuse_unused,
)
from gguf_hub.run.model.config import ModelConfig, read_config, read_graph
from gguf_hub.run.model.made_vectors import ONES, SLOPES, XIELU, alibi_slopes, xielu_numbers
from gguf_hub.run.model.settings import AdapterFile

_ROPE_FACTORS = {
    "": "rope_freqs.weight", "long": "rope_factors_long.weight",
    "short": "rope_factors_short.weight",
}  # fmt: skip
DENSE_LAYERS = ("dense_2", "dense_3")
_WITHOUT_ADAPTERS = (
    "per_layer_token_embd.weight", "position_embd.weight", "attn_k_b.weight", "attn_v_b.weight",
    "altup_proj.weight", "altup_unembd_proj.weight",
)  # fmt: skip
"""Rows that are looked up, and matrices of heads and streams: no adapter is added to them."""


@dataclass(frozen=True)
class Matrix:
    """A weight matrix in the mapped model: ``n_out`` rows of ``n_in`` weights.

    Attributes:
        offset: Byte of the mapped file, or of the shards mapped as one, where the first row begins.
        delta: What LoRA adapters add to its products; of experts, what those of the first one do.
    """

    type: QuantType
    offset: int
    n_in: int
    n_out: int
    delta: LowRank | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.type.row_bytes(self.n_in)

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole matrix."""
        return self.row_bytes * self.n_out

    @property
    def read_bytes(self) -> int:
        """Bytes that a product reads, those of adapters included."""
        rank = self.delta.rank if self.delta else 0
        return self.size_bytes + QuantType.F32.row_bytes(rank * (self.n_in + self.n_out))

    def part(self, first: int, n_out: int, expert: int = 0) -> Matrix:
        """Return some of its rows; where it is one of all experts', those of one of them."""
        delta = self.delta and self.delta.part(first, expert)
        return replace(self, offset=self.offset + first * self.row_bytes, n_out=n_out, delta=delta)


@dataclass(frozen=True)
class Experts:
    """The matrices of a layer's experts for one of gate, up, down: one for each expert."""

    matrices: tuple[Matrix, ...]

    @property
    def types(self) -> tuple[QuantType, ...]:
        """Types of the experts, each once."""
        return tuple(dict.fromkeys(matrix.type for matrix in self.matrices))

    def offsets(self, type_: QuantType | None = None) -> tuple[int, ...]:
        """Return the offset of each expert; with a type, 0 for those of other types."""
        return tuple(
            matrix.offset if type_ in (None, matrix.type) else 0 for matrix in self.matrices
        )

    @property
    def deltas(self) -> tuple[LowRank, ...]:
        """What LoRA adapters add to the products of each; nothing, or to those of all."""
        deltas = [matrix.delta for matrix in self.matrices]
        return tuple(delta for delta in deltas if delta)

    @property
    def delta_offsets(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where A and B of each expert's adapter are."""
        return tuple(delta.a for delta in self.deltas), tuple(delta.b for delta in self.deltas)


@dataclass(frozen=True)
class Layer:
    """One block.

    Attributes:
        graph: What it has that other layers may not have.
        vectors: Norms, biases and the like, by their names without ``blk.N.``; a fused bias in its
            parts. Of experts, one row each.
        matrices: ``attn_q``, ``ffn_up``, ``ffn_gate_inp``, ``ffn_up_shexp`` ...; fused ones in
            their parts.
        experts: ``gate``, ``up`` and ``down``, if there are experts.
    """

    graph: LayerGraph
    vectors: Mapping[str, NDArray[np.float32]]
    matrices: Mapping[str, Matrix]
    experts: Mapping[str, Experts] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """All matrices of a model.

    Attributes:
        token_embd: The embeddings.
        layers: In order.
        vectors: ``output_norm.weight`` and the like.
        output: The head, which may be the embeddings.
        matrices: ``per_layer_token_embd`` and ``per_layer_model_proj``, where layers have
            embeddings of their own; ``altup_proj`` and ``altup_unembd_proj``, those of all
            streams but the first one after another.
        adapters: What ``delta`` of matrices refers to.
        rope_factors: Divisors of the frequencies, [n_rot / 2], if there are any: ``long`` and
            ``short`` for contexts longer than trained on and others, "" for all.
    """

    token_embd: Matrix
    layers: tuple[Layer, ...]
    vectors: Mapping[str, NDArray[np.float32]]
    output: Matrix
    rope_factors: Mapping[str, NDArray[np.float32]]
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    adapters: Adapters = NO_ADAPTERS

    def active_bytes(self, config: ModelConfig, *, has_head: bool = True) -> int:
        """Return the bytes of weights that one token reads: of the experts only those used."""
        total = self.output.read_bytes if has_head and not config.is_encoder else 0
        looked_up = ("per_layer_token_embd", "position_embd")
        every_token = (m for name, m in self.matrices.items() if name not in looked_up)
        total += sum(matrix.read_bytes for matrix in every_token)
        for layer in self.layers:
            total += sum(matrix.read_bytes for matrix in layer.matrices.values())
            for part in layer.experts.values():
                total += part.matrices[0].read_bytes * config.n_expert_used
        return total


class _Tensors:
    """Tensors of a runnable file: present, of the right shape and type."""

    def __init__(self, file: Gguf, deltas: Mapping[str, LowRank]) -> None:
        self._file = file
        self._deltas = deltas
        self.unused = set(deltas)  # adapters of matrices that nobody has asked for

    def has(self, name: str) -> bool:
        return name in self._file.tensors

    def matrix(self, name: str, n_in: int, n_out: int) -> Matrix:
        tensor, start = self._file.tensors[name], self._file.start_of(name)
        return Matrix(tensor.type, start, n_in, n_out, self.delta(name))

    def delta(self, name: str) -> LowRank | None:
        """Return what adapters add to the products of a matrix."""
        if name.rpartition("blk.")[2].lstrip("0123456789.") in _WITHOUT_ADAPTERS:
            return None
        self.unused.discard(name)
        return self._deltas.get(name)

    def rows(self, name: str, n_in: int, n_out: int) -> Matrix:
        """Return the first rows of a matrix that may have more: one for each token."""
        n_rows = self._file.tensors[name].shape[1]
        if n_rows < n_out:
            raise GgufError(
                f"`{self._file.path}`: the vocabulary has {n_out:,} tokens, but tensor `{name}` "
                f"has {n_rows:,} rows: expected at least one for each token",
                path=self._file.path,
                hint="the file is damaged or badly converted; "
                f"`gguf-hub verify {quote(str(self._file.path))}` lists every problem",
            )
        return replace(self.matrix(name, n_in, n_rows), n_out=n_out)

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return the numbers of a vector, or of a row for each expert one after another."""
        return float_tensor(self._file, name)

    def rope_factors(self) -> dict[str, NDArray[np.float32]]:
        """Return the divisors of the frequencies, [n] each."""
        found = {}
        for key, name in _ROPE_FACTORS.items():
            if not self.has(name):
                continue
            found[key] = self.floats(name)
            if not (np.isfinite(found[key]) & (found[key] > 0)).all():
                raise UnsupportedGgufError(
                    f"`{self._file.path}`: tensor `{name}` has numbers that are not finite, or not "
                    "above 0: expected what frequencies can be divided by",
                    path=self._file.path,
                    hint="the file is damaged or badly converted",
                )
        return found

    def experts(self, layer: int, part: str, n_in: int, n_out: int, n_expert: int) -> Experts:
        merged, fused = (
            f"blk.{layer}.{stem}.weight" for stem in (f"ffn_{part}_exps", FUSED_EXPERTS)
        )
        if part != "down" and has_fused_experts(f"blk.{layer}.", self._file.tensors):
            both, at = self.matrix(fused, n_in, 2 * n_expert * n_out), n_out * (part == "up")
            return Experts(tuple(both.part(2 * n_out * e + at, n_out, e) for e in range(n_expert)))
        if not self.has(merged):
            names = [f"blk.{layer}.ffn_{part}.{e}.weight" for e in range(n_expert)]
            own, delta = [self.matrix(name, n_in, n_out) for name in names], self.delta(merged)
            return Experts(tuple(
                replace(matrix, delta=delta and delta.part(n_out * e, e))
                for e, matrix in enumerate(own)
            ))  # fmt: skip
        first = self.matrix(merged, n_in, n_expert * n_out)
        return Experts(tuple(first.part(n_out * e, n_out, e) for e in range(n_expert)))


def read_model(
    file: Gguf, adapters: Sequence[AdapterFile] = (), progress: Progress = SILENT
) -> tuple[ModelConfig, Weights]:
    """Return the configuration of a model, and where its matrices lie.

    Args:
        file: The model.
        adapters: LoRA adapters, which are read.
        progress: Notified of what an adapter holds and is not computed with.

    Raises:
        GgufError: More tokens in the vocabulary than rows of embeddings or of the output.
        UnsupportedGgufError: Another byte order or architecture; a key or a tensor is missing or
            makes no sense, or is one that nothing here would compute with.
    """
    _check_runnable(file)  # first: no more layers than tensors are looked at
    graph = read_graph(file.hparams)
    found = read_adapters(file, adapters, progress) if adapters else NO_ADAPTERS
    config = replace(
        read_config(graph),
        n_ff_shexp=shared_width(file.tensors),
        adapter_rank=found.rank(of_experts=False),
        is_parallel=graph.is_parallel(file.tensors),
        expert_adapter_rank=found.rank(of_experts=True),
        adapters_id=found.id,
    )
    reader = _WeightReader(file, graph, config, found)
    weights = reader.read()
    if reader.unused:
        refuse_unused(adapters, reader.unused)
    return config, weights


def _check_runnable(file: Gguf) -> None:
    """Refuse a model that would be computed as if a part of it were not there."""
    obstacles = find_graph_obstacles(file.fields, file.tensors)
    if obstacles:
        raise UnsupportedGgufError(
            f"`{file.path}`: {NOT_RUNNABLE}: {join_obstacles(obstacles)}",
            path=file.path,
            hint=f"`gguf-hub inspect --tensors {quote(str(file.path))}` lists what the file "
            "holds; llama.cpp may run it",
        )


class _WeightReader:
    """Finds the tensors of a graph in a file that has them all, in the right shapes."""

    def __init__(self, file: Gguf, graph: Graph, config: ModelConfig, adapters: Adapters) -> None:
        self._tensors = _Tensors(file, adapters.deltas)
        self._graph, self._config, self._adapters = graph, config, adapters
        self._vectors: dict[str, list[str]] = {}
        self._matrices: dict[str, list[str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for spec in tensors_of(graph, file.tensors):
            block, name = _split_name(spec.name)
            kinds = self._vectors if spec.is_vector else self._matrices
            kinds.setdefault(block, []).append(name)
            self._shapes[spec.name] = spec.shape

    @property
    def unused(self) -> list[str]:
        """Tensors that adapters would change, but that no matrix was made of."""
        return sorted(self._tensors.unused)

    def read(self) -> Weights:
        c, tensors = self._config, self._tensors
        token_embd = tensors.rows("token_embd.weight", c.n_embd, c.n_vocab)
        output = replace(token_embd, delta=None)  # adapters of embeddings change only these
        if tensors.has("output.weight"):
            output = tensors.rows("output.weight", c.n_embd, c.n_vocab)
        vectors = {name: tensors.floats(name) for name in self._vectors.get("", [])
                   if name not in _ROPE_FACTORS.values()}  # fmt: skip
        if TOKEN_TYPES in vectors:
            vectors[TOKEN_TYPES] = vectors[TOKEN_TYPES][: c.n_embd]  # the first of them
        return Weights(
            token_embd=token_embd,
            layers=tuple(self._layer(i) for i in range(c.n_layer)),
            vectors=self._complete(vectors, (f"{c.arch.output_norm}.weight",)),
            output=output,
            rope_factors=tensors.rope_factors(),
            matrices={
                **self._per_layer_matrices(),
                **self._positions(),
                **self._altup_matrices(),
                **self._dense_layers(),
            },
            adapters=self._adapters,
        )

    def _per_layer_matrices(self) -> dict[str, Matrix]:
        """Return the matrices of embeddings that layers have of their own."""
        c = self._config
        if not c.n_embd_per_layer:
            return {}
        rows, project = "per_layer_token_embd.weight", "per_layer_model_proj.weight"
        return {
            "per_layer_token_embd": self._tensors.rows(rows, self._shapes[rows][0], c.n_vocab),
            "per_layer_model_proj": self._tensors.matrix(project, *self._shapes[project]),
        }

    def _positions(self) -> dict[str, Matrix]:
        """Return the embeddings of positions, if there are any."""
        name = "position_embd.weight"
        if name not in self._shapes:
            return {}
        return {"position_embd": self._tensors.matrix(name, *self._shapes[name])}

    def _altup_matrices(self) -> dict[str, Matrix]:
        """Return the matrices that make streams of one, and one of them."""
        names = ("altup_proj", "altup_unembd_proj") if self._config.n_altup else ()
        return {name: self._matrix(f"{name}.weight") for name in names}

    def _dense_layers(self) -> dict[str, Matrix]:
        """Return the matrices behind an encoder."""
        names = [f"{name}.weight" for name in DENSE_LAYERS if f"{name}.weight" in self._shapes]
        return {name.removesuffix(".weight"): self._matrix(name) for name in names}

    def _layer(self, i: int) -> Layer:
        b, c, graph = f"blk.{i}.", self._config, self._config.layers[i]
        vectors = {name: self._tensors.floats(b + name) for name in self._vectors.get(b, [])}
        for name in vectors.keys() & {*CONV_KERNELS, "ssm_a"}:  # a row of channels for each tap
            n_rows = self._shapes[b + name][0]
            vectors[name] = np.ascontiguousarray(vectors[name].reshape(-1, n_rows).T).ravel()
        matrices = {
            name.removesuffix(".weight"): self._matrix(b + name)
            for name in self._matrices.get(b, [])
            if not _is_expert(name)
        }
        if "ffn_gate_inp.scale" in vectors:  # what the router reads has a length of 1
            vectors["ffn_gate_inp.scale"] = vectors["ffn_gate_inp.scale"] / np.float32(
                math.sqrt(c.n_embd)
            )
        if c.n_altup:  # what the router of streams reads is divided by their width
            vectors["altup_router_norm.weight"] = vectors["altup_router_norm.weight"] / np.float32(
                c.n_embd
            )
        gate = vectors.pop("ffn_gate_inp_shexp.weight", None)
        if gate is not None:
            name = "ffn_gate_inp_shexp"
            matrices[name] = self._tensors.matrix(f"{b}{name}.weight", c.n_embd, 1)
        self._split_fused(graph, vectors, matrices)
        experts = {}
        if graph.has_experts:
            first, last = (c.n_embd_of_experts, c.n_ff_exp), (c.n_ff_exp, c.n_embd_of_experts)
            planes = {"gate": first, "up": first, "down": last}
            experts = {
                part: self._tensors.experts(i, part, *plane, c.n_expert)
                for part, plane in planes.items()
                if part != "gate" or c.arch.is_gated
            }
        if c.alibi_bias and graph.n_head_kv:
            vectors[SLOPES] = alibi_slopes(graph.n_head, c.alibi_bias)
        if c.arch.activation == "xielu":
            vectors[XIELU] = xielu_numbers(self._graph.hparams, i)
        return Layer(graph, self._complete(vectors, NORMS), matrices, experts)

    def _matrix(self, name: str) -> Matrix:
        """Return a matrix, or those of all heads as one."""
        n_in, *n_out = self._shapes[name]
        return self._tensors.matrix(name, n_in, math.prod(n_out))

    def _split_fused(
        self,
        graph: LayerGraph,
        vectors: dict[str, NDArray[np.float32]],
        matrices: dict[str, Matrix],
    ) -> None:
        """Replace what holds q, k and v, or gate and up, by its parts."""
        n_q, n_kv = graph.n_embd_q * (1 + self._config.has_query_gates), graph.n_embd_k
        values = (n_q + n_kv, graph.n_embd_v)
        starts = {"attn_q": (0, n_q), "attn_k": (n_q, n_kv), "attn_v": values}
        fused = matrices.pop("attn_qkv", None) if graph.n_head_kv else None
        if fused:
            matrices |= {name: fused.part(*at) for name, at in starts.items()}
        bias = vectors.pop("attn_qkv.bias", None)
        if bias is not None:
            vectors |= {f"{name}.bias": bias[i : i + n] for name, (i, n) in starts.items()}
        if not self._config.arch.fuses_gate("", {f"{name}.weight" for name in matrices}):
            return
        for suffix in ("", "_shexp"):
            if fused := matrices.get(f"ffn_up{suffix}"):
                half = fused.n_out // 2
                matrices[f"ffn_gate{suffix}"] = fused.part(0, half)
                matrices[f"ffn_up{suffix}"] = fused.part(half, half)
        bias = vectors.get("ffn_up.bias")
        if bias is not None:
            half = len(bias) // 2
            vectors |= {"ffn_gate.bias": bias[:half], "ffn_up.bias": bias[half:]}

    def _complete(
        self, vectors: dict[str, NDArray[np.float32]], norms: tuple[str, ...]
    ) -> Mapping[str, NDArray[np.float32]]:
        """Add what layer norms without a bias add, and what norms without weights multiply by."""
        arch = self._config.arch
        if arch.has_weightless_norms:
            vectors |= {name: np.ones(self._config.n_embd, np.float32) for name in norms}
        if arch.has_layer_norm:
            for name in [name for name in vectors if "norm" in name and name.endswith(".weight")]:
                zeros = np.zeros_like(vectors[name])
                vectors.setdefault(name.replace(".weight", ".bias"), zeros)
        if arch.has_plain_norms or arch.has_value_norms or self._config.norms_rates:
            states = [layer.state for layer in self._config.layers if layer.state]
            widths = (n for state in states for n in (state.n_rank, state.n_state))
            vectors[ONES] = np.ones(max([self._config.head_dim, *widths]), np.float32)
        return vectors


def _split_name(name: str) -> tuple[str, str]:
    """Return ``blk.N.`` and the rest; without a block "" and the name."""
    if not name.startswith("blk."):
        return "", name
    block, _, rest = name.removeprefix("blk.").partition(".")
    return f"blk.{block}.", rest


def _is_expert(name: str) -> bool:
    """Tell whether a matrix is that of experts, ``ffn_up.3.weight`` or ``ffn_up_exps.weight``."""
    stem = name.removesuffix(".weight")
    return stem.endswith("_exps") or stem.rpartition(".")[2].isdecimal()


def require_little_endian(file: Gguf) -> None:
    """Raise unless numbers of a file stand in it as this program computes with them.

    Raises:
        UnsupportedGgufError: It is big-endian.
    """
    if file.byte_order != "little":
        raise UnsupportedGgufError(
            f"`{file.path}` is big-endian: expected little-endian",
            path=file.path,
            hint=f"`gguf-hub upgrade {quote(str(file.path))} OUT` converts it",
        )
