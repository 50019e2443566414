"""Nothing is imported from the working folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_hub.importpath import PACKAGE, trusted_entries
from tests.conftest import ROOT
from tests.hostile import HostileFolder

LIBRARY = str(Path(os.__file__).parent)


def test_the_working_folder_is_no_entry_under_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, link, other = tmp_path / "here", tmp_path / "link", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    link.symlink_to(here)
    monkeypatch.chdir(here)
    names = ["", ".", "../other", str(here), str(link), f"{other}/../here", "lib"]
    kept = [str(other), str(tmp_path / "none.zip"), str(here / "venv")]
    assert trusted_entries([*names, *kept, *names]) == kept


def test_relative_entries_of_pythonpath_are_known_although_python_makes_them_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "lib", "later", "/absolute"]))
    entries = [str(tmp_path / name) for name in ("", "lib", "later", "trusted")]
    assert trusted_entries([*entries, "/absolute"]) == [str(tmp_path / "trusted"), "/absolute"]


@pytest.mark.parametrize("folder", [LIBRARY, str(Path(PACKAGE).parent)], ids=["library", "package"])
def test_folders_of_python_and_of_the_package_stay(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert trusted_entries(["", folder]) == [folder]


# --- whole programs in a folder with a hostile file for each module


def environment(**variables: str) -> dict[str, str]:
    """This one; coverage.py imports much before any program begins."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    return ours | variables


def loaded_before_us() -> set[str]:
    """Modules that Python imports before the first line of ``python -m``."""
    code = "import runpy, sys; print(*{name.split('.')[0] for name in sys.modules})"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
    return set(done.stdout.split()) | {"sitecustomize", "usercustomize"}


def console_script(folder: Path) -> str:
    """Return a script as pip writes it."""
    script = folder / "gguf-hub"
    script.write_text("import sys\nfrom gguf_hub.__main__ import main\nsys.exit(main())\n")
    return str(script)


def run_in(hostile: HostileFolder, *words: object, **variables: str) -> str:
    """Run a command line there, which must succeed, with nothing of the folder; return stdout."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment(**variables),
        cwd=hostile.path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert hostile.executed() == []
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMANDS = {
    "pick": ["pick", "--no-probe", "--offline"],
    "doctor": ["doctor", "--offline"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_gguf_hub_uses_no_file_of_the_working_folder(tmp_path: Path, name: str) -> None:
    script = console_script(tmp_path)
    hostile = HostileFolder(tmp_path / "models")
    path = os.pathsep.join(["", ".", os.environ["PATH"]])
    run_in(hostile, script, *COMMANDS[name], PYTHONPATH=str(ROOT), PATH=path)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_python_m_uses_no_file_of_the_working_folder_but_what_python_does(
    tmp_path: Path, name: str
) -> None:
    hostile = HostileFolder(tmp_path / "models", without={*loaded_before_us(), "gguf_hub"})
    run_in(hostile, "-m", "gguf_hub", *COMMANDS[name], PYTHONPATH=str(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["", ".", "../models"], ids=["empty", "dot", "relative"])
def test_entries_of_pythonpath_that_depend_on_the_working_folder_are_not_used(
    tmp_path: Path, entry: str
) -> None:
    script = console_script(tmp_path)
    hostile = HostileFolder(tmp_path / "models", without={*loaded_before_us(), "gguf_hub"})
    path = os.pathsep.join([entry, str(ROOT)])
    run_in(hostile, script, *COMMANDS["pick"], PYTHONPATH=path)


@pytest.mark.slow
def test_children_that_compile_use_no_file_of_the_working_folder(
    tmp_path: Path, embedded: Path, kernels: None
) -> None:
    """A first start, or one with another quant: a kernel is missing."""
    from gguf_hub.gguf.reader import GgufFile
    from gguf_hub.run.kernels.build.build import KernelBuilder
    from gguf_hub.run.model.warmup import kernels_of_file

    builder = KernelBuilder()
    with GgufFile.open(embedded) as file:
        builder.compile(kernels_of_file(file, ("F16", "F16")))
    assert builder.folder
    copy = tmp_path / "cache" / builder.folder.name
    shutil.copytree(builder.folder, copy)
    copy.joinpath("silu_mul.o").unlink()
    script = console_script(tmp_path)
    hostile = HostileFolder(tmp_path / "models")
    hostile.path.joinpath(".numba_config.yaml").write_text("disable_jit: 1")
    shutil.copy(embedded, hostile.path / "m.gguf")
    line = ["run", "m.gguf", "-p", "Once", "-n", "2", "--temp", "0"]
    cache = {"GGUF_HUB_KERNEL_CACHE": str(copy.parent)}
    out = run_in(hostile, script, *line, PYTHONPATH=str(ROOT), **cache)
    assert out.startswith("Once")
    assert copy.joinpath("silu_mul.o").exists()
