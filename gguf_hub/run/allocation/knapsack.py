"""The types of the least sum of losses within a number of bytes. Pure.

With a multiplier m each unit takes the type of the least loss + m * bytes by itself; such a choice
is the best one of its size. As m falls, units move along the lower convex hulls of their types, one
edge at a time, in order of the loss that an edge saves for each byte. The edges that no longer fit
are left out, and what room is left at the end goes to the steps that save most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Option:
    """One type of a unit.

    Attributes:
        size_bytes: What it takes in the file.
        loss: What it costs, in any unit that adds up.
    """

    size_bytes: int
    loss: float


Options = Sequence[Option]


def smallest(options: Options) -> int:
    """Return the index of the option of the fewest bytes; of several the one of the least loss."""
    return min(range(len(options)), key=lambda i: (options[i].size_bytes, options[i].loss))


def allocate(units: Sequence[Options], room_bytes: int) -> list[int]:
    """Choose an option for each unit.

    Args:
        units: The options of each, at least one.
        room_bytes: What all may take together; the smallest options fit.

    Returns:
        The index of each unit's option.
    """
    chosen = [smallest(options) for options in units]
    room_bytes -= sum(options[i].size_bytes for options, i in zip(units, chosen, strict=True))
    assert room_bytes >= 0, "the caller checks that the smallest options fit"
    # 1) along the hulls, the edges that save most for each byte first
    edges = [
        (_saving(options, old, new), unit, old, new)
        for unit, options in enumerate(units)
        for old, new in pairwise(hull(options))
    ]
    for _, unit, old, new in sorted(edges, key=lambda edge: (-edge[0], edge[1])):
        n_bytes = units[unit][new].size_bytes - units[unit][old].size_bytes
        if chosen[unit] == old and n_bytes <= room_bytes:
            chosen[unit], room_bytes = new, room_bytes - n_bytes
    # 2) what still fits, on a hull or not
    while step := _best_step(units, chosen, room_bytes):
        unit, new = step
        room_bytes -= units[unit][new].size_bytes - units[unit][chosen[unit]].size_bytes
        chosen[unit] = new
    return chosen


def hull(options: Options) -> list[int]:
    """Return the options on the lower convex hull, from the smallest to that of the least loss."""
    by_size = sorted(range(len(options)), key=lambda i: (options[i].size_bytes, options[i].loss))
    kept: list[int] = []
    for i in by_size:
        if kept and options[i].loss >= options[kept[-1]].loss:
            continue
        while len(kept) > 1 and _saving(options, kept[-2], kept[-1]) <= _saving(
            options, kept[-1], i
        ):
            kept.pop()
        kept.append(i)
    return kept


def _saving(options: Options, old: int, new: int) -> float:
    """Return the loss that a step saves for each byte that it adds."""
    n_bytes = options[new].size_bytes - options[old].size_bytes
    return (options[old].loss - options[new].loss) / max(1, n_bytes)


def _best_step(
    units: Sequence[Options], chosen: Sequence[int], room_bytes: int
) -> tuple[int, int] | None:
    """Return the unit and the option that save most of all that fit; None if nothing does."""
    steps = [
        (options[old].loss - options[new].loss, -unit, -new)
        for unit, (options, old) in enumerate(zip(units, chosen, strict=True))
        for new in range(len(options))
        if options[new].loss < options[old].loss
        and options[new].size_bytes - options[old].size_bytes <= room_bytes
    ]
    if not steps:
        return None
    _, unit, new = max(steps)
    return -unit, -new
