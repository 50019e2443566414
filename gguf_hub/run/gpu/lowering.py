"""Steps as operations of a GPU: which kernel does which step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gguf_hub.run.gpu.fusion import fuse, lower_fused
from gguf_hub.run.gpu.kernels import Operation
from gguf_hub.run.gpu.products import PRODUCTS
from gguf_hub.run.gpu.steps import STEPS
from gguf_hub.run.kernels.vm.ops import Step


def lower(step: Step, max_binding: int, tables: Mapping[int, tuple[int, ...]]) -> list[Operation]:
    """Return what a GPU does for a step, in order.

    Args:
        step: Of a program.
        max_binding: Most bytes of weights that one operation may see.
        tables: Offset in ``n`` -> file offsets of experts that stand there (see ``Bounds``).
    """
    name = step.name
    if name == "prefetch_experts":
        return []  # the weights are here
    if name in PRODUCTS:
        return PRODUCTS[name](step, max_binding, tables)
    return STEPS[name](step)


def lower_all(
    steps: Sequence[Step], max_binding: int, tables: Mapping[int, tuple[int, ...]]
) -> list[tuple[Operation, Step]]:
    """Return what a GPU does for steps, in order, each with the step, or the first of two."""
    return [
        (operation, group[0])
        for group in fuse(steps)
        for operation in (
            lower(group[0], max_binding, tables) if len(group) == 1 else [lower_fused(*group)]
        )
    ]
