"""What the runner wants of a GPU: buffers, kernels written in WGSL, and dispatches in order.

``wgpu_device`` is the implementation; nothing else knows which library drives the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, int, int]
"""How many workgroups to start in x, y and z."""

MAX_GROUPS = 65535
"""Most workgroups of a dimension: WebGPU's ``maxComputeWorkgroupsPerDimension``."""


@dataclass(frozen=True)
class AdapterInfo:
    """A GPU as its driver describes it.

    Attributes:
        name: Of the device.
        backend: The API that drives it: ``Vulkan``, ``Metal``, ``D3D12``.
        kind: ``DiscreteGPU``, ``IntegratedGPU``, ``CPU`` for software, ``Unknown``.
        driver: The driver's own description.
        vendor_id: PCI vendor, 0 where unknown.
        device_id: PCI device, 0 where unknown.
        max_binding: Most bytes of a buffer that a kernel can see.
        max_buffer: Most bytes of a buffer.
    """

    name: str
    backend: str
    kind: str
    driver: str
    vendor_id: int
    device_id: int
    max_binding: int
    max_buffer: int

    @property
    def is_software(self) -> bool:
        """Whether it computes on the CPU, as Mesa's llvmpipe does."""
        return self.kind == "CPU"


class Slice(NamedTuple):
    """Some bytes of a buffer that a kernel sees; ``offset`` is a multiple of 256."""

    buffer: Any
    offset: int
    size: int


class Dispatch(NamedTuple):
    """A kernel with what it sees; ``grid`` says how often it runs."""

    kernel: Any
    bindings: Any
    grid: Grid


class Device(Protocol):
    """A GPU that is open. Buffers, kernels and bindings are its own kinds of objects."""

    info: AdapterInfo
    max_binding: int

    def buffer(self, size_bytes: int) -> Any:
        """Return a buffer of zeros, its size rounded up to 16 bytes.

        Raises:
            GpuMemoryError: The device has no room for it.
        """

    def free(self, buffer: Any) -> None:
        """Give a buffer's memory back; nothing may use it any more."""

    def write(self, buffer: Any, offset: int, data: NDArray[Any]) -> None:
        """Copy numbers into a buffer before what is submitted next; multiples of 4 bytes."""

    def read(self, reads: Sequence[Slice]) -> list[NDArray[np.uint8]]:
        """Wait for all that was submitted; return bytes of buffers (offsets in fours)."""

    def kernel(self, source: str, *, is_checked: bool = True) -> Any:
        """Compile a WGSL module whose entry is ``main``; the same source is compiled once.

        Args:
            source: WGSL.
            is_checked: Whether the compiler puts tests of indices and counters of loops into it.

        Raises:
            GpuError: The driver refuses it.
        """

    def bind(self, kernel: Any, slices: dict[int, Slice]) -> Any:
        """Return what a kernel sees at each of its bindings."""

    def record(self, dispatches: Sequence[Dispatch]) -> Any:
        """Return dispatches, one after another, as commands; each sees what those before wrote."""

    def submit(self, commands: Any) -> None:
        """Run recorded commands; the same may not be submitted twice."""

    def close(self) -> None:
        """Free the device."""
