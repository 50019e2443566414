from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gguf_hub import files
from gguf_hub.errors import GgufHubError
from gguf_hub.files import (
    create,
    open_regular,
    remove_if,
    rename_new,
    require_ours,
    set_aside,
    write_atomically,
)

needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["the system's call", "without it"])
def each_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that cannot rename without replacing are asked first, then looked at."""
    if request.param == "without it":
        monkeypatch.setattr(files, "_rename_exclusively", lambda old, new: False)


@pytest.mark.usefixtures("each_rename")
@pytest.mark.parametrize("there", ["file", "folder", "link to nothing"])
def test_a_name_that_is_taken_is_not_replaced(tmp_path: Path, there: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old")
    if there == "file":
        new.write_bytes(b"new")
    else:
        new.mkdir() if there == "folder" else new.symlink_to("nothing")
    with pytest.raises(FileExistsError):
        rename_new(old, new)
    assert (old.read_bytes(), os.path.lexists(new)) == (b"old", True)
    assert there != "file" or new.read_bytes() == b"new"


@pytest.mark.usefixtures("each_rename")
def test_a_free_name_is_taken(tmp_path: Path) -> None:
    old, new = tmp_path / "o\N{WHITE SMILING FACE}", tmp_path / "n\N{WHITE SMILING FACE}"
    old.write_bytes(b"old")
    rename_new(old, new)
    assert (names(tmp_path), new.read_bytes()) == ([new.name], b"old")
    with pytest.raises(FileNotFoundError):
        rename_new(old, tmp_path / "other")


def test_of_many_that_want_a_name_one_gets_it(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("the system renames one after another")
    sources = [tmp_path / f"old {i}" for i in range(8)]
    for source in sources:
        source.write_text(source.name)
    taken, barrier = [], threading.Barrier(len(sources))

    def take(source: Path) -> None:
        barrier.wait()
        try:
            rename_new(source, tmp_path / "new")
            taken.append(source)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=take, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = taken
    assert (tmp_path / "new").read_text() == winner.name
    assert len(names(tmp_path)) == len(sources)


def test_setting_aside_replaces_nothing(tmp_path: Path) -> None:
    aside = tmp_path / "a.aside"
    for i in range(3):
        (tmp_path / "a").write_text(str(i))
        assert set_aside(tmp_path / "a", aside).read_text() == str(i)
    assert aside.read_text() == "0"
    assert len(names(tmp_path)) == 3


@needs_posix
@pytest.mark.parametrize("there", ["file", "link", "hard link", "link to nothing"])
def test_a_new_file_is_none_that_is_there(tmp_path: Path, there: str) -> None:
    precious, path = tmp_path / "precious", tmp_path / "new"
    precious.write_bytes(b"precious")
    if there == "file":
        path.write_bytes(b"mine")
    elif there == "hard link":
        path.hardlink_to(precious)
    else:
        path.symlink_to(precious if there == "link" else "nothing")
    with pytest.raises(FileExistsError):
        create(path)
    assert precious.read_bytes() == b"precious"
    assert names(tmp_path) == ["new", "precious"]


@needs_posix
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.close(open_regular(tmp_path / "file"))
    for name in ("link", "folder", "pipe", "none"):
        with pytest.raises(OSError):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(Path("/dev/null"))


def test_a_name_is_removed_only_for_the_file_that_was_seen(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"seen")
    other.write_bytes(b"another")
    found = path.lstat()
    other.replace(path)
    remove_if(path, found)
    assert path.read_bytes() == b"another"
    remove_if(path, path.lstat())
    remove_if(path, found)
    assert names(tmp_path) == []


@needs_posix
@pytest.mark.parametrize("kind", ["none", "file", "link", "hard link"])
def test_small_files_are_replaced_and_not_written_through(tmp_path: Path, kind: str) -> None:
    precious, path = tmp_path / "precious", tmp_path / "sub" / "note"
    precious.write_bytes(b"precious")
    path.parent.mkdir()
    if kind == "file":
        path.write_text("old")
    elif kind != "none":
        path.symlink_to(precious) if kind == "link" else path.hardlink_to(precious)
    write_atomically(path, "n\u00e9w \udcff")
    assert path.read_bytes() == b"n\xc3\xa9w \xff"
    assert (names(path.parent), precious.read_bytes()) == (["note"], b"precious")


def test_a_small_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", b"data")
    assert names(tmp_path) == ["folder"]


def test_what_has_no_signature_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def is_ours(head: bytes) -> bool:
        return head.startswith(b"ours")

    require_ours(path, "a thing", is_ours)
    path.touch()
    require_ours(path, "a thing", is_ours)
    path.write_bytes(b"ours" + bytes(10_000))
    require_ours(path, "a thing", is_ours)
    path.write_bytes(b"our")
    with pytest.raises(GgufHubError, match="is not a thing: it is not replaced"):
        require_ours(path, "a thing", is_ours)
