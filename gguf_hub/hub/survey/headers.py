"""From the headers of a model, in one file or in shards, to the facts that ``fit`` judges by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from shlex import quote
from typing import Any

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.arch.expert_tensors import shared_width
from gguf_hub.gguf.arch.graph import Graph
from gguf_hub.gguf.experts import holds_experts, layout
from gguf_hub.gguf.format import AnyTensor, TensorInfo, align
from gguf_hub.gguf.header import Header, read_header
from gguf_hub.gguf.hparams import CacheHyperParameters, WholeNumber
from gguf_hub.gguf.issues import Issue
from gguf_hub.gguf.keys import number
from gguf_hub.gguf.layout import TensorTable, read_table
from gguf_hub.gguf.memory.sizes import LayerSizes
from gguf_hub.gguf.raw_parts import find_raw_parts, parse_raw_part
from gguf_hub.gguf.reader import map_file, map_joined, raise_unreadable
from gguf_hub.gguf.roles import require_model
from gguf_hub.gguf.runnable import find_obstacles, lacks_vocabulary
from gguf_hub.gguf.shard_names import find_shards, parse_shard
from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.catalog import ModelShape
from gguf_hub.hub.download.quants import quant_of, stem_of
from gguf_hub.hub.fit import FileFacts, TensorShare
from gguf_hub.hub.fit.facts import LayerWeights, Role, gpu_bytes
from gguf_hub.hub.survey.layers import RECURRENT, layers_of

H = CacheHyperParameters
_TYPE_CODES = ("GGUF-TENSOR-TYPE", "GGUF-TENSOR-TYPE-UNKNOWN", "GGUF-OLLAMA-TYPE")
_LAYER = re.compile(r"blk\.(\d{1,6})\.")
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv")
_FEED_FORWARD: Mapping[str, Role] = {"ffn_gate": "ffn", "ffn_up": "ffn", "ffn_down": "ffn_down"}


@dataclass(frozen=True)
class ShardHeader:
    """A header, and what its file is called."""

    name: str
    header: Header


def facts_of_file(path: Path) -> FileFacts:
    """Return the facts of a model on this machine; of a shard or raw part, those of the whole set.

    Raises:
        GgufError: A file cannot be read.
        UnsupportedGgufError: It is no model, or says too little of its shape.
    """
    if parse_raw_part(path.name):
        parts = find_raw_parts(path)
        joined = ShardHeader(str(path), read_header(map_joined(parts)))
        return facts_of_headers([joined], filenames=[str(part) for part in parts])
    paths: Sequence[Path] = [path]
    header = read_header(map_file(path))
    if (number(header.fields, "split.count") or 0) > 1 and parse_shard(path):
        paths = find_shards(path)
    headers = [ShardHeader(str(each), read_header(map_file(each))) for each in paths]
    return facts_of_headers(headers)


def facts_of_headers(shards: Sequence[ShardHeader], *, filenames: Sequence[str] = ()) -> FileFacts:
    """Return the facts of a model from the headers of all its files, the first one first.

    Args:
        shards: The headers; of raw parts the one that they make.
        filenames: The files, where they are others than those of the headers.

    Raises:
        GgufError: A header cannot be read to its end, or contradicts itself or its file.
        UnsupportedGgufError: The model says too little of its shape.
    """
    tensors: dict[str, AnyTensor] = {}
    spare_bytes = 0
    for shard in shards:
        table = read_table(shard.header)
        raise_unreadable(shard.name, shard.header.issues + _damage(table))
        tensors |= table.all
        spare_bytes += _spare_bytes(shard.header, table)
    first = shards[0]
    require_model(first.name, first.header.fields, tensors)
    hparams = H(first.header.fields, tensors, is_estimate=True)
    shape = _shape(first.name, hparams, tensors)
    name = first.name.replace("\\", "/")
    expert_layout = layout(tensors)
    return FileFacts(
        quant=quant_of(name) or stem_of(name).rpartition("/")[2],
        filenames=tuple(filenames) or tuple(shard.name for shard in shards),
        size_bytes=sum(shard.header.size_bytes for shard in shards),
        shape=shape,
        tensors=_shares(tensors, has_experts=shape.n_expert > 0) + _spare(spare_bytes),
        layers=layers_of(hparams, tensors),
        architecture=hparams.architecture,
        layout=expert_layout if expert_layout in ("split", "merged") else "none",
        obstacles=find_obstacles(first.header, tensors) + _text_obstacle(first.header),
        weights=_layer_weights(tensors, shape),
    )


def _text_obstacle(header: Header) -> tuple[str, ...]:
    """Say that a model writes no text: whoever picks one wants that."""
    return ("no vocabulary (`tokenizer.ggml.model`)",) * lacks_vocabulary(header.fields)


def _damage(table: TensorTable) -> tuple[Issue, ...]:
    """Return what is wrong with tensors besides a type that is not known: that is no damage."""
    return tuple(issue for issue in table.issues if issue.code not in _TYPE_CODES)


def _spare_bytes(header: Header, table: TensorTable) -> int:
    """Return the bytes of a file that are neither header nor tensors nor padding."""
    tensor_bytes = sum(align(info.size_bytes, header.alignment) for info in table.all.values())
    return max(0, header.size_bytes - header.data_offset - tensor_bytes)


def _spare(size_bytes: int) -> tuple[TensorShare, ...]:
    """Count as memory what no tensor tells of: a need is never below the size of the file."""
    return (TensorShare("other", QuantType.I8, 0, size_bytes),) if size_bytes else ()


def _shares(tensors: Mapping[str, AnyTensor], *, has_experts: bool) -> tuple[TensorShare, ...]:
    """Add up tensors by role and type."""
    is_tied = "output.weight" not in tensors
    sums: dict[tuple[Role, Any], list[int]] = {}
    for info in tensors.values():
        role = role_of(info, has_experts=has_experts)
        if info.name == "token_embd.weight" and is_tied:
            role = "output"  # every token reads all of it, as there is no other output matrix
        type_ = info.type if isinstance(info, TensorInfo) else info.type_id
        row = sums.setdefault((role, type_), [0, 0])
        row[0] += info.n_elements
        row[1] += info.size_bytes
    return tuple(TensorShare(role, type_, *row) for (role, type_), row in sums.items())


def _layer_weights(tensors: Mapping[str, AnyTensor], shape: ModelShape) -> tuple[LayerWeights, ...]:
    """Add up the tensors of each layer."""
    rows = [[0, 0, 0, 0] for _ in range(shape.n_layer)]
    for info in tensors.values():
        match = _LAYER.match(info.name)
        if match and int(match[1]) < shape.n_layer:
            row, is_routed = rows[int(match[1])], bool(shape.n_expert) and holds_experts(info.name)
            type_ = info.type if isinstance(info, TensorInfo) else info.type_id
            row[is_routed] += info.size_bytes
            if len(info.shape) > 1:  # vectors lie among the areas, see ``MemoryLayout``
                row[2 + is_routed] += gpu_bytes(type_, info.size_bytes)
    return tuple(LayerWeights(*row) for row in rows)


def role_of(info: AnyTensor, *, has_experts: bool) -> Role:
    """Return what reads a tensor; in a model with experts, dense feed-forward is ``other``."""
    name = info.name
    if name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight"):
        return "output" if name.startswith("output") else "token_embd"
    stem = name.split(".")[2] if name.startswith("blk.") and name.count(".") >= 3 else ""
    if holds_experts(name):
        return _FEED_FORWARD.get(stem.removesuffix("_exps"), "ffn")
    if len(info.shape) < 2:
        return "norm"
    if stem in _ATTENTION:
        return "attn"
    if stem in ("attn_output", "ssm_out") or name.endswith("shortconv.out_proj.weight"):
        return "attn_output"
    if stem == "ffn_gate_inp":
        return "router"
    return "other" if has_experts else _FEED_FORWARD.get(stem, "other")


def _shape(name: str, hparams: H, tensors: Mapping[str, AnyTensor]) -> ModelShape:
    """Read the sizes that memory depends on."""
    for hparam in (H.n_embd, H.n_head, H.n_layer):
        if not hparams.has(hparam):
            raise UnsupportedGgufError(
                f"`{name}`: metadata has no `{hparams.architecture or 'ARCHITECTURE'}."
                f"{hparam.name}`, without which nobody can tell its memory",
                path=name,
                hint=f"`gguf-hub inspect {quote(name)}` shows what it holds",
            )
    n_layer = hparams.n_layer
    if n_layer > len(tensors):
        raise UnsupportedGgufError(
            f"`{name}`: metadata `{hparams.key(H.n_layer)}`: {n_layer:,} blocks, but only "
            f"{len(tensors):,} tensors are there",
            path=name,
        )
    n_embd, n_head = hparams.n_embd, _count(hparams, H.n_head, 1)
    shape = ModelShape(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=_count(hparams, H.n_head_kv, n_head),
        head_dim=hparams.get(H.head_dim, n_embd // n_head),
        n_ff=hparams.get(H.n_ff_exp, _count(hparams, H.n_ff, n_embd)),
        n_expert=hparams.n_expert,
        n_expert_used=hparams.n_expert_used,
        n_vocab=hparams.n_vocab,
        n_ctx_train=hparams.get(H.n_ctx_train, 2**20),
    )
    return _with_graph(shape, hparams, tensors)


def _with_graph(shape: ModelShape, hparams: H, tensors: Mapping[str, AnyTensor]) -> ModelShape:
    """Return a shape with what its graph tells of its sizes, if it is one that runs here."""
    arch = ARCHITECTURES.get(hparams.architecture)
    if arch is None:
        return shape
    try:
        sizes = Graph(arch, hparams.of_graph()).sizes()
    except UnsupportedGgufError:  # an obstacle says so
        return shape
    names = [field.name for field in fields(LayerSizes)]
    layers = tuple(
        LayerSizes(**{name: getattr(layer, name) for name in names}) for layer in sizes["layers"]
    )
    is_listed = layers != shape.layer_sizes
    sizes |= {"layers": layers if is_listed else (), "n_ff_shexp": shared_width(tensors)}
    return replace(shape, **sizes)


def _count(hparams: H, hparam: WholeNumber, default: int) -> int:
    """Return a number of heads or widths; a model without attention says 0 of both."""
    if hparams.architecture in RECURRENT and not hparams.stated(hparam):
        return default
    return hparams.get(hparam, default)
