"""Compile the kernels that the tests need, all in one go: ``python -m tests.kernels``.

Tests compile what they lack, so this is never needed. But file by file they start some hundred
compilers, each importing numba, and kernels that share functions meet in none of them.
"""

from __future__ import annotations

import os

from gguf_hub.gguf.types import WRITABLE_TYPES
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.build.cpu import usable_isas
from gguf_hub.run.kernels.quantize.encode_memory import WEIGHTED_TYPES
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, CACHED
from tests.conftest import KERNELS
from tests.run.kernels import test_attention, test_products

_BY_TYPE = {
    "get_rows": "BF16 F16 F32 Q2_K Q3_K Q4_0 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0 IQ2_XXS IQ4_XS MXFP4",
    "expert_matmul": "BF16 F16 F32 Q2_K Q3_K Q4_0 Q4_K Q5_0 Q5_K Q6_K Q8_0",
    "get_position_rows": "F16 F32",
    "head_matmul": "F32",
    "decode": "F16 F32 Q4_K Q6_K",
    "encode": " ".join(sorted(type_.name for type_ in WRITABLE_TYPES)),
    "encode_weighted": " ".join(sorted(type_.name for type_ in WEIGHTED_TYPES)),
}
"""Steps that read weights -> types that models of the tests have, beside those of the products."""

_OF_A_MIXTRAL = (
    *("get_rows.F32", "get_rows.Q4_K", "get_rows.Q5_0", "expert_matmul.F32", "expert_matmul.Q4_K"),
    *("expert_matmul.Q5_0", "expert_matmul.Q6_K", "add_rows", "combine", "copy_rows", "rms_norm"),
    *("silu_mul", "top_k_gate"),
)
"""What ``test_transformer`` runs on every instruction set but plain loops, besides."""


def kernels_of(isa: str) -> list[str]:
    """Return the kernels that the tests run on an instruction set of this CPU."""
    names = [*test_products.kernels_of(isa), *test_attention.kernels_of(isa)]
    if isa != "generic":
        names += _OF_A_MIXTRAL
    if isa == usable_isas()[-1]:
        weighted = {*_BY_TYPE, *CACHED, "matmul"}
        names += [name for name in ARGUMENTS if name not in weighted]
        names += [f"{name}.{type_}" for name, types in _BY_TYPE.items() for type_ in types.split()]
    return list(dict.fromkeys(names))


def main() -> None:
    os.environ["GGUF_HUB_KERNEL_CACHE"] = str(KERNELS)
    by_isa = {isa: kernels_of(isa) for isa in usable_isas()}  # before one of them is forced
    for isa, names in by_isa.items():
        os.environ["GGUF_HUB_ISA"] = isa
        print(f"{isa}: {KernelBuilder().compile(names)} of {len(names)} kernels compiled")


if __name__ == "__main__":
    main()
