"""The conversation format of a model whose GGUF has no chat template, from what stands beside it.

Ollama keeps a template in its own language, or the name of a program that writes conversations
(``renderer``), in the manifest of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf_hub.gguf.metadata import Metadata
from gguf_hub.hub.programs.go_templates import format_of
from gguf_hub.hub.programs.ollama import read_conversations
from gguf_hub.progress import SILENT, Progress

_KEY = "tokenizer.chat_template"
_HARMONY = frozenset({"<|start|>", "<|channel|>", "<|message|>"})
_RENDERERS = dict.fromkeys(("qwen3-coder", "qwen3-vl-instruct", "qwen3-vl-thinking"), "chatml")
"""Renderer -> the format that it writes. Source: Ollama at fb30760, model/renderers."""
_OTHERS = ("<|im_sep|>", "<<SYS>>", "[SYSTEM_PROMPT]")
"""Marks of formats that share a mark with one that is known here, and are not it."""


def choose_chat_format(
    path: Path, metadata: Mapping[str, Any], given: str | None, progress: Progress = SILENT
) -> str | None:
    """Return the format that was given, or the name of what a model without a template has.

    None: the model's own template counts, or nobody knows a format; the latter is said where
    Ollama has the model.
    """
    if given is not None or metadata.get(_KEY):
        return given
    entries = set(read_conversations(path))
    names = {_name_of(*entry) for entry in entries}
    if len(names) == 1 and (name := names.pop()):
        progress.note(f"conversation format `{name}` as Ollama has this model")
        return name
    if not entries and _is_gpt_oss(metadata):
        progress.note("conversation format `gpt-oss`, by the model's architecture and tokens")
        return "gpt-oss"
    if entries:
        progress.note(
            "the model has no chat template, and Ollama's is in no format that is known here: "
            "`--chat-template NAME` gives one"
        )
    return None


def _name_of(template: str, renderer: str) -> str | None:
    """Return the format of a template in Ollama's language, or of a renderer, which counts."""
    if renderer:
        return _RENDERERS.get(renderer)
    if any(mark in template for mark in _OTHERS):
        return None
    if all(mark in template for mark in _HARMONY):
        return "gpt-oss"
    found = format_of(template)
    # what follows a turn tells formats apart whose turns begin alike
    return found.name if found is not None and found.user[1].strip() in template else None


def _is_gpt_oss(metadata: Mapping[str, Any]) -> bool:
    values = Metadata.of(metadata)
    tokens = values.raw("tokenizer.ggml.tokens")
    is_named = values.raw("general.architecture") == "gpt-oss"
    return is_named and tokens is not None and set(tokens) >= _HARMONY
