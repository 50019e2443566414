"""What ``fit`` says of VRAM is what the runner's part on a GPU takes; how many layers fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf.gpu_memory import attention_scratch_floats
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import RUNNABLE_TYPES, QuantType
from gguf_hub.hub.fit import Constraints, Machine, Verdict, gpu_need, need_of, placement_of
from gguf_hub.hub.fit.facts import gpu_bytes
from gguf_hub.hub.fit.offload import (
    GPU_CONTEXT_BYTES,
    GPU_HOST_BYTES,
    GPU_MARGIN_BYTES,
    GpuNeed,
    LayerNeed,
)
from gguf_hub.hub.fit.placement import ALL_LAYERS
from gguf_hub.hub.fit.speed import speed_of
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.progress import SILENT
from gguf_hub.run.gpu import layouts
from gguf_hub.run.gpu.kernels import WeightPart
from gguf_hub.run.gpu.part import GpuPart
from gguf_hub.run.gpu.weights import WeightStore
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model import machines
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.settings import GpuSettings
from gguf_hub.run.model.weights import read_model
from gguf_hub.units import GB
from tests.arch_models import write_arch_model
from tests.hub.fit.test_memory import FACTS
from tests.synth import SMALL, TINY, write_mixtral

OURS = Constraints(reserve_bytes=0)


class CountingDevice:
    """A device that only counts the bytes of its buffers."""

    info, max_binding = None, 2**31

    def __init__(self) -> None:
        self.n_bytes = 0

    def buffer(self, size_bytes: int) -> Any:
        self.n_bytes += size_bytes
        return size_bytes

    def free(self, buffer: int) -> None:
        self.n_bytes -= buffer

    def write(self, *arguments: Any) -> None:
        pass

    def kernel(self, source: str, *, is_checked: bool = True) -> str:
        return source

    def close(self) -> None:
        pass


def matrix_bytes(file: GgufFile, names: Sequence[str]) -> int:
    """What weights take on a GPU, by the layouts of their planes."""
    infos = [file.tensors[name] for name in names]
    return sum(
        layouts.size_bytes(WeightPart(info.type, info.shape[0], info.n_elements // info.shape[0],
                                      (0,)))
        for info in infos if len(info.shape) > 1
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("tiny", Limits(64, 32, 1, 2)),
        ("tiny", Limits(96, 32, 32, 2, n_slots=3, key_type="Q8_0", value_type="F32")),
        ("small", Limits(128, 128, 1, 1, value_type="Q8_0")),
        ("qwen3", Limits(64, 64, 1, 2)),
    ],
)
def test_a_part_takes_what_is_counted(tmp_path: Path, name: str, limits: Limits) -> None:
    path = tmp_path / "model.gguf"
    if name == "qwen3":
        write_arch_model(path, name)
    else:
        write_mixtral(path, TINY if name == "tiny" else SMALL, recipe="Q8_0")
    need = gpu_need(facts_of_file(path), limits)
    device = CountingDevice()
    with GgufFile.open(path) as file:
        program = ProgramBuilder(*read_model(file), limits).build()
        layout = program.layout
        areas = [area for area in layout.areas if area.array == "kv"]
        store = WeightStore(device, np.zeros(0, np.uint8))
        GpuPart(store, layout.sizes, areas, limits.n_slots, {})
        kv_bytes = sum(2 * area.n_elements * limits.n_slots for area in areas)
        inner = [each for each in file.tensors if each.startswith("blk.")]
        weights_bytes = matrix_bytes(file, inner)
    assert sum(layer.kv_bytes for layer in need.layers) == pytest.approx(kv_bytes, abs=2000)
    heads = [(s.n_head, s.n_embd_head_v) for s in layout.layer_sizes if s.n_head_kv]
    scratch = 4 * max(attention_scratch_floats(*each) for each in heads)
    counted = need.own_bytes - GPU_CONTEXT_BYTES - scratch + kv_bytes
    assert 0.98 < counted / device.n_bytes < 1.15  # and arguments of steps, in so small a model
    counted = sum(layer.dense_bytes + layer.expert_bytes for layer in need.layers)
    assert counted == pytest.approx(weights_bytes, rel=0.02)


@pytest.mark.parametrize("layout", ["merged", "split"])
@pytest.mark.parametrize(
    ("n", "n_cpu_moe"), [(1, 0), (3, 0), (4, 0), (5, 0), (5, 2), (5, 4), (3, 3), (3, 1)]
)
def test_layers_take_what_is_counted(
    n: int, n_cpu_moe: int, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the machine places them: buffers of caches and weights, and of the areas."""
    shape = replace(SMALL, n_layer=4)
    path = write_mixtral(tmp_path / "model.gguf", shape, recipe="Q4_K_M", layout=layout)
    limits = Limits(64, 8, 1, 1, n_slots=2)
    need, device = gpu_need(facts_of_file(path), limits), CountingDevice()
    monkeypatch.setattr(machines, "open_devices", lambda numbers: [device])
    with GgufFile.open(path) as file:
        opener = machines.MachineOpener(file, *read_model(file), KernelBuilder(), SILENT)
        _, machine, _ = opener.open(limits, GpuSettings(n, n_cpu_moe))
        taken = device.n_bytes
        machine.close()
    counted = area_bytes(path, limits) + sum(need.parts(n, n_cpu_moe))
    counted += 4 * attention_scratch_floats(shape.n_head, shape.n_embd // shape.n_head)
    assert counted == pytest.approx(taken, abs=2000)  # the output's norm


def area_bytes(path: Path, limits: Limits) -> int:
    with GgufFile.open(path) as file:
        sizes = ProgramBuilder(*read_model(file), limits).build().layout.sizes
    return 4 * sizes["n"] + 4 * sizes["f"] + sizes["q"]


@pytest.mark.parametrize("type_", sorted(RUNNABLE_TYPES), ids=lambda type_: type_.name)
def test_weights_take_on_a_gpu_what_is_counted(type_: QuantType) -> None:
    part = WeightPart(type_, 4096, 4096, (0,))
    size_bytes = type_.row_bytes(4096) * 4096
    assert layouts.size_bytes(part) == pytest.approx(gpu_bytes(type_, size_bytes), rel=0.02)


NEED = GpuNeed(1000, tuple(LayerNeed(10, 100, kv) for kv in (1, 2, 3, 4)), 50)


@pytest.mark.parametrize(
    ("room", "n_cpu_moe", "n"),
    [(1000, 0, 0), (1113, 0, 0), (1114, 0, 1), (1449, 0, 3), (1450, 0, 4), (1499, 0, 4),
     (1500, 0, 5), (1100, 4, 5), (1099, 4, 4), (1036, 3, 0), (1114 + 13 + 12, 3, 3)],
)  # fmt: skip
def test_as_many_layers_as_find_room_the_output_last(room: int, n_cpu_moe: int, n: int) -> None:
    assert NEED.most_layers(room, n_cpu_moe) == n


@given(room=st.integers(0, 1600), n_cpu_moe=st.integers(0, 5))
def test_what_fits_fits_and_one_more_does_not(room: int, n_cpu_moe: int) -> None:
    n = NEED.most_layers(room, n_cpu_moe)
    assert n == 0 or NEED.own_bytes + sum(NEED.parts(n, n_cpu_moe)) <= room
    assert n == 5 or NEED.own_bytes + sum(NEED.parts(n + 1, n_cpu_moe)) > room


def machine(ram: float, vram: float = 0, **more: Any) -> Machine:
    return Machine(
        round(ram * GB), round(vram * GB), n_threads=8, can_offload=True, gpu_bytes_per_s=1e12,
        **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ram_gb", "vram_gb", "verdict", "n"),
    [
        (24, 24, Verdict.VRAM, ALL_LAYERS),
        (1.5, 24, Verdict.VRAM, ALL_LAYERS),
        (24, 8, Verdict.SPLIT, 9),
        (16, 8, Verdict.SPLIT, 9),
        (12, 8, Verdict.DISK, 9),
        (24, 1, Verdict.RAM, 0),
        (24, 0, Verdict.RAM, 0),
    ],
)
def test_verdict_of_our_runner(ram_gb: float, vram_gb: float, verdict: Verdict, n: int) -> None:
    placement = placement_of(FACTS["Q3_K_M"], OURS, machine(ram_gb, vram_gb))
    assert (placement.verdict, placement.n_gpu_layers) == (verdict, n)


def test_without_the_extra_a_gpu_changes_nothing() -> None:
    for ram in (8, 16, 24):
        with_gpu = replace(machine(ram, 24), can_offload=False)
        file = FACTS["Q3_K_M"]
        assert placement_of(file, OURS, with_gpu) == placement_of(file, OURS, machine(ram))


@given(vram_gb=st.floats(2, 40))
def test_every_byte_of_the_weights_is_held_once(vram_gb: float) -> None:
    """RAM and VRAM hold the weights and the cache together, and what each has of its own."""
    file = FACTS["Q4_K_M"]
    placement = placement_of(file, OURS, machine(64, vram_gb))
    need = need_of(file, OURS, n_threads=8)
    if placement.n_gpu_layers == 0:
        assert placement.ram_bytes == need.total_bytes
        return
    own = gpu_need(file, Limits(4096, 512, 1, 8)).own_bytes
    together = placement.ram_bytes + placement.vram_bytes - own - GPU_HOST_BYTES
    assert together == pytest.approx(need.total_bytes, rel=1e-3)
    assert placement.vram_bytes + GPU_MARGIN_BYTES <= vram_gb * GB


def test_unified_memory_holds_weights_once() -> None:
    file = FACTS["Q3_K_M"]
    need = need_of(file, OURS, n_threads=8)
    own = gpu_need(file, Limits(4096, 512, 1, 8)).own_bytes + GPU_HOST_BYTES
    padding = 0.02 * file.weights_bytes  # of Q3_K's blocks
    enough = (need.total_bytes + own + padding) / GB
    placement = placement_of(file, OURS, machine(enough, enough, is_unified=True))
    assert placement.verdict is Verdict.SPLIT  # the margin is not the model's
    assert placement.ram_bytes + placement.vram_bytes <= enough * GB
    placement = placement_of(file, OURS, machine(enough + 2, enough + 2, is_unified=True))
    assert placement.verdict is Verdict.VRAM
    small = placement_of(file, OURS, machine(enough - 0.8, enough - 0.8, is_unified=True))
    assert small.verdict is Verdict.RAM


def test_more_layers_on_the_gpu_are_faster_and_never_called_measured() -> None:
    file, speeds = FACTS["Q4_K_M"], []
    for vram in (0, 8, 16, 48):
        on = machine(64, vram, ram_bytes_per_s=5e10)
        speed = speed_of(file, OURS, on, placement_of(file, OURS, on))
        assert speed is not None
        speeds.append(speed.about_tok_per_s)
        assert speed.basis == ("assumed" if vram else "measured")
    assert speeds == sorted(speeds)
    assert speeds[-1] > 3 * speeds[0]
