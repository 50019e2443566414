"""What holds for all WGSL: rules that no compiler checks, and that every step has its kernel."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from gguf_hub.gguf.types import RUNNABLE_TYPES
from gguf_hub.run.gpu import fusion, kernels
from gguf_hub.run.gpu.products import KERNELS, PRODUCTS, files_of
from gguf_hub.run.gpu.steps import CPU_ONLY, STEPS
from gguf_hub.run.kernels.vm.ops import ARGUMENTS

ROOM = Path(kernels.__file__).parent
FOLDER = ROOM / "wgsl"
FILES = sorted(FOLDER.rglob("*.wgsl"))


def code_of(file: Path) -> str:
    """Return a file without comments."""
    return re.sub(r"//.*", "", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_every_variable_has_an_initialiser(file: Path) -> None:
    """One inside of a loop would keep the value of the last turn, in some compilers."""
    declared = re.findall(r"\bvar\b(?!\s*<)([^;{]*)", code_of(file))
    assert [each for each in declared if "=" not in each] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_nothing_is_used_that_some_drivers_lack(file: Path) -> None:
    """No extension, no types of 16 bits, no private memory without an initialiser."""
    assert not re.search(r"\b(enable|requires|f16|i16|u16)\b|var\s*<private>", code_of(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_memory_of_a_workgroup_is_added_to_only_after_it_was_set(file: Path) -> None:
    """It is not zero at first, everywhere."""
    code = code_of(file)
    for name in re.findall(r"var<workgroup>\s+(\w+)\s*:\s*array<\s*atomic", code):
        set_at = re.search(rf"atomicStore\(&{name}\b", code)
        added_at = re.search(rf"atomic(Add|Max|Min|Or)\(&{name}\b", code)
        assert set_at and added_at and set_at.start() < added_at.start(), name


def test_every_file_is_used() -> None:
    """Python names a file by its stem, or makes that of a step or a product."""
    python = "\n".join(path.read_text(encoding="utf-8") for path in ROOM.glob("*.py"))
    used = set(re.findall(r"\w+", python)) | set(STEPS)
    for choice in product(RUNNABLE_TYPES, KERNELS, ("plain", "expert"), (True, False)):
        used |= {Path(name).stem for name in files_of(*choice)}
    used |= {f"{name}_quantize_{kind}" for name in fusion.FIELDS for kind in ("q8_0", "q8_k")}
    for file in FILES:
        included = re.findall(r"// include: (\S+)\.wgsl", file.read_text(encoding="utf-8"))
        used |= {Path(name).stem for name in included}
    assert {file.stem for file in FILES} - used == set()


def test_every_step_has_a_kernel_or_stays_on_the_cpu() -> None:
    rooms = (set(STEPS), set(PRODUCTS), set(CPU_ONLY))
    assert set().union(*rooms) == set(ARGUMENTS)
    assert sum(map(len, rooms)) == len(ARGUMENTS)
