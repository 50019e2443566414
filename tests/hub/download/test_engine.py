"""Parallel, resumable transfers: how they go, and how they go on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import pytest

from gguf_hub.errors import (
    GgufError,
    HubError,
)
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.journal import journal_of, read_journal
from gguf_hub.hub.download.limits import RateLimit
from gguf_hub.hub.download.link import Source
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.download.transfer import RangeBackend
from gguf_hub.progress import SILENT
from tests.hub.download.transfers import (
    BIG,
    NAME,
    QUICK,
    REPO,
    SEGMENT,
    Make,
    fetch,
    part_of,
    sent_bytes,
    stop_after,
)
from tests.hub_server import Fault, HubServer, sha256
from tests.noise import noise
from tests.notes import Notes

# --- how it goes


def test_several_connections_share_one_link(server: HubServer, fetcher: Make) -> None:
    server.redirect = True
    server.faults.append(Fault("GET", "/cdn/*", times=4, meeting=threading.Barrier(4)))
    assert fetch(fetcher(replace(QUICK, connections=4))).path.read_bytes() == BIG
    assert [r.method for r in server.requests if "/resolve/" in r.path] == ["HEAD"]
    assert sent_bytes(server) == len(BIG)


def test_connections_are_used_again(server: HubServer, fetcher: Make) -> None:
    server.redirect = True
    fetch(fetcher(replace(QUICK, connections=2)))
    bodies = server.body_requests()
    assert len(bodies) > 4
    assert len({r.client_port for r in bodies}) <= 2


def test_what_was_fetched_is_known_by_its_segments(fetcher: Make, destination: Destination) -> None:
    done = fetch(fetcher())
    kept = SegmentHashStore(fetcher().store.folder).find(done.sha256)
    assert kept is not None
    expected = tuple(sha256(BIG[at : at + SEGMENT]) for at in range(0, len(BIG), SEGMENT))
    assert kept.hashes == expected
    assert list(destination.root.rglob("*.journal")) == []


def test_the_size_of_segments_may_change_between_runs(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    stop_after(server, fetcher, 5)
    assert fetch(fetcher(replace(QUICK, segment_bytes=10_000))).path.read_bytes() == BIG
    assert sent_bytes(server) <= len(BIG)


# --- going on


def test_the_next_run_goes_on_where_the_last_one_ended(server: HubServer, fetcher: Make) -> None:
    stop_after(server, fetcher, 3)
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert sent_bytes(server) == len(BIG)


def test_a_part_that_went_bad_on_the_disk_is_fetched_again_there_only(
    server: HubServer, fetcher: Make, destination: Destination, notes: Notes
) -> None:
    came = stop_after(server, fetcher, 3)
    with part_of(destination).open("r+b") as file:
        file.seek(SEGMENT + 7)
        file.write(b"bad")
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert sent_bytes(server) == len(BIG) + SEGMENT
    assert any("damaged" in text for text in notes.texts), came


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text + b'{"segment": 99999, "sha256": "' + b"0" * 64 + b'"}\n',
        lambda text: text.replace(b'"size_bytes": ', b'"size_bytes": 1'),
        lambda text: text.replace(b'"segment_bytes": ', b'"segment_bytes": -'),
        lambda text: b"",
        lambda text: b"\xff\n[]\n",
    ],
    ids=["torn", "beyond", "another size", "senseless", "empty", "no text"],
)
def test_a_journal_that_makes_no_sense_does_no_harm(
    server: HubServer, fetcher: Make, destination: Destination, damage: Callable[[bytes], bytes]
) -> None:
    stop_after(server, fetcher, 3)
    journal = journal_of(part_of(destination))
    journal.write_bytes(damage(journal.read_bytes()))
    assert fetch(fetcher()).path.read_bytes() == BIG


def test_a_journal_without_its_part_is_set_aside(
    server: HubServer, fetcher: Make, destination: Destination, notes: Notes
) -> None:
    stop_after(server, fetcher, 3)
    part = part_of(destination)
    part.unlink()
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert any("set aside" in text for text in notes.texts)
    assert journal_of(part).with_name(f"{journal_of(part).name}.aside").exists()


@pytest.mark.parametrize("kind", ["cache", "folder"])
@pytest.mark.parametrize("is_right", [True, False], ids=["right", "wrong"])
def test_what_another_client_left_is_taken_up(
    server: HubServer, fetcher: Make, tmp_path: Path, kind: str, is_right: bool
) -> None:
    root = tmp_path / kind
    destination = HfCache(root) if kind == "cache" else LocalFolder(root)
    folder = root / (
        "models--org--model/blobs" if kind == "cache" else ".cache/huggingface/download"
    )
    folder.mkdir(parents=True)
    prefix = "" if kind == "cache" else "b64hash=."
    left = folder / f"{prefix}{sha256(BIG)}.0a1b2c3d.incomplete"
    data = BIG[: 5 * SEGMENT + 100]
    left.write_bytes(data if is_right else b"x" + data[1:])
    planned = fetcher(destination=destination)
    listing = planned.hub.list_files(REPO)
    assert planned.plan(listing, listing.files).fetch_bytes == len(BIG) - len(data)
    assert fetch(fetcher(destination=destination)).path.read_bytes() == BIG
    again = 0 if is_right else 5 * SEGMENT
    assert sent_bytes(server) == len(BIG) - len(data) + again
    assert not left.exists()


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_finished(
    server: HubServer, tmp_path: Path
) -> None:
    data = noise(12_000_000)
    server.add_repo(REPO, {NAME: data})
    server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=1e6))
    line = [sys.executable, "-m", "gguf_hub", "download", REPO, NAME, "--local-dir", str(tmp_path)]
    n_kills = 0
    for n in (9, 2):
        with subprocess.Popen(line, stdout=subprocess.DEVNULL) as child:
            before = len(server.body_requests())
            while len(server.body_requests()) < before + n and child.poll() is None:
                time.sleep(0.02)
            n_kills += child.poll() is None
            child.kill()
        assert not (tmp_path / NAME).exists()
    server.faults.clear()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / NAME).read_bytes() == data
    in_flight_bytes = 8 * (1 << 20) + 8 * 4_000_000  # and what the sockets had taken in
    assert sent_bytes(server) <= len(data) + n_kills * in_flight_bytes


def test_a_cancelled_transfer_ends_and_keeps_what_came(
    server: HubServer, destination: Destination
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=2e5))
    listing = HfHub().list_files(REPO)
    part = part_of(destination)
    part.parent.mkdir(parents=True)
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    with pytest.raises(CancelledError):
        RangeBackend(QUICK)(
            HfHub(),
            Source(REPO, listing.commit, listing.files[0]),
            part,
            progress=SILENT,
            cancel=cancel,
        )
    state = read_journal(part, sha256(BIG), len(BIG))
    assert state is not None
    assert 0 < state.have_bytes < len(BIG)
    assert state.starts  # what was half there is not lost either


# --- a look at the header


def test_a_file_that_cannot_work_is_stopped_early(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    name = "m.Q4_0.gguf"
    server.add_repo(REPO, {name: b"<!DOCTYPE html>" + BIG})
    server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=2e5))
    backend = RangeBackend(QUICK, worth_stopping_bytes=1)
    with pytest.raises(GgufError, match="cannot work") as caught:
        fetch(fetcher(backend=backend), name)
    assert "--force" in str(caught.value.hint)
    assert sent_bytes(server) < len(BIG)
    server.faults.clear()
    forced = replace(backend, is_forced=True)
    assert fetch(fetcher(backend=forced), name).gguf_problem


def test_a_sound_file_passes_the_look(server: HubServer, fetcher: Make, tmp_path: Path) -> None:
    from gguf_hub.gguf.format import Field

    write_gguf(tmp_path / "good.gguf", {"general.name": Field.of("n" * 200_000)}, [])
    data = (tmp_path / "good.gguf").read_bytes()
    server.add_repo(REPO, {"m.gguf": data})
    backend = RangeBackend(QUICK, worth_stopping_bytes=1)
    assert fetch(fetcher(backend=backend), "m.gguf").path.read_bytes() == data


def test_what_has_come_is_counted_once(server: HubServer, fetcher: Make, notes: Notes) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", times=1, drop_after=100_000))
    fetch(fetcher(replace(QUICK, connections=1)))
    (note,) = [note for note in notes.texts if "resuming at" in note]
    assert note.endswith("resuming at 100.0 kB")


# --- bounds


@pytest.mark.slow
def test_a_rate_is_kept_over_all_connections_and_files(server: HubServer, fetcher: Make) -> None:
    server.add_repo(REPO, {"a.bin": BIG, "b.bin": BIG[::-1]})
    rate = 1.3e6
    limited = fetcher(replace(QUICK, connections=4, limit=RateLimit(rate)), max_workers=2)
    listing = limited.hub.list_files(REPO)
    start = time.monotonic()
    limited.fetch(listing, listing.files)
    # a tenth of a second may be had in advance; how slow a busy machine is says nothing
    assert time.monotonic() - start > 2 * len(BIG) / rate - 0.2


def test_several_files_at_once_come_in_order(server: HubServer, fetcher: Make) -> None:
    files = {f"{n}.bin": noise(100_000, n) for n in range(5)}
    server.add_repo(REPO, files)
    many = fetcher(max_workers=3)
    listing = many.hub.list_files(REPO)
    done = many.fetch(listing, listing.files)
    assert [d.file.path for d in done] == [f.path for f in listing.files]
    assert all(d.path.read_bytes() == files[d.file.path] for d in done)


def test_of_several_files_at_once_the_one_that_fails_is_told(
    server: HubServer, fetcher: Make
) -> None:
    server.add_repo(REPO, {f"{n}.bin": noise(100_000, n) for n in range(4)})
    server.faults.append(Fault("GET", "*/2.bin", status=404))
    many = fetcher(max_workers=4)
    listing = many.hub.list_files(REPO)
    with pytest.raises(HubError, match="404"):
        many.fetch(listing, listing.files)
