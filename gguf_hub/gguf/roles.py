"""What a GGUF is for: a model, or one of the files that are published beside models.

A header decides; a name alone speaks only where nobody has read the header yet
(``gguf_hub.hub.download.names.role_of_name``).

Source: Keys.General.TYPE and GGUFType in gguf-py/gguf/constants.py of llama.cpp; the keys of
adapters in convert_lora_to_gguf.py, of importance matrices in tools/imatrix/imatrix.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from enum import Enum
from typing import TYPE_CHECKING, Any

from gguf_hub.errors import UnsupportedGgufError

if TYPE_CHECKING:
    from gguf_hub.gguf.format import Field  # numpy, for which names need not wait


class Role(str, Enum):
    """What a GGUF is for."""

    MODEL = "model"
    PROJECTOR = "projector"
    DRAFT = "draft"
    IMATRIX = "imatrix"
    ADAPTER = "adapter"
    VOCAB = "vocab"

    @property
    def description(self) -> str:
        """What to call it, with its article."""
        return _DESCRIPTIONS[self][0]

    @property
    def usage(self) -> str:
        """How llama.cpp takes it."""
        return _DESCRIPTIONS[self][1]

    @property
    def obstacle(self) -> str:
        """Why it does not run by itself; empty for a model."""
        return "" if self is Role.MODEL else f"{self.description}, not a model"


_DESCRIPTIONS = {
    Role.MODEL: ("a model", "-m"),
    Role.PROJECTOR: ("a multimodal projector", "beside a model, with --mmproj"),
    Role.DRAFT: ("a speculative head", "beside a model, with --model-draft"),
    Role.IMATRIX: ("an importance matrix", "by llama-quantize, with --imatrix"),
    Role.ADAPTER: ("a LoRA adapter", "beside a model, with --lora"),
    Role.VOCAB: ("a vocabulary", "to test tokenizers"),
}
_GENERAL_TYPES = {
    "model": Role.MODEL,
    "adapter": Role.ADAPTER,
    "mmproj": Role.PROJECTOR,
    "imatrix": Role.IMATRIX,
    "vocab": Role.VOCAB,
}
_KEYS = {
    "adapter.type": Role.ADAPTER,
    "imatrix.datasets": Role.IMATRIX,
    "imatrix.chunk_count": Role.IMATRIX,
}
_ARCHITECTURES = {"clip": Role.PROJECTOR, "eagle3": Role.DRAFT, "dflash": Role.DRAFT}


def role_of_header(fields: Mapping[str, Field], tensors: Sized) -> Role:
    """Return what a file is for.

    Args:
        fields: Its metadata; of a set of shards, that of the first.
        tensors: Those of the whole file or set.
    """
    # heads are written with `general.type` model too: what they are is their architecture
    for key, roles in (("general.architecture", _ARCHITECTURES), ("general.type", _GENERAL_TYPES)):
        text = _value(fields, key)
        if isinstance(text, str) and text in roles:
            return roles[text]
    if role := next((role for key, role in _KEYS.items() if key in fields), None):
        return role
    n_shards = _value(fields, "split.count")
    # the first shard of a set may hold metadata alone
    is_shard = isinstance(n_shards, int) and n_shards > 1
    is_vocab = not len(tensors) and not is_shard and "tokenizer.ggml.tokens" in fields
    return Role.VOCAB if is_vocab else Role.MODEL


def _value(fields: Mapping[str, Field], key: str) -> Any:
    return fields[key].value if key in fields else None


def require_model(name: object, fields: Mapping[str, Field], tensors: Sized) -> None:
    """Refuse a file that is published beside models.

    Args:
        name: What to call the file.
        fields: As for ``role_of_header``.
        tensors: Likewise.

    Raises:
        UnsupportedGgufError: It is no model; the message says what it is.
    """
    role = role_of_header(fields, tensors)
    if role is Role.MODEL:
        return
    hint = "name the model's own file instead; `gguf-hub inspect` shows what this one holds"
    if role is Role.ADAPTER:
        hint = "`gguf-hub run MODEL --lora FILE` applies it to its model"
    raise UnsupportedGgufError(f"`{name}` is {role.obstacle}", hint=hint)
