"""Verified files on disk, from a real server through the real client."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gguf_hub.errors import (
    ChecksumError,
    DiskFullError,
    DownloadError,
    GatedRepoError,
    HubError,
    HubUnreachableError,
)
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.engine import Settings
from gguf_hub.hub.download.fetch import FetchedFile, Fetcher, Plan, State, Status, free_bytes
from gguf_hub.hub.download.transfer import RangeBackend, TransferResult
from gguf_hub.hub.store import Store
from tests.hub_server import Fault, HubServer, sha256
from tests.noise import noise
from tests.notes import Notes

REPO = "org/model"
NAME = "sub/m.Q4_0.gguf"
BIG = noise(300_000)
SEGMENT = 32_768  # of which BIG has ten, the last one short
QUICK = Settings(waits_s=(0.0, 0.0), segment_bytes=SEGMENT)


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: BIG, "README.md": b"hello\n", "m.Q8_0.gguf": BIG[::-1]})
    return hub_server


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture(params=["cache", "folder"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    if request.param == "cache":
        return HfCache(tmp_path / "cache")
    return LocalFolder(tmp_path / "folder")


Make = Callable[..., Fetcher]

# what the network does is the same for every destination
in_cache = pytest.mark.parametrize("destination", ["cache"], indirect=True)


@pytest.fixture
def fetcher(server: HubServer, destination: Destination, tmp_path: Path, notes: Notes) -> Make:
    def make(**changes: object) -> Fetcher:
        options: dict[str, object] = {
            "hub": HfHub(retry_waits_s=(0.0,), timeout_s=0.3),
            "destination": destination,
            "store": Store(tmp_path / "record"),
            "progress": notes,
            "backend": RangeBackend(QUICK),
        }
        return Fetcher(**options | changes)

    return make


def fetch(fetcher: Fetcher, *names: str, revision: str = "main") -> list[FetchedFile]:
    listing = fetcher.hub.list_files(REPO, revision)
    return fetcher.fetch(listing, [listing.find(name) for name in names or (NAME,)])


def plan(fetcher: Fetcher, *names: str) -> Plan:
    listing = fetcher.hub.list_files(REPO)
    return fetcher.plan(listing, [listing.find(name) for name in names or (NAME,)])


def files_under(folder: Path) -> list[Path]:
    """Every file that somebody could take for content: no locks, no metadata, no tags."""
    own = (".lock", ".metadata", ".journal", "CACHEDIR.TAG", ".gitignore", "refs/main")
    found = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return [p for p in found if not str(p).endswith(own)]


# --- the straight way


def test_a_file_comes_whole_and_the_second_time_not_at_all(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    (first,) = fetch(fetcher())
    assert first.path.read_bytes() == BIG
    assert (first.sha256, first.status) == (sha256(BIG), Status.DOWNLOADED)
    bodies = len(server.body_requests())
    (second,) = fetch(fetcher())
    assert (second.path, second.sha256, second.status) == (
        first.path,
        first.sha256,
        Status.PRESENT,
    )
    assert len(server.body_requests()) == bodies
    assert len(files_under(destination.root)) == 1


def test_small_files_are_checked_by_the_id_that_git_gives(server: HubServer, fetcher: Make) -> None:
    (done,) = fetch(fetcher(), "README.md")
    assert (done.path.read_bytes(), done.sha256) == (b"hello\n", sha256(b"hello\n"))
    assert fetch(fetcher(), "README.md")[0].status is Status.CHECKED
    server.faults.append(Fault("GET", "*/resolve/*", flip_at=0))
    done.path.write_bytes(b"HELLO\n")
    with pytest.raises(ChecksumError, match="git id"):
        fetch(fetcher(), "README.md")


def test_several_files_come_in_order(fetcher: Make) -> None:
    names = ["m.Q8_0.gguf", NAME, "README.md"]
    assert [done.file.path for done in fetch(fetcher(), *names)] == names


def test_a_revision_brings_its_own_bytes(server: HubServer, fetcher: Make) -> None:
    server.add_repo(REPO, {NAME: b"old"}, revision="v1")
    (old,) = fetch(fetcher(), revision="v1")
    assert old.path.read_bytes() == b"old"
    (new,) = fetch(fetcher())
    assert new.path.read_bytes() == BIG


def test_an_update_of_a_branch_is_noticed(server: HubServer, fetcher: Make) -> None:
    fetch(fetcher())
    server.add_repo(REPO, {NAME: BIG[1:]})
    assert plan(fetcher()).fetch_bytes == len(BIG) - 1
    (new,) = fetch(fetcher())
    assert (new.path.read_bytes(), new.status) == (BIG[1:], Status.DOWNLOADED)


@in_cache
def test_a_note_tells_when_the_hub_has_no_sound_gguf(
    server: HubServer, fetcher: Make, notes: Notes, tmp_path: Path
) -> None:
    (done,) = fetch(fetcher())
    assert done.gguf_problem
    assert any("not a valid GGUF" in line for line in notes.texts)
    write_gguf(tmp_path / "good.gguf", {}, [])
    server.add_repo(REPO, {NAME: (tmp_path / "good.gguf").read_bytes()})
    assert fetch(fetcher())[0].gguf_problem is None


# --- what is there already


def test_a_file_that_is_there_is_hashed_once_and_then_known(
    server: HubServer, fetcher: Make, tmp_path: Path
) -> None:
    fetch(fetcher())
    bodies = len(server.body_requests())
    other_record = {"store": Store(tmp_path / "other record")}
    assert plan(fetcher(**other_record)).files[0].state is State.UNCHECKED
    assert fetch(fetcher(**other_record))[0].status is Status.CHECKED
    assert fetch(fetcher(**other_record))[0].status is Status.PRESENT
    assert len(server.body_requests()) == bodies


@pytest.mark.parametrize("damage", ["flipped", "shorter"])
def test_a_damaged_file_is_never_taken_for_the_real_one(
    server: HubServer, fetcher: Make, notes: Notes, damage: str
) -> None:
    (done,) = fetch(fetcher())
    bad = BIG[:1000] + b"!" + BIG[1001:] if damage == "flipped" else BIG[:1000]
    done.path.write_bytes(bad)
    (again,) = fetch(fetcher())
    assert (again.path.read_bytes(), again.status) == (BIG, Status.DOWNLOADED)
    if damage == "flipped":
        assert any("is damaged" in line for line in notes.texts)


def test_a_damaged_file_with_its_old_time_is_found_by_huggingface_hubs_blind_spot(
    fetcher: Make, server: HubServer, tmp_path: Path
) -> None:
    """A file of the right size and time, which nobody recorded, is hashed and not believed."""
    (done,) = fetch(fetcher())
    stat = done.path.stat()
    done.path.write_bytes(BIG[::-1])
    os.utime(done.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (again,) = fetch(fetcher(store=Store(tmp_path / "another record")))
    assert again.path.read_bytes() == BIG


def test_a_verified_copy_elsewhere_saves_the_download(
    server: HubServer, fetcher: Make, tmp_path: Path
) -> None:
    fetch(fetcher())
    bodies = len(server.body_requests())
    elsewhere = fetcher(destination=LocalFolder(tmp_path / "elsewhere"))
    planned = plan(elsewhere)
    assert (planned.files[0].state, planned.fetch_bytes) == (State.ELSEWHERE, 0)
    (copy,) = fetch(elsewhere)
    assert (copy.path.read_bytes(), copy.status) == (BIG, Status.COPIED)
    assert len(server.body_requests()) == bodies


def test_a_copy_that_went_bad_unnoticed_is_not_used(fetcher: Make, tmp_path: Path) -> None:
    (done,) = fetch(fetcher())
    stat = done.path.stat()
    done.path.write_bytes(BIG[::-1])
    os.utime(done.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (copy,) = fetch(fetcher(destination=LocalFolder(tmp_path / "elsewhere")))
    assert (copy.path.read_bytes(), copy.status) == (BIG, Status.DOWNLOADED)


@pytest.mark.parametrize("start", [1, 100_000, len(BIG) - 1, len(BIG)])
def test_the_bytes_of_an_earlier_run_are_not_fetched_again(
    server: HubServer, fetcher: Make, destination: Destination, start: int
) -> None:
    listing = fetcher().hub.list_files(REPO)
    part = destination.part_of(listing, listing.find(NAME))
    part.parent.mkdir(parents=True)
    part.write_bytes(BIG[:start])
    planned = plan(fetcher())
    assert (planned.files[0].state, planned.fetch_bytes) == (State.PARTIAL, len(BIG) - start)
    assert fetch(fetcher())[0].path.read_bytes() == BIG
    assert sum(request.sent_bytes for request in server.body_requests()) == len(BIG) - start


@pytest.mark.parametrize("size", [1000, len(BIG), len(BIG) + 5])
def test_wrong_bytes_of_an_earlier_run_are_thrown_away(
    fetcher: Make, destination: Destination, notes: Notes, size: int
) -> None:
    listing = fetcher().hub.list_files(REPO)
    part = destination.part_of(listing, listing.find(NAME))
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * size)
    assert fetch(fetcher())[0].path.read_bytes() == BIG
    words = ("are damaged", "that differ")
    assert size > len(BIG) or any(word in line for line in notes.texts for word in words)


# --- what goes wrong


def test_wrong_bytes_leave_nothing_behind(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", flip_at=1234))
    with pytest.raises(ChecksumError, match=sha256(BIG)) as caught:
        fetch(fetcher())
    assert "nothing was kept" in caught.value.message
    assert files_under(destination.root) == []
    server.faults.clear()
    assert fetch(fetcher())[0].path.read_bytes() == BIG


@in_cache
@pytest.mark.parametrize("redirect", [False, True], ids=["direct", "redirected"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "*", times=3, drop_after=70_000),
        Fault("GET", "*", times=1, stall_s=0.6),
        Fault("GET", "*", times=2, status=503),
        Fault("GET", "*", times=1, status=429, headers={"Retry-After": "0"}),
        Fault("GET", "*", times=2, drop_after=100, ignore_range=True),
        Fault("GET", "*", times=1, headers={"Content-Length": "1000"}),
        Fault("HEAD", "*", times=1, status=500),
        Fault("*", "*", times=1, status=502),
    ],
    ids=["dropped", "stalled", "503", "429", "no ranges", "short", "HEAD 500", "502"],
)
def test_passing_trouble_does_not_stop_a_download(
    server: HubServer, fetcher: Make, fault: Fault, redirect: bool
) -> None:
    server.redirect = redirect
    listing = fetcher().hub.list_files(REPO)
    server.faults.append(Fault(**vars(fault)))
    (done,) = fetcher().fetch(listing, [listing.find(NAME)])
    assert done.path.read_bytes() == BIG


@in_cache
def test_an_expired_link_is_asked_for_again(server: HubServer, fetcher: Make) -> None:
    server.redirect = True
    server.faults.append(Fault("GET", "/cdn/*", times=1, status=403))
    assert fetch(fetcher())[0].path.read_bytes() == BIG
    assert [r.method for r in server.requests if "/resolve/" in r.path] == ["HEAD"] * 2


@in_cache
def test_one_link_serves_all_connections(server: HubServer, fetcher: Make) -> None:
    server.redirect = True
    fetch(fetcher())
    assert [r.method for r in server.requests if "/resolve/" in r.path] == ["HEAD"]
    assert len(server.body_requests()) > 1


def test_lasting_trouble_ends_with_the_bytes_kept_for_the_next_run(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    one = fetcher(backend=RangeBackend(replace(QUICK, connections=1)))
    server.faults.append(Fault("GET", "*/resolve/*", times=1))
    server.faults.append(Fault("GET", "*/resolve/*", times=1, drop_after=1000))
    server.faults.append(Fault("GET", "*/resolve/*", status=503))
    with pytest.raises(HubUnreachableError, match="503"):
        fetch(one)
    (part,) = files_under(destination.root)
    had = sum(request.sent_bytes for request in server.body_requests() if request.status == 206)
    assert part.read_bytes()[:had] == BIG[:had]
    server.faults.clear()
    server.requests.clear()
    assert plan(fetcher()).fetch_bytes == len(BIG) - had
    assert fetch(fetcher())[0].path.read_bytes() == BIG
    # also what a connection brought of an unfinished segment is not fetched again
    assert sum(request.sent_bytes for request in server.body_requests()) == len(BIG) - had


@in_cache
def test_a_server_that_makes_no_headway_does_not_keep_us_for_ever(
    server: HubServer, fetcher: Make
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", drop_after=1000, ignore_range=True))
    one = fetcher(backend=RangeBackend(replace(QUICK, connections=1)))
    with pytest.raises(HubUnreachableError):
        fetch(one)
    assert len(server.body_requests()) == 4  # one that brought something, three that did not


@in_cache
def test_a_server_that_asks_for_an_hour_is_not_waited_for(server: HubServer, fetcher: Make) -> None:
    busy = Fault("GET", "*/resolve/*", status=429, headers={"Retry-After": "3600"})
    server.faults.append(busy)
    with pytest.raises(HubUnreachableError, match="3600"):
        fetch(fetcher())


@in_cache
@pytest.mark.parametrize(
    "headers",
    [{"ETag": '"' + "0" * 64 + '"'}, {"Content-Length": "12"}],
    ids=["other id", "other size"],
)
def test_a_hub_that_contradicts_its_listing_is_told(
    server: HubServer, fetcher: Make, headers: dict[str, str]
) -> None:
    server.faults.append(Fault("HEAD", "*", headers=headers))
    with pytest.raises(HubError, match="lists 300000 bytes"):
        fetch(fetcher())
    assert server.body_requests() == []


@in_cache
def test_gated_files_end_before_the_first_byte(server: HubServer, fetcher: Make) -> None:
    server.repos[REPO].gated = True
    with pytest.raises(GatedRepoError):
        fetch(fetcher())
    assert fetch(fetcher(hub=HfHub(token="hf_member")))[0].status is Status.DOWNLOADED


def test_space_is_checked_for_all_files_before_the_first_byte(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    room = 64_000_000 + 2 * len(BIG)
    short = fetcher(free_bytes=lambda folder: room - 1)
    with pytest.raises(DiskFullError, match="not enough space") as caught:
        fetch(short, NAME, "m.Q8_0.gguf")
    assert str(destination.root) in caught.value.message
    assert server.body_requests() == []
    assert not destination.root.exists()
    assert len(fetch(fetcher(free_bytes=lambda folder: room), NAME, "m.Q8_0.gguf")) == 2
    # what is there needs no space
    assert len(fetch(fetcher(free_bytes=lambda folder: 0), NAME)) == 1


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, DiskFullError, "the disk is full"),
        (errno.EACCES, DownloadError, "cannot write"),
    ],
)
def test_a_disk_that_fails_half_way_is_told_and_keeps_what_came(
    fetcher: Make, destination: Destination, number: int, error: type[DownloadError], words: str
) -> None:
    def failing(hub: object, source: object, part: Path, **options: object) -> TransferResult:
        part.write_bytes(BIG[:1000])
        raise OSError(number, os.strerror(number))

    with pytest.raises(error, match=words):
        fetch(fetcher(backend=failing))
    assert [p.read_bytes() for p in files_under(destination.root)] == [BIG[:1000]]


def test_a_destination_that_is_a_file_is_reported(fetcher: Make, destination: Destination) -> None:
    destination.root.write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(fetcher())


@in_cache
def test_an_empty_file_is_a_file(server: HubServer, fetcher: Make) -> None:
    server.add_repo(REPO, {"empty.bin": b""})
    assert fetch(fetcher(), "empty.bin")[0].path.read_bytes() == b""


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0
