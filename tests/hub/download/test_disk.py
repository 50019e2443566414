"""Everything that can go wrong where the bytes go: the disk, other processes, the clock."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from gguf_hub.errors import (
    DiskFullError,
    DownloadError,
    LockedError,
)
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.fetch import Status
from gguf_hub.hub.download.journal import journal_of
from gguf_hub.hub.download.locking import download_lock
from gguf_hub.hub.store import Store
from tests.hub.download.transfers import (
    BIG,
    NAME,
    REPO,
    Make,
    fetch,
    listed,
    part_of,
    sent_bytes,
    stop_after,
)
from tests.hub_server import Fault, HubServer
from tests.notes import Notes

# --- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(line, capture_output=True)
    except OSError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    server: HubServer, fetcher: Make, small_disk: Path
) -> None:
    destination = LocalFolder(small_disk / "models")
    with pytest.raises(DiskFullError, match="not enough space"):
        fetch(fetcher(destination=destination))
    # the check was wrong, or is overruled: the disk itself says so before anything is fetched
    for options in ({"free_bytes": lambda folder: 10**12}, {"is_forced": True}):
        with pytest.raises(DiskFullError, match="disk is full"):
            fetch(fetcher(destination=destination, **options))
    assert server.body_requests() == []


def test_a_disk_that_fills_up_half_way_keeps_what_came(
    server: HubServer, fetcher: Make, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a file system that cannot set space aside
    monkeypatch.setattr("gguf_hub.gguf.reserve._fallocate", lambda fd, size_bytes: False)
    destination = LocalFolder(small_disk / "models")
    with pytest.raises(DiskFullError, match="disk is full") as caught:
        fetch(fetcher(destination=destination, is_forced=True))
    assert "resumes the download" in str(caught.value.hint)
    came = sent_bytes(server)
    assert came > 500_000
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    server.requests.clear()
    assert fetch(fetcher(destination=destination, is_forced=True)).path.read_bytes() == BIG
    assert sent_bytes(server) < len(BIG) - 400_000


def test_a_read_only_target_is_told(server: HubServer, fetcher: Make, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(fetcher(destination=LocalFolder(small_disk), is_forced=True))
    assert server.body_requests() == []


def test_a_second_process_waits_and_tells_for_whom(
    fetcher: Make, destination: Destination, notes: Notes
) -> None:
    listing = fetcher().hub.list_files(REPO)
    lock = destination.lock_of(listing, listing.files[0])
    code = (
        "import sys, pathlib, gguf_hub.hub.download.locking as l\n"
        f"with l.download_lock(pathlib.Path({str(lock)!r}), 'm', pathlib.Path('.')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child,
        ThreadPoolExecutor() as threads,
    ):
        assert child.stdout and child.stdout.readline()
        waiting = threads.submit(fetch, fetcher())
        while not any(f"pid {child.pid}" in text and str(lock) in text for text in notes.texts):
            assert not waiting.done()
            time.sleep(0.01)
        child.communicate()
        assert waiting.result().path.read_bytes() == BIG


@pytest.mark.slow
def test_of_two_commands_for_the_same_file_one_does_it(server: HubServer, tmp_path: Path) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=4e5))
    line = [sys.executable, "-m", "gguf_hub", "download", REPO, NAME, "--local-dir", str(tmp_path)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True) as a,
        subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True) as b,
    ):
        told = [(child.pid, child.communicate(), child.returncode) for child in (a, b)]
    assert [code for _, _, code in told] == [0, 0]
    assert any(f"pid {pid}" in error for pid, _, _ in told for _, (_, error), _ in told)
    assert (tmp_path / NAME).read_bytes() == BIG
    assert sent_bytes(server) == len(BIG)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_is_no_flock_a_file_is_the_lock(
    server: HubServer, fetcher: Make, destination: Destination, notes: Notes,
    monkeypatch: pytest.MonkeyPatch, number: int,
) -> None:  # fmt: skip
    def refuse(fd: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    listing, file = listed(fetcher())
    lock = destination.lock_of(listing, file)
    with (
        download_lock(lock, "m", destination.root, progress=notes),
        pytest.raises(LockedError, match=f"pid {os.getpid()}"),
        download_lock(lock, "m", destination.root),
    ):
        pass
    with download_lock(lock, "m", destination.root), ThreadPoolExecutor() as threads:
        stop = threading.Event()
        waiting = threads.submit(download_lock(lock, "m", destination.root, cancel=stop).__enter__)
        stop.set()
        with pytest.raises(CancelledError):
            waiting.result()
    made = fetcher()
    assert fetch(made).path.read_bytes() == BIG
    assert fetch(fetcher()).status is Status.PRESENT, "the record could be written, too"
    folders = {str(lock.parent), str(made.store.folder)}
    told = [text for text in notes.texts if "knows no file locks" in text]
    assert len(told) == len({text for text in told for folder in folders if folder in text}) <= 2
    assert told
    assert not list(destination.root.rglob("*.soft"))


@pytest.mark.parametrize("kind", ["cache", "folder"])
def test_what_is_whole_in_a_read_only_place_is_used_without_a_lock(
    server: HubServer, fetcher: Make, small_disk: Path, kind: str
) -> None:
    subprocess.run(["mount", "-o", "remount,size=99m", str(small_disk)], check=True)
    make = HfCache if kind == "cache" else LocalFolder
    first = fetch(fetcher(destination=make(small_disk / "m")))
    for path in small_disk.rglob("*.lock"):
        path.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    server.requests.clear()
    elsewhere = Store(small_disk.parent / "another record")
    for store, status in ((elsewhere, Status.CHECKED), (elsewhere, Status.PRESENT),
                          (Store(small_disk / "m"), Status.CHECKED)):  # fmt: skip
        again = fetch(fetcher(destination=make(small_disk / "m"), store=store))
        assert (again.path, again.status) == (first.path, status)
    # the same bytes, of a commit that the place does not know yet
    server.add_repo(REPO, {NAME: BIG, "README.md": b"new"})
    newer = fetch(fetcher(destination=make(small_disk / "m"), store=elsewhere))
    assert (newer.path, newer.path.read_bytes() == BIG) == (first.path, True)
    assert server.body_requests() == []


def test_a_lock_of_another_machine_or_program_is_named_as_well_as_it_can_be(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "m.lock"
    with download_lock(lock, "m", tmp_path):
        owner = tmp_path / "m.lock.owner"
        owner.write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
        with (
            pytest.raises(LockedError, match="pid 7 on elsewhere"),
            download_lock(lock, "m", tmp_path),
        ):
            pass
        owner.write_text("?")
        with (
            pytest.raises(LockedError, match="another process is"),
            download_lock(lock, "m", tmp_path),
        ):
            pass


def test_a_clock_that_was_set_back_does_not_hinder_a_resume(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    came = stop_after(server, fetcher, 3)
    part, ahead = part_of(destination), time.time() + 86_400
    for path in (part, journal_of(part)):  # they seem to come from tomorrow
        os.utime(path, (ahead, ahead))
    done = fetch(fetcher())
    assert (done.path.read_bytes(), sent_bytes(server)) == (BIG, len(BIG)), came
    server.requests.clear()
    assert fetch(fetcher()).status is Status.PRESENT
    assert server.body_requests() == []


def test_a_clock_that_was_set_back_does_not_make_others_fetch_again(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    from huggingface_hub import hf_hub_download

    done = fetch(fetcher())
    ahead = time.time() + 86_400  # as if the bytes had been written before the clock was set back
    os.utime(done.path, (ahead, ahead))
    listing = fetcher().hub.list_files(REPO)
    fetcher().fetch(listing, listing.files)
    server.requests.clear()
    hf_hub_download(REPO, NAME, local_dir=destination.root, endpoint=server.endpoint)
    assert server.body_requests() == []
