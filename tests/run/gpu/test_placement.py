"""Which device computes which layer, and what a GPU's kernels see of a large model."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.gpu import layouts
from gguf_hub.run.gpu.lowering import lower_all
from gguf_hub.run.gpu.placement import CPU, place_layers
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.weights import read_model
from tests.synth import Shape, write_mixtral

MIB = 1 << 20


def placed(n_gpu_layers: int, **options: object) -> tuple[list[int], int]:
    """Return which of 32 layers are on a GPU, and where the output layer is."""
    placement = place_layers(32, n_gpu_layers, **options)  # type: ignore[arg-type]
    return [i for i, device in enumerate(placement.layers) if device != CPU], placement.head


def test_the_last_layers_and_the_output_after_all_of_them() -> None:
    assert placed(35) == placed(33) == (list(range(32)), 0)
    assert placed(32) == (list(range(32)), CPU)
    assert placed(10) == (list(range(22, 32)), CPU)
    assert placed(0) == ([], CPU)


def test_layers_are_dealt_by_shares() -> None:
    placement = place_layers(8, 99, shares=(3, 1))
    assert (*placement.layers, placement.head) == (0, 0, 0, 0, 0, 0, 0, 1, 1)


def test_experts_of_the_first_layers_stay() -> None:
    placement = place_layers(4, 3, n_cpu_moe=2)
    assert placement.layers == (CPU, 0, 0, 0)
    assert placement.experts == (CPU, CPU, 0, 0)


def test_a_layer_is_where_the_cache_is_that_it_reads() -> None:
    placement = place_layers(4, 2, sources=(0, 1, 0, 1))
    assert placement.layers == (CPU, CPU, CPU, CPU)


@given(st.integers(1, 60), st.integers(0, 80), st.lists(st.floats(0.1, 9), min_size=1, max_size=4))
def test_neighbours_are_dealt_in_order(n_layer: int, n_gpu: int, shares: list[float]) -> None:
    placement = place_layers(n_layer, n_gpu, shares=shares)
    assert placement.n_gpu_layers == min(n_gpu, n_layer + 1)
    on_gpus = [device for device in (*placement.layers, placement.head) if device != CPU]
    assert on_gpus == sorted(on_gpus)
    assert all(0 <= device < len(shares) for device in on_gpus)


@pytest.mark.parametrize("layout", ["split", "merged"])
def test_kernels_see_no_more_of_a_large_model_than_they_may(layout: str, tmp_path: Path) -> None:
    """26 GB, of which the experts of a layer take 792 MB; no weight is read here."""
    path = write_mixtral(
        tmp_path / "model.gguf", Shape(), recipe="Q4_K_M", layout=layout, sparse=True
    )
    file = GgufFile.open(path)
    config, weights = read_model(file)
    limits = Limits(n_ctx=4096, n_batch=128, n_outputs=1, n_threads=1)
    program = ProgramBuilder(config, weights, limits).build()
    tables = {at: tuple(table) for at, table in program.bounds.tables.items()}
    steps = [step for step in program.steps if step.layer >= 0]
    parts = [each.weights for each, _ in lower_all(steps, 128 * MIB, tables) if each.weights]
    sizes = {part: layouts.size_bytes(part) for part in parts}
    assert max(sizes.values()) <= 128 * MIB
    in_file = sum(len(p.offsets) * p.n_out * p.type.row_bytes(p.n_in) for p in sizes)
    read = [m.size_bytes for layer in weights.layers for m in layer.matrices.values()]
    read += [m.size_bytes for layer in weights.layers for each in layer.experts.values()
             for m in each.matrices]  # fmt: skip
    assert in_file == sum(read) + weights.output.size_bytes  # each row once
    assert sum(sizes.values()) <= 1.02 * in_file
