"""Kernels that come with a wheel: used where they are right for this machine, else compiled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.gguf.shards import open_gguf
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.hub.catalog import load_catalog
from gguf_hub.run.kernels.build.build import KernelBuilder, hash_of_sources
from gguf_hub.run.kernels.build.cpu import has_feature, is_compiled_for
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.build.objects import MANIFEST, object_path
from gguf_hub.run.kernels.build.shipped import ShippedObjects
from gguf_hub.run.model.warmup import kernels_of_card, kernels_of_file
from gguf_hub.run.quants.plan import plan_quantize
from gguf_hub.run.quants.quantize import kernel_names as quantizer_kernels
from tests.conftest import ROOT
from tests.notes import Notes
from tests.run.kernels.test_products import product, random_rows
from tools import ship_kernels
from tools.ship_kernels import Target, ship, targets

NAMES = ["run_program", "matmul.Q4_K", "copy_rows", "silu_mul"]
USABLE = [target for target in targets() if all(map(has_feature, target.features))]
OTHER_UID = 61002
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not USABLE, reason="nothing is shipped for this CPU"),
]
posix = pytest.mark.skipif(os.name == "nt", reason="owners and modes as POSIX has them")


@pytest.fixture(scope="module")
def target() -> Target:
    return USABLE[-1]


@pytest.fixture(scope="module")
def made(
    target: Target, kernels: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:  # the builder's cache is that of all tests
    folder = tmp_path_factory.mktemp("made")
    sizes = ship(folder, target, NAMES)
    assert list(sizes) == NAMES
    return folder


@pytest.fixture
def shipped(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(made, tmp_path / "shipped")


def read(folder: Path, isa: str) -> tuple[list[str], list[str]]:
    """Names of the kernels that a new process would take, and what it would tell."""
    objects = ShippedObjects(isa, hash_of_sources(), folder)
    return list(objects.read(NAMES)), objects.problems()


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    """Change the manifest of an instruction set."""
    (path,) = folder.glob(f"*/{MANIFEST}")
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


# --- used


def test_shipped_kernels_are_not_compiled(shipped: Path, target: Target, tmp_path: Path) -> None:
    notes = Notes()
    builder = KernelBuilder(target.cpu, tmp_path / "cache", shipped)
    assert builder.compile(NAMES, notes) == 0
    assert set(builder.addresses(NAMES, notes)) == set(NAMES)
    assert (notes.texts, builder.problems()) == ([], [])
    assert list((tmp_path / "cache").glob("*.o")) == []


def test_what_is_not_shipped_is_compiled(shipped: Path, target: Target, tmp_path: Path) -> None:
    notes = Notes()
    builder = KernelBuilder(target.cpu, tmp_path / "cache", shipped)
    assert builder.objects([*NAMES, "add_rows"], notes)[1] == ["add_rows"]
    assert notes.texts == ["compiling 1 kernels for this CPU, once"]


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_shipped_kernels_compute_the_bits_of_compiled_ones(
    shipped: Path, target: Target, tmp_path: Path, n_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that are compiled for this very CPU, where its best instruction set is shipped."""
    monkeypatch.setenv("GGUF_HUB_ISA", target.cpu.isa)
    from_wheel = KernelBuilder(folder=tmp_path / "cache", shipped=shipped)
    compiled = KernelBuilder()
    weights = random_rows(QuantType.Q4_K, 70, 512)
    x = np.random.default_rng(n_tokens).standard_normal((n_tokens, 512)).astype(np.float32)
    y = product(from_wheel, QuantType.Q4_K, weights, x)
    assert y.tobytes() == product(compiled, QuantType.Q4_K, weights, x).tobytes()
    assert np.ptp(y) > 0
    assert list((tmp_path / "cache").glob("*.o")) == []


# --- not used


def test_a_changed_object_is_compiled_anew(shipped: Path, target: Target, tmp_path: Path) -> None:
    (path,) = shipped.glob("*/copy_rows.o")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    notes = Notes()
    builder = KernelBuilder(target.cpu, tmp_path / "cache", shipped)
    assert builder.objects(NAMES, notes)[1] == ["copy_rows"]
    reason, compiling = notes.texts
    assert reason.startswith(f"not using kernels shipped in `{path.parent}`: `copy_rows.o` is dam")
    assert compiling == "compiling 1 kernels for this CPU, once"
    again = Notes()
    assert KernelBuilder(target.cpu, tmp_path / "cache", shipped).compile(NAMES, again) == 0
    assert again.texts == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(sources="0" * 64), "compiled from other sources"),
        (lambda m: m.update(platform="plan9 vax"), "they are for plan9 vax, this is"),
        (lambda m: m["features"].append("avx9000"), "this CPU lacks avx9000"),
        (lambda m: m.update(features="avx2"), "does not list the CPU features"),
        (lambda m: m.update(features=[["avx2"]]), "does not list the CPU features"),
        (lambda m: m.update(format="gguf-hub kernels 1"), "does not list compiled kernels"),
        (lambda m: m.update(sha256={"../copy_rows": ""}), "does not list compiled kernels"),
        (lambda m: m.pop("sources"), "compiled from other sources"),
    ],
    ids=["sources", "platform", "feature", "no list", "no names", "format", "paths", "no sources"],
)
def test_kernels_for_something_else_are_not_used(
    shipped: Path, target: Target, change: Callable[[dict], object], reason: str
) -> None:
    assert read(shipped, target.cpu.isa) == (NAMES, [])
    edit(shipped, change)
    names, (problem,) = read(shipped, target.cpu.isa)
    assert names == []
    assert reason in problem


def test_an_object_with_another_hash_is_not_used(shipped: Path, target: Target) -> None:
    edit(shipped, lambda m: m["sha256"].update(copy_rows="0" * 64))
    names, (problem,) = read(shipped, target.cpu.isa)
    assert names == [name for name in NAMES if name != "copy_rows"]
    assert "`copy_rows.o` is damaged" in problem


def test_changed_sources_leave_shipped_kernels_unused(shipped: Path, target: Target) -> None:
    objects = ShippedObjects(target.cpu.isa, "another hash", shipped)
    assert objects.read(NAMES) == {}
    assert "other sources" in objects.problems()[0]


def test_other_instruction_sets_have_none_and_that_is_no_problem(shipped: Path) -> None:
    assert read(shipped, "generic") == ([], [])


@posix
@pytest.mark.parametrize("depth", [0, 1])
def test_a_folder_that_others_can_write_is_not_read(
    shipped: Path, target: Target, depth: int
) -> None:
    folder = shipped / target.cpu.isa
    (folder, folder.parent)[depth].chmod(0o777)
    names, (problem,) = read(shipped, target.cpu.isa)
    assert names == []
    assert "can be written by everybody" in problem


@posix
@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give files away"
)
@pytest.mark.parametrize("part", ["folder", "manifest", "object"])
def test_what_belongs_to_another_user_is_not_used(shipped: Path, target: Target, part: str) -> None:
    folder = shipped / target.cpu.isa
    paths = {"folder": folder, "manifest": folder / MANIFEST}
    os.chown(paths.get(part, object_path(folder, "copy_rows")), OTHER_UID, OTHER_UID)
    names, (problem,) = read(shipped, target.cpu.isa)
    others = [name for name in NAMES if name != "copy_rows"]
    assert names == (others if part == "object" else [])
    assert f"belongs to another user (uid {OTHER_UID})" in problem


# --- what a wheel holds


def test_kernels_use_features_of_the_cpu_that_they_are_compiled_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = USABLE[-1].features[-1]
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    assert is_compiled_for(own)
    for features, expected in (("", False), (f"-{own}", False), (f"+other,+{own}", True)):
        monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
        assert is_compiled_for(own) == expected


@pytest.mark.parametrize(
    ("keys", "values"),
    [("F32", "F32"), ("F16", "F16"), ("F16", "Q8_0"), ("Q8_0", "F16"), ("Q8_0", "Q8_0")],
)
def test_first_starts_with_the_catalog_and_the_built_in_model_compile_nothing(
    keys: str, values: str, embedded: Path
) -> None:
    quants = [f.quant for f in load_catalog().files if f.quant in FileType.__members__]
    needed = {name for quant in quants for name in kernels_of_card(FileType[quant], (keys, values))}
    with open_gguf(embedded) as file:
        needed |= set(kernels_of_file(file, (keys, values)))
    for quant in quants:
        needed |= set(quantizer_kernels(plan_quantize(embedded, FileType[quant], recipe="card")))
    assert len(quants) == 8
    assert needed - set(ship_kernels.kernel_names()) == set()


def test_every_shipped_kernel_exists_for_every_target() -> None:
    for each in targets():
        for name in ship_kernels.kernel_names():
            kernel_function(name, each.cpu.isa)


def wheel(folder: Path, monkeypatch: pytest.MonkeyPatch, *, with_kernels: bool) -> Path:
    from hatchling.builders.wheel import WheelBuilder

    monkeypatch.setenv("GGUF_HUB_BUILD_KERNELS", "1" if with_kernels else "")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


def test_a_wheel_is_pure_unless_kernels_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wheel(tmp_path, monkeypatch, with_kernels=False)
    assert path.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".o")]


def test_what_is_installed_from_a_wheel_with_kernels_compiles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    monkeypatch.setattr(ship_kernels, "kernel_names", lambda: ["copy_rows"])  # minutes less
    monkeypatch.setattr(ship_kernels, "targets", lambda: (target,))
    path = wheel(tmp_path / "dist", monkeypatch, with_kernels=True)
    assert not path.name.endswith("-any.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from gguf_hub.run.kernels.build.build import KernelBuilder\n"
        "builder = KernelBuilder()\n"
        "assert builder.__module__ and sys.modules['gguf_hub'].__file__.startswith(sys.argv[1])\n"
        "print(builder.compile(['copy_rows']), builder.problems())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        capture_output=True,
        text=True,
        env=os.environ
        | {"GGUF_HUB_ISA": target.cpu.isa, "GGUF_HUB_KERNEL_CACHE": str(tmp_path / "cache")},
    )
    assert (done.stdout, done.stderr) == ("0 []\n", "")
