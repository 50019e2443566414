"""Caches of states, by prompt: a prompt starts from the state with the longest common prefix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from gguf_hub.api.llama.parts import LlamaState
from gguf_hub.run.generation.engine import n_shared

Key = tuple[int, ...]


class BaseLlamaCache(ABC):
    """Keeps states by their tokens.

    Args:
        capacity_bytes: Maximum size of all states.
    """

    def __init__(self, capacity_bytes: int = 2 << 30) -> None:
        self.capacity_bytes = capacity_bytes

    @property
    @abstractmethod
    def cache_size(self) -> int:
        """Bytes in use."""

    @abstractmethod
    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        """Return the state with the longest common prefix with ``key``; KeyError if none."""

    @abstractmethod
    def __contains__(self, key: Sequence[int]) -> bool:
        """Return whether a state begins as ``key`` does."""

    @abstractmethod
    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        """Keep a state; the least recently used ones are dropped beyond the capacity."""


def nearest(keys: Iterable[Key], key: Sequence[int]) -> Key | None:
    """Return the first of the keys with the longest common prefix with ``key``; None if none."""
    best = max(keys, key=lambda tokens: n_shared(tokens, key), default=None)
    return best if best is not None and n_shared(best, key) else None


class LlamaRAMCache(BaseLlamaCache):
    """Keeps states in memory.

    Args:
        capacity_bytes: Maximum size of all states.
    """

    def __init__(self, capacity_bytes: int = 2 << 30) -> None:
        super().__init__(capacity_bytes)
        self.cache_state: OrderedDict[Key, LlamaState] = OrderedDict()

    @property
    def cache_size(self) -> int:
        """Bytes in use."""
        return sum(state.llama_state_size for state in self.cache_state.values())

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        """Return the state with the longest common prefix with ``key``; KeyError if none."""
        best = nearest(self.cache_state, key)
        if best is None:
            raise KeyError("no state begins like this prompt")
        self.cache_state.move_to_end(best)
        return self.cache_state[best]

    def __contains__(self, key: Sequence[int]) -> bool:
        return nearest(self.cache_state, key) is not None

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        self.cache_state[tuple(key)] = value
        self.cache_state.move_to_end(tuple(key))
        while self.cache_size > self.capacity_bytes and self.cache_state:
            self.cache_state.popitem(last=False)


LlamaCache = LlamaRAMCache
