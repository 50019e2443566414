"""Rules for the llama architecture, Mixtral included: numbers that make sense, tensors that fit.

Source: llama_model::load_hparams and load_tensors in src/llama-model.cpp and src/models/llama.cpp
of llama.cpp at ggml commit c2cdd2b2.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gguf_hub.gguf.experts import MAX_EXPERTS, PARTS, parse_split, split_name
from gguf_hub.gguf.format import AnyTensor, Field, ValueType
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.keys import MORE_THAN, architecture, expected_types, has_right_type, number
from gguf_hub.gguf.strings import StringArray, shown

_Problem = Callable[[str, str, str], None]
MAX_BLOCKS = 512

_NO_SHAPES = frozenset({"GGUF-BLOCK-COUNT", "GGUF-EMBEDDING", "GGUF-HEAD-COUNT"})
"""Without these numbers no shape can be asked for."""
_REQUIRED = (
    "context_length", "embedding_length", "block_count", "feed_forward_length",
    "attention.head_count", "attention.layer_norm_rms_epsilon",
)  # fmt: skip
_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
_GLOBAL_OPTIONAL = frozenset(
    {"output.weight", "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
)
_BLOCK_OPTIONAL = frozenset(
    {f"{name}.bias" for name in
     ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up")}
    | {"rope_freqs.weight", "attn_rot_embd.weight", "attn_q_norm.weight", "attn_k_norm.weight"}
    | {"ffn_gate_shexp.weight", "ffn_down_shexp.weight", "ffn_up_shexp.weight"}
)  # fmt: skip


@dataclass(frozen=True)
class _Numbers:
    """Hyperparameters that the shapes follow from; 0 where unknown."""

    n_layer: int
    n_embd: int
    n_vocab: int
    n_expert: int
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    n_ff: tuple[int, ...]
    d_k: int
    d_v: int


def check_llama(header: Header, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Check metadata and tensors of a file that says it is a llama.

    Args:
        header: Of the file.
        tensors: By name; empty for a vocabulary without a model.
        issues: Takes what is found.
    """
    fields, arch = header.fields, architecture(header.fields)
    if not _check_types(fields, arch, issues):
        return
    if tensors and not _check_required(fields, arch, issues):
        return
    if _check_ranges(fields, arch, issues) and tensors:
        numbers = _numbers(fields, arch, tensors)
        _check_vocab(fields, arch, issues)
        _check_tensors(numbers, tensors, issues)


# -- hyperparameters -------------------------------------------------------------------------


def _check_types(fields: Mapping[str, Field], arch: str, issues: Issues) -> bool:
    """Check that every known key of the architecture has a type that programs take."""
    wrong = [
        key
        for key, field in fields.items()
        if key.startswith((f"{arch}.", "general.")) and not has_right_type(key, field, arch)
    ]
    for key in wrong:
        expected = " or ".join(expected_types(key, arch))
        message = f"is {fields[key].type_name}, expected {expected}"
        issues.add("GGUF-HPARAM-TYPE", f"key `{shown(key)}`", message, fields[key].offset)
    return not any(key.startswith(f"{arch}.") for key in wrong)


def _check_required(fields: Mapping[str, Field], arch: str, issues: Issues) -> bool:
    """Check that the keys are there without which no loader starts."""
    missing = [name for name in _REQUIRED if f"{arch}.{name}" not in fields]
    for name in missing:
        issues.add("GGUF-HPARAM-MISSING", f"key `{arch}.{name}`", "missing")
    return not missing


def _per_layer(fields: Mapping[str, Field], key: str, n_layer: int, default: int) -> list[int]:
    """A number for each block: some keys hold one for all, or an array."""
    field = fields.get(key)
    if field is None:
        return [default] * n_layer
    if field.type is ValueType.ARRAY:  # an empty one may be of any type
        values = [int(n) for n in field.value[:n_layer]]
        return values + [0] * (n_layer - len(values))
    return [field.value] * n_layer


def _check_ranges(fields: Mapping[str, Field], arch: str, issues: Issues) -> bool:
    """Check numbers by themselves and against each other; False when shapes cannot follow."""

    def problem(code: str, name: str, message: str) -> None:
        field = fields.get(f"{arch}.{name}")
        issues.add(code, f"key `{arch}.{name}`", message, field.offset if field else None)
        found.append(code)

    found: list[str] = []
    _check_blocks(fields, arch, problem)
    if not found:
        _check_heads(fields, arch, problem)
    _check_experts(fields, arch, problem)
    eps = fields.get(f"{arch}.attention.layer_norm_rms_epsilon")
    if eps is not None and not (math.isfinite(eps.value) and eps.value >= 0):
        problem("GGUF-NORM-EPS", "attention.layer_norm_rms_epsilon", f"is {eps.value}")
    if number(fields, f"{arch}.context_length") == 0:
        problem("GGUF-CONTEXT", "context_length", "is 0")
    _check_floats(fields, arch, problem)
    return not _NO_SHAPES.intersection(found)


def _check_floats(fields: Mapping[str, Field], arch: str, problem: _Problem) -> None:
    """Check that the numbers of the position embedding are numbers that it can compute with."""
    for key, field in fields.items():
        name = key.removeprefix(f"{arch}.")
        if field.type is not ValueType.FLOAT32 or not name.startswith("rope."):
            continue
        least = MORE_THAN.get(name, -math.inf)
        if not (math.isfinite(field.value) and field.value > least):
            bound = f" > {least:g}" if name in MORE_THAN else ""
            problem("GGUF-HPARAM-VALUE", name, f"is {field.value}, expected a finite number{bound}")


def _check_blocks(fields: Mapping[str, Field], arch: str, problem: _Problem) -> None:
    """Check the number of blocks and the width."""
    n_layer = number(fields, f"{arch}.block_count")
    if n_layer is not None and not 1 <= n_layer <= MAX_BLOCKS:
        problem("GGUF-BLOCK-COUNT", "block_count", f"{n_layer:,}, expected 1 to {MAX_BLOCKS}")
    if number(fields, f"{arch}.embedding_length") == 0:
        problem("GGUF-EMBEDDING", "embedding_length", "is 0")


def _check_heads(fields: Mapping[str, Field], arch: str, problem: _Problem) -> None:
    """Check heads against key heads, the width and the rotary dimensions."""
    n_layer = number(fields, f"{arch}.block_count") or 1
    heads = _per_layer(fields, f"{arch}.attention.head_count", n_layer, 1)
    kv_key = f"{arch}.attention.head_count_kv"
    kv_heads = _per_layer(fields, kv_key, n_layer, 0) if kv_key in fields else heads
    if min(heads) <= 0:
        problem("GGUF-HEAD-COUNT", "attention.head_count", "is 0")
        return
    for n_head, n_head_kv in sorted(set(zip(heads, kv_heads, strict=True))):
        if n_head_kv <= 0 or n_head % n_head_kv:
            message = f"{n_head:,} heads do not divide among {n_head_kv:,}"
            problem("GGUF-HEAD-COUNT", "attention.head_count_kv", message)
    n_embd = number(fields, f"{arch}.embedding_length")
    d_k = number(fields, f"{arch}.attention.key_length")
    if n_embd and d_k is None:
        if n_embd % heads[0]:
            message = f"{n_embd:,} does not divide among {heads[0]:,} heads"
            problem("GGUF-EMBEDDING", "embedding_length", message)
            return
        d_k = n_embd // heads[0]
    n_rot = number(fields, f"{arch}.rope.dimension_count")
    if n_rot is not None and d_k is not None and (n_rot != d_k or n_rot % 2):
        problem("GGUF-ROPE-DIM", "rope.dimension_count", f"{n_rot:,}, expected {d_k:,} (even)")


def _check_experts(fields: Mapping[str, Field], arch: str, problem: _Problem) -> None:
    """Check the number of experts and how many are in use."""
    count = number(fields, f"{arch}.expert_count") or 0
    used = number(fields, f"{arch}.expert_used_count") or 0
    if count > MAX_EXPERTS:
        problem("GGUF-EXPERT-COUNT", "expert_count", f"{count:,}, at most {MAX_EXPERTS:,}")
    if used > count:
        problem("GGUF-EXPERT-COUNT", "expert_used_count", f"{used:,} in use of {count:,}")
    if count and not used:
        problem("GGUF-EXPERT-COUNT", "expert_used_count", f"none in use of {count:,}")


# -- tensors ---------------------------------------------------------------------------------


def _numbers(fields: Mapping[str, Field], arch: str, tensors: Mapping[str, AnyTensor]) -> _Numbers:
    """Collect what the shapes follow from."""
    n_layer = number(fields, f"{arch}.block_count") or 0
    n_embd = number(fields, f"{arch}.embedding_length") or 0
    heads = _per_layer(fields, f"{arch}.attention.head_count", n_layer, 1)
    kv_key = f"{arch}.attention.head_count_kv"
    kv_heads = _per_layer(fields, kv_key, n_layer, 0) if kv_key in fields else heads
    d_k = number(fields, f"{arch}.attention.key_length") or n_embd // heads[0]
    return _Numbers(
        n_layer=n_layer,
        n_embd=n_embd,
        n_vocab=_n_vocab(fields, arch, tensors),
        n_expert=number(fields, f"{arch}.expert_count") or 0,
        n_head=tuple(heads),
        n_head_kv=tuple(kv_heads),
        n_ff=tuple(_per_layer(fields, f"{arch}.feed_forward_length", n_layer, 0)),
        d_k=d_k,
        d_v=number(fields, f"{arch}.attention.value_length") or d_k,
    )


def _n_vocab(fields: Mapping[str, Field], arch: str, tensors: Mapping[str, AnyTensor]) -> int:
    """Number of tokens: of the vocabulary, else of the key, else of the embeddings."""
    tokens = fields.get("tokenizer.ggml.tokens")
    if tokens is not None and isinstance(tokens.value, StringArray):
        return len(tokens.value)
    stated: int | None = number(fields, f"{arch}.vocab_size")
    if stated is not None:
        return stated
    embeddings = tensors.get("token_embd.weight")
    return embeddings.shape[1] if embeddings and len(embeddings.shape) > 1 else 0


def _check_vocab(fields: Mapping[str, Field], arch: str, issues: Issues) -> None:
    """Compare the two places that tell how many tokens there are."""
    tokens, stated = fields.get("tokenizer.ggml.tokens"), number(fields, f"{arch}.vocab_size")
    if tokens is not None and isinstance(tokens.value, StringArray) and stated is not None:
        n = len(tokens.value)
        if n != stated:
            message = f"{stated:,}, but the vocabulary has {n:,} tokens"
            issues.add("GGUF-TOKENIZER-VOCAB-SIZE", f"key `{arch}.vocab_size`", message)


def _check_tensors(numbers: _Numbers, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Compare the tensors of a file with those that the architecture asks for."""
    known: set[str] = set()
    blocks: dict[int, set[str]] = defaultdict(set)
    for name in tensors:
        match = _BLOCK.fullmatch(name)
        if match:
            blocks[int(match[1])].add(match[2])
    expected = {
        "token_embd.weight": (numbers.n_embd, numbers.n_vocab),
        "output_norm.weight": (numbers.n_embd,),
    }
    _compare(expected, tensors, known, issues)
    if "output.weight" in tensors:
        shape = (numbers.n_embd, numbers.n_vocab)
        _compare({"output.weight": shape}, tensors, known, issues)
    for i in range(numbers.n_layer):
        if not blocks.get(i):
            issues.add("GGUF-TENSOR-MISSING", f"block {i}", "none of its tensors is there")
            continue
        _compare(dict(_attention(numbers, i)), tensors, known, issues)
        _check_feed_forward(numbers, i, blocks[i], tensors, known, issues)
    _check_unused(tensors, known, issues)


def _attention(n: _Numbers, i: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of one block's attention and norms with their shapes."""
    d, h, k = n.n_embd, n.n_head[i], n.n_head_kv[i]
    yield f"blk.{i}.attn_norm.weight", (d,)
    yield f"blk.{i}.attn_q.weight", (d, h * n.d_k)
    yield f"blk.{i}.attn_k.weight", (d, k * n.d_k)
    yield f"blk.{i}.attn_v.weight", (d, k * n.d_v)
    yield f"blk.{i}.attn_output.weight", (h * n.d_v, d)
    yield f"blk.{i}.ffn_norm.weight", (d,)


def _check_feed_forward(
    n: _Numbers,
    i: int,
    names: set[str],
    tensors: Mapping[str, AnyTensor],
    known: set[str],
    issues: Issues,
) -> None:
    """Check one block's feed-forward tensors: dense, merged or split experts."""
    d, f, e = n.n_embd, n.n_ff[i], n.n_expert
    shapes = {"gate": (d, f), "down": (f, d), "up": (d, f)}
    if not e:
        expected = {f"blk.{i}.ffn_{part}.weight": shape for part, shape in shapes.items()}
        _compare(expected, tensors, known, issues)
        return
    _compare({f"blk.{i}.ffn_gate_inp.weight": (d, e)}, tensors, known, issues)
    split = [name for name in names if parse_split(f"blk.{i}.{name}")]
    merged = [part for part in PARTS if f"ffn_{part}_exps.weight" in names]
    if split and merged:
        message = f"{len(split):,} tensors of single experts and {len(merged)} of all"
        issues.add("GGUF-EXPERT-LAYOUT", f"block {i}", message)
    if not split:
        expected_merged = {
            f"blk.{i}.ffn_{part}_exps.weight": (*shape, e) for part, shape in shapes.items()
        }
        _compare(expected_merged, tensors, known, issues)
        return
    _check_split(i, e, shapes, tensors, known, issues)
    known.update(f"blk.{i}.ffn_{part}_exps.weight" for part in merged)


def _check_split(
    i: int,
    n_expert: int,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, AnyTensor],
    known: set[str],
    issues: Issues,
) -> None:
    """Check that every expert is there; of many missing ones only the first is named."""
    for part, shape in shapes.items():
        for expert in range(n_expert):
            name = split_name(i, part, expert)
            _compare({name: shape}, tensors, known, issues)
            if name not in tensors:
                break


def _compare(
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, AnyTensor],
    known: set[str],
    issues: Issues,
) -> None:
    """Compare expected shapes with those of the file."""
    for name, shape in expected.items():
        known.add(name)
        info = tensors.get(name)
        if info is None:
            issues.add("GGUF-TENSOR-MISSING", f"tensor `{name}`", "missing")
        elif _trimmed(info.shape) != _trimmed(shape):
            message = f"shape {list(info.shape)}, but the metadata asks for {list(shape)}"
            issues.add("GGUF-TENSOR-SHAPE", f"tensor `{name}`", message)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without ones at its end: they change nothing."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _check_unused(tensors: Mapping[str, AnyTensor], known: set[str], issues: Issues) -> None:
    """Name the tensors that the architecture has no place for."""
    for name in tensors:
        match = _BLOCK.fullmatch(name)
        is_optional = match[2] in _BLOCK_OPTIONAL if match else name in _GLOBAL_OPTIONAL
        if name not in known and not is_optional:
            issues.add("GGUF-TENSOR-UNUSED", f"tensor `{shown(name)}`", "no loader asks for it")
