"""What somebody keeps under names that downloads use: it is neither written over nor removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_hub.errors import DownloadError, LockedError
from gguf_hub.hub.download.destinations import PART_SUFFIX, Destination, HfCache, LocalFolder
from gguf_hub.hub.download.journal import Journal, ResumeState, journal_of, read_journal
from gguf_hub.hub.download.locking import download_lock
from gguf_hub.hub.download.partfile import PartFile
from gguf_hub.hub.download.segments import Segments
from gguf_hub.hub.store import StoredFile
from tests.hub.download.transfers import BIG, NAME, Make, fetch, listed, part_of, stop_after
from tests.hub_server import HubServer
from tests.notes import Notes

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs links of POSIX")


@pytest.fixture(params=["cache", "folder"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    root = tmp_path / "place"
    return HfCache(root) if request.param == "cache" else LocalFolder(root)


@pytest.fixture
def precious(tmp_path: Path) -> Any:
    """A file that nothing may change."""
    path = tmp_path / "precious"
    path.write_bytes(b"precious" * 10)
    yield path
    assert path.read_bytes() == b"precious" * 10


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "link": Path.symlink_to,
    "hard link": Path.hardlink_to,
}
each_link = pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)


def put(name: Path, link: Callable[[Path, Path], None], target: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    link(name, target)


@each_link
def test_a_part_is_not_written_through(
    server: HubServer, fetcher: Make, destination: Destination, precious: Path, link: Any
) -> None:
    put(part_of(destination), link, precious)
    with pytest.raises(DownloadError, match="cannot write") as caught:
        fetch(fetcher())
    assert str(part_of(destination)) in str(caught.value)


def test_a_part_that_is_no_file_is_told(fetcher: Make, destination: Destination) -> None:
    part_of(destination).parent.mkdir(parents=True)
    os.mkfifo(part_of(destination))
    with pytest.raises(OSError, match="not a regular file"):
        PartFile(part_of(destination), 10)


@each_link
@pytest.mark.parametrize("suffix", [".journal", ".journal.new", ".journal.aside"])
def test_journals_are_not_written_through(
    fetcher: Make, destination: Destination, precious: Path, link: Any, suffix: str
) -> None:
    part = part_of(destination)
    put(part.with_name(part.name + suffix), link, precious)
    assert fetch(fetcher()).path.read_bytes() == BIG


def test_what_does_not_fit_is_set_aside_over_nothing(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    stop_after(server, fetcher, 3)
    part = part_of(destination)
    journal, aside = journal_of(part), part.with_name(f"{part.name}.journal.aside")
    journal.write_bytes(b"my notes")
    aside.write_bytes(b"older notes")
    assert fetch(fetcher()).path.read_bytes() == BIG
    found = {path.read_bytes() for path in part.parent.glob("*.aside")}
    assert found == {b"my notes", b"older notes"}


@each_link
def test_a_copy_is_not_written_through(
    server: HubServer,
    fetcher: Make,
    tmp_path: Path,
    precious: Path,
    link: Any,
    destination: Destination,
) -> None:
    fetch(fetcher(destination=LocalFolder(tmp_path / "first")))
    listing, file = listed(fetcher())
    part = destination.part_of(listing, file)
    put(part.with_name(f"{file.etag}.copy{PART_SUFFIX}"), link, precious)
    bodies = len(server.body_requests())
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert len(server.body_requests()) == bodies


@each_link
def test_a_leftover_with_another_name_is_not_gone_on_with(
    fetcher: Make, destination: Destination, precious: Path, link: Any
) -> None:
    listing, file = listed(fetcher())
    part = destination.part_of(listing, file)
    prefix = "" if isinstance(destination, HfCache) else "x."
    left = part.with_name(f"{prefix}{file.etag}.0a1b.incomplete")
    put(left, link, precious)
    assert destination.leftovers_of(listing, file) == [left]
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert os.path.lexists(left)


# -- journals that were crafted -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, '{"a":' * 50_000, "{}", "[]", "1", "null", '"x"', "\0",
        '{"journal": 1, "etag": "e", "size_bytes": 95, "segment_bytes": %s}',
    ],
    ids=range(9),
)  # fmt: skip
@pytest.mark.parametrize("value", ["0", "-1", "1e400", "NaN", "true", "[]", "1.5", '"9"'])
def test_a_head_that_makes_no_sense_is_no_journal(tmp_path: Path, text: str, value: str) -> None:
    part = tmp_path / "part"
    journal_of(part).write_text(text.replace("%s", value))
    assert read_journal(part, "e", 95) is None


def test_more_segments_than_anybody_cuts_are_no_journal(tmp_path: Path) -> None:
    part, head = tmp_path / "part", {"journal": 1, "etag": "e", "size_bytes": 10**12}
    journal_of(part).write_text(json.dumps(head | {"segment_bytes": 1}))
    assert read_journal(part, "e", 10**12) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
ROWS = st.dictionaries(st.sampled_from(["segment", "sha256", "n_bytes", "adopted"]), VALUES)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ROWS | VALUES, max_size=3), st.sampled_from([None, "0" * 64]))
def test_no_line_makes_a_journal_lie(tmp_path: Path, rows: list[Any], sha256: str | None) -> None:
    part = tmp_path / "part"
    Journal(part, "e", ResumeState(Segments(95, 10))).close()
    with journal_of(part).open("a") as file:
        for row in rows:
            row = row | {"sha256": sha256} if sha256 and isinstance(row, dict) else row
            file.write(json.dumps(row) + "\n")
    state = read_journal(part, "e", 95)
    assert state is not None
    assert 0 <= state.have_bytes <= 95
    assert all(0 <= index < 10 for index in (*state.done, *state.starts))


# -- files of the user's folder -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.mark.parametrize("size_bytes", [10, len(BIG)])
def test_a_file_that_nobody_downloaded_is_not_replaced(
    server: HubServer, fetcher: Make, folder: Path, notes: Notes, size_bytes: int
) -> None:
    mine, destination = folder / NAME, LocalFolder(folder)
    mine.write_bytes(b"m" * size_bytes)
    with pytest.raises(DownloadError, match="was not downloaded: it is not replaced") as caught:
        fetch(fetcher(destination=destination))
    assert "--force" in str(caught.value.hint)
    assert mine.read_bytes() == b"m" * size_bytes
    assert server.body_requests() == []
    assert fetch(fetcher(destination=destination, is_forced=True)).path.read_bytes() == BIG
    assert any(f"`{mine}` is replaced" in text for text in notes.texts)


def test_a_file_that_was_only_verified_is_not_replaced(fetcher: Make, folder: Path) -> None:
    mine, getter = folder / NAME, fetcher(destination=LocalFolder(folder))
    mine.write_bytes(b"mine")
    getter.store.add(StoredFile.of(mine, "0" * 64))
    with pytest.raises(DownloadError, match="it is not replaced"):
        fetch(getter)
    getter.store.add(StoredFile.of(mine, "0" * 64, repo_id="org/model", commit="a" * 40))
    assert fetch(getter).path.read_bytes() == BIG


def test_a_file_that_appears_meanwhile_is_not_replaced(
    fetcher: Make, folder: Path, destination: Destination
) -> None:
    mine, getter = folder / NAME, fetcher(destination=LocalFolder(folder))
    transfer = getter.backend

    def slow(*args: Any, **more: Any) -> Any:
        result = transfer(*args, **more)
        mine.write_bytes(b"mine")
        return result

    with pytest.raises(DownloadError, match="it is not replaced"):
        fetch(fetcher(destination=LocalFolder(folder), backend=slow))
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    assert fetch(getter).path.read_bytes() == BIG


def test_a_file_that_was_downloaded_and_changed_is_fetched_again(
    fetcher: Make, folder: Path
) -> None:
    getter = fetcher(destination=LocalFolder(folder))
    fetch(getter).path.write_bytes(b"cut")
    assert fetch(getter).path.read_bytes() == BIG


# -- locks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "link", "hard link", "pipe"])
def test_what_is_no_lock_is_not_taken_for_one(tmp_path: Path, precious: Path, kind: str) -> None:
    lock = tmp_path / "m.lock"
    if kind == "text":
        lock.write_text("my notes")
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        LINKS[kind](lock, precious)
    refused = pytest.raises(LockedError, match="is not a lock file")
    with refused as caught, download_lock(lock, "m", tmp_path):
        pytest.fail("it was taken")
    assert str(lock) in str(caught.value.hint)
    assert kind != "text" or lock.read_text() == "my notes"


@pytest.mark.parametrize("kind", ["text", "link", "hard link"])
def test_who_holds_a_lock_is_not_written_over_a_file(
    tmp_path: Path, precious: Path, kind: str
) -> None:
    owner = tmp_path / "m.lock.owner"
    if kind == "text":
        owner.write_text("my notes")
    else:
        LINKS[kind](owner, precious)
    with download_lock(tmp_path / "m.lock", "m", tmp_path):
        pass
    assert os.path.lexists(owner)
    assert kind != "text" or owner.read_text() == "my notes"


def test_the_name_of_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    owner = tmp_path / "m.lock.owner"
    owner.write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
    with download_lock(tmp_path / "m.lock", "m", tmp_path):
        assert json.loads(owner.read_text())["pid"] == os.getpid()
    assert not owner.exists()
