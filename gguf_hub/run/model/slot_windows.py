"""How far each slot's text can be gone back, where layers cache no more than their window.

Such a cache holds the last positions only (``Limits.cache_length``): going back by more than it is
longer than the window, what the window would show has been overwritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UsageError
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.memory.sizes import LayerSizes


class SlotWindows:
    """Tracks the caches of all slots; does nothing where each holds the whole context.

    Args:
        layers: Sizes of each layer.
        limits: Of the model.
    """

    def __init__(self, layers: Iterable[LayerSizes], limits: Limits) -> None:
        windows = {
            (layer.window or layer.chunk, limits.cache_length(layer))
            for layer in layers
            if layer.is_windowed and not layer.state
        }
        self._windows = [each for each in windows if each[1] < limits.n_ctx]
        self._ends = [0] * limits.n_slots

    def reusable(self, n_positions: int, slot: int) -> int:
        """Return how many of the first positions can be gone on from: all, or none."""
        if not self._windows:
            return n_positions
        end = self._ends[slot]
        is_there = all(
            max(0, n_positions - window + 1) >= end - length for window, length in self._windows
        )
        return n_positions if is_there else 0

    def seek(self, slot: int, position: int) -> None:
        """Begin at a position.

        Raises:
            UsageError: What its window shows has been overwritten.
        """
        if position:
            self.check(slot, position)
        else:
            self._ends[slot] = 0

    def check(self, slot: int, position: int) -> None:
        """Raise unless a slot can be gone on with from a position.

        Raises:
            UsageError: What its window shows has been overwritten.
        """
        if self.reusable(position, slot) != position:
            raise UsageError(
                f"position {position}: slot {slot} has been filled to {self._ends[slot]}, and its "
                "windows do not go back so far",
                hint="ask `reusable` how many positions can be kept; `swa_full` keeps all",
            )

    def reach(self, ends: Sequence[tuple[int, int]]) -> None:
        """Record that positions are being filled: (slot, end) of each."""
        for slot, end in ends:
            self._ends[slot] = max(self._ends[slot], end)

    def end(self, slot: int) -> int:
        """Return how far a slot has been filled."""
        return self._ends[slot]

    def saved_size(self, n_positions: int) -> int:
        """Return how many numbers ``save`` returns for as many positions."""
        return 2 if self._windows and n_positions else 0

    def save(self, slot: int, n_positions: int) -> NDArray[np.uint16]:
        """Return what must be known of a slot to go on with its first positions.

        Raises:
            UsageError: What their window shows has been overwritten.
        """
        self.check(slot, n_positions)
        end = np.array([self._ends[slot]], np.uint32).view(np.uint16)
        return end[: self.saved_size(n_positions)]

    def load(self, slot: int, saved: NDArray[np.uint16]) -> None:
        """Take over what ``save`` returned."""
        self._ends[slot] = int(saved.copy().view(np.uint32)[0]) if saved.size else 0
