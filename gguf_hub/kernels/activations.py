"""How a row of activations is laid out in memory, for every type of weights that meets it.

Weights of a quantised type are multiplied in integers, so the activations are quantised to eight
bits first. An activation row of ``n`` values lies in two arrays, int8 ``q`` and float32 ``f``:

======== =========== ============================================================================
kind     ``q``       ``f``, with ``nb`` blocks of 32 (``q8_0``) or 256 (``q8_k``) values
======== =========== ============================================================================
``f32``  unused      the ``n`` values
``q8_0`` ``n`` steps ``nb`` scales, then ``nb`` sums of a block
``q8_k`` ``n`` steps ``nb`` scales, then 16 ``nb`` sums of a group of 16, then 8 ``nb`` sums of a
                     group of 32
======== =========== ============================================================================

A value is its block's scale times its step; a sum is the scale times the sum of the steps. Scales
of ``q8_0`` that lie among the normal halves are rounded to one, as ggml's are. The sums serve the
types that have a minimum beside the scale: the dot product of a group with a constant minimum is
the minimum times the group's sum. This file is plain Python; the arithmetic is in ``generic`` and
in the paths for particular processors.
"""

from __future__ import annotations

from typing import Literal

from gguf_hub.quants.types import QuantType

ActivationKind = Literal["f32", "q8_0", "q8_k"]

ACTIVATION_OF: dict[QuantType, ActivationKind] = {
    QuantType.F32: "f32",
    QuantType.F16: "f32",
    QuantType.BF16: "f32",
    QuantType.Q4_0: "q8_0",
    QuantType.Q4_1: "q8_0",
    QuantType.Q5_0: "q8_0",
    QuantType.Q5_1: "q8_0",
    QuantType.Q8_0: "q8_0",
    QuantType.Q2_K: "q8_k",
    QuantType.Q3_K: "q8_k",
    QuantType.Q4_K: "q8_k",
    QuantType.Q5_K: "q8_k",
    QuantType.Q6_K: "q8_k",
}
"""Type of the weights -> kind of the activations they are multiplied with."""

# kind -> (values in a block, floats that go with it)
_BLOCKS = {"f32": (1, 1), "q8_0": (32, 2), "q8_k": (256, 25)}


def activation_floats(kind: ActivationKind, n: int) -> int:
    """Return how many float32 values go with a row of ``n`` activations.

    Args:
        kind: One of the values of ``ACTIVATION_OF``.
        n: Values in the row; they must fill whole blocks of the kind.
    """
    block_size, floats = _BLOCKS[kind]
    assert n % block_size == 0, f"{n} values do not fill {kind} blocks of {block_size}"
    return n // block_size * floats


def activation_steps(kind: ActivationKind, n: int) -> int:
    """Return how many int8 steps go with a row of ``n`` activations: ``n``, or none for floats."""
    return 0 if kind == "f32" else n
