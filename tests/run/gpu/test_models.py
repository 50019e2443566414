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
from tests.arch_recipes import RECIPES
from tests.run.gpu.test_machine import answers

ALL = GpuSettings(n_layers=ALL_LAYERS)
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


@pytest.mark.parametrize("name", RECIPES)
def test_every_architecture(name: str, open_model: Any, tmp_path: Path) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name)
    expected = answers(open_model(path, GpuSettings(), n_slots=3))
    found = answers(open_model(path, n_slots=3))
    for have, want in list(zip(found, expected, strict=True))[:-1]:
        assert_alike(have, want)
    np.testing.assert_allclose(found[-1], expected[-1], atol=1e-2 * np.abs(expected[-1]).max())
