"""What a file holds beside its text model that no text needs: encoders of images and sound, drafts.

llama.cpp keeps encoders in a file of its own (``mmproj``) and refuses a model that holds them;
Ollama's converter writes one file for all. They reach the text only as embeddings in place of
tokens, so what a text gets does not depend on them.

Source: ``KV`` and ``Replacements`` in convert/convert_*.go of Ollama at fb30760;
``add_skip_prefix`` in llama/compat/llama-ollama-compat.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_SENSES = {"vision.": "images", "audio.": "sound"}
"""What keys begin with, after the architecture's name -> what they are for."""
_KEYS = frozenset({
    "image_token_id", "image_token_index", "spatial_merge_size", "vision_start_token_id",
    "vision_end_token_id", "mrope_sections", "rope.mrope_section", "rope.mrope_interleaved",
})  # fmt: skip
"""Other keys that count for images alone: a text has one position, not one for each direction."""
_ENCODERS = ("v.", "mm.", "a.", "model.vision_tower.")
_DRAFTS = ("mtp.",)
"""Layers that predict further tokens, under the names of checkpoints."""


def is_for_senses(name: str) -> bool:
    """Tell whether a key is for images or sound alone.

    Args:
        name: What stands behind the architecture.
    """
    return name in _KEYS or name.startswith((*_SENSES, "mm."))


def left_out(
    fields: Mapping[str, Any], arch: str, names: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return the tensors that no text needs, by what they are for.

    Args:
        fields: Metadata; without keys of an encoder no tensor is one's, whatever it is called.
        arch: Its architecture.
        names: All tensors.
    """
    names = tuple(names)
    kinds = [kind for start, kind in _SENSES.items()
             if arch and any(key.startswith(f"{arch}.{start}") for key in fields)]  # fmt: skip
    starts: dict[str, tuple[str, ...]] = {"drafts of further tokens": _DRAFTS}
    if kinds:
        starts[" and ".join(kinds)] = _ENCODERS
    groups = {kind: tuple(n for n in names if n.startswith(start))
              for kind, start in starts.items()}  # fmt: skip
    return {kind: group for kind, group in groups.items() if group}
