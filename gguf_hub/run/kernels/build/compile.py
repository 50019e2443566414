"""One kernel through numba and LLVM to an object file.

numba gives LLVM IR of the kernel and of every helper that it calls. We then make all of it internal
to one entry point and let LLVM optimise once more: helpers are inlined, error paths that cannot be
taken fall away, and the object needs nothing but the C library: no numba at run time.
"""

from __future__ import annotations

import inspect
import re

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from gguf_hub.run.kernels.build.cpu import ENTRY, Cpu, target_machine
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.vm.ops import MEMORY, QUEUE, ROW

_INT64 = types.int64
_HUGE = 2**58  # nominal length of arrays whose bounds the program, not the array, knows


def array_at(dtype):
    """Return a compiled function: int64 address -> 1-d array of ``dtype`` there, without owner."""
    array_type = types.Array(dtype, 1, "C")

    @intrinsic
    def at(typingctx, address):
        def codegen(context, builder, signature, args):
            array = cgutils.create_struct_proxy(array_type)(context, builder)
            array.data = builder.inttoptr(args[0], array.data.type)
            n, item = (context.get_constant(types.intp, x) for x in (_HUGE, dtype.bitwidth // 8))
            array.nitems, array.itemsize = n, item
            array.shape = cgutils.pack_array(builder, [n])
            array.strides = cgutils.pack_array(builder, [item])
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            array.parent = cgutils.get_null_value(array.parent.type)
            return array._getvalue()

        return array_type(_INT64), codegen

    return at


_ENTRY_SOURCE = """
def entry(tid, nth, op_address, bases_address):
    op, bases = int64s(op_address), int64s(bases_address)
    n, f = int64s(bases[0]), float32s(bases[1])
    q, kv, w = int8s(bases[2]), uint16s(bases[3]), uint8s(bases[4 + op[0]])
    kernel(tid, nth, n, f, q, kv, w, {arguments})
"""


def entry_of(kernel):
    """Return the function of four int64 that calls ``kernel`` with memory and arguments.

    Written as source because numba needs every argument by itself.
    """
    own = list(inspect.signature(kernel).parameters)[len(MEMORY) :]
    # op begins behind the kernel's address and the barrier's flag; the queue is the row's last word
    values = [f"op_address + {8 * (ROW - 3)}" if name == QUEUE else f"op[{i + 1}]"
              for i, name in enumerate(own)]  # fmt: skip
    names = {
        "kernel": register_jitable(kernel),
        "int64s": array_at(types.int64),
        "float32s": array_at(types.float32),
        "int8s": array_at(types.int8),
        "uint16s": array_at(types.uint16),
        "uint8s": array_at(types.uint8),
    }
    exec(_ENTRY_SOURCE.format(arguments=", ".join(values)), names)
    return names["entry"]


def compile_kernel(name: str, cpu: Cpu) -> bytes:
    """Return the object file of kernel ``name`` with one entry, ``ENTRY(tid, nth, op, bases)``."""
    # In products of a row, loops over the sub-blocks must be unrolled fully: lanes of vectors are
    # then constants. Loops over a weight tile must not be: all registers would be spilled. Other
    # kernels would only take longer to compile.
    is_product = name.startswith(("matmul.", "expert_matmul."))
    threshold = 800 if is_product else 300
    llvm.set_option("", f"--unroll-threshold={threshold}")
    function = kernel_function(name, cpu.isa)
    raw = getattr(function, "takes_addresses", False)
    return compile_entry(function if raw else entry_of(function), cpu)


def compile_entry(entry, cpu: Cpu) -> bytes:
    """Compile a function of four int64 to an object file.

    Raises:
        RuntimeError: The function could raise; kernels must not, as nothing catches it.
    """
    llvm.initialize_native_asmparser()  # some kernels hold assembly
    jitted = numba.njit(
        types.void(*[_INT64] * 4),
        error_model="numpy",
        _nrt=False,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
    )(entry)
    (compiled,) = jitted.overloads.values()
    module = _link(str(compiled.library._final_module), compiled.fndesc.mangled_name)
    machine = target_machine(cpu)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    for _ in range(2):  # some indices are constant only after loops were unrolled
        llvm.create_pass_builder(machine, options).getModulePassManager().run(
            module, llvm.create_pass_builder(machine, options)
        )
    results = set(re.findall(r"ret i32 (\S+)", str(module.get_function(ENTRY))))
    if results != {"0"}:
        raise RuntimeError(f"kernel {entry} can raise: replace range steps and checks")
    return machine.emit_object(module)


def _link(ir: str, inner: str) -> llvm.ModuleRef:
    """Add the C entry to numba's IR and make everything else internal.

    The entry returns numba's status, which the optimiser finds to be 0 for code that cannot raise.
    """
    ir = re.sub(r"\bnoinline\b", "", ir)
    arguments = ", ".join(f"i64 %a{i}" for i in range(4))
    ir += (
        f"\ndefine i32 @{ENTRY}({arguments}) {{\n"
        "  %result = alloca ptr\n  %error = alloca ptr\n"
        f'  %status = call i32 @"{inner}"(ptr %result, ptr %error, {arguments})\n'
        "  ret i32 %status\n}\n"
    )
    module = llvm.parse_assembly(ir)
    for function in module.functions:
        if not function.is_declaration and function.name != ENTRY:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    module.verify()
    return module
