"""Neighbouring steps that one kernel does: activations are quantised where they are computed.

Recording a dispatch takes the CPU 3 microseconds, and between two that depend on one another a GPU
stands still.
"""

from __future__ import annotations

from collections.abc import Sequence

from gguf_hub.run.gpu.device import Grid
from gguf_hub.run.gpu.kernels import Header, Operation, module
from gguf_hub.run.gpu.steps import fold
from gguf_hub.run.kernels.vm.ops import Step

_OF_ACTIVATION = ("gate", "up", "width", "count", "per_row", "xq", "xf")
FIELDS = {
    "rms_norm": ("x", "gain", "width", "epsilon", "y", "count", "per_row", "xq", "xf"),
    "silu_mul": _OF_ACTIVATION,
    "gelu_mul": _OF_ACTIVATION,
    "swiglu_oai": _OF_ACTIVATION,
}
"""Step -> the arguments of the kernel that does it and then quantises; the file's name has both."""

_PER_GROUP = 1024  # elements that a workgroup quantises at once


def fuse(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Return steps in order, those together that one kernel does."""
    groups: list[tuple[Step, ...]] = []
    for step in steps:
        if groups and len(groups[-1]) == 1 and _are_one(groups[-1][0], step):
            groups[-1] += (step,)
        else:
            groups.append((step,))
    return groups


def _are_one(first: Step, second: Step) -> bool:
    """Whether the second quantises just what the first computes."""
    if first.name not in FIELDS or not second.name.startswith("quantize_"):
        return False
    at, to = first.named, second.named
    if at["count"] != to["count"]:
        return False
    if first.name == "rms_norm":
        same_rows = (at["width"], at["per_row"]) == (to["width"], to["per_row"])
        return same_rows and at["y"] == to["x"]
    return at["gate"] == to["x"] and at["width"] == to["width"] * to["per_row"]


def lower_fused(first: Step, second: Step) -> Operation:
    """Return what a GPU does for two steps that ``fuse`` has put together."""
    name, at = first.name, first.named | second.named
    rows = at["per_row"]

    def norm(header: Header) -> Grid:
        return fold(rows * header[at["count"]])

    def activation(header: Header) -> Grid:
        return fold(-(-at["width"] * rows * header[at["count"]] // _PER_GROUP))

    if name == "rms_norm":  # what the second calls x is the first's y
        at["x"] = first.named["x"]
    fields = FIELDS[name]
    return Operation(
        module(f"{name}_{second.name}.wgsl", fields),
        tuple(at[field] for field in fields),
        norm if name == "rms_norm" else activation,
    )
