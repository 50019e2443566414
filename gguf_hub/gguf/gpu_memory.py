"""What attention takes on a GPU beside the areas of a program: for ``run.gpu`` and ``hub.fit``."""

from __future__ import annotations

ATTENTION_PARTS = 128
"""Most parts that the positions of all tokens of a call are cut into; a few tokens share them."""


def attention_scratch_floats(n_head: int, value_dim: int) -> int:
    """Return the floats that parts keep until they are joined: of each its sums and two factors."""
    return ATTENTION_PARTS * n_head * (value_dim + 2)
