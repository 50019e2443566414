"""What a whole file must keep, by its role: of a model vocabulary, sizes and tensors."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.format import AnyTensor
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.hparams import ARCHITECTURE, architecture
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.roles import Role, role_of_header
from gguf_hub.gguf.runnable import NOT_RUNNABLE, find_obstacles, join_obstacles
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.validate.llama import check_llama
from gguf_hub.gguf.validate.tokenizer import check_tokenizer

_PAIRS = {Role.ADAPTER: (".lora_a", ".lora_b"), Role.IMATRIX: (".in_sum2", ".counts")}
"""Ends of the names of tensors that mean something only together."""


def check_model(header: Header, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Check what the role of a file asks for.

    Args:
        header: Holds the metadata: of the file, or of the first shard.
        tensors: Of the whole file or set, by name.
        issues: Takes what is found.
    """
    role = role_of_header(header.fields, tensors)
    if role in _PAIRS:
        _check_pairs(tensors, *_PAIRS[role], issues)
    elif role in (Role.MODEL, Role.VOCAB):
        _check_graph(header, tensors, issues)
    is_model = role is Role.MODEL and architecture(header.fields) and tensors
    if is_model and issues.is_sound:
        _check_runnable(header, tensors, issues)


def _check_graph(header: Header, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Check the vocabulary, and the architecture if there are rules for it."""
    check_tokenizer(header, issues)
    arch = architecture(header.fields)
    if not arch:
        if header.entries or tensors:
            issues.add("GGUF-ARCH-MISSING", f"key `{ARCHITECTURE}`", "missing")
    elif arch == "llama":
        check_llama(header, tensors, issues)
    elif arch not in ARCHITECTURES and (header.entries or tensors):  # else `find_obstacles` does
        message = f"`{arch}`: tensors and numbers are not checked"
        issues.add("GGUF-ARCH-UNKNOWN", f"key `{ARCHITECTURE}`", message)


def _check_pairs(tensors: Mapping[str, AnyTensor], first: str, second: str, issues: Issues) -> None:
    """Check that of two tensors that mean something only together none is alone."""
    for mine, other in ((first, second), (second, first)):
        for name in tensors:
            partner = name.removesuffix(mine) + other
            if name.endswith(mine) and partner not in tensors:
                issues.add("GGUF-PAIR", f"tensor `{shown(name)}`", f"`{shown(partner)}` is missing")


def _check_runnable(header: Header, tensors: Mapping[str, AnyTensor], issues: Issues) -> None:
    """Say of a sound model what keeps gguf-hub from running it."""
    obstacles = find_obstacles(header, tensors)
    if obstacles:
        issues.add("GGUF-NOT-RUNNABLE", "file", f"{NOT_RUNNABLE}: {join_obstacles(obstacles)}")
