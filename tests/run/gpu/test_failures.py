"""GPUs that fail, or have no room: texts go on, and fewer layers are put there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.server.scheduler import Scheduler
from gguf_hub.api.server.slots import TokenSequence
from gguf_hub.errors import CacheLostError, GpuError, GpuMemoryError
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.gpu.device import Slice
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ALL_LAYERS, GpuSettings, ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.perplexity.measure import BLOCK_ROWS, ModelSource
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer
from tests.arch_models import write_arch_model
from tests.notes import Notes
from tests.run.gpu.host_part import open_shared

ALL = GpuSettings(n_layers=ALL_LAYERS)
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


def test_an_embedding_goes_on_with_larger_batches(file: GgufFile, builder: KernelBuilder) -> None:
    """As where a GPU's driver made batches smaller: the memory of the next program is another."""
    tokens, large = list(range(1, 60)), replace(LIMITS, n_batch=32, n_outputs=32)
    with open_shared(file, builder, large, n_gpu_layers=0) as model:
        expected = model.embed(tokens)
        reopen = model._reopen
    with open_shared(file, builder, LIMITS, n_runs=0, n_gpu_layers=9) as model:
        model._reopen = reopen
        np.testing.assert_array_equal(model.embed(tokens), expected)
        assert model.n_batch == 32


def test_a_perplexity_goes_on(file: GgufFile, builder: KernelBuilder) -> None:
    def measured(n_runs: int, n_layers: int) -> np.ndarray:
        limits = replace(LIMITS, n_batch=BLOCK_ROWS, n_outputs=BLOCK_ROWS)
        with open_shared(file, builder, limits, n_runs=n_runs, n_gpu_layers=n_layers) as model:
            source = ModelSource(model, file.hparams.n_vocab, 1)
            blocks = [(at, at + BLOCK_ROWS) for at in range(32, 96, BLOCK_ROWS)]
            return np.concatenate(list(source.log_probs(list(range(3, 99)), blocks)))

    np.testing.assert_array_equal(measured(1, 9), measured(-1, 0))


def lost(*arguments: Any) -> Any:
    raise GpuError("`stand-in` was lost while it computed")


@pytest.mark.parametrize(
    ("method", "use"),
    [
        ("read", lambda model: model.checkpoint(3, 0)),
        ("read", lambda model: model.save_cache(3, 0)),
        ("read", lambda model: model.copy_cache(0, 1, 3)),
        ("write", lambda model: model.load_cache(np.zeros(model.cache_size(3), np.uint16), 3, 1)),
        ("run", lambda model: model.decode([(0, 4, 3), (2, 4, 3)])),
    ],
    ids=["checkpoint", "save", "copy", "load", "several texts"],
)
def test_whatever_a_gpu_fails_at_the_model_goes_on(
    method: str, use: Callable[[Transformer], Any], builder: KernelBuilder, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = GgufFile.open(write_arch_model(tmp_path / "model.gguf", "qwen35moe"))
    limits = replace(LIMITS, n_ctx=64)
    with open_shared(file, builder, limits, n_gpu_layers=0) as model:
        expected = model.forward([1, 2, 3], 0)
    with open_shared(file, builder, limits, n_gpu_layers=9) as model:
        for slot in (0, 2):
            model.forward([1, 2, 3], 0, slot=slot)
        monkeypatch.setattr(model._machine._parts[0], method, lost)  # type: ignore[attr-defined]
        with pytest.raises(CacheLostError):
            use(model)
        assert model.n_gpu_layers == 0
        assert [model.reusable(3, slot) for slot in range(3)] == [0, 0, 0]
        with pytest.raises(CacheLostError):
            model.copy_cache(0, 1, 3)
        np.testing.assert_array_equal(model.forward([1, 2, 3], 0), expected)
        model.copy_cache(0, 1, 3)
        assert model.reusable(3, 1) == 3


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


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, 0.95, 1.0])
def test_as_many_layers_as_have_room(
    share: float, file: GgufFile, device: Any, builder: KernelBuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    notes, logits = Notes(), {}
    settings = ModelSettings(n_ctx=64, n_batch=8, n_threads=1)
    on_gpu = replace(settings, gpu=ALL)

    def open_on(gpu: Small, progress: Progress = SILENT) -> Transformer:
        monkeypatch.setattr("gguf_hub.run.model.machines.open_devices", lambda numbers: [gpu])
        return Transformer.open(file, on_gpu, builder=builder, progress=progress)

    large = Small(device, 2**31)
    with open_on(large) as model:
        logits["large"] = model.forward([1, 5, 9], 0)
        need = 2**31 - large.room
    assert large.room == 2**31  # all is given back, whoever still holds on to the model
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


def test_no_room_for_the_steps_beside_the_weights(
    file: GgufFile, device: Any, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ModelSettings(n_ctx=64, n_threads=1, gpu=ALL)
    gpu, notes = Small(device, 2**31), Notes()
    monkeypatch.setattr("gguf_hub.run.model.machines.open_devices", lambda numbers: [gpu])
    with Transformer.open(file, settings, builder=builder):
        need = 2**31 - gpu.room
    gpu.room = need - 1
    with Transformer.open(file, settings, builder=builder, progress=notes) as model:
        assert model.n_gpu_layers == 0
        assert model.forward([1, 5, 9], 0).shape == (1, file.hparams.n_vocab)
    assert "has no room for more: the CPU computes all layers" in notes.texts[-1]


def notes_of_cpu_alone(
    file: GgufFile, builder: KernelBuilder, *, gpu: GpuSettings = ALL, n_ctx: int = 64,
    n_slots: int = 1,
) -> list[str]:  # fmt: skip
    """Return what is said where the CPU computes all that a GPU was to."""
    notes = Notes()
    settings = ModelSettings(n_ctx=n_ctx, n_threads=1, n_slots=n_slots, gpu=gpu)
    with Transformer.open(file, settings, builder=builder, progress=notes) as model:
        assert model.n_gpu_layers == 0
        assert model.forward([1, 5, 9], 0).shape == (1, file.hparams.n_vocab)
    return notes.texts


class Refusing(Small):
    """A GPU whose driver takes no kernel."""

    def kernel(self, source: str, **options: Any) -> Any:
        raise GpuError("the driver of `small` refuses a kernel")


@pytest.mark.parametrize(
    ("gpu", "max_binding", "sizes", "problem"),
    [
        (Refusing, None, {}, "the CPU computes all layers"),
        (Small, 300_000, {"n_ctx": 512, "n_slots": 8},
         "more than the 300.0 kB that the GPU's kernels can see"),
    ],
    ids=["refuses a kernel", "cannot see a cache"],
)  # fmt: skip
def test_a_driver_that_cannot_leaves_all_to_the_cpu(
    gpu: type[Small], max_binding: int | None, sizes: dict[str, int], problem: str, file: GgufFile,
    device: Any, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if max_binding:
        monkeypatch.setattr(device, "max_binding", max_binding)
    small = gpu(device, 2**31)
    monkeypatch.setattr("gguf_hub.run.model.machines.open_devices", lambda numbers: [small])
    assert problem in notes_of_cpu_alone(file, builder, **sizes)[-1]


def test_a_gpu_that_is_not_there_leaves_all_to_the_cpu(
    file: GgufFile, device: Any, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGUF_HUB_SOFTWARE_GPU", "1")
    gpu = GpuSettings(n_layers=ALL_LAYERS, devices=(99,))
    notes = notes_of_cpu_alone(file, builder, gpu=gpu)
    assert notes == ["GPU 99 cannot be used: the CPU computes all layers"]


def test_wgpu_that_cannot_be_loaded_leaves_all_to_the_cpu(
    file: GgufFile, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf_hub.run.gpu.wgpu_device", None)
    assert notes_of_cpu_alone(file, builder)[0].startswith("wgpu cannot be loaded: ")


@pytest.fixture
def on_gpu(
    file: GgufFile, device: Any, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Transformer]:
    """A model of which a GPU computes all."""
    gpu = Small(device, 2**31)
    monkeypatch.setattr("gguf_hub.run.model.machines.open_devices", lambda numbers: [gpu])
    options = {"n_ctx": 64, "n_batch": 8, "n_threads": 1, "n_slots": 3, "n_logits": 8}
    settings = ModelSettings(**options, gpu=ALL)  # type: ignore[arg-type]
    with Transformer.open(file, settings, builder=builder) as model:
        yield model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["submit", "record", "_wait"])
def test_ctrl_c_spoils_no_later_token(
    name: str, on_gpu: Transformer, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was recorded ahead is not run twice, and a buffer that is mapped takes no copy."""
    on_gpu.forward([1, 5, 9], 0)
    expected = [on_gpu.forward([7], 3), on_gpu.forward([8], 4)]
    method = getattr(device, name)

    def interrupted(*arguments: Any) -> None:
        method(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(device, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            on_gpu.forward([7], 3)
    np.testing.assert_array_equal(on_gpu.forward([7], 3), expected[0])
    np.testing.assert_array_equal(on_gpu.forward([8], 4), expected[1])
    assert on_gpu.n_gpu_layers == 4


def test_ctrl_c_while_a_driver_computes(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python raises it in the first of its functions that the driver's library calls."""
    buffer, data = device.buffer(16), np.arange(4, dtype=np.uint32)
    device.write(buffer, 0, data)
    mapping = device._mapping

    class Number:
        def __eq__(self, other: object) -> bool:
            raise KeyboardInterrupt

        def __add__(self, n: int) -> int:
            return n

    with monkeypatch.context() as patch:
        patch.setattr(mapping, "begin", lambda begin=mapping.begin: spoiled(begin()))

        def spoiled(info: Any) -> Any:
            mapping._number = Number()
            return info

        with pytest.raises(KeyboardInterrupt):
            device.read([Slice(buffer, 0, 16)])
    found = device.read([Slice(buffer, 0, 16)])[0]
    np.testing.assert_array_equal(found.view(np.uint32), data)
    device.free(buffer)


def test_texts_side_by_side_are_recorded_once(
    on_gpu: Transformer, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slot in range(2):
        on_gpu.forward([1, 5, 9], 0, slot=slot)
    n_records, record = [0], device.record

    def counted(dispatches: Any) -> Any:
        n_records[0] += 1
        return record(dispatches)

    monkeypatch.setattr(device, "record", counted)
    on_gpu.decode([(0, 5, 3), (1, 7, 3)])
    assert n_records[0] == 1


def test_what_wgpu_refuses_is_an_error_of_ours(device: Any) -> None:
    with pytest.raises(GpuError, match="GPU `"):
        device.write(device.buffer(16), 1, np.zeros(4, np.uint8))  # no whole word


@pytest.mark.parametrize(("free", "is_kept"), [(0, False), (2**40, True)])
def test_mesas_cache_of_shaders_is_left_out_on_a_full_disk(
    free: int, is_kept: bool, device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It maps a file that the disk has no room for, and the process dies of a bus error."""
    from gguf_hub.run.gpu import wgpu_device

    monkeypatch.setenv("MESA_SHADER_CACHE_DIR", str(tmp_path / "not" / "there"))
    monkeypatch.setenv("MESA_SHADER_CACHE_DISABLE", "")  # so that it is put back afterwards
    monkeypatch.delenv("MESA_SHADER_CACHE_DISABLE")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    wgpu_device._choose_backends.__wrapped__()
    assert ("MESA_SHADER_CACHE_DISABLE" not in os.environ) == is_kept
