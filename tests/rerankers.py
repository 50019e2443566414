"""Writes tiny rerankers, and the texts whose scores llama.cpp computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf_hub.gguf.arch.classifier import CLASSIFIERS
from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.types import QuantType
from tests.arch_models import N_EMBD, letters, write_arch_model

TEMPLATE = "<s>query {query} document {document}</s>"
PAIRS = (("abcd", "bacd"), ("zap", "quick brown fox"), ("dog", "cat"))
"""Queries and documents."""


def write_reranker(
    path: Path,
    *,
    arch: str = "qwen3",
    labels: Sequence[str] = ("yes", "no"),
    template: str | None = TEMPLATE,
    keys: dict[str, Any] | None = None,
    n_rows: int | None = None,
    has_classifier: bool = True,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write a model of a row of ``RECIPES`` with a classifier, F32 throughout.

    Args:
        path: The file.
        arch: The row.
        labels: Names of the classes; none for one class without a name.
        template: Of a query and a document; None for none.
        keys: More keys of the architecture.
        n_rows: How many rows it has; None for one of each class.
        has_classifier: Whether there is one.
        more: Keys of the vocabulary.
    """
    vocabulary = {**letters(), **(more or {})}
    if labels:
        vocabulary[f"{arch}.classifier.output_labels"] = list(labels)
    if template is not None:
        vocabulary["tokenizer.chat_template.rerank"] = template
    shape = (N_EMBD, n_rows or max(1, len(labels)))
    added = [TensorSpec("cls.output.weight", shape, QuantType.F32)] if has_classifier else []
    write_arch_model(
        path, arch, keys={"pooling_type": 4, **(keys or {})},
        tensors=lambda specs: [*specs, *added], vocabulary=vocabulary,
    )  # fmt: skip
    return path


ENCODERS = ("bert", "jina-bert-v2", "modern-bert")
"""Encoders that have classifiers, rows of ``encoder_recipes``."""


def write_encoder(path: Path, arch: str) -> Path:
    """Write an encoder with every part of a classifier, whose result is one score."""
    graph, d = CLASSIFIERS[arch], N_EMBD
    width = 1 if graph.is_one_score else d
    shapes = {"cls.weight": (d, width), "cls.bias": (width,), "cls.norm.weight": (d,),
              "cls.output.weight": (d, 1), "cls.output.bias": (1,)}  # fmt: skip
    added = [TensorSpec(name, shapes[name], QuantType.F32) for name in graph.names]
    return write_arch_model(
        path, arch, keys={"pooling_type": 4}, tensors=lambda specs: [*specs, *added],
        vocabulary=letters(),
    )  # fmt: skip
