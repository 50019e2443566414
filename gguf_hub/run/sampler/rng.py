"""Random numbers as llama.cpp draws them: one seed gives the same draws here as there.

Source: Matsumoto and Nishimura 1998 (MT19937, ``init_genrand``); ``std::generate_canonical`` of
libstdc++, bits/random.tcc.
"""

from __future__ import annotations

import os
import random
import threading
from functools import cache

import numpy as np


@cache
def _numpy_generator() -> tuple[np.random.RandomState, threading.Lock]:
    return np.random.RandomState(0), threading.Lock()


def _seeded(seed: int) -> list[int]:
    """Return the 624 numbers of the state; numpy seeds as ``std::mt19937`` does, fast."""
    generator, lock = _numpy_generator()
    with lock:
        generator.seed(seed)
        state: list[int] = generator.get_state(legacy=False)["state"]["key"].tolist()
    return state


class MersenneTwister:
    """``std::mt19937`` with the uniform draws of libstdc++.

    Args:
        seed: In [0, 2**32); -1 takes one from the system.
    """

    def __init__(self, seed: int) -> None:
        self.seed = int.from_bytes(os.urandom(4), "little") if seed < 0 else seed
        # Python's generator is the same one, but seeds itself in another way
        self._bits = random.Random(0)
        self._bits.setstate((3, (*_seeded(self.seed), 624), None))

    def bits(self) -> int:
        """Return the next 32 bits."""
        return self._bits.getrandbits(32)

    def uniform(self) -> float:
        """Return a double in [0, 1): ``uniform_real_distribution<double>``, two draws."""
        return min(self._bits.getrandbits(64) / 2**64, 1 - 2**-53)

    def uniform_single(self) -> float:
        """Return a float in [0, 1): ``uniform_real_distribution<float>``, one draw."""
        value = float(np.float32(self._bits.getrandbits(32)) / np.float32(2**32))
        return min(value, 1 - 2**-24)
