"""The areas of a program's memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from gguf_hub.gguf.memory.layout import HEADER, Limits, MemoryLayout, cache_bytes
from gguf_hub.gguf.memory.sizes import LayerSizes
from gguf_hub.hub.catalog import ModelShape

MIXTURE = ModelShape(2, 96, 3, 1, 32, 160, 5, 2, 259, 50)
DENSE = ModelShape(3, 256, 4, 4, 64, 768, 0, 0, 270, 64)
LIMITS = [Limits(1, 1, 1, 1), Limits(50, 7, 3, 4, n_slots=3, key_type="Q8_0", value_type="F32")]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("model", [MIXTURE, DENSE], ids=["mixture", "dense"])
def test_areas_follow_one_another_on_cache_lines(model: ModelShape, limits: Limits) -> None:
    layout = MemoryLayout(model, limits)
    for array, first in (("n", HEADER), ("f", 0), ("q", 0), ("kv", 0)):
        blocks = layout.blocks()[array]
        assert blocks[0][0] == first
        assert all(end > start for start, end in blocks)
        assert all(0 <= after - end < 64 for (_, end), (after, _) in pairwise(blocks))
        assert all((start - first) % 64 == 0 for start, _ in blocks)
        assert 0 <= layout.sizes[array] - blocks[-1][1] < 64


@pytest.mark.parametrize("model", [MIXTURE, DENSE], ids=["mixture", "dense"])
def test_bytes_of_areas_add_up_to_what_is_allocated(model: ModelShape) -> None:
    layout = MemoryLayout(model, LIMITS[1])
    for array, size_bytes in (("n", 8), ("f", 4), ("q", 1), ("kv", 2)):
        header = HEADER if array == "n" else 0
        found = sum(area.size_bytes for area in layout.areas if area.array == array)
        assert found == size_bytes * (layout.sizes[array] - header)


def test_tables_of_experts_are_three_for_each_layer_unless_counted() -> None:
    assert len(MemoryLayout(MIXTURE, LIMITS[0]).tables) == 6
    assert len(MemoryLayout(MIXTURE, LIMITS[0], 11).tables) == 11
    assert MemoryLayout(DENSE, LIMITS[0]).tables == []


def test_each_layer_has_a_cache_of_its_own_size_and_buffers_are_for_the_largest() -> None:
    sizes = [LayerSizes(4, 2, 64, 64, 512), LayerSizes(4, 0, 64, 64, 0), LayerSizes(8, 1, 32, 96)]
    model = ModelShape(3, 256, 8, 2, 64, 512, 0, 0, 270, 64, layers=tuple(sizes))
    limits = LIMITS[0]
    layout = MemoryLayout(model, limits)
    of_kv = [area.n_elements for area in layout.areas if area.array == "kv"]
    assert of_kv == [2 * 64 * 32, 2 * 64 * 32, 32 * 32, 96 * 32]  # a cache of one tile
    assert cache_bytes(model, limits) == 2 * layout.sizes["kv"]
    widths = {area.name: area.n_elements for area in reversed(layout.areas)}  # the first of a name
    assert widths["queries [T, H, d]"] == 4 * 64
    assert widths["keys [T, K, d]"] == widths["values [T, K, d]"] == 2 * 64
    assert layout.attn_out.width == 8 * 96
    assert layout.attn_out.offsets.keys() == {"f32", "q8_0", "q8_k"}
    assert layout.gate.width == 512


def test_layers_that_are_alike_need_not_be_listed() -> None:
    listed = replace(DENSE, layers=DENSE.layer_sizes)
    assert MemoryLayout(listed, LIMITS[1]).areas == MemoryLayout(DENSE, LIMITS[1]).areas
