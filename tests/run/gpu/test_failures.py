"""GPUs that fail, or have no room: texts go on, and fewer layers are put there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.server.scheduler import Scheduler, TokenSequence
from gguf_hub.errors import CacheLostError, GpuError, GpuMemoryError
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.progress import SILENT, Progress, SilentProgress
from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ALL_LAYERS, GpuSettings, ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer
from tests.run.gpu.host_part import open_shared

LIMITS = Limits(n_ctx=128, n_batch=8, n_outputs=8, n_threads=1, n_slots=3)
PROMPTS = ("Once upon a time there was a little", "The dog", "One day, Lily and her mother went to")


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    """Link each kernel once for all models of this file."""
    return KernelBuilder()


@pytest.fixture(scope="module")
def file(embedded: Path) -> GgufFile:
    return GgufFile.open(embedded)


@pytest.fixture(scope="module")
def tokenizer(file: GgufFile) -> Tokenizer:
    return load_tokenizer(file.metadata)


def text_of(prompt: str, tokenizer: Tokenizer) -> Generation:
    sampler = LogitsSampler(Sampler(SamplerConfig(temp=0)))
    tokens = tuple(tokenizer.encode(prompt))
    return Generation(GenerationRequest(tokens, sampler, max_tokens=40), tokenizer, 128)


def served(model: Transformer, tokenizer: Tokenizer) -> list[str]:
    """Return the texts that three clients get at once."""
    scheduler, texts = Scheduler(model), [""] * len(PROMPTS)

    def adding(i: int) -> Callable[[Any], None]:
        def add(delta: Any) -> None:
            texts[i] += delta.text

        return add

    def failed(error: Exception) -> None:
        raise error

    scheduler.submit(
        *(
            TokenSequence(text_of(prompt, tokenizer), adding(i), failed)
            for i, prompt in enumerate(PROMPTS)
        )
    )
    while scheduler.has_work:
        scheduler.round()
    return texts


def written(model: Transformer, tokenizer: Tokenizer) -> str:
    return "".join(delta.text for delta in Engine(model).stream(text_of(PROMPTS[2], tokenizer)))


@pytest.mark.parametrize("n_runs", [0, 1, 2, 5, 30])
@pytest.mark.parametrize("how", [written, served])
def test_a_text_goes_on_when_a_gpu_fails(
    how: Callable[..., Any], n_runs: int, file: GgufFile, tokenizer: Tokenizer,
    builder: KernelBuilder,
) -> None:  # fmt: skip
    with open_shared(file, builder, LIMITS, n_gpu_layers=0) as model:
        expected = how(model, tokenizer)
    with open_shared(file, builder, LIMITS, n_runs=n_runs, n_gpu_layers=9) as model:
        assert how(model, tokenizer) == expected


def test_caches_that_went_with_a_gpu_are_not_trusted(
    file: GgufFile, builder: KernelBuilder
) -> None:
    with open_shared(file, builder, LIMITS, n_runs=2, n_gpu_layers=9) as model:
        for slot in range(2):
            model.forward([1, 2, 3], 0, slot=slot)
        with pytest.raises(CacheLostError):
            model.forward([4], 3, slot=0)
        assert [model.reusable(3, slot) for slot in range(2)] == [0, 0]
        with pytest.raises(CacheLostError):
            model.forward([4], 3, slot=1)
        model.forward([1, 2, 3], 0, slot=1)
        assert model.reusable(3, 1) == 3


def test_embedding_goes_on(file: GgufFile, builder: KernelBuilder) -> None:
    tokens = list(range(1, 20))
    with open_shared(file, builder, LIMITS, n_gpu_layers=0) as model:
        expected = model.embed(tokens)
    with open_shared(file, builder, LIMITS, n_runs=1, n_gpu_layers=9) as model:
        np.testing.assert_array_equal(model.embed(tokens), expected)


class Notes(SilentProgress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


class Small:
    """A GPU with room for so many bytes; it stays open for the next test."""

    def __init__(self, device: Any, room: int) -> None:
        self._device, self.room = device, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def buffer(self, size: int) -> Any:
        if size > self.room:
            raise GpuMemoryError("GPU `small` has no room for more")
        buffer = self._device.buffer(size)
        self.room -= buffer.size
        return buffer

    def free(self, buffer: Any) -> None:
        self.room += buffer.size
        self._device.free(buffer)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, 0.95, 1.0])
def test_as_many_layers_as_have_room(
    share: float, file: GgufFile, device: Any, builder: KernelBuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    notes, logits = Notes(), {}
    settings = ModelSettings(n_ctx=64, n_batch=8, n_threads=1)
    on_gpu = replace(settings, gpu=GpuSettings(n_layers=ALL_LAYERS))

    def open_on(gpu: Small, progress: Progress = SILENT) -> Transformer:
        monkeypatch.setattr("gguf_hub.run.model.machines.open_devices", lambda numbers: [gpu])
        return Transformer.open(file, on_gpu, builder=builder, progress=progress)

    large = Small(device, 2**31)
    with open_on(large) as model:
        logits["large"] = model.forward([1, 5, 9], 0)
    need = 2**31 - large.room
    with open_on(Small(device, int(share * need)), notes) as model:
        logits["small"] = model.forward([1, 5, 9], 0)
        placement = getattr(model._machine, "placement", None)
    with Transformer.open(file, settings, builder=builder) as model:
        expected = model.forward([1, 5, 9], 0)
    for found in logits.values():
        np.testing.assert_allclose(found, expected, atol=1e-2)
    n_layers = placement.n_gpu_layers if placement else 0
    assert {0.0: n_layers == 0, 1.0: n_layers == 4}.get(share, 0 < n_layers < 4)
    assert bool(notes.texts) == (share < 1)
    if 0 < share < 1:
        assert notes.texts[-1].endswith(f"{n_layers} layers on it")


def test_a_driver_that_refuses_a_kernel_leaves_all_to_the_cpu(
    file: GgufFile, device: Any, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Small):
        def kernel(self, source: str, **options: Any) -> Any:
            raise GpuError("the driver of `small` refuses a kernel")

    gpu, notes = Refusing(device, 2**31), Notes()
    monkeypatch.setattr("gguf_hub.run.model.machines.open_devices", lambda numbers: [gpu])
    settings = ModelSettings(n_ctx=64, n_threads=1, gpu=GpuSettings(n_layers=ALL_LAYERS))
    with Transformer.open(file, settings, builder=builder, progress=notes) as model:
        assert model.n_gpu_layers == 0
        assert model.forward([1, 5, 9], 0).shape == (1, file.hparams.n_vocab)
    assert "the CPU computes all layers" in notes.texts[-1]


def test_a_gpu_that_is_not_there_leaves_all_to_the_cpu(
    file: GgufFile, device: Any, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGUF_HUB_SOFTWARE_GPU", "1")
    notes, gpu = Notes(), GpuSettings(n_layers=ALL_LAYERS, devices=(99,))
    settings = ModelSettings(n_ctx=64, n_threads=1, gpu=gpu)
    with Transformer.open(file, settings, builder=builder, progress=notes) as model:
        assert model.n_gpu_layers == 0
    assert notes.texts == ["GPU 99 cannot be used: the CPU computes all layers"]


def test_a_cache_that_kernels_cannot_see_leaves_all_to_the_cpu(
    file: GgufFile, device: Any, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "max_binding", 300_000)
    small, notes = Small(device, 2**31), Notes()
    monkeypatch.setattr("gguf_hub.run.model.machines.open_devices", lambda numbers: [small])
    gpu = GpuSettings(n_layers=ALL_LAYERS)
    settings = ModelSettings(n_ctx=512, n_threads=1, n_slots=8, gpu=gpu)
    with Transformer.open(file, settings, builder=builder, progress=notes) as model:
        assert model.n_gpu_layers == 0
    assert "more than the 300.0 kB that the GPU's kernels can see" in notes.texts[-1]


def test_wgpu_that_cannot_be_loaded_leaves_all_to_the_cpu(
    file: GgufFile, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf_hub.run.gpu.wgpu_device", None)
    notes, gpu = Notes(), GpuSettings(n_layers=ALL_LAYERS)
    settings = ModelSettings(n_ctx=64, n_threads=1, gpu=gpu)
    with Transformer.open(file, settings, builder=builder, progress=notes) as model:
        assert model.n_gpu_layers == 0
    assert notes.texts[0].startswith("wgpu cannot be loaded: ")


def test_what_wgpu_refuses_is_an_error_of_ours(device: Any) -> None:
    with pytest.raises(GpuError, match="GPU `"):
        device.write(device.buffer(16), 1, np.zeros(4, np.uint8))  # no whole word
