"""Files larger than memory: which parts are read from disk, and what is locked."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.machine import CompiledMachine, Memory
from gguf_hub.run.kernels.vm.ops import step
from gguf_hub.run.model.residency import dense_ranges, lock_pages, prefetch
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import Experts, read_model
from tests.synth import Shape, write_mixtral

PAGE = 4096
# an expert's matrix is 2 MiB in F32: large beside what the system reads ahead unasked
SHAPE = Shape(
    n_layer=1, n_embd=512, n_head=4, n_head_kv=2, n_ff=1024, n_expert=8, n_vocab=300, n_ctx=64
)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[GgufFile]:
    with GgufFile.open(write_mixtral(tmp_path / "m.gguf", SHAPE, recipe="F32")) as file:
        yield file


@pytest.fixture
def weights(file: GgufFile):
    return read_model(file)[1]


def resident(data: np.ndarray, offset: int, size: int) -> float:
    """The share of some bytes' pages that are in memory."""
    first = (data.ctypes.data + offset) // PAGE * PAGE
    n_pages = -(-(data.ctypes.data + offset + size - first) // PAGE)
    seen = (ctypes.c_ubyte * n_pages)()
    ctypes.CDLL(None).mincore(ctypes.c_void_p(first), ctypes.c_size_t(n_pages * PAGE), seen)
    return sum(each & 1 for each in seen) / n_pages


def drop(file: GgufFile) -> None:
    """Put a file out of memory; skip where the system does not do that."""
    with file.path.open("rb") as source:
        os.fsync(source.fileno())
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(file.data, 0, file.size_bytes) > 0.05:
        pytest.skip("this file system keeps files in memory")


def wait_until(condition) -> bool:
    """Reading ahead goes on behind our back: give it two seconds."""
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.02)
    return False


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's page cache")


@needs_linux
def test_only_chosen_experts_are_prefetched(file: GgufFile, weights) -> None:
    gate = weights.layers[0].experts["gate"]
    assert isinstance(gate, Experts)
    memory = Memory.allocate(n=32, f=0, q=0, kv=0, files=[file.data])
    experts, expert_starts = HEADER, HEADER + 8
    memory.n[experts : experts + 8] = [matrix.offset for matrix in gate.matrices]
    memory.n[expert_starts : expert_starts + 9] = [0, 0, 0, 1, 1, 1, 3, 3, 3]  # experts 2 and 5
    with CompiledMachine(KernelBuilder(), memory, 2) as machine:
        prefetch_step = step(
            "prefetch_experts", experts=experts, n_expert=8, expert_starts=expert_starts,
            size=gate.matrices[0].size_bytes,
        )  # fmt: skip
        program = machine.load([prefetch_step])
        drop(file)
        machine.run(program)
    parts = [(matrix.offset, matrix.size_bytes) for matrix in gate.matrices]
    assert wait_until(lambda: resident(file.data, *parts[2]) == resident(file.data, *parts[5]) == 1)
    assert max(resident(file.data, *parts[e]) for e in (0, 1, 3, 4, 6, 7)) < 0.5


@needs_linux
def test_dense_tensors_are_prefetched_at_once(file: GgufFile, weights) -> None:
    drop(file)
    ranges = dense_ranges(weights)
    prefetch(file.data, ranges)
    assert wait_until(lambda: all(resident(file.data, *each) == 1 for each in ranges))
    down = weights.layers[0].experts["down"].matrices[3]
    assert resident(file.data, down.offset, down.size_bytes) < 0.5


def test_dense_ranges_hold_every_dense_matrix_and_no_expert(weights) -> None:
    ranges = dense_ranges(weights)
    layer = weights.layers[0]

    def is_inside(matrix) -> bool:
        return any(start <= matrix.offset and matrix.offset + matrix.size_bytes <= start + size
                   for start, size in ranges)  # fmt: skip

    assert all(map(is_inside, (*layer.matrices.values(), weights.output)))
    for part in layer.experts.values():
        assert not any(map(is_inside, part.matrices))
    assert ranges == sorted(ranges)


@pytest.mark.parametrize("layout", ["split", "merged"])
def test_a_paged_model_computes_the_same(layout: str, tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "m.gguf", SHAPE, recipe="F32", layout=layout)
    tokens = [1, 5, 9, 200, 33]
    with GgufFile.open(path) as file, Transformer.open(file, ModelSettings(n_ctx=8)) as model:
        expected = model.forward(tokens, 0)
    with (
        GgufFile.open(path) as file,
        Transformer.open(file, ModelSettings(n_ctx=8, prefetch_experts=True)) as model,
    ):
        np.testing.assert_array_equal(model.forward(tokens, 0), expected)


@pytest.mark.slow
def test_a_file_read_into_memory_is_the_same(file: GgufFile) -> None:
    with GgufFile.open(file.path, is_mapped=False) as copy:
        np.testing.assert_array_equal(copy.data, file.data)
        assert not copy.data.flags.writeable


@needs_linux
def test_what_cannot_be_locked_is_told(file: GgufFile) -> None:
    assert lock_pages(file.data, [(0, PAGE)]) is None
    refusal = lock_pages(file.data, [(0, 1 << 46)])  # beyond the map, and beyond any memory
    assert refusal is not None
    assert refusal.startswith("cannot lock 70.37 TB in memory: ")


@needs_linux
def test_a_long_context_takes_memory_as_it_fills(file: GgufFile) -> None:
    with Transformer.open(file, ModelSettings(n_ctx=32768)) as model:
        model.forward([1, 2, 3], 0)
        cache = model._memory.kv.view(np.uint8)
        assert cache.nbytes > 30e6
        assert resident(cache, 0, cache.nbytes) < 0.05
