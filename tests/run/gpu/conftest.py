"""A GPU for tests: the first that a driver offers, software ones too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def adapter() -> Any:
    """What a device is opened from; the tests that want one are skipped where there is none."""
    pytest.importorskip("wgpu", reason="wgpu is not installed: `pip install gguf-hub[gpu]`")
    from gguf_hub.run.gpu.wgpu_device import list_adapters

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
