"""Classifiers: what scores a text, behind the pooled vector of a reranker.

Which tensors one has, and what lies between them. Source: build_pooling in src/llama-graph.cpp and
load_arch_tensors in src/models/ of llama.cpp, as bundled with llama-cpp-python 0.3.36.

Shape letters: D n_embd, C classes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Literal

from gguf_hub.gguf.hparams import GraphHyperParameters

DENSE, DENSE_BIAS, NORM = "cls.weight", "cls.bias", "cls.norm.weight"
OUTPUT, OUTPUT_BIAS = "cls.output.weight", "cls.output.bias"


@dataclass(frozen=True)
class ClassifierGraph:
    """What the classifiers of an architecture may have.

    Attributes:
        names: Tensors.
        activation: What follows the dense layer; ``gelu`` is the tanh form.
        has_softmax: Scores are probabilities of the classes.
        is_one_score: The dense layer gives one number, and nothing follows but its activation.
        reads_mean: It reads the mean of all vectors where the file does not say.
    """

    names: tuple[str, ...]
    activation: Literal["tanh", "gelu"] = "tanh"
    has_softmax: bool = False
    is_one_score: bool = False
    reads_mean: bool = False

    def tensors(
        self, hparams: GraphHyperParameters, there: Container[str]
    ) -> Iterator[tuple[str, tuple[int, ...], bool]]:
        """Yield name, shape and whether it is a vector, of each tensor that a file has."""
        d, n_classes = hparams.n_embd, hparams.n_cls_out
        width = 1 if self.is_one_score else d
        shapes = {DENSE: (d, width), DENSE_BIAS: (width,), NORM: (d,), OUTPUT: (d, n_classes),
                  OUTPUT_BIAS: (n_classes,)}  # fmt: skip
        for name in self.names:
            if name in there:
                yield name, shapes[name], len(shapes[name]) == 1


_BERT = ClassifierGraph((DENSE, DENSE_BIAS, OUTPUT, OUTPUT_BIAS))
_QWEN = ClassifierGraph((OUTPUT,), has_softmax=True)

CLASSIFIERS = {
    "bert": _BERT,
    "jina-bert-v2": ClassifierGraph((DENSE, DENSE_BIAS), is_one_score=True),
    "modern-bert": ClassifierGraph((DENSE, NORM, OUTPUT, OUTPUT_BIAS), activation="gelu",
                                   reads_mean=True),
    "neo-bert": _BERT,
    "qwen3": _QWEN,
    "qwen3vl": _QWEN,
}  # fmt: skip
"""Architecture -> its classifiers."""
