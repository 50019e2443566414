"""Where each matrix of a model lies in its file, in either layout of the experts.

``split`` (until April 2024; the catalog's files): one tensor per expert,
``blk.N.ffn_gate.E.weight``. ``merged`` (since): all experts of a layer in one tensor,
``blk.N.ffn_gate_exps.weight``, one after another. Either way an expert is an offset, so the steps
need not know the layout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.format import TensorInfo
from gguf_hub.gguf.runnable import NOT_RUNNABLE, VECTOR_TYPES, find_graph_obstacles, join_obstacles
from gguf_hub.gguf.shards import Gguf
from gguf_hub.gguf.types import RUNNABLE_TYPES, QuantType
from gguf_hub.run.model.config import ModelConfig, read_config


@dataclass(frozen=True)
class Matrix:
    """A weight matrix in the mapped model: ``n_out`` rows of ``n_in`` weights.

    Attributes:
        offset: Byte of the mapped file, or of the shards mapped as one, where the first row begins.
    """

    type: QuantType
    offset: int
    n_in: int
    n_out: int

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.type.row_bytes(self.n_in)

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole matrix."""
        return self.row_bytes * self.n_out


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


@dataclass(frozen=True)
class Layer:
    """One block: attention, then a dense feed-forward or a router with experts."""

    attn_norm: NDArray[np.float32]
    attn_q: Matrix
    attn_k: Matrix
    attn_v: Matrix
    attn_output: Matrix
    ffn_norm: NDArray[np.float32]
    router: Matrix | None
    gate: Matrix | Experts
    up: Matrix | Experts
    down: Matrix | Experts


@dataclass(frozen=True)
class Weights:
    """All matrices of a model."""

    token_embd: Matrix
    layers: tuple[Layer, ...]
    output_norm: NDArray[np.float32]
    output: Matrix
    rope_factors: NDArray[np.float32] | None

    def active_bytes(self, config: ModelConfig, *, has_head: bool = True) -> int:
        """Return the bytes of weights that one token reads: of the experts only those used."""
        total = self.output.size_bytes if has_head else 0
        for layer in self.layers:
            dense = (layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output, layer.router)
            total += sum(matrix.size_bytes for matrix in dense if matrix)
            for part in (layer.gate, layer.up, layer.down):
                if isinstance(part, Matrix):
                    total += part.size_bytes
                else:
                    total += part.matrices[0].size_bytes * config.n_expert_used
        return total


class _Tensors:
    """Tensors of a runnable file: present, of the right shape and type."""

    def __init__(self, file: Gguf) -> None:
        self._file = file

    def has(self, name: str) -> bool:
        return name in self._file.tensors

    def info(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        info = self._file.tensors[name]
        types = VECTOR_TYPES if len(shape) == 1 else RUNNABLE_TYPES
        assert tuple(info.shape) == shape, f"`{name}`: shape {info.shape}, expected {shape}"
        assert info.type in types, f"`{name}`: type {info.type.name}"
        return info

    def matrix(self, name: str, n_in: int, n_out: int) -> Matrix:
        info = self.info(name, (n_in, n_out))
        return Matrix(info.type, self._file.start_of(name), n_in, n_out)

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

    def floats(self, name: str, n: int) -> NDArray[np.float32]:
        info = self.info(name, (n,))
        raw = self._file.tensor_bytes(name)
        if info.type == QuantType.F32:
            return raw.view(np.float32)
        return raw.view(np.float16).astype(np.float32)

    def rope_factors(self, n: int) -> NDArray[np.float32] | None:
        """Return the divisors of the frequencies, [n], or None."""
        name = "rope_freqs.weight"
        if not self.has(name):
            return None
        factors = self.floats(name, n)
        if not (np.isfinite(factors) & (factors > 0)).all():
            raise UnsupportedGgufError(
                f"`{self._file.path}`: tensor `{name}` has numbers that are not finite, or not "
                "above 0: expected what frequencies can be divided by",
                path=self._file.path,
                hint="the file is damaged or badly converted",
            )
        return factors

    def experts(self, layer: int, part: str, n_in: int, n_out: int, n_expert: int) -> Experts:
        merged = f"blk.{layer}.ffn_{part}_exps.weight"
        if not self.has(merged):
            names = (f"blk.{layer}.ffn_{part}.{e}.weight" for e in range(n_expert))
            return Experts(tuple(self.matrix(name, n_in, n_out) for name in names))
        info = self.info(merged, (n_in, n_out, n_expert))
        first = self._file.start_of(merged)
        stride = info.type.row_bytes(n_in) * n_out
        return Experts(
            tuple(Matrix(info.type, first + stride * e, n_in, n_out) for e in range(n_expert))
        )


def read_model(file: Gguf) -> tuple[ModelConfig, Weights]:
    """Return the configuration of a model, and where its matrices lie.

    Raises:
        GgufError: More tokens in the vocabulary than rows of embeddings or of the output.
        UnsupportedGgufError: Another architecture; a key or a tensor is missing or makes no sense,
            or is one that nothing here would compute with.
    """
    config = read_config(file.hparams)
    _check_runnable(file)
    return config, _read_weights(_Tensors(file), config)


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


def _read_weights(tensors: _Tensors, config: ModelConfig) -> Weights:
    d, v = config.n_embd, config.n_vocab
    token_embd = tensors.rows("token_embd.weight", d, v)
    has_output = tensors.has("output.weight")
    return Weights(
        token_embd=token_embd,
        layers=tuple(_read_layer(tensors, config, i) for i in range(config.n_layer)),
        output_norm=tensors.floats("output_norm.weight", d),
        output=tensors.rows("output.weight", d, v) if has_output else token_embd,
        rope_factors=tensors.rope_factors(config.rope.n_rot // 2),
    )


def _read_layer(tensors: _Tensors, config: ModelConfig, i: int) -> Layer:
    d, d_kv, n_ff, n_expert = config.n_embd, config.n_embd_kv, config.n_ff, config.n_expert
    d_head = config.n_head * config.head_dim

    def feed_forward(part: str, n_in: int, n_out: int) -> Matrix | Experts:
        if n_expert:
            return tensors.experts(i, part, n_in, n_out, n_expert)
        return tensors.matrix(f"blk.{i}.ffn_{part}.weight", n_in, n_out)

    router = f"blk.{i}.ffn_gate_inp.weight"
    return Layer(
        attn_norm=tensors.floats(f"blk.{i}.attn_norm.weight", d),
        attn_q=tensors.matrix(f"blk.{i}.attn_q.weight", d, d_head),
        attn_k=tensors.matrix(f"blk.{i}.attn_k.weight", d, d_kv),
        attn_v=tensors.matrix(f"blk.{i}.attn_v.weight", d, d_kv),
        attn_output=tensors.matrix(f"blk.{i}.attn_output.weight", d_head, d),
        ffn_norm=tensors.floats(f"blk.{i}.ffn_norm.weight", d),
        router=tensors.matrix(router, d, n_expert) if n_expert else None,
        gate=feed_forward("gate", d, n_ff),
        up=feed_forward("up", d, n_ff),
        down=feed_forward("down", n_ff, d),
    )
