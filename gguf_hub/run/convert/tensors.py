"""Which tensor of a checkpoint becomes which of a GGUF file, in the order of the file.

Rows of the query and key matrices are permuted: transformers rotates element i of a head together
with i + d/2, GGUF's llama the neighbours 2i and 2i + 1. A head of d = 6 rows, 0 1 2 3 4 5, becomes
0 3 1 4 2 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.experts import is_merged, parse_split, split_name
from gguf_hub.run.convert.checkpoint import DTYPES
from gguf_hub.run.convert.hparams import HParams
from gguf_hub.run.convert.stored import Matrix, Plain

Layout = Literal["split", "merged"]

_SKIPPED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Computed from the configuration; old checkpoints store it all the same."""


@dataclass(frozen=True)
class Part:
    """One tensor of the GGUF file.

    Attributes:
        name: Its name there.
        sources: Names in the checkpoint: one, or one for each expert.
        shape: Of each source, rows first.
        n_head: Heads whose rows are permuted; 0 for the order of the source.
        is_exact: Kept in F32, whatever the file's type.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    n_head: int = 0
    is_exact: bool = False

    @property
    def ne(self) -> tuple[int, ...]:
        """GGUF's shape: row length first, experts last."""
        ne = self.shape[::-1]
        return (*ne, len(self.sources)) if is_merged(self.name) else ne

    def row_order(self) -> NDArray[np.int64] | None:
        """Return the source row of each row; None for the order of the source."""
        if not self.n_head:
            return None
        rows = np.arange(self.shape[0], dtype=np.int64).reshape(self.n_head, 2, -1)  # [H, 2, d/2]
        return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)  # [H * d]


def parts_of(hparams: HParams, layout: Layout, *, has_output: bool) -> list[Part]:
    """Return the tensors of the GGUF file.

    Args:
        hparams: Sizes of the model.
        layout: How experts are stored.
        has_output: False where the embedding serves as output matrix too.
    """
    d, v = hparams.n_embd, hparams.n_vocab
    parts = [Part("token_embd.weight", ("model.embed_tokens.weight",), (v, d))]
    for i in range(hparams.n_layer):
        parts += _layer(hparams, i, layout)
    parts.append(Part("output_norm.weight", ("model.norm.weight",), (d,), is_exact=True))
    if has_output:
        parts.append(Part("output.weight", ("lm_head.weight",), (v, d)))
    return parts


def _layer(hparams: HParams, i: int, layout: Layout) -> Iterator[Part]:
    d, h, k = hparams.n_embd, hparams.n_head, hparams.n_head_kv
    d_head, d_kv = h * hparams.head_dim, k * hparams.head_dim

    def part(name: str, source: str, shape: tuple[int, ...], n_head: int = 0) -> Part:
        source = f"model.layers.{i}.{source}.weight"
        return Part(f"blk.{i}.{name}.weight", (source,), shape, n_head, len(shape) == 1)

    yield part("attn_norm", "input_layernorm", (d,))
    yield part("attn_q", "self_attn.q_proj", (d_head, d), h)
    yield part("attn_k", "self_attn.k_proj", (d_kv, d), k)
    yield part("attn_v", "self_attn.v_proj", (d_kv, d))
    yield part("attn_output", "self_attn.o_proj", (d, d_head))
    yield part("ffn_norm", "post_attention_layernorm", (d,))
    if hparams.n_expert:
        yield from _mixture(hparams, i, layout)
        return
    for name, shape in _matrices(hparams).items():
        yield part(f"ffn_{name}", f"mlp.{name}_proj", shape)


_EXPERT_NAMES = {"gate": "w1", "down": "w2", "up": "w3"}


def _mixture(hparams: HParams, i: int, layout: Layout) -> Iterator[Part]:
    prefix, n = f"model.layers.{i}.block_sparse_moe", hparams.n_expert
    router = (f"{prefix}.gate.weight",)
    shape = (n, hparams.n_embd)
    # the router decides which experts run: it is small, and rounding it would change that
    yield Part(f"blk.{i}.ffn_gate_inp.weight", router, shape, is_exact=True)

    def source(e: int, name: str) -> str:
        return f"{prefix}.experts.{e}.{_EXPERT_NAMES[name]}.weight"

    matrices = _matrices(hparams)
    if layout == "merged":
        for name, shape in matrices.items():
            sources = tuple(source(e, name) for e in range(n))
            yield Part(f"blk.{i}.ffn_{name}_exps.weight", sources, shape)
        return
    for e in range(n):
        for name, shape in matrices.items():
            yield Part(split_name(i, name, e), (source(e, name),), shape)


def _matrices(hparams: HParams) -> dict[str, tuple[int, int]]:
    """Return the matrices of a feed-forward network and their shapes, rows first."""
    d, f = hparams.n_embd, hparams.n_ff
    return {"gate": (f, d), "down": (d, f), "up": (f, d)}


def is_expert(name: str) -> bool:
    """Return whether a tensor of a GGUF file holds experts, one or all."""
    return is_merged(name) or parse_split(name) is not None


_FLOATS = ("F32", "F16", "BF16")


def find_problems(parts: list[Part], matrices: Mapping[str, Matrix]) -> list[str]:
    """Return what is missing from a checkpoint, misshapen, or not known here."""
    issues, names = [], set()
    for part in parts:
        for name in part.sources:
            names.add(name)
            matrix = matrices.get(name)
            if matrix is None:
                issues.append(f"missing tensor `{name}`")
            elif matrix.shape != part.shape:
                issues.append(
                    f"tensor `{name}`: expected shape {list(part.shape)} from config.json, "
                    f"found {list(matrix.shape)}"
                )
            elif isinstance(matrix, Plain) and matrix.kind not in DTYPES:
                issues.append(
                    f"tensor `{name}`: expected {', '.join(_FLOATS)}, found {matrix.kind}"
                )
    for name in sorted(matrices.keys() - names):
        if not _SKIPPED.fullmatch(name):
            issues.append(f"tensor `{name}` does not belong to a model of this architecture")
    return issues
