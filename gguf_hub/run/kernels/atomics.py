"""Numbers that several threads read and write at once, by their addresses."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_INT64 = ir.IntType(64)


def _pointer(builder, address):
    return builder.inttoptr(address, _INT64.as_pointer())


@intrinsic
def load(typingctx, address):
    """Read an int64 that another thread writes."""

    def codegen(context, builder, sig, args):
        """Emit ``load atomic i64 acquire``: what the other thread wrote before it is seen."""
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def store(typingctx, address, value):
    """Write an int64 that another thread reads."""

    def codegen(context, builder, sig, args):
        """Emit ``store atomic i64 release``: all that this thread wrote before is seen with it."""
        builder.store_atomic(args[1], _pointer(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def fetch_add(typingctx, address, value):
    """Add to an int64 that several threads add to; return what it was."""

    def codegen(context, builder, sig, args):
        """Emit ``atomicrmw add i64 acq_rel``, which returns the number from before."""
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen
