"""The metadata keys that programs know, and the types that they insist on.

llama.cpp reads a key with one exact type and refuses any other, even where the number would fit.

Source: docs/gguf.md of ggml; LLM_KV_NAMES in src/llama-arch.cpp and the getters of
src/llama-model-loader.cpp and src/llama-vocab.cpp of llama.cpp at ggml commit c2cdd2b2.
"""

from __future__ import annotations

from collections.abc import Mapping

from gguf_hub.gguf.format import ALIGNMENT_KEY, Field, ValueType
from gguf_hub.gguf.hparams import ARCHITECTURE, HPARAMS
from gguf_hub.gguf.metadata import whole_number

_U16, _U32 = ("uint16",), ("uint32",)
_TEXT, _BOOL = ("string",), ("bool",)
_TEXTS = ("array of string",)

SPECIAL_IDS = ("bos", "eos", "unknown")
"""Special tokens that programs feed or wait for; ``tokenizer.ggml.<name>_token_id``."""
OTHER_IDS = (
    "eot", "eom", "separator", "seperator", "padding", "cls", "mask",
    "prefix", "suffix", "middle", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep",
)  # fmt: skip
"""Special tokens that loaders ignore when they make no sense."""
FLAGS = (
    "add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix",
    "remove_extra_whitespaces", "normalizer.lowercase", "normalizer.strip_accents",
)  # fmt: skip
"""What a tokenizer does or not; ``tokenizer.ggml.<name>``."""

KEYS: dict[str, tuple[str, ...]] = {
    ARCHITECTURE: _TEXT,
    "general.name": _TEXT,
    "general.author": _TEXT,
    "general.version": _TEXT,
    "general.organization": _TEXT,
    "general.basename": _TEXT,
    "general.finetune": _TEXT,
    "general.description": _TEXT,
    "general.quantized_by": _TEXT,
    "general.size_label": _TEXT,
    "general.license": _TEXT,
    "general.license.name": _TEXT,
    "general.license.link": _TEXT,
    "general.url": _TEXT,
    "general.doi": _TEXT,
    "general.uuid": _TEXT,
    "general.repo_url": _TEXT,
    "general.source.url": _TEXT,
    "general.source.repo_url": _TEXT,
    "general.type": _TEXT,
    "general.tags": _TEXTS,
    "general.languages": _TEXTS,
    "general.file_type": _U32,
    "general.quantization_version": _U32,
    ALIGNMENT_KEY: _U32,
    **{f"{{arch}}.{name}": hparam.types for name, hparam in HPARAMS.items() if hparam.types},
    "{arch}.attention.layer_norm_epsilon": ("float32",),
    "{arch}.rope.scaling.finetuned": _BOOL,
    "tokenizer.ggml.model": _TEXT,
    "tokenizer.ggml.pre": _TEXT,
    "tokenizer.ggml.tokens": _TEXTS,
    "tokenizer.ggml.scores": ("array of float32", "array of int32"),
    "tokenizer.ggml.token_type": ("array of int32",),
    "tokenizer.ggml.merges": _TEXTS,
    "tokenizer.ggml.precompiled_charsmap": ("array of uint8", "array of int8"),
    "tokenizer.ggml.token_type_count": _U32,
    "tokenizer.chat_template": _TEXT,
    "split.no": _U16,
    "split.count": _U16,
    "split.tensors.count": ("int32",),
    **{f"tokenizer.ggml.{name}": _BOOL for name in FLAGS},
    **{f"tokenizer.ggml.{name}_token_id": _U32 for name in (*SPECIAL_IDS, *OTHER_IDS)},
}
"""Key -> names of the types that programs take (``Field.type_name``)."""


def expected_types(key: str, arch: str) -> tuple[str, ...]:
    """Return the names of the types that programs take for a key; none for unknown keys."""
    if arch and key.startswith(f"{arch}."):
        key = "{arch}" + key[len(arch) :]
    return KEYS.get(key, ())


def has_right_type(key: str, field: Field, arch: str) -> bool:
    """Tell whether programs take a field; always for unknown keys."""
    expected = expected_types(key, arch)
    if not expected or field.type_name in expected:
        return True
    is_empty = field.type is ValueType.ARRAY and len(field.value) == 0
    return is_empty and any(name.startswith("array") for name in expected)


def number(fields: Mapping[str, Field], key: str) -> int | None:
    """Return a whole number, or None when the key is absent or holds none."""
    field = fields.get(key)
    return whole_number(field.value) if field is not None else None
