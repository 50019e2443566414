"""Every call that removes or replaces a file is reviewed: docs/replaced-files.md lists them all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, PAGE = ROOT / "gguf_hub", ROOT / "docs" / "replaced-files.md"

# calls that remove, replace, cut or make files, whatever they are called on
NAMES = {
    "unlink", "rmdir", "rmtree", "removedirs", "rename", "renames", "ftruncate",
    "write_text", "write_bytes", "symlink", "symlink_to", "hardlink_to", "_symlink",
    "copyfile", "copy2", "copytree", "copymode", "savefig", "savez", "savez_compressed", "tofile",
    "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory", "FileLock",
    "SoftFileLock", "try_lock", "xet_get",
    # our own, of gguf_hub.files and others
    "create", "create_beside", "rename_new", "remove_if", "set_aside", "write_atomically",
    "new_file", "PartFile",
}  # fmt: skip
# and those that do so only in these modules
QUALIFIED = {
    ("os", "remove"), ("os", "link"), ("os", "truncate"), ("file", "truncate"), ("np", "save"),
    ("shutil", "copy"), ("shutil", "move"), ("hf_transfer", "download"),
}  # fmt: skip
OPENERS = {"open", "fdopen", "open_regular"}
WRITING = re.compile(
    r"O_(WRONLY|RDWR|APPEND|CREAT|TRUNC)|\bflags\b|\b_FLAGS\b|'[rbt]*[wax+][rbt+]*'"
)


def changes_files(call: ast.Call) -> bool:
    """Tell whether a call may remove, replace or write a file."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    if name == "replace":  # of a path: text takes two arguments, dataclasses and times keywords
        return (owner == "os" or len(call.args) == 1) and not call.keywords
    if name == "memmap":  # it writes unless it is told not to
        return "mode='r'" not in ast.unparse(call)
    if name in OPENERS:
        rest = [*call.args, *(keyword.value for keyword in call.keywords)]
        return any(WRITING.search(ast.unparse(argument)) for argument in rest)
    return name in NAMES or (owner, name) in QUALIFIED


def calls_in(source: str) -> Iterator[str]:
    """Yield the function, ``Class.method`` or ``(module)`` of each such call."""

    def visit(node: ast.AST, where: tuple[str, ...]) -> Iterator[str]:
        if isinstance(node, ast.Call) and changes_files(node):
            yield ".".join(where) or "(module)"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            where = (*where, node.name)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, where)

    return visit(ast.parse(source), ())


@cache
def found() -> set[tuple[str, str]]:
    """File and function of every such call of the package."""
    return {
        (path.relative_to(PACKAGE).as_posix(), function)
        for path in PACKAGE.rglob("*.py")
        for function in calls_in(path.read_text(encoding="utf-8"))
    }


def listed() -> set[tuple[str, str]]:
    """File and function of every row of the page."""
    rows = re.findall(r"^\| `([\w/]+\.py)` \| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    return {(file, name) for file, names in rows for name in re.findall(r"`([^`]+)`", names)}


@pytest.mark.slow
def test_every_call_that_removes_or_replaces_a_file_is_listed() -> None:
    assert sorted(found() - listed()) == [], f"add a row to {PAGE.name}, and how it is proved ours"


@pytest.mark.slow
def test_what_is_listed_is_there() -> None:
    assert sorted(listed() - found()) == []


@pytest.mark.parametrize(
    "line",
    [
        "path.unlink()", "os.remove(p)", "shutil.rmtree(p)", "part.replace(path)",
        "os.replace(a, b)",
        "open(p, 'w')", "path.open('rb+')", "path.open(mode='a')", "os.open(p, os.O_RDWR)",
        "os.open(p, flags)", "os.fdopen(fd, 'wb')", "open_regular(p, os.O_WRONLY | os.O_APPEND)",
        "path.write_text(x)", "os.truncate(p, 0)", "np.savez(f, a=1)", "shutil.move(a, b)",
        "np.memmap(p, 'u1')",
    ],
)  # fmt: skip
def test_calls_that_change_files_are_seen(line: str) -> None:
    assert list(calls_in(f"class A:\n def f(self):\n  {line}")) == ["A.f"]


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')", "replace(entry, size=1)", "moment.replace(tzinfo=utc)",
        "open(p)", "path.open('rb')", "os.open(p, os.O_RDONLY)", "open_regular(p)",
        "names.remove(x)", "path.open('rb', buffering=0)", "GgufFile.open(path)", "queue.copy()",
        "Model.open(file, type='max')", "model.truncate(5)",
        "host.touch()", "np.memmap(p, 'u1', mode='r')",
    ],
)  # fmt: skip
def test_calls_that_change_none_are_not(line: str) -> None:
    assert list(calls_in(line)) == []
