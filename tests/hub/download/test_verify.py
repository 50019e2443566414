"""Checking files that are on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gguf_hub.errors import GgufError
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import HfCache, LocalFolder
from gguf_hub.hub.download.expected import ExpectedFile
from gguf_hub.hub.download.fetch import Fetcher
from gguf_hub.hub.download.verify import Verdict, Verification, expectation, verify_file
from gguf_hub.hub.store import Store, StoredFile
from tests.hub_server import HubServer, sha256

REPO = "org/model"
NAME = "sub/m.Q4_0.gguf"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small sound GGUF."""
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    write_gguf(path, {"general.name": Field.of("nothing")}, [])
    return path.read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "record")


@pytest.fixture
def file(tmp_path: Path, sound: bytes) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(sound)
    return path


def check(path: Path, store: Store, **options: object) -> Verification:
    return verify_file(path, store=store, **options)


def with_another_letter(data: bytes) -> bytes:
    """Another text of the same length: as sound as before, but other bytes."""
    return data.replace(b"nothing", b"nothinG")


def test_a_file_that_nobody_knows_is_sound_at_best(file: Path, store: Store, sound: bytes) -> None:
    done = check(file, store)
    assert (done.verdict, done.sha256) == (Verdict.UNKNOWN, sha256(sound))
    assert done.verdict.is_good
    assert store.entries() == []


def test_a_given_hash_decides_and_is_recorded(file: Path, store: Store, sound: bytes) -> None:
    assert check(file, store, given_sha256="0" * 64).verdict is Verdict.NOT_GIVEN
    assert store.entries() == []
    assert check(file, store, given_sha256=sha256(sound).upper()).verdict is Verdict.VERIFIED
    assert store.find_verified(file) is not None


def test_the_record_notices_what_changed_since(file: Path, store: Store, sound: bytes) -> None:
    store.add(StoredFile.of(file, sha256(sound), repo_id=REPO, commit="c", filename=NAME))
    done = check(file, store)
    assert (done.verdict, done.expected.source) == (Verdict.VERIFIED, "record")
    file.write_bytes(with_another_letter(sound))
    changed = check(file, store)
    assert (changed.verdict, changed.expected.repo_id) == (Verdict.DIFFERENT, REPO)


def test_bytes_that_changed_without_a_trace_are_no_longer_trusted(
    file: Path, store: Store, sound: bytes
) -> None:
    store.add(StoredFile.of(file, sha256(sound), repo_id=REPO, commit="c", filename=NAME))
    stat = file.stat()
    file.write_bytes(with_another_letter(sound))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.find_verified(file) is not None
    for _ in range(2):
        assert check(file, store).verdict is Verdict.DIFFERENT
        assert store.find_verified(file) is None


def test_what_is_known_of_the_origin_survives_a_check_with_a_given_hash(
    file: Path, store: Store, sound: bytes
) -> None:
    store.add(StoredFile.of(file, sha256(sound), repo_id=REPO, commit="c", filename=NAME))
    check(file, store, given_sha256=sha256(sound))
    entry = store.find(file)
    assert entry is not None
    assert (entry.repo_id, entry.commit, entry.filename) == (REPO, "c", NAME)


@pytest.mark.parametrize("where", ["cache", "folder"])
@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_downloads_of_any_client_say_themselves_what_they_should_be(
    hub_server: HubServer, tmp_path: Path, sound: bytes, where: str, who: str
) -> None:
    commit = hub_server.add_repo(REPO, {NAME: sound})
    root = tmp_path / where
    if who == "ours":
        destination = HfCache(root) if where == "cache" else LocalFolder(root)
        getter = Fetcher(HfHub(), destination, Store(tmp_path / "another record"))
        listing = getter.hub.list_files(REPO)
        path = getter.fetch(listing, listing.files)[0].path
    else:
        from huggingface_hub import hf_hub_download

        option = {"cache_dir" if where == "cache" else "local_dir": root}
        path = Path(hf_hub_download(REPO, NAME, endpoint=hub_server.endpoint, **option))
    hub_server.close()

    found = expectation(path, None, Store(tmp_path / "record"))
    source, repo_id = ("cache", REPO) if where == "cache" else ("metadata", None)
    assert found == ExpectedFile(sha256(sound), source, repo_id, commit, NAME)
    assert check(path, Store(tmp_path / "record")).verdict is Verdict.VERIFIED
    path.write_bytes(with_another_letter(sound))
    assert check(path, Store(tmp_path / "record 2")).verdict is Verdict.DIFFERENT


def test_a_blob_is_known_by_its_own_name(tmp_path: Path, store: Store, sound: bytes) -> None:
    blob = tmp_path / "models--org--model" / "blobs" / sha256(sound)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(sound)
    assert expectation(blob, None, store) == ExpectedFile(sha256(sound), "cache", REPO)


@pytest.mark.parametrize("text", ["", "one", "commit\nnot-a-hash\n1.0\n", "\udcff"])
def test_notes_that_make_no_sense_are_passed_over(
    tmp_path: Path, file: Path, store: Store, text: str
) -> None:
    note = tmp_path / ".cache" / "huggingface" / "download" / "m.gguf.metadata"
    note.parent.mkdir(parents=True)
    note.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert expectation(file, None, store) is None


def test_the_hub_is_asked_last(file: Path, store: Store, sound: bytes) -> None:
    asked = []

    def ask() -> ExpectedFile:
        asked.append(1)
        return ExpectedFile(sha256(sound), "hub", REPO, "c", NAME, len(sound))

    assert check(file, store, ask_hub=ask).verdict is Verdict.VERIFIED
    assert check(file, store, ask_hub=ask).expected.source == "record"
    assert len(asked) == 1


def test_a_wrong_size_needs_no_hash(file: Path, store: Store) -> None:
    done = check(file, store, ask_hub=lambda: ExpectedFile("0" * 64, "hub", size_bytes=7))
    assert (done.verdict, done.sha256) == (Verdict.DIFFERENT, None)


def test_a_broken_structure_is_damage_whatever_the_hash(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"<!DOCTYPE html><html>sign in</html>")
    done = check(path, store)
    assert done.verdict is Verdict.DAMAGED
    assert done.issues
    assert not done.is_published_so
    published = check(path, store, given_sha256=sha256(path.read_bytes()))
    assert published.verdict is Verdict.DAMAGED
    assert published.is_published_so
    assert store.entries() == []


def test_a_missing_file_is_an_error(tmp_path: Path, store: Store) -> None:
    with pytest.raises(GgufError):
        check(tmp_path / "nothing.gguf", store)
