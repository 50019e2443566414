"""The shape of the package: layers, who may import what, light imports, help for every command."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gguf_hub.cli.main import COMMANDS

PACKAGE = Path(__file__).resolve().parent.parent / "gguf_hub"

# A module imports from strictly lower layers or from its own room; docs/design.md draws this.
LAYERS = {
    "errors": -1,  # the ground: everything may raise
    "importpath": -1, "bootstrap": -1,  # before anything else is imported
    "__init__": 0, "units": 0, "progress": 0, "paths": 0, "subprocesses": 0, "ownership": 0,
    "files": 0, "printable": 0,
    "quants.types": 0, "quants": 1, "catalog": 1, "hardware": 1,
    "gguf": 2, "fit": 2, "hub": 2, "store": 2, "kernels": 2,
    "download": 3, "mirror": 3, "tokenizer": 3, "chat": 3, "sampler": 3, "grammar": 3,
    "survey": 4, "lookup": 3, "budget": 0,
    "model": 3, "convert": 3, "quants.plan": 3, "quants.transcode": 3, "quants.quantize": 3,
    "engine": 4, "pretrained": 4,
    "completion": 5, "perplexity": 5, "bench": 5,
    "llama": 6, "server": 6,
    "compat": 7, "langchain": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip

# third-party package -> the rooms that may import it
OWNERS = {
    "numba": {"kernels"},
    "llvmlite": {"kernels"},
    "huggingface_hub": {"hub"},
    "click": {"cli"},
    "tabulate": {"cli"},
    "tqdm": {"cli"},
    "yaml": {"catalog"},
    "psutil": {"hardware"},
    "jinja2": {"chat"},
    "safetensors": {"convert"},
    "sentencepiece": {"convert"},
    "langchain_core": {"langchain"},
    "fastapi": {"server"},
    "starlette": {"server"},
    "uvicorn": {"server", "cli"},
    "h11": {"server"},
    "prompt_toolkit": {"cli"},
    "matplotlib": {"cli"},
}

HUB_TOWER = {"catalog", "hardware", "fit", "survey", "hub", "download", "store", "mirror"}
RUN_TOWER = {"kernels", "tokenizer", "chat", "model", "sampler", "engine", "llama", "server"}
RUN_TOWER |= {"convert", "perplexity", "grammar", "completion", "compat", "langchain"}
RUN_TOWER |= {"lookup", "bench"}


@cache
def modules() -> dict[str, Path]:
    """Dotted name inside the package -> file."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        names[".".join(parts)] = path
    return names


def room(module: str) -> str:
    """First part of the name: the room."""
    return module.split(".")[0]


def layer(module: str) -> int:
    """The layer of a module, by its full name or else by its room."""
    return LAYERS[module] if module in LAYERS else LAYERS[room(module)]


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Every absolute dotted name that a file imports, inside functions too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def inner(name: str) -> str | None:
    """The module of this package that an imported name belongs to, or None."""
    if not name.startswith("gguf_hub"):
        return None
    parts = name.split(".")[1:]
    known = modules()
    while parts and ".".join(parts) not in known:
        parts.pop()
    return ".".join(parts) or "__init__"


EDGES = sorted(
    {(module, target)
     for module, path in modules().items()
     for target in filter(None, map(inner, imported(path)))
     if target != module}
)  # fmt: skip


def test_every_module_has_a_layer() -> None:
    assert [m for m in modules() if m not in LAYERS and room(m) not in LAYERS] == []


def test_modules_import_only_from_lower_layers_or_their_own_room() -> None:
    wrong = [f"{a} -> {b}" for a, b in EDGES if room(a) != room(b) and layer(a) <= layer(b)]
    assert wrong == []


def test_the_towers_meet_only_in_the_cli_and_in_pretrained() -> None:
    wrong = [
        f"{a} -> {b}"
        for a, b in EDGES
        if (room(a) in HUB_TOWER and room(b) in RUN_TOWER)
        or (room(a) in RUN_TOWER and room(b) in HUB_TOWER)
    ]
    assert wrong == []


def test_only_llama_asks_for_a_pretrained_model() -> None:
    users = {a for a, b in EDGES if b == "pretrained"}
    assert users == {"llama.model"}


def test_there_are_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for a, b in EDGES:
        graph.setdefault(a, set()).add(b)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "cycle: " + " -> ".join([*trail, module])
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("package", OWNERS)
def test_third_party_packages_stay_in_their_rooms(package: str) -> None:
    users = {room(m) for m, path in modules().items() for name in imported(path)
             if name.split(".")[0] == package}  # fmt: skip
    assert users <= OWNERS[package]


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after running a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


HEAVY = {"numba", "llvmlite", "huggingface_hub", "yaml", "jinja2", "tqdm", "tabulate", "numpy"}


def test_importing_the_package_is_light() -> None:
    assert loaded_by("import gguf_hub") & HEAVY == set()


def test_help_is_light() -> None:
    statement = "from gguf_hub.cli.main import run; import io, contextlib\n"
    statement += "with contextlib.redirect_stdout(io.StringIO()): run(['--help'])"
    assert loaded_by(statement) & HEAVY == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_starts_with_its_line(name: str, gguf_hub) -> None:
    code, out, err = gguf_hub(name, "--help")
    assert (code, err) == (0, "")
    assert COMMANDS[name].rstrip(".") in " ".join(out.split())


def test_command_modules_are_light() -> None:
    statement = "import importlib\nfrom gguf_hub.cli.main import COMMANDS\n"
    statement += "for c in COMMANDS: importlib.import_module('gguf_hub.cli.' + c.replace('-','_'))"
    assert loaded_by(statement) & HEAVY == set()
