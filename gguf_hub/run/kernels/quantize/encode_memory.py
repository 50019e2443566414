"""Working memory of the encoders, for one thread. Pure Python: it is laid out without numba."""

from __future__ import annotations

SCRATCH = 544
"""Floats: 32 vectors of weights, 32 of what they count for, 16 scales, 16 minima."""

QUANTS = 288
"""int8: the quants of a super-block, 16 scales, 16 minima."""
