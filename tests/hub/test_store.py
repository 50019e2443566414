"""The record of verified files."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from gguf_hub.hub.store import Store, StoredFile


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def store(tmp_path: Path, notes: Notes) -> Store:
    return Store(tmp_path / "record", progress=notes)


def a_file(path: Path, data: bytes = b"data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_an_entry_comes_back_in_another_process(store: Store, tmp_path: Path) -> None:
    path = a_file(tmp_path / "a.gguf")
    entry = StoredFile.of(path, "abc", repo_id="o/r", commit="c", filename="sub/a.gguf")
    store.add(entry)
    again = Store(tmp_path / "record")
    assert again.entries() == [entry]
    assert again.find_verified(path) == entry
    assert again.find(tmp_path / "b.gguf") is None


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_a_changed_file_is_no_longer_verified(store: Store, tmp_path: Path, change: str) -> None:
    path = a_file(tmp_path / "a.gguf")
    store.add(StoredFile.of(path, "abc", repo_id="o/r"))
    stat = path.stat()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"dat" if change == "size" else b"DATA")
        shift = 0 if change == "size" else 1_000_000
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + shift))
    assert store.find_verified(path) is None
    assert store.copies_of("abc") == store.in_repo("o/r") == []
    assert store.find(path) is not None


def test_a_file_is_found_through_links_and_relative_names(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = a_file(tmp_path / "blobs" / "abc")
    link = tmp_path / "snapshots" / "a.gguf"
    link.parent.mkdir()
    link.symlink_to(blob)
    store.add(StoredFile.of(link, "abc"))
    assert [e.path for e in store.entries()] == [link]
    assert store.find_verified(blob) is not None
    monkeypatch.chdir(tmp_path)
    assert store.find_verified(Path("blobs/../snapshots/a.gguf")) is not None


def test_adding_again_replaces_and_removing_forgets(store: Store, tmp_path: Path) -> None:
    path = a_file(tmp_path / "a.gguf")
    store.add(StoredFile.of(path, "old"))
    store.add(StoredFile.of(path, "new"))
    assert [e.sha256 for e in store.entries()] == ["new"]
    store.remove(path)
    assert store.entries() == []
    assert path.exists()


def test_files_of_a_repository_come_newest_first(store: Store, tmp_path: Path) -> None:
    for name, day in (("a", "2026-01-01"), ("b", "2026-01-02")):
        entry = StoredFile.of(a_file(tmp_path / name), name, repo_id="o/r")
        store.add(StoredFile(**{**vars(entry), "verified_at": day}))
    store.add(StoredFile.of(a_file(tmp_path / "c"), "c", repo_id="o/other"))
    assert [e.sha256 for e in store.in_repo("o/r")] == ["b", "a"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 1}', '{"version": 99, "files": []}',
     '{"version": 1, "files": [{"path": "x"}]}', '{"version": 1, "files": [3]}', "\udcff"],
    ids=["empty", "cut", "list", "no files", "newer", "half an entry", "number", "no utf-8"],
)  # fmt: skip
def test_an_unreadable_record_is_set_aside_and_told(
    store: Store, notes: Notes, tmp_path: Path, text: str
) -> None:
    raw = text.encode("utf-8", "surrogateescape")
    record = a_file(tmp_path / "record" / "files.json", raw)
    assert store.entries() == []
    assert "unreadable" in notes.lines[0]
    assert (tmp_path / "record" / "files.unreadable.json").read_bytes() == raw
    store.add(StoredFile.of(a_file(tmp_path / "a"), "abc"))
    assert len(json.loads(record.read_text())["files"]) == 1
    assert len(notes.lines) == 1


def test_a_record_that_cannot_be_written_is_told_and_not_raised(
    notes: Notes, tmp_path: Path
) -> None:
    a_file(tmp_path / "record")  # a file where the folder should be
    store = Store(tmp_path / "record", progress=notes)
    store.add(StoredFile.of(a_file(tmp_path / "a"), "abc"))
    assert "cannot write the record" in notes.lines[-1]


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    entries = [StoredFile.of(a_file(tmp_path / str(i)), str(i)) for i in range(12)]
    threads = [threading.Thread(target=Store(tmp_path / "record").add, args=(e,)) for e in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {e.sha256 for e in Store(tmp_path / "record").entries()} == {str(i) for i in range(12)}
