"""What has to be moved between devices that run parts of one program.

Each device has a copy of all areas. A plan follows one pass through the program, step by step: what
a step reads must have been written on its device, or is moved there first. Areas that no step of
the pass has written are the same everywhere (constants, tables), or belong to one device alone
(states, keys and values).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from gguf_hub.gguf.memory.layout import Area, Array
from gguf_hub.run.kernels.vm.bounds import Extent

Interval = tuple[int, int]
"""First element and the one after the last."""


class Transfer(NamedTuple):
    """Elements of an array that go from one device to another."""

    array: Array
    first: int
    size: int
    source: int
    target: int


@dataclass
class _Written:
    """What a pass has written of an area so far.

    Attributes:
        span: All of it.
        held: Device -> what it has the latest of; those that wrote last have all.
    """

    span: Interval
    held: dict[int, Interval] = field(default_factory=dict)


class Tracker:
    """Follows who has the latest numbers of each area.

    Args:
        areas: Of the program's memory.
    """

    def __init__(self, areas: Iterable[Area]) -> None:
        self._areas: dict[str, list[Area]] = {}
        for area in sorted(areas, key=attrgetter("offset")):
            if area.n_elements and area.array != "kv":
                self._areas.setdefault(area.array, []).append(area)
        self._written: dict[Area, _Written] = {}

    def read(self, device: int, extents: Sequence[Extent]) -> list[Transfer]:
        """Return what must be moved to a device before it reads."""
        transfers = []
        for extent in extents:
            area = self._area(extent)
            written = self._written.get(area) if area else None
            if written:
                wanted = _common(written.span, (extent.first, extent.first + extent.size))
                transfers += self._bring(written, device, extent.array, wanted)
        return transfers

    def write(self, device: int, extents: Sequence[Extent]) -> list[Transfer]:
        """Note what a device writes; return what must be moved to it before.

        It then has the latest of all that the pass has written of the area.
        """
        transfers: list[Transfer] = []
        for extent in extents:
            area = self._area(extent)
            if area is None:
                continue
            new = (extent.first, extent.first + extent.size)
            written = self._written.setdefault(area, _Written(new, {device: new}))
            if not _contains(new, written.span):
                transfers += self._bring(written, device, extent.array, written.span)
            written.span = _hull(written.span, new)
            written.held = {device: written.span}
        return transfers

    def holder(self, array: Array, first: int) -> int | None:
        """Return who has the latest of an area that the pass has written."""
        area = self._area(Extent(array, first, 1))
        written = self._written.get(area) if area else None
        return next(iter(written.held)) if written else None

    def _bring(
        self, written: _Written, device: int, array: str, wanted: Interval
    ) -> list[Transfer]:
        held = written.held.get(device)
        if wanted[0] >= wanted[1] or (held and _contains(held, wanted)):
            return []
        source = next(each for each, has in written.held.items() if _contains(has, written.span))
        joined = _hull(held, wanted) if held else wanted
        written.held[device] = joined
        return [Transfer(array, joined[0], joined[1] - joined[0], source, device)]  # type: ignore[arg-type]

    def _area(self, extent: Extent) -> Area | None:
        areas = self._areas.get(extent.array, [])
        at = bisect_right(areas, extent.first, key=attrgetter("offset")) - 1
        return areas[at] if at >= 0 else None


def _contains(outer: Interval, inner: Interval) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _hull(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])


def _common(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), min(a[1], b[1])
