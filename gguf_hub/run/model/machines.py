"""The machine that a model is computed on: this CPU, or the CPU and GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gguf_hub.errors import GpuError, GpuMemoryError
from gguf_hub.gguf.memory.layout import Area, Limits, MemoryLayout
from gguf_hub.gguf.shards import Gguf
from gguf_hub.progress import Progress
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.machine import CompiledMachine, Machine
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.program import FULL_GRAPH, Program, Stage
from gguf_hub.run.model.residency import release
from gguf_hub.run.model.settings import NO_GPU, ON_CPU_WITH_ADAPTERS, GpuSettings
from gguf_hub.run.model.weights import Weights
from gguf_hub.units import format_size

if TYPE_CHECKING:
    from gguf_hub.run.gpu.device import Device
    from gguf_hub.run.gpu.machine import MixedMachine
    from gguf_hub.run.gpu.placement import Placement
    from gguf_hub.run.gpu.weights import WeightStore

Opened = tuple[Program, Machine, Limits]
"""A program, what runs it, and the limits that it was written for."""


class MachineOpener:
    """Writes a model's program and opens what runs it.

    Args:
        file: The open GGUF.
        config: Of the model.
        weights: Of the model.
        builder: Where machine code comes from.
        progress: Shows the compiling, and what GPUs do not allow.
        stage: Part of the model.
    """

    def __init__(
        self, file: Gguf, config: ModelConfig, weights: Weights, builder: KernelBuilder,
        progress: Progress, stage: Stage = FULL_GRAPH,
    ) -> None:  # fmt: skip
        self._file, self._config, self._weights = file, config, weights
        self._builder, self._progress, self._stage = builder, progress, stage
        self._limits: Limits | None = None

    def open(self, limits: Limits, gpu: GpuSettings) -> Opened:
        """Return a machine with as many layers on GPUs as are asked for and have room there."""
        self._limits = limits
        if gpu.n_layers and self._weights.adapters:
            self._progress.note(ON_CPU_WITH_ADAPTERS)
            gpu = NO_GPU
        stores: list[WeightStore] = []
        if gpu.n_layers and self._config.is_encoder:
            self._progress.note(
                f"GPUs do not compute `{self._config.arch.name}`: the CPU computes all layers"
            )
        elif gpu.n_layers:
            try:
                stores = self._open_devices(gpu)
                return self._open_on_gpus(limits, gpu, stores)
            except GpuError as exc:
                self._progress.note(f"{exc.message}: the CPU computes all layers")
                _close(stores)
            except BaseException:
                _close(stores)
                raise
        return self._open_on_cpu(limits)

    def reopen(self, error: GpuError) -> Opened:
        """Return a machine in place of one whose GPU failed: the CPU alone."""
        assert self._limits is not None
        self._progress.note(f"{error.message}: the CPU computes all layers from now on")
        return self._open_on_cpu(self._limits)

    def _open_devices(self, gpu: GpuSettings) -> list[WeightStore]:
        """Return the GPUs, no weights there yet."""
        from gguf_hub.run.gpu.weights import WeightStore

        def release_range(first: int, size: int) -> None:
            release(self._file.data, [(first, size)])

        devices = open_devices(gpu.devices)
        return [WeightStore(device, self._file.data, release_range) for device in devices]

    def _open_on_cpu(self, limits: Limits) -> Opened:
        program = self._write(limits)
        self._builder.addresses(program.kernels, self._progress)
        return program, self._cpu(program, limits), limits

    def _open_on_gpus(
        self, limits: Limits, gpu: GpuSettings, stores: Sequence[WeightStore]
    ) -> Opened:
        """Return a machine with fewer layers on GPUs, as long as they have no room for more."""
        limits, program = self._fitting(limits, min(s.device.max_binding for s in stores))
        n_layers = min(gpu.n_layers, self._config.n_layer + 1)
        while True:
            placement = self._place(replace(gpu, n_layers=n_layers), len(stores))
            try:
                return program, self._mixed(program, placement, stores, limits), limits
            except GpuMemoryError as exc:
                if n_layers == 1:
                    raise
                n_layers -= 1
                self._progress.note(f"{exc.message}: {n_layers} layers on it")

    def _mixed(
        self, program: Program, placement: Placement, stores: Sequence[WeightStore], limits: Limits
    ) -> MixedMachine:
        """Return a machine with all weights in place.

        Raises:
            GpuMemoryError: There is no room for them.
        """
        from gguf_hub.run.gpu.machine import MixedMachine
        from gguf_hub.run.gpu.part import GpuPart

        names = [step.kernel for step in program.steps if placement.device_of(step) < 0]
        self._builder.addresses(["run_program", *dict.fromkeys(names)], self._progress)
        tables = {at: tuple(table) for at, table in program.bounds.tables.items()}
        parts: list[GpuPart] = []
        cpu = self._cpu(program, limits)
        try:
            for i, store in enumerate(stores):
                areas = cache_areas(program.layout, placement, i)
                store.begin()
                parts.append(GpuPart(store, program.layout.sizes, areas, program.n_slots, tables))
                for offset, values in program.constants.items():
                    parts[-1].write("f", offset, values)
            machine = MixedMachine(cpu, parts, placement, program.layout, program.bounds)
            machine.prepare(program.steps)
        except BaseException:
            cpu.close()
            for part in parts:
                part.free()
            raise
        return machine

    def _fitting(self, limits: Limits, max_binding: int) -> tuple[Limits, Program]:
        """Return a batch so small that a GPU's kernels can see all of each array.

        Raises:
            GpuError: They cannot see the cache of a layer.
        """
        while True:
            program = self._write(limits)
            areas, sizes = program.layout.areas, program.layout.sizes
            cache = max((a.n_elements for a in areas if a.array == "kv"), default=0)
            if 2 * cache * limits.n_slots > max_binding:
                raise GpuError(
                    f"keys of a layer take {format_size(2 * cache * limits.n_slots)}, more than "
                    f"the {format_size(max_binding)} that the GPU's kernels can see",
                    hint="a smaller context takes less: `-c`; so do fewer requests at once: `-np`",
                )
            if max(4 * sizes["f"], sizes["q"], 4 * sizes["n"]) <= max_binding:
                return limits, program
            if limits.n_batch == 1:
                raise GpuMemoryError("the GPU's kernels cannot see the memory of a single token")
            n_batch = limits.n_batch // 2
            self._progress.note(
                f"batches of {n_batch} tokens instead of {limits.n_batch}: the GPU's driver lets "
                "a kernel see no more of the memory"
            )
            n_outputs = min(limits.n_outputs, n_batch)
            limits = replace(limits, n_batch=n_batch, n_outputs=n_outputs)

    def _place(self, gpu: GpuSettings, n_devices: int) -> Placement:
        from gguf_hub.run.gpu.placement import place_layers

        layers = self._config.layers
        return place_layers(
            len(layers),
            gpu.n_layers,
            shares=gpu.split[:n_devices] or (1.0,) * n_devices,
            n_cpu_moe=gpu.n_cpu_moe,
            sources=[i - layer.n_back_kv for i, layer in enumerate(layers)],
        )

    def _write(self, limits: Limits) -> Program:
        return ProgramBuilder(self._config, self._weights, limits, self._stage).build()

    def _cpu(self, program: Program, limits: Limits) -> CompiledMachine:
        adapters = self._weights.adapters
        files = [self._file.data, *([adapters.data] if adapters else [])]
        memory = program.memory(files)
        return CompiledMachine(self._builder, memory, limits.n_threads)


def cache_areas(layout: MemoryLayout, placement: Placement, device: int) -> list[Area]:
    """Return where keys and values of a device's layers lie."""
    firsts = set()
    for own, sizes, where in zip(layout.layers, layout.layer_sizes, placement.layers, strict=True):
        if where == device and sizes.n_head_kv:
            firsts |= {own.k_cache, own.v_cache}
    return [a for a in layout.areas if a.array == "kv" and a.n_elements and a.offset in firsts]


def _close(stores: Sequence[WeightStore]) -> None:
    for store in stores:
        store.close()


def open_devices(numbers: Sequence[int]) -> list[Device]:
    """Return open GPUs.

    Args:
        numbers: Which adapters, from 0; none for the first that can be used.

    Raises:
        GpuError: One of them is not there, cannot be used or does not open.
    """
    from gguf_hub.run.gpu.adapters import EXTRA, judge

    try:
        from gguf_hub.run.gpu.wgpu_device import WgpuDevice, list_adapters
    except (ImportError, OSError, AttributeError) as exc:  # no wgpu, or another version of it
        raise GpuError(f"wgpu cannot be loaded: {exc}", hint=f"install it anew: {EXTRA}") from exc
    adapters = list_adapters()
    report = judge([info for info, _ in adapters])
    if report.problem:
        raise GpuError(report.problem, hint=report.hint)
    usable = [adapter.index for adapter in report.usable]
    opened: list[Device] = []
    try:
        for number in numbers or usable[:1]:
            if number not in usable:
                raise GpuError(f"GPU {number} cannot be used", hint="`gguf-hub doctor` lists them")
            opened.append(WgpuDevice(adapters[number][1]))
    except BaseException:
        for device in opened:
            device.close()
        raise
    return opened
