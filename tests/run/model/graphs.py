"""What tests of decoders and of encoders ask alike of graphs and their keys."""

from __future__ import annotations

import itertools
from typing import Any

from gguf_hub.run.kernels.vm.bounds import Call, Extent
from gguf_hub.run.kernels.vm.effects import Effects, effects_of
from gguf_hub.run.model.program import Program
from tests.arch_models import N_CTX

ODD = [0, 1, 3, 2**20, 2**32 - 1, 0.0, -1.5, 1e30, float("nan"), float("inf"), "x", True,
       [0, 0, 0, 0], [2**31 - 1] * 4, [True, False, True, True]]  # fmt: skip
"""Values of keys as no model has them, or not there."""


def other_value(key: str, value: Any) -> Any:
    """Return another value that a file could have; None where tensors' shapes follow from it."""
    words = {"silu": "gelu", "gelu": "silu", "none": "linear", "linear": "none", "yarn": "none"}
    if isinstance(value, str):
        return words[value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * (100 if key.endswith("epsilon") else 1.5)
    if key == "expert_gating_func":
        return 3 - value
    if key in ("rope.dimension_count", "rope.dimension_count_swa"):
        return value // 2
    if key == "attention.sliding_window_pattern" and isinstance(value, int):
        return value - 1
    if key in ("expert_used_count", "expert_group_used_count"):
        return value + 1
    if key.endswith(("original_context_length", "temperature_length", "attention.sliding_window")):
        return value * 8 if value < N_CTX else value // 8  # across the length of the prompt
    return None


def check_barriers(program: Program) -> None:
    """Assert that steps with no barrier between them share nothing that one of them writes."""
    before: list[tuple[str, Effects]] = []
    for step in program.steps:
        own = effects_of(step, Call(step.types, program.bounds, program.bounds.span))
        for kernel, other in before:
            for a, b in ((own, other), (other, own)):
                for written, used in itertools.product(a.writes, (*b.writes, *b.reads)):
                    assert not overlap(written, used), f"{kernel}, {step.kernel}: {used}"
        before = [] if step.is_barrier_after else [*before, (step.kernel, own)]


def overlap(a: Extent, b: Extent) -> bool:
    return a.array == b.array and a.first < b.first + b.size and b.first < a.first + a.size
