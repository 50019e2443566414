"""From the headers of a model, in one file or in shards, to the facts that ``fit`` judges by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gguf_hub.catalog import ModelShape
from gguf_hub.download.names import quant_of
from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.fit import FileFacts, TensorShare
from gguf_hub.fit.facts import Role
from gguf_hub.gguf.experts import is_merged, layout, parse_split
from gguf_hub.gguf.format import Field, TensorInfo
from gguf_hub.gguf.header import Header, read_header
from gguf_hub.gguf.keys import architecture, number
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.metadata import Metadata
from gguf_hub.gguf.reader import map_file, raise_unreadable
from gguf_hub.gguf.shards import find_shards, parse_shard

_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv")
_FEED_FORWARD: Mapping[str, Role] = {"ffn_gate": "ffn", "ffn_up": "ffn", "ffn_down": "ffn_down"}


@dataclass(frozen=True)
class ShardHeader:
    """A header, and what its file is called."""

    name: str
    header: Header


def facts_of_file(path: Path) -> FileFacts:
    """Return the facts of a model on this machine; of a shard, those of the whole set.

    Raises:
        GgufError: A file cannot be read.
        UnsupportedGgufError: It is no model, or says too little of its shape.
    """
    paths: Sequence[Path] = [path]
    header = read_header(map_file(path))
    if (number(header.fields, "split.count") or 0) > 1 and parse_shard(path):
        paths = find_shards(path)
    headers = [ShardHeader(str(each), read_header(map_file(each))) for each in paths]
    return facts_of_headers(headers)


def facts_of_headers(shards: Sequence[ShardHeader]) -> FileFacts:
    """Return the facts of a model from the headers of all its files, the first one first.

    Raises:
        GgufError: A header cannot be read to its end.
        UnsupportedGgufError: The model says too little of its shape.
    """
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        table = read_table(shard.header)
        if not shard.header.is_whole:
            raise_unreadable(shard.name, shard.header.issues)
        tensors |= table.tensors
    first = shards[0]
    shape = _shape(first.name, first.header.fields, tensors)
    name = PurePosixPath(first.name.replace("\\", "/")).name
    found = layout(tensors)
    return FileFacts(
        quant=quant_of(name) or name.removesuffix(".gguf"),
        filenames=tuple(shard.name for shard in shards),
        size_bytes=sum(shard.header.size_bytes for shard in shards),
        shape=shape,
        tensors=_shares(tensors, has_experts=shape.n_expert > 0),
        architecture=architecture(first.header.fields),
        layout=found if found in ("split", "merged") else "none",
    )


def _shares(tensors: Mapping[str, TensorInfo], *, has_experts: bool) -> tuple[TensorShare, ...]:
    """Add up tensors by role and type."""
    is_tied = "output.weight" not in tensors
    sums: dict[tuple[Role, Any], list[int]] = {}
    for info in tensors.values():
        role = role_of(info, has_experts=has_experts)
        if role == "token_embd" and is_tied:
            role = "output"  # every token reads all of it, as there is no other output matrix
        row = sums.setdefault((role, info.type), [0, 0])
        row[0] += info.n_elements
        row[1] += info.size_bytes
    return tuple(TensorShare(role, type_, *row) for (role, type_), row in sums.items())


def role_of(info: TensorInfo, *, has_experts: bool) -> Role:
    """Return what reads a tensor; in a model with experts, dense feed-forward is ``other``."""
    name = info.name
    if name in ("token_embd.weight", "output.weight"):
        return "token_embd" if name.startswith("token") else "output"
    stem = name.split(".")[2] if name.startswith("blk.") and name.count(".") >= 3 else ""
    if parse_split(name) or is_merged(name):
        return _FEED_FORWARD.get(stem.removesuffix("_exps"), "ffn")
    if len(info.shape) < 2:
        return "norm"
    if stem in _ATTENTION:
        return "attn"
    if stem == "attn_output":
        return "attn_output"
    if stem == "ffn_gate_inp":
        return "router"
    return "other" if has_experts else _FEED_FORWARD.get(stem, "other")


def _shape(name: str, fields: Mapping[str, Field], tensors: Mapping[str, TensorInfo]) -> ModelShape:
    """Read the sizes that memory depends on."""
    arch, metadata = architecture(fields), Metadata(fields)

    def least(key: str, default: int | None = None) -> int:
        if default is None and f"{arch}.{key}" not in metadata:
            raise UnsupportedGgufError(
                f"`{name}`: metadata has no `{arch or 'ARCHITECTURE'}.{key}`, without which nobody "
                "can tell its memory",
                path=name,
                hint="a projector or an adapter is no model; `gguf-hub inspect` shows what it is",
            )
        return metadata.largest(f"{arch}.{key}", default, least=1)

    n_embd, n_head = least("embedding_length"), least("attention.head_count")
    n_layer = least("block_count")
    if n_layer > len(tensors):
        raise UnsupportedGgufError(
            f"`{name}`: metadata `{arch}.block_count`: {n_layer:,} blocks, but only "
            f"{len(tensors):,} tensors are there",
            path=name,
        )

    embedding = tensors.get("token_embd.weight")
    return ModelShape(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=least("attention.head_count_kv", n_head),
        head_dim=least("attention.key_length", n_embd // n_head),
        n_ff=least("expert_feed_forward_length", least("feed_forward_length", n_embd)),
        n_expert=metadata.largest(f"{arch}.expert_count", 0),
        n_expert_used=metadata.largest(f"{arch}.expert_used_count", 0),
        n_vocab=embedding.shape[-1] if embedding and embedding.shape else 0,
        n_ctx_train=least("context_length", 2**20),
    )
