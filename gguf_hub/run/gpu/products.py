"""Matrix products on a GPU: for each weight type, one token or many, experts, heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.gpu.kernels import Operation, WeightPart, arguments_of, module
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, Step


def _matmul(step: Step, max_binding: int, tables: Mapping[int, tuple[int, ...]]) -> list[Operation]:
    at = arguments_of(step)
    type_ = QuantType[step.kernel.partition(".")[2]]
    part = WeightPart(type_, at["n_in"], at["n_out"], (at["w0"],))
    return [
        Operation(
            module("matmul_f32.wgsl", ARGUMENTS["matmul"]),
            (0, *step.arguments[1:]),
            lambda header: (at["n_out"], header[at["count"]], 1),
            part,
        )
    ]


PRODUCTS: dict[str, Callable[[Step, int, Mapping[int, tuple[int, ...]]], list[Operation]]] = {
    "matmul": _matmul
}
