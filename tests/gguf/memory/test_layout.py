"""The areas of a program's memory."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gguf_hub.gguf.memory.layout import HEADER, Limits, MemoryLayout
from gguf_hub.hub.catalog import ModelShape

MIXTURE = ModelShape(2, 96, 3, 1, 32, 160, 5, 2, 259, 50)
DENSE = ModelShape(3, 256, 4, 4, 64, 768, 0, 0, 270, 64)
LIMITS = [Limits(1, 1, 1, 1), Limits(50, 7, 3, 4, n_slots=3, key_type="Q8_0")]


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
