"""Kernels that are compiled in the background: results stay, whatever becomes of the compilers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from gguf_hub.gguf.types import RUNNABLE_TYPES
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.build.cpu import detect_cpu
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.build.objects import object_path
from gguf_hub.run.kernels.build.stand_ins import stand_in
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.opening import LoadedModel, open_model
from tests.conftest import ROOT
from tests.notes import Notes
from tests.synth import SMALL, write_mixtral

pytestmark = pytest.mark.skipif(
    detect_cpu().isa == "generic", reason="plain loops have no weight tiles"
)
LATE = ("matmul.Q6_K",)
IDS = [5, 9, 7, 30, 2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "m.gguf", SMALL, recipe="Q6_K")


@pytest.fixture
def folder(path: Path, tmp_path: Path) -> Path:
    """A cache with all kernels of the model but the late ones, and what stands for them."""
    with open_model(path, ModelSettings(n_ctx=64), builder=(warm := KernelBuilder())):
        names = list(warm._addresses)
    objects, _ = warm.objects([*names, *(f"{name}.rows" for name in LATE)])
    cold = KernelBuilder(folder=tmp_path / "cache")
    for name in objects.keys() - set(LATE):
        cold._cache.write(name, objects[name])
    return tmp_path / "cache"


@pytest.fixture
def expected(path: Path) -> list[np.ndarray]:
    with open_model(path, ModelSettings(n_ctx=64), builder=KernelBuilder()) as loaded:
        return logits(loaded)


def logits(loaded: LoadedModel) -> list[np.ndarray]:
    """Logits of a batch that weight tiles are for, and of a token after it."""
    return [loaded.model.forward(IDS, 0), loaded.model.forward([3], len(IDS))]


def wait(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


@pytest.mark.slow
def test_the_text_goes_on_while_kernels_are_compiled_and_when_they_are(
    path: Path, folder: Path, expected: list[np.ndarray]
) -> None:
    notes, builder = Notes(), KernelBuilder(folder=folder, is_staged=True)
    with open_model(path, ModelSettings(n_ctx=64), builder=builder, progress=notes) as loaded:
        first = dict(builder._addresses)
        np.testing.assert_array_equal(logits(loaded), expected)
        wait(lambda: not builder.is_compiling)
        np.testing.assert_array_equal(logits(loaded), expected)
        changed = {name for name in first if builder._addresses[name] != first[name]}
    assert changed == set(LATE)
    assert notes.texts == ["compiling 1 kernels in the background"]
    again = Notes()
    with open_model(
        path, ModelSettings(n_ctx=64), builder=KernelBuilder(folder=folder), progress=again
    ) as loaded:
        np.testing.assert_array_equal(logits(loaded), expected)
    assert again.texts == []  # they were saved


@pytest.mark.slow
def test_a_long_prompt_waits_for_the_kernels_made_for_it(path: Path, folder: Path) -> None:
    builder = KernelBuilder(folder=folder, is_staged=True)
    with open_model(path, ModelSettings(n_ctx=256), builder=builder) as loaded:
        loaded.model.forward([1] * 127, 0)
        assert builder.is_compiling
        loaded.model.forward([1] * 128, 0)
        assert not builder.is_compiling
        assert len(builder.replaced()) == len(LATE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_compiler_harms_no_text(
    path: Path, folder: Path, expected: list[np.ndarray]
) -> None:
    notes, builder = Notes(), KernelBuilder(folder=folder, is_staged=True)
    before = set(psutil.Process().children())
    with open_model(path, ModelSettings(n_ctx=64), builder=builder, progress=notes) as loaded:
        wait(lambda: bool(set(psutil.Process().children()) - before))
        for child in set(psutil.Process().children()) - before:
            child.kill()
        wait(lambda: not builder.is_compiling)
        np.testing.assert_array_equal(logits(loaded), expected)
    assert builder.replaced() == {}
    assert "the compiler was killed by signal 9; prompts are computed by slower" in notes.texts[1]
    assert not object_path(folder, LATE[0]).exists()
    assert list(folder.glob(".new-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "exit", "kill"])
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_compilers_end_with_the_process(path: Path, folder: Path, end: str) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path\n"
        "from gguf_hub.run.kernels.build.build import KernelBuilder\n"
        "from gguf_hub.run.opening import open_model\n"
        "builder = KernelBuilder(folder=Path(sys.argv[2]), is_staged=True)\n"
        "loaded = open_model(Path(sys.argv[1]), builder=builder)\n"
        "loaded.model.forward([1], 0); print('ready', flush=True); sys.stdin.readline()\n"
        f"if {end!r} == 'close': loaded.close()\n"
        f"if {end!r} == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    line = [sys.executable, "-c", code, str(path), str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, cwd=ROOT, text=True, **pipes) as start:  # type: ignore[call-overload]
        assert start.stdout.readline() == "ready\n"
        process = psutil.Process(start.pid)
        wait(lambda: bool(process.children()))
        children, begun = process.children(), time.monotonic()
        _, errors = start.communicate("\n", timeout=60)
    ended_s = time.monotonic() - begun
    assert (errors, start.returncode) == ("", -signal.SIGKILL if end == "kill" else 0)
    if end != "kill":
        assert ended_s < 10
    _, alive = psutil.wait_procs(children, timeout=60)  # a killed parent cannot end them
    assert not alive
    assert list(folder.glob(".new-*")) == []


def test_every_type_with_weight_tiles_has_rows_for_the_time_being() -> None:
    cpu, tiled = detect_cpu(), 0
    for type_ in RUNNABLE_TYPES:
        name = f"expert_matmul.{type_.name}"
        if other := stand_in(name, cpu.isa):
            assert kernel_function(other, cpu.isa)
            tiled += 1
        else:
            assert type_.name in ("F32", "F16", "BF16", "F64")
    assert tiled > 20
    assert stand_in("expert_matmul.Q4_K", "generic") is None
    assert stand_in("attention.F16.F16", cpu.isa) is None
    assert stand_in("get_rows.Q4_K", cpu.isa) is None
