"""The shape of the package: layers, who may import what, light imports, help for every command."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gguf_hub.cli.main import COMMANDS

PACKAGE = Path(__file__).resolve().parent.parent / "gguf_hub"

# A module imports from strictly lower layers or from its own room; docs/design.md draws this.
LAYERS = {
    "errors": -2,  # the ground: everything may raise
    "importpath": -2, "bootstrap": -2,  # before anything else is imported
    "oserrors": -1,
    "__init__": 0, "units": 0, "progress": 0, "paths": 0, "subprocesses": 0, "ownership": 0,
    "files": 0, "locks": 0, "printable": 0, "budget": 0, "resources": 1,
    "machine_files": 1, "conversions": 1,
    "gguf": 1,
    "hub": 2, "hub.catalog": 2, "hub.hardware": 2, "hub.fit": 3, "hub.client": 3, "hub.store": 3,
    "hub.programs": 3,
    "hub.download": 4, "hub.mirror": 4, "hub.survey": 5, "hub.resolve": 5,
    "run": 2, "run.quants": 2, "run.kernels": 3, "run.tokenizer": 4, "run.chat": 4,
    "run.sampler": 4, "run.grammar": 4, "run.gpu": 3.5, "run.model": 4, "run.convert": 4,
    "run.quants.plan": 4,
    "run.quants.transcode": 4, "run.quants.quantize": 4, "run.cluster": 5,
    "run.generation.engine": 5, "run.generation": 6, "run.opening": 7, "run.perplexity": 7,
    "run.embedding": 8,
    "run.bench": 7, "run.imatrix": 8, "run.allocation": 9,
    "api": 2, "api.pretrained": 6, "api.offload": 7, "api.cluster": 7, "api.llama": 8,
    "api.server": 8,
    "api.compat": 9, "api.langchain": 9,
    "cli": 10, "__main__": 11,
}  # fmt: skip

# wing -> the wings that it may import from; the floor is open to all
WINGS = {
    "gguf": set(),
    "hub": {"gguf"},
    "run": {"gguf"},
    "api": {"gguf", "hub", "run"},
    "cli": {"gguf", "hub", "run", "api"},
}

# third-party package -> the rooms that may import it
OWNERS = {
    "filelock": {"locks", "run.kernels"},
    "wgpu": {"run.gpu"},
    "ray": {"api.cluster"},
    "numba": {"run.kernels"},
    "llvmlite": {"run.kernels"},
    "huggingface_hub": {"hub.client"},
    "click": {"cli"},
    "tabulate": {"cli"},
    "tqdm": {"cli"},
    "yaml": {"hub.catalog"},
    "psutil": {"resources", "hub.hardware"},
    "jinja2": {"run.chat"},
    "regex": {"run.tokenizer"},
    "safetensors": {"run.convert"},
    "sentencepiece": {"run.convert"},
    "langchain_core": {"api.langchain"},
    "fastapi": {"api.server"},
    "starlette": {"api.server"},
    "uvicorn": {"api.server", "cli"},
    "h11": {"api.server"},
    "prompt_toolkit": {"cli"},
    "matplotlib": {"cli"},
}


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


def wing(module: str) -> str:
    """First part of the name: a wing, or a module of the floor."""
    return module.split(".")[0]


def room(module: str) -> str:
    """The part of the package that a module belongs to: ``hub.fit``, ``gguf``, ``cli``."""
    depth = 2 if wing(module) in ("hub", "run", "api") else 1
    return ".".join(module.split(".")[:depth])


def layer(module: str) -> int:
    """The layer of a module: that of the longest name in the table that it begins with."""
    parts = module.split(".")
    return next(
        LAYERS[name]
        for name in (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        if name in LAYERS
    )


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


def uses(module: str, name: str) -> bool:
    """Whether a module's text has a name."""
    return re.search(rf"\b{name}\b", modules()[module].read_text(encoding="utf-8")) is not None


@cache
def edges() -> list[tuple[str, str]]:
    """Return (module, a module that it imports)."""
    return sorted(
        {(module, target)
         for module, path in modules().items()
         for target in filter(None, map(inner, imported(path)))
         if target != module
         if module != "__init__"}  # its `Llama` is imported when it is used, or by type checkers
    )  # fmt: skip


def test_every_room_has_a_layer() -> None:
    assert [m for m in modules() if m not in LAYERS and room(m) not in LAYERS] == []


def test_modules_import_only_from_lower_layers_or_their_own_room() -> None:
    wrong = [f"{a} -> {b}" for a, b in edges() if room(a) != room(b) and layer(a) <= layer(b)]
    assert wrong == []


def test_wings_import_only_from_those_below_them() -> None:
    wrong = [
        f"{a} -> {b}"
        for a, b in edges()
        if wing(a) in WINGS and wing(b) in WINGS and wing(a) != wing(b)
        if wing(b) not in WINGS[wing(a)]
    ]
    assert wrong == []


def test_the_floor_imports_no_wing() -> None:
    floor = {m for m in modules() if wing(m) not in WINGS} - {"__main__", "__init__"}
    assert [f"{a} -> {b}" for a, b in edges() if a in floor and wing(b) in WINGS] == []


def test_only_llama_asks_for_a_pretrained_model() -> None:
    users = {a for a, b in edges() if b == "api.pretrained"}
    assert users == {"api.llama.model"}


def test_only_pick_measures_gpus_and_doctor_shows_what_was_measured() -> None:
    """``-ngl auto`` does not wait for it."""
    users = {a for a, b in edges() if b == "run.gpu.probe"}
    assert users == {"cli.pick.machines", "cli.start.doctor"}
    assert uses("cli.start.doctor", "recall_bandwidth")
    assert not uses("cli.start.doctor", "probe_bandwidth")


def test_there_are_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for a, b in edges():
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
    return {module.split(".")[0] for module in modules_loaded_by(statement)}


def modules_loaded_by(statement: str) -> set[str]:
    """All modules in memory after running a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


HEAVY = {"numba", "llvmlite", "huggingface_hub", "yaml", "jinja2", "tqdm", "tabulate", "numpy",
         "wgpu"}  # fmt: skip


def test_importing_the_package_is_light() -> None:
    assert loaded_by("import gguf_hub") & HEAVY == set()


@pytest.mark.slow
def test_gpus_are_found_without_their_drivers_in_the_program() -> None:
    statement = "from gguf_hub.run.gpu.adapters import find_gpus; find_gpus()"
    assert "wgpu" not in loaded_by(statement)


def test_a_name_is_read_without_numpy() -> None:
    assert "numpy" not in loaded_by("import gguf_hub.hub.resolve, gguf_hub.hub.download.names")


@pytest.mark.slow
def test_a_model_of_one_machine_is_opened_without_clusters() -> None:
    statement = "import gguf_hub.run.opening, gguf_hub.api.llama, gguf_hub.api.server.opening"
    assert "gguf_hub.run.cluster.model" not in modules_loaded_by(statement)


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
    statement = "import importlib\nfrom gguf_hub.cli.main import COMMANDS, module_of\n"
    statement += "for c in COMMANDS: importlib.import_module(module_of(c))"
    assert loaded_by(statement) & HEAVY == set()


@pytest.mark.slow
def test_one_module_words_the_errors_of_the_system() -> None:
    users = {
        module
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "strerror"
        if not (isinstance(node.value, ast.Name) and node.value.id == "os")
    }
    assert users == {"oserrors"}


def test_one_module_decides_what_offline_mode_allows() -> None:
    asks = {module for module in modules() if uses(module, "is_offline")}
    assert asks == {
        "hub.client.interface", "hub.client", "hub.client.client",  # say so, and refuse requests
        "hub.resolve",  # takes what is on this machine instead
        # ask nothing then
        "cli.files.verify", "cli.start.quickstart_steps", "cli.start.doctor",
        "cli.start.doctor_output",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["gguf-hub", "rm"])
def test_values_in_commands_of_messages_are_quoted_for_a_shell(word: str) -> None:
    command = re.compile(rf"`{word} [^`]*?\{{(?!quote\()[^`]*`")
    found = [f"{module}: {line.strip()}" for module, path in modules().items()
             for line in path.read_text(encoding="utf-8").splitlines()
             if command.search(line)]  # fmt: skip
    assert found == []
