"""Objects of kernels on the disk: found only as they were written, by nobody but us."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gguf_hub.progress import SILENT
from gguf_hub.run.kernels.build.objects import (
    MANIFEST,
    ObjectCache,
    forget_old,
    object_path,
    user_folders,
)
from tests.conftest import ROOT

CODE = b"machine code"
posix = pytest.mark.skipif(os.name == "nt", reason="owners and modes as POSIX has them")
needs_root = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can act as two users"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds ``copy_rows`` and ``matmul.Q4_K``."""
    cache = ObjectCache([tmp_path / "kernels"])
    for name in ("copy_rows", "matmul.Q4_K"):
        cache.write(name, CODE)
    assert (cache.problems(), cache.n_unsaved) == ([], 0)
    return tmp_path / "kernels"


def read(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the kernels that a new process would load, and what it would tell."""
    cache = ObjectCache([folder])
    found = cache.read(["copy_rows", "matmul.Q4_K"])
    assert set(found.values()) <= {CODE}
    return list(found), cache.problems()


def test_objects_are_found_again(folder: Path) -> None:
    assert read(folder) == (["copy_rows", "matmul.Q4_K"], [])
    assert sorted(p.name for p in folder.iterdir()) == ["copy_rows.o", MANIFEST, "matmul.Q4_K.o"]


@pytest.mark.parametrize("kind", ["changed", "cut", "link", "pipe", "folder", "open", "hard link"])
def test_an_object_that_is_not_as_written_is_not_loaded(folder: Path, kind: str) -> None:
    path = object_path(folder, "copy_rows")
    if kind in ("link", "pipe", "folder", "hard link"):
        path.unlink()
    if kind in ("pipe", "open") and os.name == "nt":
        pytest.skip("no such thing here")
    if kind in ("changed", "cut"):
        path.write_bytes(CODE[:-1] + b"?" if kind == "changed" else CODE[:5])
    elif kind == "link":
        path.with_name("other").write_bytes(CODE)  # the same content, but who knows whose
        path.symlink_to("other")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "open":
        path.chmod(0o666)
    else:
        path.with_name("other").write_bytes(b"other code")
        os.link(path.with_name("other"), path)
    names, problems = read(folder)
    assert names == ["matmul.Q4_K"]
    assert len(problems) == 1 and "copy_rows.o" in problems[0]
    if kind != "folder":
        ObjectCache([folder]).write("copy_rows", CODE)
        assert read(folder) == (["copy_rows", "matmul.Q4_K"], [])


def test_an_absent_object_is_no_problem(folder: Path) -> None:
    object_path(folder, "copy_rows").unlink()
    assert read(folder) == (["matmul.Q4_K"], [])


def test_an_object_that_the_manifest_does_not_list_is_not_loaded(folder: Path) -> None:
    """Its writer was killed between the two, or it is not ours."""
    object_path(folder, "silu_mul").write_bytes(CODE)
    assert ObjectCache([folder]).read(["silu_mul"]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "5", '{"sha256": {}}', '{"format": "other", "sha256": {}}', "\x00",
        '{"format": "gguf-hub kernels 1", "sha256": ["copy_rows"]}',
        '{"format": "gguf-hub kernels 1", "sha256": {"../../x": ""}}',
        '{"format": "gguf-hub kernels 1", "sha256": {"": ""}}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_manifest_lists_nothing(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    names, problems = read(folder)
    assert names == []
    assert len(problems) == 1 and MANIFEST in problems[0]
    cache = ObjectCache([folder])
    cache.write("copy_rows", CODE)
    assert read(folder)[0] == ["copy_rows"]


def test_hashes_of_another_kind_fit_nothing(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    data["sha256"]["copy_rows"] = ["?"]
    (folder / MANIFEST).write_text(json.dumps(data))
    assert read(folder)[0] == ["matmul.Q4_K"]


# --- folders


@posix
@pytest.mark.parametrize("depth", [0, 1])
def test_a_folder_that_others_can_write_is_not_used(folder: Path, depth: int) -> None:
    (folder, folder.parent)[depth].chmod(0o777)
    cache = ObjectCache([folder])
    assert cache.folder is None
    assert cache.read(["copy_rows"]) == {}
    assert "can be written by everybody" in cache.problems()[0]
    cache.write("copy_rows", b"newer")
    assert object_path(folder, "copy_rows").read_bytes() == CODE
    assert ObjectCache([folder]).read(["copy_rows"]) == {"copy_rows": b"newer"}  # in memory


@posix
@pytest.mark.parametrize("place", ["/dev/null/kernels", "/proc/nothing/kernels"])
def test_an_impossible_folder_is_told_and_another_one_used(tmp_path: Path, place: str) -> None:
    cache = ObjectCache([Path(place), tmp_path / "second"])
    assert cache.folder == tmp_path / "second"
    (problem,) = cache.problems()
    assert problem.startswith(f"compiled kernels are not kept in `{place}`: ")
    cache.write("copy_rows", CODE)
    assert cache.n_unsaved == 0


@posix
def test_where_the_disk_is_full_objects_stay_in_memory(folder: Path) -> None:
    """A limit of the size of files makes every write of more fail, as a full disk does."""
    code = (
        "import json, os, resource, sys; from pathlib import Path\n"
        "from gguf_hub.run.kernels.build.objects import ObjectCache\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "cache = ObjectCache([Path(sys.argv[1])])\n"
        "for name in ('copy_rows', 'new', 'other'): cache.write(name, bytes(5000))\n"
        "assert list(cache.read(['new', 'copy_rows']).values()) == [bytes(5000)] * 2\n"
        "print(json.dumps([cache.n_unsaved, cache.problems(), sorted(os.listdir(sys.argv[1]))]))"
    )
    line = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    n_unsaved, problems, files = json.loads(done.stdout)
    assert n_unsaved == 3
    assert problems == ["compiled kernels are not kept: file too large"]
    assert files == ["copy_rows.o", MANIFEST, "matmul.Q4_K.o"]
    assert read(folder) == (["copy_rows", "matmul.Q4_K"], [])


def test_what_killed_writers_left_is_removed(folder: Path) -> None:
    (folder / ".new-abc").write_bytes(b"half")
    with ObjectCache([folder]).locked(SILENT):
        pass
    assert not (folder / ".new-abc").exists()
    assert read(folder) == (["copy_rows", "matmul.Q4_K"], [])


def test_the_users_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUF_HUB_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    expected = (tmp_path / "kernels-key", Path("/run/user/1/gguf-hub/kernels-key"))
    assert user_folders("key") == expected
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    monkeypatch.setenv("GGUF_HUB_KERNEL_CACHE", "")
    assert user_folders("key") == (Path(os.environ["GGUF_HUB_HOME"], "cache", "kernels-key"),)
    monkeypatch.setenv("GGUF_HUB_KERNEL_CACHE", "~nobody-of-this-name/x")
    assert user_folders("key")[0].is_absolute()


# --- folders of other versions


def ours(folder: Path, *, days: float) -> Path:
    """A folder as another version left it some days ago."""
    ObjectCache([folder]).write("copy_rows", CODE)
    (folder / ".lock").touch()
    (folder / ".new-x").touch()
    return aged(folder, days)


def aged(folder: Path, days: float) -> Path:
    os.utime(folder, (time.time() - days * 24 * 3600,) * 2)
    return folder


def test_our_folders_unused_for_a_month_are_removed(tmp_path: Path) -> None:
    old, recent = ours(tmp_path / "kernels-a", days=40), ours(tmp_path / "kernels-b", days=20)
    current = ours(tmp_path / "kernels-c", days=40)
    forget_old(current)
    assert (old.exists(), recent.exists(), current.exists()) == (False, True, True)


def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "kernels-linux-6.1"
    (theirs / "src").mkdir(parents=True)
    for name in ("src/mine.c", "src/mine.o", "mine.o", ".lock", MANIFEST):
        (theirs / name).write_text("three months of work")
    mixed = ours(tmp_path / "kernels-mixed", days=0)
    (mixed / "notes.txt").write_text("mine")
    (mixed / "mine.o").write_text("mine")
    elsewhere = ours(tmp_path / "elsewhere", days=40)
    (tmp_path / "kernels-link").symlink_to(elsewhere)
    os.utime(tmp_path / "kernels-link", (0, 0), follow_symlinks=False)
    (tmp_path / "kernels-file").write_text("mine")
    for path in (theirs, mixed, tmp_path / "kernels-file"):
        aged(path, 40)
    before = {path for path in tmp_path.rglob("*") if path.parent != mixed}
    forget_old(ours(tmp_path / "kernels-current", days=0))
    assert before <= set(tmp_path.rglob("*"))
    left = {"notes.txt", "mine.o", MANIFEST}
    assert {path.name for path in mixed.iterdir()} == left


# --- two users


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody can enter and write, as ``/tmp``."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="gguf-hub-test-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


VICTIM, ATTACKER = 61001, 61002


def as_user(uid: int, work: object) -> str:
    """Return what a function returns when another user calls it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            text = str(work())  # type: ignore[operator]
        except BaseException as error:
            text = repr(error)
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


@pytest.mark.slow
@posix
@needs_root
@pytest.mark.parametrize("way", ["parent", "folder", "link", "object", "manifest"])
def test_another_users_objects_are_never_loaded(shared: Path, way: str) -> None:
    folder = shared / "parent" / "kernels"

    def fill() -> None:
        ObjectCache([folder]).write("copy_rows", b"attack")

    def use() -> dict[str, bytes]:
        return ObjectCache([folder]).read(["copy_rows"])

    if way == "parent":  # who owns it can rename the victim's folder after it was judged
        as_user(ATTACKER, fill)
        shutil.chown(folder, VICTIM, VICTIM)
        shutil.chown(object_path(folder, "copy_rows"), VICTIM, VICTIM)
        shutil.chown(folder / MANIFEST, VICTIM, VICTIM)
    elif way == "folder":
        as_user(ATTACKER, fill)
    elif way == "link":
        as_user(ATTACKER, fill)
        (shared / "victim").mkdir()
        as_user(ATTACKER, lambda: (shared / "link").symlink_to(shared / "victim"))
        folder.rename(shared / "victim" / "kernels")
        folder = shared / "link" / "kernels"
        for path in (shared / "victim").rglob("*"):
            shutil.chown(path, VICTIM, VICTIM)
    else:
        as_user(VICTIM, fill)
        path = object_path(folder, "copy_rows") if way == "object" else folder / MANIFEST
        shutil.chown(path, ATTACKER, ATTACKER)
    assert as_user(VICTIM, use) == "{}"


@posix
@needs_root
def test_what_root_prepared_is_read_by_every_user_and_written_by_none(shared: Path) -> None:
    folder = shared / "kernels"
    ObjectCache([folder]).write("copy_rows", CODE)

    def use() -> object:
        cache = ObjectCache([folder])
        with cache.locked(SILENT):
            cache.write("new", CODE)
        return list(cache.read(["copy_rows", "new"])), cache.n_unsaved

    assert as_user(VICTIM, use) == "(['copy_rows', 'new'], 1)"
    assert not object_path(folder, "new").exists()


@posix
@needs_root
def test_a_user_without_a_home_keeps_nothing_where_others_could_guess(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGUF_HUB_KERNEL_CACHE", "/nonexistent")
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def use() -> object:
        cache = ObjectCache(user_folders("key"))
        cache.write("copy_rows", CODE)
        return cache.folder, list(cache.read(["copy_rows"]))

    assert as_user(VICTIM, use) == "(None, ['copy_rows'])"
    assert list(shared.iterdir()) == []
