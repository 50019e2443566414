"""What a row of ``arch_recipes`` says of a tiny model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HEAD = "output_norm output"
"""Tensors beside the layers of most models."""


@dataclass(frozen=True)
class Recipe:
    """A model: its architecture, its layers' tensors, keys beyond the common ones.

    Attributes:
        arch: ``general.architecture``.
        layers: For each layer the names of its tensors.
        keys: Without the architecture's name before them; ``None`` takes a common one away.
        other: Tensors beside the layers, without ``token_embd``.
        embedding: Standard deviation of the embeddings; those that are multiplied have less.
        seed: Of the weights; chosen so that no router is undecided, see ``tests/data/README.md``.
        fixed: Values of tensors that are not random.
        unused: Groups of tensors and keys that real files have and that change nothing.
    """

    arch: str
    layers: list[str]
    keys: dict[str, Any] = field(default_factory=dict)
    other: str = HEAD
    embedding: float = 0.5
    seed: int = 0
    fixed: dict[str, Any] = field(default_factory=dict)
    unused: str = ""
