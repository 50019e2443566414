"""The generic kernels run in two ways, and both are tested: as plain Python, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba

MODES = ("plain", "compiled")


@cache
def compiled(function: Callable) -> Callable:
    """The function through numba; once for each function, as that takes a third of a second.

    Division is numpy's, as in ``kernels.compile``. Reading past the end of an array goes unseen
    here; in the plain mode it is an IndexError.
    """
    return numba.njit(error_model="numpy")(function)


def in_mode(function: Callable, mode: str) -> Callable:
    return compiled(function) if mode == "compiled" else function
