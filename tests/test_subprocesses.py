"""Processes: started in one place, with nothing that they do not need."""

from __future__ import annotations

import ast
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from fnmatch import translate
from pathlib import Path

import pytest

from gguf_hub.errors import GgufHubError
from gguf_hub.hub.hardware.detect import detect_gpus
from gguf_hub.hub.hardware.gpus import DetectedGpus
from gguf_hub.importpath import PACKAGE
from gguf_hub.subprocesses import NETWORK, find_program, run_program, start_python
from tests.conftest import ROOT
from tests.hostile import HostileFolder

# what starts processes, or looks for programs in the working folder, by full name
STARTS = (
    *("subprocess.*", "multiprocessing.*", "pty.*", "popen2.*", "commands.*", "webbrowser.*"),
    *("os.exec*", "os.spawn*", "os.posix_spawn*", "os.fork*", "os.system", "os.popen"),
    *("os.startfile", "asyncio.create_subprocess_*", "asyncio.subprocess.*", "shutil.which"),
    *("concurrent.futures.ProcessPoolExecutor", "concurrent.futures.process.*"),
    *("platform.processor", "platform.uname", "platform.platform", "platform.architecture"),
    *("ctypes.util.*", "click.edit", "click.launch", "click.echo_via_pager", "pydoc.*"),
    *("*.subprocess_exec", "*.subprocess_shell", "*.ProcessPoolExecutor", "_posixsubprocess.*"),
)  # fmt: skip
_STARTS = re.compile("|".join(map(translate, STARTS)))


def starts_in(source: str) -> list[str]:
    """Full names of what starts processes in a module, under whatever name it is imported."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    used: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full = alias.name if alias.asname else alias.name.split(".")[0]
                known[alias.asname or full] = full
                used.append(f"{alias.name}.")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                used.append(f"{node.module}.{alias.name}")
    used += [_full_name(n, known) for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    used += [known.get(n.id, "") for n in ast.walk(tree) if isinstance(n, ast.Name)]
    return list(filter(_STARTS.match, used))


def _full_name(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, known)}.{node.attr}"
    return known.get(node.id, node.id) if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\nsubprocess.run(['x'])",
        "import subprocess as s\ns.Popen(['x'])",
        "from subprocess import check_output as c\nc(['x'])",
        "import multiprocessing.pool",
        "import os\nos.execv('x', [])",
        "from os import posix_spawn",
        "import asyncio\nasyncio.create_subprocess_exec('x')",
        "from asyncio import create_subprocess_shell",
        "from concurrent.futures import ProcessPoolExecutor",
        "import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()",
        "loop.subprocess_exec(x)",
        "import shutil as s\ns.which('x')",
        "from platform import processor",
        "import ctypes.util",
    ],
)
def test_every_way_to_start_a_process_is_recognised(source: str) -> None:
    assert starts_in(source)


@pytest.mark.slow
def test_processes_are_started_in_one_module() -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in Path(PACKAGE).rglob("*.py")
        if starts_in(path.read_text(encoding="utf-8"))
    }
    assert users == {"subprocesses.py"}


def test_every_child_module_has_a_main() -> None:
    modules = ("run/kernels/build/children.py", "hub/download/transfer_child.py",
               "run/gpu/adapters.py")  # fmt: skip
    for module in modules:
        tree = ast.parse(Path(PACKAGE, module).read_text())
        assert [f.name for f in tree.body if isinstance(f, ast.FunctionDef)].count("main") == 1


# --- what children get

SHOW = "import os, sys, json; print(json.dumps([os.getcwd(), dict(os.environ), sys.path]))"
SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "GGUF_HUB_API_KEY",
    "GGUF_HUB_MIRROR_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN",
    "PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD_SECRET", "PGPASSWORD",
)  # fmt: skip


def shown(*, passed: tuple[str, ...] = (), **options: object) -> tuple[str, dict[str, str], list]:
    """Working folder, environment and import path of a Python child."""
    with start_python("tests.child", passed=passed, **options) as child:
        out, _ = child.communicate()
    assert child.returncode == 0
    return tuple(json.loads(out))


def test_children_get_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "TOP-SECRET")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy")
    _, plain, _ = shown(variables={"NUMBA_OPT": "0"})
    assert [name for name, value in plain.items() if "TOP-SECRET" in value] == []
    assert "HTTPS_PROXY" not in plain
    assert (plain["NUMBA_OPT"], plain["HOME"]) == ("0", os.environ["HOME"])
    _, network, _ = shown(passed=NETWORK)
    assert {"HTTPS_PROXY"} <= set(network) - set(plain) <= set(NETWORK)


def test_programs_get_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "TOP-SECRET")
    done = run_program([sys.executable, "-c", SHOW], timeout_s=60)
    assert PACKAGE in done.stdout
    assert "TOP-SECRET" not in done.stdout


def test_the_working_folder_is_not_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", "lib", str(tmp_path), *sys.path])
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "bin", os.environ["PATH"]]))
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(["", "."]))
    folder, environment, entries = shown()
    assert folder == PACKAGE
    assert all(Path(entry).is_absolute() for entry in entries)
    assert str(tmp_path) not in entries
    assert all(Path(entry).is_absolute() for entry in environment["PATH"].split(os.pathsep))
    assert "LD_LIBRARY_PATH" not in environment


def test_an_interpreter_that_nobody_knows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(GgufHubError, match="cannot start Python"):
        start_python("tests.child")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(GgufHubError, match="no such file"):
        start_python("tests.child")


# --- programs of the system


def test_programs_are_not_looked_for_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = HostileFolder(tmp_path / "models")
    monkeypatch.chdir(hostile.path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "../models"]))
    assert find_program("nvidia-smi") is None
    assert detect_gpus(tmp_path) == DetectedGpus()
    assert hostile.executed() == []


def test_programs_are_found_by_absolute_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / ("tool.exe" if os.name == "nt" else "tool")
    program.parent.mkdir()
    program.write_text("")
    monkeypatch.setenv("PATH", os.pathsep.join(["", str(tmp_path), str(program.parent)]))
    if os.name != "nt":
        assert find_program("tool") is None  # it may not be executed
    program.chmod(0o755)
    assert find_program("tool") == str(program)


# --- every Python that the package supports


def python_of(version: str) -> str:
    """Return the path of a Python of this machine."""
    known = [shutil.which(f"python{version}") or ""]
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    known += map(str, home.glob(f".pyenv/versions/{version}.*/bin/python"))
    for python in filter(None, known):  # the first may stand for one that is not installed
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip(f"Python {version} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("version", [f"3.{minor}" for minor in range(10, 15)])
def test_children_are_isolated_by_every_python(version: str, tmp_path: Path) -> None:
    """With the standard library alone, in a folder that the interpreter would import from."""
    python = python_of(version)
    hostile = HostileFolder(tmp_path / "models", without={"gguf_hub"})
    script = tmp_path / "start.py"
    script.write_text(
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from gguf_hub.subprocesses import start_python\n"
        "sys.path.insert(0, '')\n"
        "with start_python('tests.child') as child: print(child.stdout.read().decode())\n"
        "sys.exit(child.returncode)"
    )
    line = [python, str(script)]
    done = subprocess.run(line, cwd=hostile.path, capture_output=True, text=True, check=False)
    assert hostile.executed() == []
    assert done.returncode == 0, done.stderr
    assert str(hostile.path) not in done.stdout
