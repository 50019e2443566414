"""How far each slot can be gone back, as the driver knows it without asking a stage.

Every stage tracks its own states and windows (``run.model.slot_states``, ``slot_windows``). The
driver sends all of them the same calls in the same order, so that the same rules, without any
numbers, tell what they will say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.slot_states import Floats, SlotStates
from gguf_hub.run.model.slot_windows import SlotWindows


class _StatePositions(SlotStates):
    """Where states stand, and which copies there are; not what is in them."""

    def __init__(self, n_slots: int, *, has_states: bool) -> None:
        super().__init__(None, (), n_slots)  # type: ignore[arg-type]  # no memory is touched
        self._areas = [(0, 1)] if has_states else []

    def _restore(self, slot: int, position: int, state: Floats) -> None:
        self._slots[slot].position = position

    def _read(self, slot: int) -> Floats:
        return np.empty(0, np.float32)


class Positions:
    """Tracks the slots of a model that others compute."""

    def __init__(self, config: ModelConfig, limits: Limits) -> None:
        self._config, self._limits = config, limits
        self.forget()

    def forget(self) -> None:
        """Begin anew: all caches are empty."""
        limits = self._limits
        self._states = _StatePositions(limits.n_slots, has_states=self._config.has_states)
        self._windows = SlotWindows(self._config.layer_sizes, limits)

    def reusable(self, n_positions: int, slot: int) -> int:
        """Return how many of the first positions can be gone on from."""
        return self._windows.reusable(self._states.reusable(n_positions, slot), slot)

    def begin(self, slot: int, position: int) -> None:
        """Go to a position.

        Raises:
            UsageError: It cannot be gone back to.
        """
        self._states.seek(slot, position)
        self._windows.seek(slot, position)

    def reach(self, ends: Sequence[tuple[int, int]]) -> None:
        """Record that positions are being filled; states may be anything until ``arrive``."""
        self._states.leave(slot for slot, _ in ends)
        self._windows.reach(ends)

    def arrive(self, ends: Iterable[tuple[int, int]]) -> None:
        """Record that they are filled."""
        self._states.arrive(list(ends))

    def checkpoint(self, n_positions: int, slot: int) -> None:
        """Record that states are copied."""
        self._states.checkpoint(n_positions, slot)

    def copy(self, source: int, target: int, n_positions: int) -> None:
        """Record that a slot is copied.

        Raises:
            UsageError: So many positions cannot be gone on from.
        """
        self._states.copy(source, target, n_positions)
        self._windows.load(target, self._windows.save(source, n_positions))

    def load(self, slot: int, n_positions: int, end: int) -> None:
        """Record that a saved cache was put back, filled to ``end``."""
        self._states.load(slot, n_positions, np.empty(0, np.float32))
        self._windows.load(slot, np.array([end], np.uint32).view(np.uint16))

    def end(self, slot: int) -> int:
        """Return how far a slot has been filled, for ``load``."""
        return self._windows.end(slot)
