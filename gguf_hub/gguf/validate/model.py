"""What a whole model must keep: a vocabulary, and the rules of its architecture."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_hub.gguf.format import AnyTensor
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.hparams import ARCHITECTURE, architecture
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.runnable import NOT_RUNNABLE, find_obstacles, join_obstacles
from gguf_hub.gguf.validate.llama import check_llama
from gguf_hub.gguf.validate.tokenizer import check_tokenizer


def check_model(header: Header, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Check the vocabulary, and the architecture if there are rules for it.

    Args:
        header: Holds the metadata: of the file, or of the first shard.
        tensors: Of the whole model, by name.
        issues: Takes what is found.
    """
    check_tokenizer(header, issues)
    arch = architecture(header.fields)
    if not arch:
        if header.entries or tensors:
            issues.add("GGUF-ARCH-MISSING", f"key `{ARCHITECTURE}`", "missing")
    elif arch == "llama":
        check_llama(header, tensors, issues)
    elif header.entries or tensors:
        message = f"`{arch}`: tensors and numbers are not checked"
        issues.add("GGUF-ARCH-UNKNOWN", f"key `{ARCHITECTURE}`", message)
    if arch and tensors and issues.is_sound:
        _check_runnable(header, tensors, issues)


def _check_runnable(header: Header, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Say of a sound model what keeps gguf-hub from running it."""
    obstacles = find_obstacles(header, tensors)
    if obstacles:
        issues.add("GGUF-NOT-RUNNABLE", "file", f"{NOT_RUNNABLE}: {join_obstacles(obstacles)}")
