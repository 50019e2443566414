"""Bit allocation: which type each tensor gets so that a file has a size and loses least.

1. ``units``: tensors that get one type, and the types that each may get.
2. ``errors``: how far each type is from a unit's weights, by encoding a sample of rows.
3. ``sensitivity``: what such errors cost, by KL divergence with one group of units quantised alone.
4. ``knapsack``: the types of the least sum of losses within a number of bytes.

Losses are taken to add up, and to grow in proportion to the error of the weights.

Source: Malinovskii et al. 2024, "Pushing the Limits of Large Language Model Quantization via the
Linearity Theorem" (section 3); Shoham & Gersho 1988, "Efficient bit allocation for an arbitrary
set of quantizers".
"""

from __future__ import annotations

from gguf_hub.run.allocation.allocator import Allocation, Allocator, open_allocator
from gguf_hub.run.allocation.sensitivity import Text

__all__ = ["Allocation", "Allocator", "Text", "open_allocator"]
