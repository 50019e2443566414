"""Caches of states, by prompt: a prompt starts from the state with the longest common prefix."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gguf_hub.api.llama.parts import LlamaState
from gguf_hub.run.generation.engine import n_shared


class LlamaRAMCache:
    """Keeps states in memory; drops the least recently used first.

    Args:
        capacity_bytes: Maximum size of all states.
    """

    def __init__(self, capacity_bytes: int = 2 << 30) -> None:
        self.capacity_bytes = capacity_bytes
        self.cache_state: OrderedDict[tuple[int, ...], LlamaState] = OrderedDict()

    @property
    def cache_size(self) -> int:
        """Bytes in use."""
        return sum(state.llama_state_size for state in self.cache_state.values())

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        """Return the state with the longest common prefix with ``key``; KeyError if none."""
        best = self._nearest(key)
        if best is None:
            raise KeyError("no state begins like this prompt")
        self.cache_state.move_to_end(best)
        return self.cache_state[best]

    def __contains__(self, key: Sequence[int]) -> bool:
        return self._nearest(key) is not None

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        self.cache_state[tuple(key)] = value
        self.cache_state.move_to_end(tuple(key))
        while self.cache_size > self.capacity_bytes and self.cache_state:
            self.cache_state.popitem(last=False)

    def _nearest(self, key: Sequence[int]) -> tuple[int, ...] | None:
        shared = {tokens: n_shared(tokens, key) for tokens in self.cache_state}
        best = max(shared, key=shared.__getitem__, default=None)
        return best if best is not None and shared[best] else None


LlamaCache = LlamaRAMCache
