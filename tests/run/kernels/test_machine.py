"""Memory that programs compute in: which pages it asks for, as Linux tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_hub.run.kernels.vm.machine import Memory

SMAPS = Path("/proc/self/smaps")


def flags_of(array: np.ndarray) -> list[str]:
    """The kernel's flags of the mapping that an array lies in."""
    address, is_there = array.ctypes.data, False
    for line in SMAPS.read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
            is_there = low <= address < high
        elif is_there and first == "VmFlags:":
            return line.split()[1:]
    pytest.skip("the system tells nothing of pages")


@pytest.mark.skipif(not SMAPS.exists(), reason="not Linux")
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no large pages here"
)
def test_large_pages_are_requested_only_when_many_tokens_come() -> None:
    memory = Memory.allocate(n=8, f=1 << 22, q=1 << 22, kv=1 << 22, files=[])
    arrays = [memory.f, memory.q, memory.kv]
    assert all("nh" in flags_of(array) for array in arrays)
    memory.use_large_pages()
    assert ["hg" in flags_of(array) for array in arrays] == [True, True, False]
    assert all(array.ctypes.data % 64 == 0 and not array.any() for array in arrays)
