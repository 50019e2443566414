"""A message in place of a bare "Bus error", where pages of a mapped file are gone.

A file that becomes shorter while it is mapped, or a disk that fails, shows itself only when
somebody reads: the system then sends SIGBUS, and there is nothing to return to. A handler in Python
would never run, and one that calls into the interpreter could do harm. This one is machine code of
two system calls, ``write`` and ``_exit``, which POSIX allows in handlers.

It is for programs that own their process: the command line, not a library.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterator
from typing import Any

_SOURCE = """
@text = private constant [{size} x i8] c"{text}"
declare i64 @write(i32, i8*, i64)
declare void @_exit(i32)
define void @{name}(i32 %signal) {{
    %start = getelementptr [{size} x i8], [{size} x i8]* @text, i64 0, i64 0
    %result = call i64 @write(i32 2, i8* %start, i64 {size})
    call void @_exit(i32 1)
    unreachable
}}
"""
_NAME = "gguf_hub_on_bus_error"


@contextlib.contextmanager
def report_bus_errors(message: str) -> Iterator[None]:
    """Within the block, let a bus error write a message to stderr and exit with 1.

    Args:
        message: A line of text.
    """
    if not hasattr(signal, "SIGBUS"):  # Windows keeps mapped files as they are
        yield
        return
    engine = _compile_handler(message)
    install = ctypes.CDLL(None).signal
    install.restype, install.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = install(signal.SIGBUS, engine.get_function_address(_NAME))
    try:
        yield
    finally:
        install(signal.SIGBUS, before)


def _compile_handler(message: str) -> Any:
    """Return an engine that holds the handler; the code lives as long as it."""
    import llvmlite.binding as llvm

    raw = f"\n{message}\n".encode("utf-8", "replace")
    text = "".join(f"\\{byte:02X}" for byte in raw)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(_SOURCE.format(size=len(raw), text=text, name=_NAME))
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(opt=0, jit=True, codemodel="jitdefault")
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
