"""numba without what kernels have no use for: machine code of its own, and wrappers for callers.

numba compiles each helper to machine code, with a wrapper for Python and one for C, before it goes
on with the function that calls it. Kernels are taken from numba as LLVM IR and compiled once, whole
(``compile``), so all of that is thrown away. It takes a third of numba's time.

What is replaced here is no public interface of numba: where a version lacks it, numba stays as it
is, and takes longer.
"""

from __future__ import annotations

import gc
from typing import Any


def lighten() -> bool:
    """Make the numba of this process emit no machine code; return whether that was possible.

    What numba compiles cannot be called any more, and garbage stays: for a child that compiles
    kernels, and ends.
    """
    gc.disable()  # numba keeps what it makes: looking through it takes a twentieth of the time
    try:
        from numba.core import codegen, cpu
        from numba.core.registry import cpu_target

        library, generator = codegen.JITCodeLibrary, codegen.JITCPUCodegen
        context = cpu_target.target_context
        hooks = [
            (library, "_finalize_specific"), (library, "get_pointer_to_function"),
            (library, "_optimize_functions"), (library, "_optimize_final_module"),
            (generator, "_add_module"), (generator, "set_env"),
            (cpu.CPUContext, "create_cfunc_wrapper"), (cpu.CPUContext, "create_cpython_wrapper"),
        ]  # fmt: skip
        if not all(callable(getattr(owner, name, None)) for owner, name in hooks):
            return False
        if type(context._internal_codegen) is not generator:
            return False
    except (ImportError, AttributeError):
        return False
    context._internal_codegen = _light_codegen(generator, library)("gguf-hub")
    context.create_cfunc_wrapper = context.create_cpython_wrapper = _ignore
    return True


def _light_codegen(generator: Any, library: Any) -> Any:
    class LightLibrary(library):  # type: ignore[misc]
        """LLVM IR, linked with that of the helpers, as it came."""

        def _finalize_specific(self) -> None:
            """Emit nothing."""

        def _optimize_final_module(self) -> None:
            """Leave it to who compiles the whole kernel."""

        def _optimize_functions(self, ll_module: Any) -> None:
            ll_module.data_layout = self._codegen._data_layout

        def get_pointer_to_function(self, name: str) -> int:
            """Return no address: nobody calls it."""
            self._ensure_finalized()
            return 0

    class LightCodegen(generator):  # type: ignore[misc]
        """Makes such libraries."""

        _library_class = LightLibrary

        def _add_module(self, module: Any) -> None:
            """Give nothing to the engine that runs code."""

        def set_env(self, env_name: str, env: Any) -> None:
            """Set nothing: there is no code that would read it."""

    return LightCodegen


def _ignore(*arguments: Any, **options: Any) -> None:
    """Write no wrapper."""
