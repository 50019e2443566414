"""How a row of activations is laid out in memory, for every type of weights that meets it.

Weights of a quantised type are multiplied in integers, so the activations are quantised to eight
bits first. An activation row of ``n`` values lies in two arrays, int8 ``q`` and float32 ``f``:

======== =============================== =========================================================
kind     ``q``                           ``f``
======== =============================== =========================================================
``f32``  unused                          the ``n`` values
``q8_0`` ``n`` quants; of each 32 the    ``nb`` scales; of each 32 quants the sum times the scale
         sum as int32
``q8_k`` ``n`` quants; of each 16 the    ``nb`` scales; of each 16 quants the sum times the scale;
         sum as int16; of each 32 too    of each 32 too
======== =============================== =========================================================

There are ``nb`` blocks of 32 (``q8_0``) or 256 (``q8_k``) values. A value is its block's scale
times its quant. Scales of ``q8_0`` that lie among the normal halves are rounded to one, as ggml's
are. The sums serve the types that have a minimum beside the scale, or whose weights are kept
unsigned: the dot product of a group with a constant minimum is the minimum times the group's sum.
The arithmetic is in ``run.kernels.generic`` and in the paths for particular processors.
"""

from __future__ import annotations

from typing import Literal

from gguf_hub.gguf.types import RUNNABLE_TYPES

ActivationKind = Literal["f32", "q8_0", "q8_k"]

KIND_OF_BLOCK: dict[int, ActivationKind] = {
    1: "f32", 32: "q8_0", 64: "q8_0", 128: "q8_0", 256: "q8_k",
}  # fmt: skip
"""Weights in a block of a type -> kind of the activations they are multiplied with."""

ACTIVATION_OF = {type_: KIND_OF_BLOCK[type_.block_size] for type_ in sorted(RUNNABLE_TYPES)}
"""The same for each type that the runner computes with."""

BLOCKS: dict[ActivationKind, tuple[int, int, int]] = {
    "f32": (1, 0, 1),
    "q8_0": (32, 32 + 4, 2),
    "q8_k": (256, 256 + 32 + 16, 25),
}
"""Kind -> values in a block, bytes and floats that go with it."""


def activation_floats(kind: ActivationKind, n: int) -> int:
    """Return how many float32 values go with a row of ``n`` activations.

    Args:
        kind: A key of ``BLOCKS``.
        n: Values in the row; they must fill whole blocks of the kind.
    """
    block_size, _, floats = BLOCKS[kind]
    assert n % block_size == 0, f"{n} values do not fill {kind} blocks of {block_size}"
    return n // block_size * floats


def activation_bytes(kind: ActivationKind, n: int) -> int:
    """Return how many bytes of ``q`` a row of ``n`` activations takes: none for floats."""
    block_size, size_bytes, _ = BLOCKS[kind]
    assert n % block_size == 0, f"{n} values do not fill {kind} blocks of {block_size}"
    return n // block_size * size_bytes
