"""The loop that every worker thread runs: step, barrier, step, barrier, never back in Python.

Barriers spin: waking a thread through the system costs tens of microseconds, and a token of a
32-layer model has some 400 steps. A thread that waits long (another program has its core) yields.
"""

from __future__ import annotations

import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from gguf_hub.run.kernels.atomics import fetch_add, load, store
from gguf_hub.run.kernels.simd.vectors import call_llvm
from gguf_hub.run.kernels.vm.ops import ROW

_INT64 = ir.IntType(64)
_SPINS = 4096  # some ten microseconds, before the core is offered to others


@intrinsic
def _call(typingctx, function, tid, nth, op, bases):
    def codegen(context, builder, sig, args):
        kernel_type = ir.FunctionType(ir.IntType(32), [_INT64] * 4)
        kernel = builder.inttoptr(args[0], kernel_type.as_pointer())
        builder.call(kernel, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def _relax(typingctx):
    """Tell the CPU that this is a waiting loop."""

    def codegen(context, builder, sig, args):
        triple = builder.module.triple
        if triple.startswith(("x86", "i686", "amd64")):
            call_llvm(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        elif triple.startswith(("aarch64", "arm64")):
            yield_ = ir.Constant(ir.IntType(32), 1)
            call_llvm(builder, "llvm.aarch64.hint", ir.VoidType(), [yield_])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _yield(typingctx):
    """Let the system run something else on this core."""

    def codegen(context, builder, sig, args):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function_type = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@register_jitable
def _wait(barrier, nth):
    """Return when all ``nth`` threads have come here.

    Two int64 on cache lines of their own: how many have come, and how often all have.
    """
    turn = barrier + 64
    before = load(turn)
    if fetch_add(barrier, 1) == nth - 1:
        store(barrier, 0)
        store(turn, before + 1)
        return
    spins = 0
    while load(turn) == before:
        _relax()
        spins += 1
        if spins > _SPINS:
            _yield()


def run_program(tid, nth, program, bases):
    """Run all steps of a program as thread ``tid`` of ``nth``.

    Args:
        tid: This thread, from 0.
        nth: How many threads run the same program.
        program: Address of int64: number of steps, address of the barrier, then rows of ``ROW``.
        bases: Address of the int64 addresses of n, f, q, kv and the mapped files.
    """
    count = load(program)
    barrier = load(program + 8)
    row = program + 16
    for _ in range(count):
        _call(load(row), tid, nth, row + 16, bases)
        if nth > 1 and load(row + 8) != 0:
            _wait(barrier, nth)
        row += 8 * ROW


run_program.takes_addresses = True
