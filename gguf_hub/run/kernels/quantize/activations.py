"""How a row of activations is laid out in memory, for every type of weights that meets it.

Weights of a quantised type are multiplied in integers, so the activations are quantised to eight
bits first. An activation row of ``n`` values lies in two arrays, int8 ``q`` and float32 ``f``:

======== =============================== =========================================================
kind     ``q``                           ``f``
======== =============================== =========================================================
``f32``  unused                          the ``n`` values
``q8_0`` ``n`` steps; of each 32 of them ``nb`` scales; of each 32 steps the sum times the scale
         the sum as int32
``q8_k`` ``n`` steps; of each 16 the sum ``nb`` scales; of each 16 steps the sum times the scale;
         as int16; of each 32 likewise   of each 32 likewise
======== =============================== =========================================================

There are ``nb`` blocks of 32 (``q8_0``) or 256 (``q8_k``) values. A value is its block's scale
times its step. Scales of ``q8_0`` that lie among the normal halves are rounded to one, as ggml's
are. The sums serve the types that have a minimum beside the scale, or whose weights are kept
unsigned: the dot product of a group with a constant minimum is the minimum times the group's sum.
This file is plain Python; the arithmetic is in ``generic`` and in the paths for particular
processors.
"""

from __future__ import annotations

from typing import Literal

from gguf_hub.gguf.types import QuantType

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

# kind -> (values in a block, bytes and floats that go with it)
_BLOCKS = {"f32": (1, 0, 1), "q8_0": (32, 32 + 4, 2), "q8_k": (256, 256 + 32 + 16, 25)}


def activation_floats(kind: ActivationKind, n: int) -> int:
    """Return how many float32 values go with a row of ``n`` activations.

    Args:
        kind: One of the values of ``ACTIVATION_OF``.
        n: Values in the row; they must fill whole blocks of the kind.
    """
    block_size, _, floats = _BLOCKS[kind]
    assert n % block_size == 0, f"{n} values do not fill {kind} blocks of {block_size}"
    return n // block_size * floats


def activation_bytes(kind: ActivationKind, n: int) -> int:
    """Return how many bytes of ``q`` a row of ``n`` activations takes: none for floats."""
    block_size, size_bytes, _ = _BLOCKS[kind]
    assert n % block_size == 0, f"{n} values do not fill {kind} blocks of {block_size}"
    return n // block_size * size_bytes
