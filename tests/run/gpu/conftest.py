"""A GPU for tests, the first that a driver offers, software ones too; and kernels of the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from gguf_hub.run.gpu.steps import STEPS
from gguf_hub.run.kernels.build.build import KernelBuilder
from tests.conftest import KERNELS
from tests.run.gpu.twin import TYPES


@pytest.fixture(scope="session")
def adapter() -> Any:
    """What a device is opened from; the tests that want one are skipped where there is none."""
    pytest.importorskip("wgpu", reason="wgpu is not installed: `pip install gguf-hub[gpu]`")
    from gguf_hub.run.gpu.wgpu_device import list_adapters

    # Mesa keeps machine code for the next run: not in the home that a test has for itself
    folder = KERNELS / "mesa"
    folder.mkdir(parents=True, exist_ok=True)  # Mesa makes no folder on the way
    os.environ.setdefault("MESA_SHADER_CACHE_DIR", str(folder))
    adapters = list_adapters()
    if not adapters:
        pytest.skip("no GPU driver; Mesa's llvmpipe is one: `apt-get install mesa-vulkan-drivers`")
    return adapters[0][1]


@pytest.fixture(scope="session")
def device(adapter: Any) -> Iterator[Any]:
    """A GPU that all tests share."""
    from gguf_hub.run.gpu.wgpu_device import WgpuDevice

    opened = WgpuDevice(adapter)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def builder() -> KernelBuilder:
    """A builder for this CPU, the kernels of steps between products compiled in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
        builder = KernelBuilder()
    caches = {"rope_store", "attention"}
    names = [f"{name}.{types}" for name in caches for types in TYPES]
    builder.addresses(["run_program", *names, *(set(STEPS) - caches)])
    return builder
