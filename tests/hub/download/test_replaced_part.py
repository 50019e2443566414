"""A folder that is deleted, lock and all, while a download writes to it, and then used again."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.errors import DownloadError, GgufHubError, HubUnreachableError
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.fetch import FetchedFile
from gguf_hub.hub.download.journal import journal_of
from gguf_hub.hub.download.transfer import RangeBackend, TransferResult
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.progress import Task
from tests.hub.download.transfers import BIG, NAME, QUICK, Make, fetch, part_of
from tests.hub_server import Fault, HubServer, sha256
from tests.notes import Notes

OTHERS = b"of another download"


@pytest.fixture(params=["folder", "cache"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    return (LocalFolder if request.param == "folder" else HfCache)(tmp_path / "models")


@pytest.fixture
def begin(
    server: HubServer, fetcher: Make
) -> Iterator[Callable[..., tuple[Future[FetchedFile], Callable[[], object]]]]:
    """Start a download and return when it waits for its first bytes; call to let it go on."""
    meetings: list[threading.Barrier] = []
    with ThreadPoolExecutor() as pool:

        def start(**fault: Any) -> tuple[Future[FetchedFile], Callable[[], object]]:
            meetings.append(meeting := threading.Barrier(2))
            server.faults.insert(0, Fault("GET", "*/resolve/*", times=1, meeting=meeting, **fault))
            one = fetcher(
                hub=HfHub(retry_waits_s=(), timeout_s=60),
                backend=RangeBackend(replace(QUICK, connections=1, waits_s=())),
            )
            n_before = len(server.body_requests())
            future = pool.submit(fetch, one)
            while not (meeting.n_waiting or future.done()):
                threading.Event().wait(0.01)
            assert len(server.body_requests()) == n_before + 1
            return future, lambda: meeting.wait(60)

        yield start
        for meeting in meetings:
            if meeting.n_waiting:
                meeting.wait(60)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({}, DownloadError),
        ({"flip_at": 5}, DownloadError),
        ({"drop_after": 1}, HubUnreachableError),
    ],
    ids=["whole", "damaged", "broken off"],
)
def test_what_a_second_download_writes_is_left_to_it(
    server: HubServer,
    destination: Destination,
    begin: Callable[..., Any],
    fault: dict[str, Any],
    error: type[GgufHubError],
) -> None:
    first, go_on = begin(**fault)
    shutil.rmtree(destination.root)
    second, go_on_too = begin()
    part = part_of(destination)
    theirs = [path.stat().st_ino for path in (part, journal_of(part))]
    if error is HubUnreachableError:
        server.faults.append(Fault("GET", "*/resolve/*", times=1, status=503))
    go_on()
    with pytest.raises(error) as caught:
        first.result(60)
    if error is DownloadError:
        assert f"`{part}` was replaced while it was downloaded" in caught.value.message
        assert "left as it is" in caught.value.message
        assert str(part.parent) in str(caught.value.hint)
    assert [path.stat().st_ino for path in (part, journal_of(part))] == theirs
    assert not second.done()
    go_on_too()
    assert second.result(60).path.read_bytes() == BIG
    assert not part.exists()


def test_a_part_that_was_removed_is_an_error(
    destination: Destination, begin: Callable[..., Any]
) -> None:
    first, go_on = begin()
    part = part_of(destination)
    shutil.rmtree(destination.root)
    go_on()
    with pytest.raises(DownloadError, match="was removed while it was downloaded") as caught:
        first.result(60)
    assert caught.value.path == part
    assert not destination.root.exists()


class Replacing(Notes):
    """Puts another file in a part's place as soon as the part is hashed."""

    part: Path

    @contextmanager
    def task(self, label: str, *args: Any, **options: Any) -> Iterator[Task]:
        with super().task(label, *args, **options) as task:
            yield task
        if label == f"check {NAME}":
            self.part.rename(f"{self.part}.hashed")
            self.part.write_bytes(OTHERS)


def by_itself(hub: Any, source: Any, part: Path, **options: Any) -> TransferResult:
    part.write_bytes(BIG)
    return TransferResult()


class Late(LocalFolder):
    """Puts another file in a part's place when it is asked for the last time before the rename."""

    def is_own(self, path: Path, file: Any) -> bool:
        (part,) = [*self.root.rglob("*.part"), None][:1]
        if part:
            part.rename(f"{part}.hashed")
            part.write_bytes(OTHERS)
        return True


def test_what_is_replaced_right_before_its_rename_gets_no_name(
    fetcher: Make, tmp_path: Path
) -> None:
    destination = Late(tmp_path / "models")
    destination.root.mkdir()
    (destination.root / NAME).write_bytes(b"old")
    with pytest.raises(DownloadError, match="was replaced while it was downloaded"):
        fetch(fetcher(destination=destination))
    assert (destination.root / NAME).read_bytes() == b"old"
    assert [path.read_bytes() for path in destination.root.rglob("*.part")] == [OTHERS]


@pytest.mark.parametrize("way", ["another engine", "a copy"])
def test_what_is_replaced_after_it_was_hashed_gets_no_name(
    destination: Destination, fetcher: Make, tmp_path: Path, way: str
) -> None:
    progress, store = Replacing(), Store(tmp_path / "record")
    progress.part = part_of(destination)
    if way == "a copy":
        progress.part = progress.part.with_name(f"{sha256(BIG)}.copy.gguf-hub.part")
        (tmp_path / "copy.bin").write_bytes(BIG)
        store.add(StoredFile.of(tmp_path / "copy.bin", sha256(BIG)))
    with pytest.raises(DownloadError, match="was replaced while it was downloaded"):
        fetch(fetcher(backend=by_itself, progress=progress))
    assert progress.part.read_bytes() == OTHERS
    names = {path.name for path in destination.root.rglob("*")}
    assert not names & {NAME, sha256(BIG)}
    assert len(store.copies_of(sha256(BIG))) == (way == "a copy")
