"""Table lookup: sixteen bytes, chosen by the bytes of a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llvmlite import ir
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import call_llvm, join, parts_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PSHUFB = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}
"""Bytes of a register -> the instruction that looks up in each sixteen of them."""


def by_pshufb(width: int) -> Callable:
    """Return what makes lookups for x86; see ``_lookups``."""
    return _lookups(width, lambda table, codes: (_PSHUFB[width], [table, codes]))


def by_tbl() -> Callable:
    """Return what makes lookups for NEON; see ``_lookups``."""
    return _lookups(16, lambda table, codes: ("llvm.aarch64.neon.tbl1.v16i8", [table, codes]))


def _lookups(width: int, call: Callable) -> Callable:
    """Return a function of sixteen int8, which returns a compiled ``(codes)``.

    Codes are bytes of 0 to 15, in a vector of any elements of a multiple of ``width`` bytes.
    """

    def lookup_of(table: NDArray[np.int8]) -> Callable:
        register = ir.VectorType(ir.IntType(8), width)
        constant = ir.Constant(register, [int(value) for value in table] * (width // 16))

        @intrinsic
        def lookup(typingctx, codes):
            def codegen(context, builder, sig, args):
                size_bytes = codes.lanes * codes.ir().element.width // 8
                as_bytes = ir.VectorType(ir.IntType(8), size_bytes)
                parts = parts_of(
                    builder, builder.bitcast(args[0], as_bytes), width, size_bytes // width
                )
                calls = (call(constant, part) for part in parts)
                found = [call_llvm(builder, name, register, list(args)) for name, args in calls]
                return builder.bitcast(join(builder, found), codes.ir())

            return codes(codes), codegen

        return lookup

    return lookup_of
