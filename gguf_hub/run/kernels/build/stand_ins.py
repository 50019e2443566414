"""Kernels that compute the same as others, and compile faster."""

from __future__ import annotations

from gguf_hub.gguf.memory.activations import ACTIVATION_OF
from gguf_hub.gguf.types import QuantType

ROWS = "rows"
"""Last part of the name of a product that has rows alone: ``matmul.Q4_K.rows``."""

_PRODUCTS = ("matmul", "expert_matmul", "head_matmul")


def stand_in(name: str, isa: str) -> str | None:
    """Return what can stand for a kernel until it is compiled; None where nothing can.

    Args:
        name: Of the kernel.
        isa: One of ``cpu.ISAS``.
    """
    step, _, type_ = name.partition(".")
    if isa == "generic" or step not in _PRODUCTS or type_ not in QuantType.__members__:
        return None
    return None if ACTIVATION_OF[QuantType[type_]] == "f32" else f"{name}.{ROWS}"
