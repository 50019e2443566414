"""All steps of a program but products, on a GPU."""

from __future__ import annotations

from collections.abc import Callable

from gguf_hub.run.gpu.kernels import Operation, arguments_of, module
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, Step


def _rms_norm(step: Step) -> Operation:
    at = arguments_of(step)
    return Operation(
        module("rms_norm.wgsl", ARGUMENTS["rms_norm"]),
        step.arguments,
        lambda header: (header[at["count"]] * at["per_row"], 1, 1),
    )


STEPS: dict[str, Callable[[Step], Operation]] = {"rms_norm": _rms_norm}
