"""What is offered: only what was verified and is unchanged, each listing under its own commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.download.verify import Verdict, verify_file
from gguf_hub.hub.mirror import LOCAL_REPO_ID, RepositoryIndex
from gguf_hub.hub.mirror.repository_index import open_unchanged
from gguf_hub.hub.store import Store, StoredFile
from tests.hub.mirror.files import COMMIT, REPO, add
from tests.synth import write_mixtral


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "record")


@pytest.fixture
def shelf(store: Store) -> RepositoryIndex:
    return RepositoryIndex(store)


def names(shelf: RepositoryIndex, repo_id: str = REPO, revision: str = "main") -> list[str]:
    listing = shelf.snapshot(repo_id, revision)
    return list(listing.files) if listing else []


def test_files_are_offered_in_the_repository_that_they_came_from(
    store: Store, shelf: RepositoryIndex, tmp_path: Path
) -> None:
    add(store, tmp_path / "a", {"b.gguf": b"b", "a/x.gguf": b"x"})
    add(store, tmp_path / "b", {"other.gguf": b"o"}, repo_id="org/other", commit=None)
    add(store, tmp_path / "c", {"made.gguf": b"m"}, repo_id=None, commit=None)
    assert shelf.repo_ids() == [LOCAL_REPO_ID, REPO, "org/other"]
    assert names(shelf) == ["a/x.gguf", "b.gguf"]
    assert names(shelf, LOCAL_REPO_ID) == ["made.gguf"]
    assert (shelf.has(REPO), shelf.has("org/nothing")) == (True, False)
    assert shelf.snapshot("org/nothing") is None


@pytest.mark.parametrize("change", ["bytes", "size", "gone"])
def test_a_file_that_changed_is_offered_no_more(
    store: Store, shelf: RepositoryIndex, tmp_path: Path, change: str
) -> None:
    path = add(store, tmp_path, {"a.gguf": b"good", "b.gguf": b"b"})["a.gguf"]
    assert names(shelf) == ["a.gguf", "b.gguf"]
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"evil" if change == "bytes" else b"longer")
        os.utime(path, ns=(1, 1))
    assert names(shelf) == ["b.gguf"]
    assert shelf.file(REPO, "main", "a.gguf") is None


@pytest.mark.parametrize("place", ["in the weights", "in the header"])
def test_a_file_that_fails_verification_is_not_offered(
    store: Store, shelf: RepositoryIndex, tmp_path: Path, place: str
) -> None:
    """Also when its size and time do not tell that it has changed."""
    path = write_mixtral(tmp_path / "m.gguf")
    data = bytearray(path.read_bytes())
    add(store, tmp_path, {"m.gguf": bytes(data)})
    stat = path.stat()
    data[-1 if place == "in the weights" else 0] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert names(shelf) == ["m.gguf"]  # nothing on the outside has changed
    verdict = verify_file(path, store=store).verdict
    assert verdict is (Verdict.DIFFERENT if place == "in the weights" else Verdict.DAMAGED)
    assert names(shelf) == []


def test_a_given_sha256_that_is_wrong_leaves_the_record_alone(
    store: Store, shelf: RepositoryIndex, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, {}, [])
    add(store, tmp_path, {"m.gguf": path.read_bytes()})
    assert verify_file(path, given_sha256="0" * 64, store=store).verdict is Verdict.NOT_GIVEN
    assert names(shelf) == ["m.gguf"]


def test_each_listing_has_a_commit_of_its_own(
    store: Store, shelf: RepositoryIndex, tmp_path: Path
) -> None:
    """Clients keep the listing of a commit for good: a longer one must have another commit."""
    add(store, tmp_path, {"a.gguf": b"a"})
    first = shelf.snapshot(REPO)
    assert first is not None
    assert first.commit != COMMIT
    add(store, tmp_path, {"b.gguf": b"b"})
    second = shelf.snapshot(REPO)
    assert second is not None
    assert first.commit != second.commit
    assert names(shelf, revision=first.commit) == ["a.gguf"]
    assert names(shelf, revision=second.commit) == ["a.gguf", "b.gguf"]
    assert RepositoryIndex(store).snapshot(REPO) == second  # the same after a restart


def test_a_listing_that_lost_a_file_is_gone_but_its_other_files_are_not(
    store: Store, shelf: RepositoryIndex, tmp_path: Path
) -> None:
    paths = add(store, tmp_path, {"a.gguf": b"a", "b.gguf": b"b"})
    listing = shelf.snapshot(REPO)
    assert listing is not None
    paths["a.gguf"].unlink()
    assert shelf.snapshot(REPO, listing.commit) is None
    assert shelf.file(REPO, listing.commit, "a.gguf") is None
    offered = shelf.file(REPO, listing.commit, "b.gguf")
    assert offered is not None
    assert offered.commit == listing.commit


def test_files_are_found_by_the_commit_of_the_hub_too(
    store: Store, shelf: RepositoryIndex, tmp_path: Path
) -> None:
    old, new = "a" * 40, "b" * 40
    add(store, tmp_path / "old", {"a.gguf": b"old"}, commit=old, verified_at="2025-01-01")
    add(store, tmp_path / "new", {"a.gguf": b"new"}, commit=new, verified_at="2026-01-01")
    for revision, size_of in ((old, b"old"), (new, b"new"), ("main", b"new")):
        offered = shelf.file(REPO, revision, "a.gguf")
        assert offered is not None
        assert offered.entry.path.read_bytes() == size_of
    offered = shelf.file(REPO, old, "a.gguf")
    assert offered is not None
    assert offered.commit == old
    listing = shelf.snapshot(REPO, old)
    assert listing is not None
    assert listing.commit != old
    assert shelf.snapshot(REPO, "f" * 40) is None
    assert shelf.file(REPO, "f" * 40, "a.gguf") is None


def test_two_files_of_one_name_that_were_made_here_are_both_offered(
    store: Store, shelf: RepositoryIndex, tmp_path: Path
) -> None:
    local = {"repo_id": None, "commit": None}
    add(store, tmp_path / "a", {"m.gguf": b"one"}, **local, verified_at="2025-01-01")
    add(store, tmp_path / "b", {"m.gguf": b"two"}, **local, verified_at="2026-01-01")
    add(store, tmp_path / "c", {"m.gguf": b"two"}, **local, verified_at="2024-01-01")
    listing = shelf.snapshot(LOCAL_REPO_ID)
    assert listing is not None
    found = {path: entry.path.read_bytes() for path, entry in listing.files.items()}
    assert found == {"7692c3ad/m.gguf": b"one", "m.gguf": b"two"}


def test_what_was_put_in_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    path, secret = tmp_path / "a.gguf", tmp_path / "secret"
    path.write_bytes(b"good")
    entry = StoredFile.of(path, "0" * 64)
    with open_unchanged(entry) or pytest.fail("unchanged") as file:
        assert file.read() == b"good"
    secret.write_bytes(b"key!")
    os.utime(secret, ns=(1, 1))
    path.unlink()
    path.symlink_to(secret)
    assert open_unchanged(entry) is None
    path.unlink()
    assert open_unchanged(entry) is None


def test_old_listings_are_forgotten_in_the_end(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_hub.hub.mirror.repository_index._REMEMBERED", 2)
    shelf, commits = RepositoryIndex(store), []
    for name in ("a", "b", "c"):
        add(store, tmp_path, {f"{name}.gguf": b"x"})
        listing = shelf.snapshot(REPO)
        assert listing is not None
        commits.append(listing.commit)
    assert [bool(names(shelf, revision=commit)) for commit in commits] == [False, True, True]
