"""Prefetching parts of the mapped file."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import pointer_to

_WILLNEED = 3  # MADV_WILLNEED of Linux, macOS and the BSDs
_PAGE = 4096


@intrinsic
def _will_need(typingctx, array, offset, size):
    """Call ``madvise`` on whole pages; its result is ignored, as this is advice."""

    def codegen(context, builder, sig, args):
        int32, int64 = ir.IntType(32), ir.IntType(64)
        pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], ir.IntType(8))
        address = builder.ptrtoint(pointer, int64)
        start = builder.and_(address, ir.Constant(int64, -_PAGE))
        length = builder.add(args[2], builder.sub(address, start))
        kind = ir.FunctionType(int32, [int64, int64, int32])
        function = cgutils.get_or_insert_function(builder.module, kind, "madvise")
        builder.call(function, [start, length, ir.Constant(int32, _WILLNEED)])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


def prefetch_experts(tid, nth, n, f, q, kv, w, experts, n_expert, size, expert_starts):
    """Prefetch the matrices of the experts that some token chose, dealt to the threads in turns."""
    turn = 0
    for e in range(n_expert):
        if n[expert_starts + e] < n[expert_starts + e + 1]:
            if turn == tid:
                _will_need(w, n[experts + e], size)
            turn = turn + 1 if turn + 1 < nth else 0
