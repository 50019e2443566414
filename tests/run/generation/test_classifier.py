"""Rerankers: llama.cpp's scores, and every part of a classifier against a naive one."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch.classifier import CLASSIFIERS, ClassifierGraph
from gguf_hub.gguf.hparams import GraphHyperParameters
from gguf_hub.gguf.shards import open_gguf
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.generation.classifier import Classifier, read_classifier
from gguf_hub.run.generation.pooling import Pooling, pool
from gguf_hub.run.generation.ranking import encode_pair, rerank_template
from gguf_hub.run.generation.vectors import Pooler
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.opening import LoadedModel, open_model
from gguf_hub.run.quants.quantize import quantize_file
from gguf_hub.run.quants.recipes import FileType
from tests.rerankers import ENCODERS, PAIRS, TEMPLATE, write_encoder, write_reranker
from tests.run.tokenizer.small import small_tokenizer

SCORES = Path(__file__).with_name("llama_cpp_scores.json")
"""Made by ``tools/llama_cpp_scores.py``."""
HALVES = 5e-4
"""Scores of two caches of halves; 9e-5 here, and 2.3e-4 where ours is F32."""
GELU = 5e-3
"""The same of encoders: ggml reads GELU from a table of halves."""
VECTORS = 2e-3
"""The same of vectors: 6.4e-4, and 1.2e-3."""


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCORES.read_text())
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, kernels: None) -> Any:
    path = write_reranker(tmp_path_factory.mktemp("model") / "model.gguf")
    with open_model(path, ModelSettings(n_ctx=64, n_logits=None, n_threads=1)) as loaded:
        yield loaded


def test_pairs_are_read_as_llama_cpp_does(model: LoadedModel, reference: dict[str, Any]) -> None:
    template = rerank_template(model.file.metadata)
    assert template == TEMPLATE
    found = [encode_pair(model.tokenizer, template, *pair) for pair in PAIRS]
    assert found == reference["tokens"]


def test_scores_and_vectors_are_llama_cpps(model: LoadedModel, reference: dict[str, Any]) -> None:
    pooler = Pooler(model.file)
    assert pooler.classifier.labels == ("yes", "no")
    for i, tokens in enumerate(reference["tokens"]):
        hidden = model.model.embed(tokens)
        np.testing.assert_allclose(pooler.vectors(hidden), reference["rank"][i], atol=HALVES)
        for name in ("mean", "cls", "last"):
            expected, pooling = reference[name][i], Pooling[name.upper()]
            np.testing.assert_allclose(
                Pooler(model.file, pooling).vectors(hidden)[: len(expected)], expected, atol=VECTORS
            )
            assert np.array_equal(
                Pooler(model.file, pooling).vectors(hidden), pool(hidden, pooling)
            )


@pytest.mark.parametrize("arch", ENCODERS)
def test_encoders_score_as_llama_cpp_does(
    arch: str, reference: dict[str, Any], tmp_path: Path, kernels: None
) -> None:
    path = write_encoder(tmp_path / "model.gguf", arch)
    assert sha256(path.read_bytes()).hexdigest() == reference[arch]["sha256"]
    with open_model(path, ModelSettings(n_ctx=64, n_logits=None, n_threads=1)) as loaded:
        pooler = Pooler(loaded.file)
        found = [pooler.vectors(loaded.model.embed(tokens)) for tokens in reference["tokens"]]
    np.testing.assert_allclose(found, reference[arch]["rank"], rtol=0, atol=GELU)


@pytest.mark.parametrize("type_", [QuantType.F16, QuantType.BF16, QuantType.Q8_0])
def test_a_classifier_of_any_type_is_decoded(
    type_: QuantType, tmp_path: Path, kernels: None
) -> None:
    exact = write_reranker(tmp_path / "exact.gguf")
    path = tmp_path / "other.gguf"
    quantize_file(exact, path, FileType[type_.name])
    with open_gguf(exact) as one, open_gguf(path) as other:
        weights = read_classifier(one).tensors["cls.output.weight"]
        found = read_classifier(other).tensors["cls.output.weight"]
        assert other.tensors["cls.output.weight"].type == type_
    assert found.shape == weights.shape == (2, 64)
    assert 0 < np.abs(found - weights).max() < 2e-3 * (4 if type_ == QuantType.BF16 else 1)


def test_a_file_without_a_classifier_scores_nothing(tmp_path: Path) -> None:
    path = write_reranker(tmp_path / "a.gguf", has_classifier=False)
    expected = r"`a\.gguf` does not support reranking: expected the tensor `cls\.output\.weight`"
    with open_gguf(path) as file, pytest.raises(UnsupportedGgufError, match=expected):
        assert Pooler(file).classifier


def test_classes_and_rows_are_as_many(tmp_path: Path) -> None:
    path = write_reranker(tmp_path / "a.gguf", n_rows=3)
    with pytest.raises(UnsupportedGgufError, match=r"`cls.output.weight` has shape \[64, 3\]"):
        open_model(path)


# -- every form ------------------------------------------------------------------------------------

D, C = 6, 3
KEYS = {"embedding_length": D, "classifier.output_labels": ["a", "b", "c"]}


def naive(arch: str, there: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Compute scores as llama.cpp's graph is read, with loops in float64."""

    def linear(weight: str, bias: str, x: np.ndarray) -> np.ndarray:
        rows = [sum(w * v for w, v in zip(row, x, strict=True)) for row in there[weight]]
        return np.array(rows) + there.get(bias, np.zeros(len(rows)))

    if "cls.weight" in there:
        x = linear("cls.weight", "cls.bias", x)
        gelu = [0.5 * v * (1 + np.tanh(0.7978845608 * (v + 0.044715 * v**3))) for v in x]
        x = np.array(gelu) if arch == "modern-bert" else np.tanh(x)
        if "cls.norm.weight" in there:
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * there["cls.norm.weight"]
    if "cls.output.weight" in there:
        x = linear("cls.output.weight", "cls.output.bias", x)
    return np.exp(x) / np.exp(x).sum() if arch.startswith("qwen3") else x


@pytest.mark.parametrize("arch", CLASSIFIERS)
@pytest.mark.parametrize("pooling", [Pooling.CLS, Pooling.LAST, Pooling.MEAN])
def test_each_form_is_computed(arch: str, pooling: Pooling) -> None:
    rng = np.random.default_rng(7)
    graph: ClassifierGraph = CLASSIFIERS[arch]
    fields = {"general.architecture": arch, **{f"{arch}.{k}": v for k, v in KEYS.items()}}
    shapes = graph.tensors(GraphHyperParameters(fields), graph.names)
    there = {name: rng.standard_normal(shape[::-1]) for name, shape, _ in shapes}
    floats = {name: array.astype(np.float32) for name, array in there.items()}
    hidden = rng.standard_normal((4, D)).astype(np.float32)
    x = {Pooling.CLS: hidden[0], Pooling.LAST: hidden[-1]}.get(pooling, hidden.mean(axis=0))
    found = Classifier(graph, floats, pooling, epsilon=1e-5).scores(hidden)
    np.testing.assert_allclose(found, naive(arch, there, x.astype(float)), rtol=2e-5, atol=1e-6)
    assert found.shape == ((1,) if graph.is_one_score else (C,))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, Pooling.LAST),
        ({"attention.causal": False}, Pooling.CLS),
        ({"classifier.pooling_type": 1}, Pooling.MEAN),
    ],
    ids=["causal", "not causal", "as the file says"],
)
def test_the_vector_that_is_classified(
    keys: dict[str, Any], expected: Pooling, tmp_path: Path
) -> None:
    path = write_reranker(tmp_path / "a.gguf", keys=keys)
    with open_gguf(path) as file:
        assert read_classifier(file).pooling == expected


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "1 q d"),
        ({"add_eos_token": True}, "1 q 2 d 2"),
        ({"add_bos_token": False, "add_eos_token": True}, "q 2 d 2"),
        ({"add_sep_token": True, "seperator_token_id": 0}, "1 q 0 d"),
        ({"add_sep_token": True, "seperator_token_id": 0, "add_eos_token": True}, "1 q 2 0 d 2"),
    ],
    ids=["begin", "end", "end only", "separator", "all"],
)
def test_without_a_template_marks_part_the_texts(keys: dict[str, Any], expected: str) -> None:
    tokenizer = small_tokenizer(**keys)
    texts = {"q": "ab", "d": "ba"}
    ids: list[int] = []
    for word in expected.split():
        own = tokenizer.encode(texts[word], add_bos=False) if word in texts else [int(word)]
        ids += own
    assert encode_pair(tokenizer, None, "ab", "ba") == ids


def test_texts_of_a_template_are_not_templates_or_control_tokens() -> None:
    tokenizer = small_tokenizer({"a": -1.0, "b": -1.0}, {"<end>": 3})
    end = tokenizer.encode("<end>", add_bos=False, parse_special=True)[-1]
    found = encode_pair(tokenizer, "{query}<end>{document}", "a{document}", "b<end>")
    assert found.count(end) == 1
    printed = tokenizer.decode(found, special=True).replace("\u2581", "")
    assert printed == "a{document}<end>b<end>"
