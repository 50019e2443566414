"""What a GGUF holds, in numbers: parameters, sizes by part and by type, context, vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gguf_hub.gguf.experts import Layout, holds_experts, layout
from gguf_hub.gguf.format import AnyTensor, ByteOrder, Field
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.gguf.keys import number
from gguf_hub.gguf.layout import TensorTable
from gguf_hub.gguf.metadata import or_none
from gguf_hub.gguf.roles import Role, role_of_header
from gguf_hub.gguf.types import FileType

H = HyperParameters
PARTS = ("embeddings", "attention", "feed-forward", "experts", "output", "other")
MOST_CHARACTERS = 1000
_FILE_TYPES = {int(type): type.name for type in FileType}


@dataclass(frozen=True)
class Share:
    """Some of the tensors of a file, added up."""

    name: str
    n_tensors: int
    n_params: int
    size_bytes: int


@dataclass(frozen=True)
class Summary:
    """What a GGUF holds. Numbers are None, and texts empty, where the file does not tell.

    Texts are cut after ``MOST_CHARACTERS``.

    Attributes:
        n_params: Weights in all tensors.
        n_params_active: Weights that take part in one token: of the experts only those in use.
        data_bytes: Bytes of all tensors, without padding.
        types: Shares by tensor type, the largest first.
        parts: Shares by part of the model, in the order of ``PARTS``.
        layout: How the experts are stored.
        file_type: Name of the mix that it was quantised to (``general.file_type``).
        role: What the file is for, as its header says.
        n_shards: How many files of a set were added up.
        shard: Which of how many files of a set this is, counted from 1; None for a whole model.
    """

    architecture: str
    name: str
    license: str
    version: int
    byte_order: ByteOrder
    alignment: int
    size_bytes: int
    header_bytes: int
    n_fields: int
    n_tensors: int
    n_params: int
    n_params_active: int
    data_bytes: int
    file_type: str
    types: tuple[Share, ...]
    parts: tuple[Share, ...]
    layout: Layout
    n_layer: int | None
    n_embd: int | None
    n_head: int | None
    n_head_kv: int | None
    n_ff: int | None
    n_expert: int | None
    n_expert_used: int | None
    n_ctx_train: int | None
    rope_freq_base: float | None
    rope_scaling: str
    n_vocab: int | None
    tokenizer: str
    has_chat_template: bool
    role: Role
    n_shards: int = 1
    shard: tuple[int, int] | None = None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits of storage for one weight over all tensors."""
        return self.data_bytes * 8 / self.n_params if self.n_params else None


def summarize(header: Header, table: TensorTable) -> Summary:
    """Add up a file.

    Args:
        header: Of the file.
        table: Its tensors.
    """
    fields, hparams = header.fields, HyperParameters(header.fields, table.all)
    tensors = tuple(table.all.values())

    def text(key: str) -> str:
        return (or_none(hparams.metadata.text, key) or "")[:MOST_CHARACTERS]

    parts = _shares(tensors, part_of)
    return Summary(
        architecture=hparams.architecture,
        name=text("general.name"),
        license=text("general.license"),
        version=header.version,
        byte_order=header.byte_order,
        alignment=header.alignment,
        size_bytes=header.size_bytes,
        header_bytes=header.data_offset,
        n_fields=len(fields),
        n_tensors=len(header.entries),
        n_params=sum(info.n_elements for info in tensors),
        n_params_active=_active(parts, hparams),
        data_bytes=sum(info.size_bytes for info in tensors),
        file_type=_file_type(fields),
        types=tuple(sorted(_shares(tensors, _type_of).values(), key=lambda s: -s.size_bytes)),
        parts=tuple(parts[name] for name in PARTS if name in parts),
        layout=layout(table.all),
        n_layer=hparams.stated(H.n_layer),
        n_embd=hparams.stated(H.n_embd),
        n_head=hparams.stated(H.n_head),
        n_head_kv=hparams.stated(H.n_head_kv),
        n_ff=hparams.stated(H.n_ff),
        n_expert=hparams.stated(H.n_expert),
        n_expert_used=hparams.stated(H.n_expert_used),
        n_ctx_train=hparams.stated(H.n_ctx_train),
        rope_freq_base=hparams.stated(H.rope_freq_base),
        rope_scaling=text(hparams.key(H.rope_scaling)),
        n_vocab=hparams.n_vocab or None,
        tokenizer=text("tokenizer.ggml.model"),
        has_chat_template="tokenizer.chat_template" in fields,
        role=role_of_header(fields, table.all),
        shard=_shard(fields),
    )


def summarize_set(headers: Sequence[Header], table: TensorTable) -> Summary:
    """Add up a model in one file or several.

    Args:
        headers: Of its files, the first one first.
        table: The tensors of all.
    """
    summary = summarize(headers[0], table)
    if len(headers) == 1:
        return summary
    return replace(
        summary,
        size_bytes=sum(header.size_bytes for header in headers),
        n_tensors=sum(len(header.entries) for header in headers),
        role=role_of_header(headers[0].fields, table.all),
        n_shards=len(headers),
        shard=None,
    )


def part_of(info: AnyTensor) -> str:
    """Return which part of a model a tensor belongs to: one of ``PARTS``."""
    name = info.name
    if holds_experts(name):
        return "experts"
    if name in ("token_embd.weight", "output.weight"):
        return "embeddings" if name.startswith("token") else "output"
    stem = name.split(".")[2] if name.startswith("blk.") and name.count(".") >= 3 else ""
    if len(info.shape) < 2 or stem == "ffn_gate_inp":
        return "other"
    if stem.startswith("attn_"):
        return "attention"
    return "feed-forward" if stem.startswith("ffn_") else "other"


def _type_of(info: AnyTensor) -> str:
    return info.type_name


def _shares(tensors: Iterable[AnyTensor], group: Callable[[AnyTensor], str]) -> dict[str, Share]:
    """Add up tensors by a group."""
    sums: dict[str, list[int]] = {}
    for info in tensors:
        row = sums.setdefault(group(info), [0, 0, 0])
        row[0] += 1
        row[1] += info.n_elements
        row[2] += info.size_bytes
    return {name: Share(name, *row) for name, row in sums.items()}


def _active(parts: Mapping[str, Share], hparams: HyperParameters) -> int:
    """Count the weights that take part in one token."""
    n_expert, n_used = hparams.stated(H.n_expert), hparams.stated(H.n_expert_used)
    total = sum(share.n_params for share in parts.values())
    experts = parts["experts"].n_params if "experts" in parts else 0
    if not experts or not n_expert or n_used is None:
        return total
    return total - experts + experts * min(n_used, n_expert) // n_expert


def _file_type(fields: Mapping[str, Field]) -> str:
    value = number(fields, "general.file_type")
    return "" if value is None else _FILE_TYPES.get(value, f"type {value}")


def _shard(fields: Mapping[str, Field]) -> tuple[int, int] | None:
    no, count = number(fields, "split.no"), number(fields, "split.count")
    return (no + 1, count) if no is not None and count is not None and count > 1 else None
