"""The distribution ``gguf-hub-llama-cpp``: built, installed beside others, imported."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub import __version__
from tests.conftest import ROOT

SOURCE = ROOT / "packages" / "gguf-hub-llama-cpp"
GENERATE = """
import importlib.util, sys
assert importlib.util.find_spec("llama_cpp") is not None
from llama_cpp import Llama, LlamaGrammar, llama_cpp as low_level
import llama_cpp, llama_cpp.llama_types
llm = Llama(sys.argv[1], n_ctx=64, verbose=False)
text = llm("Once upon", max_tokens=4, grammar=LlamaGrammar.from_string('root ::= "yes"'))
print(text["choices"][0]["text"], low_level.llama_n_ctx(llm.ctx), llama_cpp.__version__)
"""


def run(*command: str, path: list[Path] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path or ()))}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    program = (
        "import os, sys; from hatchling.build import build_wheel; "
        "os.chdir(sys.argv[1]); print(build_wheel(sys.argv[2]))"
    )
    built = run("-c", program, str(SOURCE), str(folder))
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the real one's name with a package of the same name."""
    path = tmp_path_factory.mktemp("real") / "llama_cpp_python-9.9-py3-none-any.whl"
    info = "llama_cpp_python-9.9.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llama_cpp/__init__.py", "REAL = True\n")
        archive.writestr("llama_cpp/llama.py", "")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 9.9\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., Path]:
    """Unpack wheels into a folder, one after another, as pip does."""

    def install(name: str, *wheels: Path) -> Path:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(tmp_path / name)
        return tmp_path / name

    return install


def test_its_version_is_ours_and_it_asks_for_nothing_else() -> None:
    text = (SOURCE / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in text
    assert f'dependencies = ["gguf-hub>={__version__}"]' in text


@pytest.mark.slow
def test_another_process_generates(
    wheel: Path, install: Callable[..., Path], embedded: Path, kernels: None
) -> None:
    done = run("-c", GENERATE, str(embedded), path=[install("site", wheel), ROOT])
    assert done.stdout.split() == ["yes", "64", "0.3.36"], done.stderr


def test_no_file_is_one_of_the_real_ones(wheel: Path, real: Path) -> None:
    names = [set(zipfile.ZipFile(path).namelist()) for path in (wheel, real)]
    assert not names[0] & names[1]
    assert [n for n in names[0] if ".dist-info/" not in n] == ["llama_cpp.py"]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_in_one_folder_the_real_one_is_used(
    wheel: Path, real: Path, install: Callable[..., Path], first: str
) -> None:
    order = [wheel, real] if first == "ours" else [real, wheel]
    folder = install("site", *order)
    done = run("-c", "import llama_cpp; print(llama_cpp.REAL)", path=[folder, ROOT])
    assert done.stdout.strip() == "True", done.stderr
    (folder / "llama_cpp.py").unlink()  # uninstalling ours leaves the real one whole
    assert run("-c", "import llama_cpp.llama", path=[folder]).returncode == 0


@pytest.mark.parametrize("has_package", [True, False], ids=["package", "editable"])
def test_in_front_of_the_real_one_it_refuses(
    wheel: Path, real: Path, install: Callable[..., Path], has_package: bool
) -> None:
    ours, theirs = install("ours", wheel), install("theirs", real)
    if not has_package:  # an editable install has metadata alone in sys.path
        for path in (theirs / "llama_cpp").iterdir():
            path.unlink()
        (theirs / "llama_cpp").rmdir()
    done = run("-c", "import llama_cpp", path=[ours, theirs, ROOT])
    assert done.returncode == 1
    assert "ImportError: llama_cpp: gguf-hub-llama-cpp does not stand in for" in done.stderr
    assert str(theirs) in done.stderr and "pip uninstall gguf-hub-llama-cpp" in done.stderr
