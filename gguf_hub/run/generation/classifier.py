"""The classifier of a reranker: scores of a text, of the vectors of its tokens.

It is computed here with float32, whatever device computes the model: a few thousand products for a
text. Knows nothing of queries and documents (``ranking``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch.classifier import (
    CLASSIFIERS,
    DENSE,
    DENSE_BIAS,
    NORM,
    OUTPUT,
    OUTPUT_BIAS,
    ClassifierGraph,
)
from gguf_hub.gguf.floats import FLOAT_TYPES, float_tensor
from gguf_hub.gguf.hparams import GraphHyperParameters
from gguf_hub.gguf.shards import Gguf
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.generation.pooling import Pooling, pool

Floats = NDArray[np.float32]
_NONE = ClassifierGraph(())


@dataclass(frozen=True)
class Classifier:
    """What scores texts.

    Attributes:
        graph: What follows what.
        tensors: Weights by their names, matrices as [rows, D].
        pooling: Which vector it reads: that of the first or of the last token, or the mean.
        labels: Names of the scores; none where the file has no names.
        epsilon: Of the norm.
    """

    graph: ClassifierGraph
    tensors: Mapping[str, Floats]
    pooling: Pooling
    labels: tuple[str, ...] = ()
    epsilon: float = 0.0

    def scores(self, hidden: Floats) -> Floats:
        """Return the scores of a text, [C]; by the first one documents are ranked.

        Args:
            hidden: Vectors of its tokens, [T, D].
        """
        x = pool(hidden, self.pooling)  # [D]
        if DENSE in self.tensors:
            x = self._activation(self._linear(x, DENSE, DENSE_BIAS))  # [D], or [1]
            if NORM in self.tensors:
                x = self._norm(x)
        if OUTPUT in self.tensors:
            x = self._linear(x, OUTPUT, OUTPUT_BIAS)  # [C]
        if self.graph.has_softmax:
            x = np.exp(x - x.max())
            x /= x.sum()
        return x

    def _linear(self, x: Floats, weight: str, bias: str) -> Floats:
        y: Floats = self.tensors[weight] @ x
        if bias in self.tensors:
            y += self.tensors[bias]
        return y

    def _activation(self, x: Floats) -> Floats:
        if self.graph.activation == "tanh":
            return np.tanh(x)
        inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        return np.asarray(0.5 * x * (1 + np.tanh(inner)), np.float32)

    def _norm(self, x: Floats) -> Floats:
        centred = x - x.mean()
        root = np.sqrt((centred * centred).mean() + np.float32(self.epsilon))
        return np.asarray(centred / root * self.tensors[NORM], np.float32)


def read_classifier(file: Gguf) -> Classifier:
    """Return the classifier of a model's file.

    Raises:
        UnsupportedGgufError: It has none, or one of which parts are missing.
    """
    hparams = file.hparams.of_graph()
    graph = CLASSIFIERS.get(hparams.architecture, _NONE)
    needed = DENSE if graph.is_one_score else OUTPUT
    shapes = {name: shape for name, shape, _ in graph.tensors(hparams, file.tensors)}
    if needed not in shapes:
        raise UnsupportedGgufError(
            f"`{file.path.name}` does not support reranking: expected the tensor `{needed}`, a "
            "classifier that scores texts, found none",
            path=file.path,
            hint="use a GGUF of a reranker, converted by llama.cpp of September 2025 or later",
        )
    tensors = {name: _tensor(file, name, shape[::-1]) for name, shape in shapes.items()}
    epsilon = hparams.layer_norm_epsilon if NORM in tensors else 0.0
    return Classifier(graph, tensors, _row(graph, hparams), hparams.classifier_labels, epsilon)


def _row(graph: ClassifierGraph, hparams: GraphHyperParameters) -> Pooling:
    """Return which vector the classifier reads."""
    is_told = hparams.has(GraphHyperParameters.classifier_pooling)
    if (graph.reads_mean and not is_told) or hparams.classifier_pooling == Pooling.MEAN:
        return Pooling.MEAN
    return Pooling.LAST if hparams.is_causal else Pooling.CLS


def _tensor(file: Gguf, name: str, shape: tuple[int, ...]) -> Floats:
    """Return a tensor as floats, a copy."""
    found = (
        float_tensor(file, name) if file.tensors[name].type in FLOAT_TYPES else _decoded(file, name)
    )
    return np.array(found, np.float32).reshape(shape)


def _decoded(file: Gguf, name: str) -> Floats:
    """Return the weights of a quantised matrix."""
    from gguf_hub.run.quants.transcode import Job, Transcoder  # compiles; few files need it

    info = file.tensors[name]
    assert isinstance(info.type, QuantType)
    job = Job(info.type, QuantType.F32, info.shape[0])
    with Transcoder(file.data, row_length=info.shape[0], n_threads=1) as transcoder:
        ranges = [(file.start_of(name), info.size_bytes)]
        chunks = [chunk.copy() for chunk in transcoder.chunks(name, job, ranges)]
    return np.concatenate(chunks).view(np.float32)
