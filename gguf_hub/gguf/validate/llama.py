"""Rules for the llama architecture, Mixtral included: numbers that make sense, tensors that fit.

Source: llama_model::load_hparams and load_tensors in src/llama-model.cpp and src/models/llama.cpp
of llama.cpp at ggml commit c2cdd2b2.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gguf_hub.gguf.experts import MAX_EXPERTS, PARTS, parse_split, split_name
from gguf_hub.gguf.format import AnyTensor, Field, ValueType
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.hparams import HPARAMS, HyperParameters, Number
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.keys import expected_types, has_right_type
from gguf_hub.gguf.strings import shown

H = HyperParameters
_Problem = Callable[[str, str, str], None]
MAX_BLOCKS = 512

_NO_SHAPES = frozenset(
    {"GGUF-BLOCK-COUNT", "GGUF-EMBEDDING", "GGUF-HEAD-COUNT", "GGUF-HPARAM-LENGTH"}
)
"""Without these numbers no shape can be asked for."""
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
class _Layers:
    """Hyper-parameters that may differ from layer to layer."""

    n_head: list[int]
    n_head_kv: list[int]
    n_ff: list[int]

    @classmethod
    def of(cls, hparams: HyperParameters, n_layer: int) -> _Layers:
        heads = hparams.per_layer(H.n_head, n_layer, 1)
        has_kv = hparams.has(H.n_head_kv)
        kv_heads = hparams.per_layer(H.n_head_kv, n_layer) if has_kv else heads
        return cls(
            heads, kv_heads, hparams.per_layer(H.n_ff, n_layer, hparams.n_ff_of_experts or 0)
        )


def check_llama(header: Header, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Check metadata and tensors of a file that says it is a llama.

    Args:
        header: Of the file.
        tensors: By name; empty for a vocabulary without a model.
        issues: Takes what is found.
    """
    fields, hparams = header.fields, HyperParameters(header.fields, tensors)
    if not _check_types(fields, hparams.architecture, issues):
        return
    if tensors and not _check_required(hparams, issues):
        return
    if _check_ranges(fields, hparams, issues) and tensors:
        _check_vocab(hparams, issues)
        _check_tensors(hparams, tensors, issues)


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


def _check_required(hparams: HyperParameters, issues: Issues) -> bool:
    """Check that the keys are there without which no loader starts."""
    for hparam in hparams.missing:
        issues.add("GGUF-HPARAM-MISSING", f"key `{hparams.key(hparam)}`", "missing")
    return not hparams.missing


def _check_ranges(fields: Mapping[str, Field], hparams: HyperParameters, issues: Issues) -> bool:
    """Check numbers by themselves and against each other; False when shapes cannot follow."""

    def problem(code: str, name: str, message: str) -> None:
        """Report a key of the architecture, where it stands in the file."""
        key = f"{hparams.architecture}.{name}"
        issues.add(code, f"key `{key}`", message, fields[key].offset if key in fields else None)
        codes.append(code)

    codes: list[str] = []
    for hparam in (H.n_head, H.n_head_kv, H.n_ff):
        if message := hparams.length_problem(hparam):
            problem("GGUF-HPARAM-LENGTH", hparam.name, message)
    _check_blocks(hparams, problem)
    if not codes:
        _check_heads(hparams, problem)
    _check_experts(hparams, problem)
    eps = fields.get(hparams.key(H.rms_epsilon))
    if eps is not None and not H.rms_epsilon.allows(eps.value):
        problem("GGUF-NORM-EPS", H.rms_epsilon.name, f"is {eps.value}")
    if hparams.stated(H.n_ctx_train) == 0:
        problem("GGUF-CONTEXT", H.n_ctx_train.name, "is 0")
    _check_floats(fields, hparams, problem)
    return not _NO_SHAPES.intersection(codes)


def _check_floats(fields: Mapping[str, Field], hparams: HyperParameters, problem: _Problem) -> None:
    """Check that the numbers of the position embedding are numbers that it can compute with."""
    for key, field in fields.items():
        name = key.removeprefix(f"{hparams.architecture}.")
        if field.type is not ValueType.FLOAT32 or not name.startswith("rope."):
            continue
        hparam = HPARAMS.get(name)
        number = hparam if isinstance(hparam, Number) else Number(name)
        if not number.allows(field.value):
            message = f"is {field.value}, expected a finite number{number.bounds}"
            problem("GGUF-HPARAM-VALUE", name, message)


def _check_blocks(hparams: HyperParameters, problem: _Problem) -> None:
    """Check the number of blocks and the width."""
    n_layer = hparams.stated(H.n_layer)
    if n_layer is not None and not 1 <= n_layer <= MAX_BLOCKS:
        problem("GGUF-BLOCK-COUNT", H.n_layer.name, f"{n_layer:,}, expected 1 to {MAX_BLOCKS}")
    if hparams.stated(H.n_embd) == 0:
        problem("GGUF-EMBEDDING", H.n_embd.name, "is 0")


def _check_heads(hparams: HyperParameters, problem: _Problem) -> None:
    """Check heads against key heads, the width and the rotary dimensions."""
    layers = _Layers.of(hparams, hparams.stated(H.n_layer) or 1)
    if min(layers.n_head) <= 0:
        problem("GGUF-HEAD-COUNT", H.n_head.name, "is 0")
        return
    for n_head, n_head_kv in sorted(set(zip(layers.n_head, layers.n_head_kv, strict=True))):
        if n_head_kv <= 0 or n_head % n_head_kv:
            message = f"{n_head:,} heads do not divide among {n_head_kv:,}"
            problem("GGUF-HEAD-COUNT", H.n_head_kv.name, message)
    n_embd, head_dim = hparams.stated(H.n_embd), hparams.stated(H.head_dim)
    if n_embd and head_dim is None:
        n_head = layers.n_head[0]
        if n_embd % n_head:
            message = f"{n_embd:,} does not divide among {n_head:,} heads"
            problem("GGUF-EMBEDDING", H.n_embd.name, message)
            return
        head_dim = n_embd // n_head
    n_rot = hparams.stated(H.n_rot)
    if n_rot is not None and head_dim is not None and (n_rot != head_dim or n_rot % 2):
        problem("GGUF-ROPE-DIM", H.n_rot.name, f"{n_rot:,}, expected {head_dim:,} (even)")


def _check_experts(hparams: HyperParameters, problem: _Problem) -> None:
    """Check the number of experts and how many are in use."""
    count, used = hparams.n_expert, hparams.n_expert_used
    if count > MAX_EXPERTS:
        problem("GGUF-EXPERT-COUNT", H.n_expert.name, f"{count:,}, at most {MAX_EXPERTS:,}")
    if used > count:
        problem("GGUF-EXPERT-COUNT", H.n_expert_used.name, f"{used:,} in use of {count:,}")
    if count and not used:
        problem("GGUF-EXPERT-COUNT", H.n_expert_used.name, f"none in use of {count:,}")


# -- tensors ---------------------------------------------------------------------------------


def _check_vocab(hparams: HyperParameters, issues: Issues) -> None:
    """Compare the two places that tell how many tokens there are."""
    n_tokens, stated = hparams.n_tokens, hparams.stated(H.vocab_size)
    if n_tokens and stated is not None and n_tokens != stated:
        message = f"{stated:,}, but the vocabulary has {n_tokens:,} tokens"
        issues.add("GGUF-TOKENIZER-VOCAB-SIZE", f"key `{hparams.key(H.vocab_size)}`", message)


def _check_tensors(
    hparams: HyperParameters, tensors: Mapping[str, AnyTensor], issues: Issues
) -> None:
    """Compare the tensors of a file with those that the architecture asks for."""
    known: set[str] = set()
    blocks: dict[int, set[str]] = defaultdict(set)
    for name in tensors:
        match = _BLOCK.fullmatch(name)
        if match:
            blocks[int(match[1])].add(match[2])
    shape = (hparams.n_embd, hparams.n_vocab)
    _compare({"token_embd.weight": shape}, tensors, known, issues)
    _compare({"output_norm.weight": (hparams.n_embd,)}, tensors, known, issues)
    if "output.weight" in tensors:
        _compare({"output.weight": shape}, tensors, known, issues)
    layers = _Layers.of(hparams, hparams.n_layer)
    for i in range(hparams.n_layer):
        if not blocks.get(i):
            issues.add("GGUF-TENSOR-MISSING", f"block {i}", "none of its tensors is there")
            continue
        _compare(dict(_attention(hparams, layers, i)), tensors, known, issues)
        sizes = (hparams.n_embd, layers.n_ff[i], hparams.n_expert)
        _check_feed_forward(sizes, i, blocks[i], tensors, known, issues)
    _check_unused(tensors, known, issues)


def _attention(
    hparams: HyperParameters, layers: _Layers, i: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of one block's attention and norms with their shapes."""
    d, h, k = hparams.n_embd, layers.n_head[i], layers.n_head_kv[i]
    d_k = hparams.stated(H.head_dim) or d // layers.n_head[0]
    d_v = hparams.stated(H.n_embd_head_v) or d_k
    yield f"blk.{i}.attn_norm.weight", (d,)
    yield f"blk.{i}.attn_q.weight", (d, h * d_k)
    yield f"blk.{i}.attn_k.weight", (d, k * d_k)
    yield f"blk.{i}.attn_v.weight", (d, k * d_v)
    yield f"blk.{i}.attn_output.weight", (h * d_v, d)
    yield f"blk.{i}.ffn_norm.weight", (d,)


def _check_feed_forward(
    sizes: tuple[int, int, int],
    i: int,
    names: set[str],
    tensors: Mapping[str, AnyTensor],
    known: set[str],
    issues: Issues,
) -> None:
    """Check one block's feed-forward tensors: dense, merged or split experts."""
    d, f, e = sizes
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
