"""Compiling, caching and linking kernels."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.gguf.memory.cache import CACHE_TYPES
from gguf_hub.gguf.types import RUNNABLE_TYPES, WRITABLE_TYPES
from gguf_hub.importpath import PACKAGE
from gguf_hub.run.kernels.build import build, children
from gguf_hub.run.kernels.build.build import KERNEL_TYPE, KernelBuilder
from gguf_hub.run.kernels.build.compile import compile_entry
from gguf_hub.run.kernels.build.cpu import ISAS, Cpu, detect_cpu
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.build.objects import object_path
from gguf_hub.run.kernels.quantize.encode_memory import WEIGHTED_TYPES
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, CACHED, MEMORY
from tests.conftest import ROOT
from tests.notes import Notes
from tests.test_architecture import imported, inner, modules


@pytest.mark.slow
def test_a_kernel_is_compiled_once_and_then_read_from_the_cache(tmp_path: Path) -> None:
    notes = Notes()
    KernelBuilder(folder=tmp_path).addresses(["copy_rows"], notes)
    assert notes.texts == ["compiling 1 kernels for this CPU, once"]
    (kernel,) = tmp_path.glob("*.o")
    made = kernel.stat().st_mtime_ns
    again = Notes()
    KernelBuilder(folder=tmp_path).addresses(["copy_rows"], again)
    assert again.texts == []
    assert kernel.stat().st_mtime_ns == made


@pytest.mark.slow
def test_a_warm_start_does_without_numba(tmp_path: Path) -> None:
    KernelBuilder(folder=tmp_path).addresses(["copy_rows"])
    code = (
        "import sys; from pathlib import Path\n"
        "from gguf_hub.run.kernels.build.build import KernelBuilder\n"
        f"KernelBuilder(folder=Path({str(tmp_path)!r})).addresses(['copy_rows'])\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_machine_code_computes(tmp_path: Path) -> None:
    builder = KernelBuilder()  # machine code lives as long as it does
    address = builder.addresses(["copy_rows"])["copy_rows"]
    n = np.array([2, 0, 2, 0, *[0] * 12, 1, 0], np.int64)  # rows 1 and 0 of x
    f = np.arange(12, dtype=np.float32)
    empty = np.zeros(1, np.uint8)
    bases = np.array([a.ctypes.data for a in (n, f, empty, empty, empty)], np.int64)
    op = np.array([0, 0, 3, 16, 6, 2], np.int64)  # file, x, width, rows, y, count
    KERNEL_TYPE(address)(0, 1, op.ctypes.data, bases.ctypes.data)
    assert f.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 0, 1, 2]


@pytest.mark.slow
def test_a_kernel_that_could_raise_is_refused() -> None:
    def divides(tid, nth, op, bases):  # type: ignore[no-untyped-def]
        if nth > tid:
            raise ValueError("too many")

    with pytest.raises(RuntimeError, match="can raise"):
        compile_entry(divides, detect_cpu())


@pytest.mark.slow
def test_a_failing_compilation_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GgufHubError, match="compiling kernels failed: `no_such_step`") as caught:
        KernelBuilder(folder=tmp_path).addresses(["no_such_step"])
    assert "doctor" in (caught.value.hint or "")
    assert list(tmp_path.glob("*.o")) == []


def test_kernels_of_one_type_are_compiled_by_the_child_that_knows_it() -> None:
    names = ["rms_norm", "matmul.Q4_K", "matmul.Q6_K", "expert_matmul.Q4_K", "expert_matmul.Q6_K"]
    queue = children.Queue(names)
    first, second, third = set[str](), set[str](), set[str]()
    dealt = [queue.next(known) for known in (first, second, first, third, second, first)]
    # the third child finds types that others have begun, and rather takes what is nobody's
    assert dealt == [*names[1:4], "rms_norm", "expert_matmul.Q6_K", None]


def test_no_child_is_idle_while_there_is_work() -> None:
    queue = children.Queue(["matmul.Q4_K", "expert_matmul.Q4_K"])
    assert [queue.next(set()) for _ in range(3)] == ["matmul.Q4_K", "expert_matmul.Q4_K", None]


@pytest.mark.slow
def test_two_first_starts_at_once_compile_once(tmp_path: Path) -> None:
    """Whoever comes second waits, and finds what the first has made."""
    code = (
        "import sys; from pathlib import Path\n"
        "from gguf_hub.run.kernels.build.build import KernelBuilder\n"
        "from tests.notes import Notes\n"
        "notes = Notes()\n"
        f"KernelBuilder(folder=Path({str(tmp_path)!r})).addresses(sys.argv[1:], notes)\n"
        "print(*notes.texts, sep='; ')"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code, "copy_rows", "silu_mul"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    said = "".join(start.communicate()[0] for start in starts)
    assert [start.returncode for start in starts] == [0, 0, 0]
    assert said.count("compiling 2 kernels for this CPU, once") == 1


def test_the_cache_folder_depends_on_the_cpu() -> None:
    cpu = detect_cpu()
    other = Cpu(cpu.name, cpu.features, "another")
    assert build._key(cpu, "sources") != build._key(cpu, "others")
    assert build._key(cpu, "sources") == build._key(cpu, "sources") != build._key(other, "sources")


@pytest.mark.parametrize(
    "file",
    ["run/kernels/steps.py", "gguf/types.py", "gguf/memory/cache.py", "run/kernels/a/new.py"],
)
def test_the_cache_folder_depends_on_every_source(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build.hash_of_sources()
    shutil.copytree(PACKAGE, tmp_path / "gguf_hub", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "PACKAGE", str(tmp_path / "gguf_hub"))
    assert build.hash_of_sources() == before
    changed = tmp_path / "gguf_hub" / file
    changed.parent.mkdir(exist_ok=True)
    with changed.open("a") as source:
        source.write("# changed\n")
    assert build.hash_of_sources() != before


def test_the_cache_folder_depends_on_all_that_kernels_import() -> None:
    sources, queue = {"run.kernels.build.library"}, ["run.kernels.build.library"]
    while queue:
        names = map(inner, imported(modules()[queue.pop()]))
        queue += (fresh := {name for name in names if name} - sources)
        sources |= fresh
    known = set(build.source_files(Path(PACKAGE)))
    others = {name for name in sources if modules()[name] not in known}
    assert others == {"errors"}  # what choosing a CPU raises


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "copy_rows": lambda code: b"",
    "silu_mul": lambda code: code[: len(code) // 2],
    "add_rows": lambda code: bytes(len(code)),
    "rms_norm": lambda code: b"hello",
    "rope_table": lambda code: code[:64],
    "quantize_q8_0": lambda code: code[:200] + bytes(b ^ 255 for b in code[200:400]) + code[400:],
    "quantize_q8_k": lambda code: code[:-10],
    "top_k_gate": lambda code: b"<html>" * 100,
}
"""Small kernels -> what happens to the object of each."""


@pytest.mark.slow
def test_damaged_objects_are_compiled_again_with_a_note(tmp_path: Path) -> None:
    sound = KernelBuilder()
    sound.compile(DAMAGES)
    assert sound.folder
    folder = shutil.copytree(sound.folder, tmp_path / "kernels-copy")
    for name, damage in DAMAGES.items():
        object_path(folder, name).write_bytes(damage(object_path(folder, name).read_bytes()))
    notes = Notes()
    assert set(KernelBuilder(folder=folder).addresses(DAMAGES, notes)) == set(DAMAGES)
    assert notes.texts[1:] == ["compiling 8 kernels for this CPU, once"]
    assert "`copy_rows.o` is damaged" in notes.texts[0]
    assert "(and 7 more)" in notes.texts[0]
    again = Notes()
    KernelBuilder(folder=folder).addresses(DAMAGES, again)
    assert again.texts == []


@pytest.mark.slow
def test_where_nothing_can_be_kept_kernels_are_compiled_for_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGUF_HUB_KERNEL_CACHE", str(tmp_path / "file" / "kernels"))
    (tmp_path / "file").write_text("no folder")
    notes = Notes()
    builder = KernelBuilder()
    assert builder.folder is None
    assert builder.addresses(["copy_rows"], notes)["copy_rows"]
    assert notes.texts[1:] == ["compiling 1 kernels for this CPU"]
    assert "not a directory" in notes.texts[0]
    assert KernelBuilder().compile(["copy_rows"], notes) == 0  # in memory


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_compiler_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    before = set(psutil.Process().children())  # of other tests

    def kill_first_child() -> None:
        while not stop.is_set():
            for child in {*psutil.Process().children()} - before:
                child.kill()
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_first_child)
    killer.start()
    try:
        with pytest.raises(GgufHubError, match="the compiler was killed by signal 9"):
            KernelBuilder(folder=tmp_path).compile(["matmul.Q4_K"])
    finally:
        stop.set()
        killer.join()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_ends_the_compilers_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from gguf_hub.run.kernels.build.build import KernelBuilder\n"
        f"try: KernelBuilder(folder=Path({str(tmp_path)!r})).compile(sys.argv[1:])\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    names = [f"matmul.{type_}" for type_ in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")]
    line = [sys.executable, "-c", code, *names]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as start:
        process = psutil.Process(start.pid)
        until = time.monotonic() + 60
        while not (children := process.children()) and time.monotonic() < until:
            time.sleep(0.01)
        start.send_signal(signal.SIGINT)
        out, _ = start.communicate(timeout=60)
    # one that was being started when the signal came ends when it finds its input closed
    _, alive = psutil.wait_procs(children, timeout=20)
    assert children and not alive
    assert out == "interrupted\n"
    assert list(tmp_path.glob(".new-*")) == []


def test_an_instruction_set_that_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUF_HUB_ISA", "avx9000")
    with pytest.raises(UsageError, match="GGUF_HUB_ISA is `avx9000`: expected one of generic"):
        detect_cpu()


def step_names() -> list[str]:
    types = sorted(type_.name for type_ in RUNNABLE_TYPES)
    weighted = ("get_rows", "get_position_rows", "matmul", "expert_matmul", "head_matmul",
                "decode", "encode", "encode_weighted")  # fmt: skip
    plain = [name for name in ARGUMENTS if name not in weighted + CACHED]
    all_ = plain + [f"{name}.{type_}" for name in weighted for type_ in types]
    all_ += [f"{name}.{k}.{v}" for name in CACHED for k in CACHE_TYPES for v in CACHE_TYPES]
    written = {
        f"encode.{type_.name}" for type_ in WRITABLE_TYPES if type_.name != "F32"
    }  # F32 is copied
    written |= {f"encode_weighted.{type_.name}" for type_ in WEIGHTED_TYPES}
    return [name for name in all_ if not name.startswith("encode") or name in written]


@pytest.mark.slow
@pytest.mark.parametrize("name", step_names())
def test_every_step_has_a_kernel_for_each_instruction_set(name: str) -> None:
    for isa in ISAS:
        function = kernel_function(name, isa)  # asserts that its arguments are those of ops
        assert function.__code__.co_varnames[: len(MEMORY)] == MEMORY
