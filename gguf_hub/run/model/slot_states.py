"""The states of a model's slots: where each stands in its text, and copies of earlier ones.

Keys and values of a position stay where they are; a state is overwritten by each token. What was
computed up to a position can be gone on with only where the state stands there, or a copy does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UsageError
from gguf_hub.gguf.memory.layout import LayerOffsets
from gguf_hub.gguf.memory.sizes import LayerSizes
from gguf_hub.gguf.memory.states import N_CHECKPOINTS, state_stride
from gguf_hub.run.kernels.vm.machine import Machine

Floats = NDArray[np.float32]


@dataclass
class _Slot:
    """A slot.

    Attributes:
        position: How many tokens its state has read; None where nobody knows.
        checkpoints: Position -> state there, in ascending order.
    """

    position: int | None = None
    checkpoints: dict[int, Floats] = field(default_factory=dict)


class SlotStates:
    """Tracks the states of all slots; does nothing for a model without states.

    Args:
        machine: Has the memory that they lie in.
        layers: Offsets and sizes of each layer.
        n_slots: How many slots.
    """

    def __init__(
        self, machine: Machine, layers: Iterable[tuple[LayerOffsets, LayerSizes]], n_slots: int
    ) -> None:
        self._machine = machine
        self._areas = [
            (first, n_elements)
            for at, layer in layers
            if layer.state
            for first, n_elements in (
                (at.conv_state, layer.state.conv_elements),
                (at.scan_state, layer.state.scan_elements),
            )
            if n_elements
        ]
        self._slots = [_Slot() for _ in range(n_slots)]

    @property
    def n_elements(self) -> int:
        """Floats of a slot's state."""
        return sum(n for _, n in self._areas)

    def reusable(self, n_positions: int, slot: int) -> int:
        """Return how many of the first positions can be gone on from."""
        if not self._areas:
            return n_positions
        own = self._slots[slot]
        found = [at for at in (own.position, *own.checkpoints) if at is not None]
        return max((at for at in found if at <= n_positions), default=0)

    def seek(self, slot: int, position: int) -> None:
        """Make the state stand at a position; what was computed after it is forgotten.

        Raises:
            UsageError: It stands elsewhere, and no checkpoint is there.
        """
        own = self._slots[slot]
        if not self._areas:
            return
        if position and own.position != position:
            if position not in own.checkpoints:
                raise UsageError(
                    f"position {position}: the state of slot {slot} cannot go back to it; it can "
                    f"to {self.reusable(position, slot)}",
                    hint="ask `reusable` how many positions can be kept",
                )
            self._restore(slot, position, own.checkpoints[position])
        for at in [at for at in own.checkpoints if at > position]:
            del own.checkpoints[at]

    def leave(self, slots: Iterable[int]) -> None:
        """Record that states are being computed: until ``arrive`` they may be anything."""
        for slot in slots:
            self._slots[slot].position = None

    def arrive(self, ends: Sequence[tuple[int, int]]) -> None:
        """Record where states stand: (slot, position) of each."""
        for slot, position in ends:
            self._slots[slot].position = position

    def checkpoint(self, position: int, slot: int) -> None:
        """Keep a copy of a state that stands at a position; the oldest makes room."""
        own = self._slots[slot]
        if not position or own.position != position or position in own.checkpoints:
            return
        if self._areas:
            own.checkpoints[position] = self._read(slot)
        while len(own.checkpoints) > N_CHECKPOINTS:
            del own.checkpoints[min(own.checkpoints)]

    def save(self, slot: int, position: int) -> Floats:
        """Return a copy of the state at a position.

        Raises:
            UsageError: There is none.
        """
        own = self._slots[slot]
        if not self._areas or not position:
            return np.empty(0, np.float32)
        if own.position == position:
            return self._read(slot)
        if position in own.checkpoints:
            return own.checkpoints[position]
        raise UsageError(
            f"position {position}: the state of slot {slot} is no more there",
            hint="ask `reusable` how many positions can be kept",
        )

    def load(self, slot: int, position: int, state: Floats) -> None:
        """Put back what ``save`` returned."""
        self._slots[slot] = _Slot()
        self._restore(slot, position, state)

    def copy(self, source: int, target: int, position: int) -> None:
        """Copy the state at a position, and checkpoints before, to another slot.

        Raises:
            UsageError: There is no state at that position.
        """
        if not self._areas:
            return
        self.load(target, position, self.save(source, position))
        known = self._slots[source].checkpoints
        self._slots[target].checkpoints = {at: s for at, s in known.items() if at <= position}

    def _restore(self, slot: int, position: int, state: Floats) -> None:
        first, views = 0, self._views(slot) if position else []
        for view in views:
            view[:] = state[first : first + len(view)]
            first += len(view)
        self._machine.push(*views)
        self._slots[slot].position = position

    def _read(self, slot: int) -> Floats:
        views = self._views(slot)
        self._machine.pull(*views)
        return np.concatenate(views)

    def _views(self, slot: int) -> list[Floats]:
        f = self._machine.memory.f
        return [
            f[first + slot * state_stride(n) :][:n] for first, n in self._areas
        ]  # fmt: skip
