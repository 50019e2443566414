"""Whole models on a GPU beside the CPU: architectures, splits of layers, slots, cache types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ALL_LAYERS, GpuSettings, ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.arch_models import N_CTX, write_arch_model
from tests.run.gpu.test_machine import answers
from tests.synth import LOGITS_TOKENS, write_logits_model

ALL = GpuSettings(n_layers=ALL_LAYERS)
ARCHITECTURES = (
    "llama-moe", "gpt-oss", "llama4", "cohere2", "gemma4-e", "gemma4-moe", "phi3-long", "minicpm",
    "bailingmoe2", "deepseek2", "lfm2", "granitehybrid", "nemotron_h_moe", "qwen35moe",
)  # fmt: skip
"""One of each kind of layer; ``tools/gpu_check.py`` runs all."""

MAX_DIVERGENCE = 1e-3
"""Of distributions of tokens, in nats. Activations are rounded to eight bits: where a GPU's ``exp``
differs in its last bit, one of them may be rounded the other way."""


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    """Link each kernel once for all models of this file."""
    return KernelBuilder()


@pytest.fixture
def open_model(
    builder: KernelBuilder, device: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Transformer]]:
    """Open models on the tests' GPU; they are closed after the test."""
    monkeypatch.setattr("gguf_hub.run.model.machines.open_devices", lambda numbers: [_Kept(device)])
    opened: list[Transformer] = []

    def open_(path: Path, gpu: GpuSettings = ALL, **options: Any) -> Transformer:
        settings = ModelSettings(n_ctx=N_CTX, n_batch=8, n_threads=1, n_logits=8, gpu=gpu)
        settings = replace(settings, **options)
        opened.append(Transformer.open(GgufFile.open(path), settings, builder=builder))
        return opened[-1]

    yield open_
    for model in opened:
        model.close()


class _Kept:
    """A device that stays open for the next test."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def close(self) -> None:
        pass


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Return the largest Kullback-Leibler divergence of rows of logits, in nats."""
    p, q = (x.astype(float) - x.max(-1, keepdims=True) for x in (p, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return float((np.exp(p) * (p - q)).sum(-1).max())


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare logits: nearly the same distributions, the same best token where it is clear."""
    assert divergence(expected, found) <= MAX_DIVERGENCE
    top = np.sort(expected, -1)
    is_clear = top[:, -1] - top[:, -2] > 2 * np.abs(found - expected).max(-1)
    assert (found.argmax(-1) == expected.argmax(-1))[is_clear].all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_kind_of_layer(name: str, open_model: Any, tmp_path: Path) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name)
    expected = answers(open_model(path, GpuSettings(), n_slots=3))
    found = answers(open_model(path, n_slots=3))
    for have, want in list(zip(found, expected, strict=True))[:-1]:
        assert_alike(have, want)
    np.testing.assert_allclose(found[-1], expected[-1], atol=1e-2 * np.abs(expected[-1]).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "cache"),
    [(recipe, cache) for recipe in ("Q2_K", "Q4_K_M", "Q5_0", "MXFP4") for cache in ("F16", "Q8_0")]
    + [("Q4_K_M", "F32")],
)
def test_quants_whose_matrices_are_cut(
    recipe: str, cache: str, open_model: Any, device: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As where a driver lets kernels see less of a buffer than a matrix takes."""
    path = write_logits_model(tmp_path / "model.gguf", recipe)
    options = {"key_type": cache, "value_type": cache, "n_batch": 4, "n_logits": 4}
    monkeypatch.setattr(device, "max_binding", 200_000)
    found = in_parts(open_model(path, **options))
    assert_alike(found, in_parts(open_model(path, GpuSettings(), **options)))


def in_parts(model: Transformer) -> np.ndarray:
    """Return logits after a prompt in batches, and after each token of the rest."""
    tokens = LOGITS_TOKENS
    rows = [model.forward(tokens[:6], 0), *(model.forward([t], 6 + i) for i, t in
            enumerate(tokens[6:]))]  # fmt: skip
    return np.concatenate(rows)


@pytest.mark.slow
@pytest.mark.parametrize("n_cpu_moe", [0, 1, 99])
@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_every_split_of_layers(
    n_layers: int, n_cpu_moe: int, open_model: Any, embedded: Path
) -> None:
    tokens = list(range(5, 25))
    gpu = GpuSettings(n_layers, n_cpu_moe)
    found, expected = (
        open_model(embedded, each).forward(tokens, 0) for each in (gpu, GpuSettings())
    )
    assert_alike(found, expected)


@pytest.mark.slow
def test_a_long_prompt_is_its_tokens_one_by_one(open_model: Any, embedded: Path) -> None:
    tokens, model = [1 + i * 7 % 300 for i in range(60)], open_model(embedded, n_batch=32)
    at_once = model.forward(tokens, 0)
    one_by_one = [model.forward([token], i) for i, token in enumerate(tokens)]
    assert_alike(one_by_one[-1], at_once)


# -- what the model card has people type -----------------------------------------------------------


@pytest.mark.slow
def test_the_cards_command(
    gguf_hub: Callable[..., tuple[int, str, str]], embedded: Path, device: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("GGUF_HUB_SOFTWARE_GPU", "1")
    options = ("--color", "-c", "512", "--temp", "0.7", "--repeat_penalty", "1.1", "-n", "24",
               "--seed", "7", "-p", "Once upon a time")  # fmt: skip
    code, text, talk = gguf_hub("run", str(embedded), "-ngl", "35", *options)
    assert (code, "all 4 layers" in talk) == (0, True), talk
    assert text == gguf_hub("run", str(embedded), "-ngl", "0", *options)[1]


@pytest.mark.slow
def test_the_cards_program(embedded: Path, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf_hub.api.llama import Llama

    monkeypatch.setenv("GGUF_HUB_SOFTWARE_GPU", "1")
    texts = []
    for n_gpu_layers in (35, 0):
        llm = Llama(model_path=str(embedded), n_ctx=512, n_threads=1, n_gpu_layers=n_gpu_layers)
        output = llm("Once upon a time", max_tokens=24, stop=["</s>"], echo=True, temperature=0)
        texts.append(output["choices"][0]["text"])
        llm.close()
    assert texts[0] == texts[1]
