"""Everything that can go wrong on the way, from a real server through the real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import pytest

from gguf_hub.download.engine import Settings
from gguf_hub.download.fetch import Fetched, Fetcher, Status
from gguf_hub.download.hashbook import HashBook
from gguf_hub.download.journal import journal_of, read_journal
from gguf_hub.download.limits import RateLimit
from gguf_hub.download.link import Source
from gguf_hub.download.locking import only_one
from gguf_hub.download.move import RangeMover
from gguf_hub.download.places import HfCache, LocalFolder, Place
from gguf_hub.errors import (
    DiskFullError,
    DownloadError,
    GgufError,
    HubError,
    HubUnreachableError,
    LockedError,
)
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub import HfHub
from gguf_hub.progress import SILENT
from gguf_hub.store import Store
from tests.hub_server import Fault, HubServer, sha256
from tests.notes import Notes

REPO, NAME = "org/model", "m.bin"
SEGMENT = 65_536
BIG = os.urandom(20 * SEGMENT - 1000)
QUICK = Settings(waits_s=(0.0, 0.0, 0.0), segment_bytes=SEGMENT)


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: BIG})
    return hub_server


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return LocalFolder(tmp_path / "models")


Make = Callable[..., Fetcher]


@pytest.fixture
def fetcher(server: HubServer, place: Place, tmp_path: Path, notes: Notes) -> Make:
    def make(settings: Settings = QUICK, **changes: object) -> Fetcher:
        options: dict[str, object] = {
            "hub": HfHub(retry_waits_s=(0.0,), timeout_s=0.5),
            "place": place,
            "store": Store(tmp_path / "record"),
            "progress": notes,
            "move": RangeMover(settings),
        }
        return Fetcher(**options | changes)

    return make


def fetch(fetcher: Fetcher, name: str = NAME) -> Fetched:
    listing = fetcher.hub.list_files(REPO)
    return fetcher.fetch(listing, [listing.find(name)])[0]


def part_of(place: Place) -> Path:
    listing = HfHub().list_files(REPO)
    return place.part_of(listing, listing.files[0])


def sent_bytes(server: HubServer) -> int:
    return sum(r.sent_bytes for r in server.body_requests() if r.status in (200, 206))


# --- how it goes


def test_several_connections_share_one_link(server: HubServer, fetcher: Make) -> None:
    server.redirect = True
    server.faults.append(Fault("GET", "/cdn/*", times=8, stall_s=0.3))
    start = time.monotonic()
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert time.monotonic() - start < 8 * 0.3  # what one after the other would take
    assert [r.method for r in server.requests if "/resolve/" in r.path] == ["HEAD"]
    assert sent_bytes(server) == len(BIG)


def test_what_was_fetched_is_known_by_its_segments(fetcher: Make, place: Place) -> None:
    done = fetch(fetcher())
    kept = HashBook(fetcher().store.folder).find(done.sha256)
    assert kept is not None
    expected = tuple(sha256(BIG[at : at + SEGMENT]) for at in range(0, len(BIG), SEGMENT))
    assert kept.hashes == expected
    assert list(place.root.rglob("*.journal")) == []


def test_the_size_of_segments_may_change_between_runs(
    server: HubServer, fetcher: Make, place: Place
) -> None:
    stop_after(server, fetcher, 5)
    assert fetch(fetcher(replace(QUICK, segment_bytes=10_000))).path.read_bytes() == BIG
    assert sent_bytes(server) <= len(BIG)


def stop_after(server: HubServer, fetcher: Make, n: int) -> int:
    """Break a download off after ``n`` requests; return how much came."""
    server.faults += [Fault("GET", "*/resolve/*", times=n), Fault("GET", "*/resolve/*", status=503)]
    with pytest.raises(HubUnreachableError):
        fetch(fetcher(replace(QUICK, connections=1)))
    server.faults.clear()
    came = sent_bytes(server)
    assert 0 < came < len(BIG)
    return came


# --- going on


def test_the_next_run_goes_on_where_the_last_one_ended(server: HubServer, fetcher: Make) -> None:
    stop_after(server, fetcher, 3)
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert sent_bytes(server) == len(BIG)


def test_a_part_that_went_bad_on_the_disk_is_fetched_again_there_only(
    server: HubServer, fetcher: Make, place: Place, notes: Notes
) -> None:
    came = stop_after(server, fetcher, 3)
    with part_of(place).open("r+b") as file:
        file.seek(SEGMENT + 7)
        file.write(b"bad")
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert sent_bytes(server) == len(BIG) + SEGMENT
    assert any("was bad" in text for text in notes.texts), came


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
    server: HubServer, fetcher: Make, place: Place, damage: Callable[[bytes], bytes]
) -> None:
    stop_after(server, fetcher, 3)
    journal = journal_of(part_of(place))
    journal.write_bytes(damage(journal.read_bytes()))
    assert fetch(fetcher()).path.read_bytes() == BIG


def test_a_journal_without_its_part_is_set_aside(
    server: HubServer, fetcher: Make, place: Place, notes: Notes
) -> None:
    stop_after(server, fetcher, 3)
    part = part_of(place)
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
    place = HfCache(root) if kind == "cache" else LocalFolder(root)
    folder = root / (
        "models--org--model/blobs" if kind == "cache" else ".cache/huggingface/download"
    )
    folder.mkdir(parents=True)
    prefix = "" if kind == "cache" else "b64hash=."
    left = folder / f"{prefix}{sha256(BIG)}.0a1b2c3d.incomplete"
    data = BIG[: 5 * SEGMENT + 100]
    left.write_bytes(data if is_right else b"x" + data[1:])
    planned = fetcher(place=place)
    listing = planned.hub.list_files(REPO)
    assert planned.plan(listing, listing.files).fetch_bytes == len(BIG) - len(data)
    assert fetch(fetcher(place=place)).path.read_bytes() == BIG
    again = 0 if is_right else 5 * SEGMENT
    assert sent_bytes(server) == len(BIG) - len(data) + again
    assert not left.exists()


def test_a_killed_process_loses_nothing_that_was_finished(
    server: HubServer, tmp_path: Path
) -> None:
    data = os.urandom(12_000_000)
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


def test_a_cancelled_transfer_ends_soon_and_keeps_what_came(
    server: HubServer, place: Place
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=2e5))
    listing = HfHub().list_files(REPO)
    part = part_of(place)
    part.parent.mkdir(parents=True)
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        RangeMover(QUICK)(
            HfHub(),
            Source(REPO, listing.commit, listing.files[0]),
            part,
            progress=SILENT,
            cancel=cancel,
        )
    assert time.monotonic() - start < 3
    told = read_journal(part, sha256(BIG), len(BIG))
    assert told is not None
    assert 0 < told.have_bytes < len(BIG)
    assert told.starts  # what was half there is not lost either


# --- the fault table


PASSING = {
    "reset": [Fault("GET", "*", times=5, drop_after=30_000)],
    "slow": [Fault("GET", "*", times=2, bytes_per_s=1e6)],
    "stalled": [Fault("GET", "*", times=2, stall_s=1.0)],
    "500": [Fault("GET", "*", times=2, status=500)],
    "504": [Fault("GET", "*", times=2, status=504)],
    "429 Retry-After": [Fault("GET", "*", times=2, status=429, headers={"Retry-After": "1"})],
    "429 RateLimit": [Fault("GET", "*", times=2, status=429, headers={"RateLimit": '"r";r=0;t=1'})],
    "200 once": [Fault("GET", "*", times=1, ignore_range=True)],
    "200 always": [Fault("GET", "*", ignore_range=True)],
    "200 and dropped": [Fault("GET", "*", times=3, ignore_range=True, drop_after=400_000)],
    "short body": [Fault("GET", "*", times=2, headers={"Content-Length": "1000"})],
    "long body": [Fault("GET", "*", times=2, body=BIG + b"more")],
    "flipped once": [Fault("GET", "*", times=1, flip_at=5)],
    "no ETag": [Fault("GET", "*", headers={"ETag": None})],
    "weak ETag": [Fault("GET", "*", headers={"ETag": 'W/"weak"'})],
    "another ETag": [Fault("GET", "*", times=1, headers={"ETag": '"other"'})],
}


@pytest.mark.parametrize("redirect", [False, True], ids=["direct", "redirected"])
@pytest.mark.parametrize("name", PASSING)
def test_passing_faults_end_in_the_right_bytes(
    server: HubServer, fetcher: Make, name: str, redirect: bool
) -> None:
    server.redirect = redirect
    listing = fetcher().hub.list_files(REPO)
    server.faults += [Fault(**vars(fault)) for fault in PASSING[name]]
    (done,) = fetcher().fetch(listing, listing.files)
    assert (done.path.read_bytes(), done.status) == (BIG, Status.DOWNLOADED)


def test_a_wrong_total_is_not_believed(server: HubServer, fetcher: Make) -> None:
    headers = {"Content-Range": "bytes 0-99/100"}
    server.faults.append(Fault("GET", "*/resolve/*", times=1, headers=headers, body=b"x" * 100))
    assert fetch(fetcher(replace(QUICK, connections=1))).path.read_bytes() == BIG
    assert len([r for r in server.requests if r.method == "HEAD"]) == 2  # the hub was asked again


def test_a_pause_that_the_server_asks_for_is_kept_by_all(server: HubServer, fetcher: Make) -> None:
    listing = fetcher().hub.list_files(REPO)
    server.faults.append(Fault("GET", "*", times=1, status=429, headers={"Retry-After": "1"}))
    start = time.monotonic()
    fetcher(replace(QUICK, connections=1)).fetch(listing, listing.files)
    assert time.monotonic() - start >= 1.0


def test_a_server_that_sends_whole_files_gets_one_connection(
    server: HubServer, fetcher: Make
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", ignore_range=True, bytes_per_s=5e6))
    assert fetch(fetcher()).path.read_bytes() == BIG
    whole = [r for r in server.body_requests() if r.sent_bytes == len(BIG)]
    assert len(whole) == 1


def test_a_link_that_refuses_many_gets_fewer_connections(server: HubServer, fetcher: Make) -> None:
    server.redirect = True
    server.faults.append(Fault("GET", "/cdn/*", times=4, status=403))
    server.faults.append(Fault("GET", "/cdn/*", bytes_per_s=3e6))
    assert fetch(fetcher()).path.read_bytes() == BIG
    heads = [r for r in server.requests if r.method == "HEAD"]
    assert 2 <= len(heads) <= 5


def test_a_link_that_always_refuses_is_an_error_without_the_link(
    server: HubServer, fetcher: Make
) -> None:
    server.redirect = True
    server.faults.append(Fault("GET", "/cdn/*", status=403))
    with pytest.raises(HubUnreachableError, match="signed link") as caught:
        fetch(fetcher())
    assert "sig=" not in caught.value.message


def test_a_trickle_is_given_up(server: HubServer, fetcher: Make) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", times=2, bytes_per_s=1e4))
    settings = replace(QUICK, stall_s=0.2, connections=2)
    assert fetch(fetcher(settings)).path.read_bytes() == BIG


def test_a_file_replaced_half_way_is_fetched_anew_with_a_word(
    server: HubServer, fetcher: Make, notes: Notes
) -> None:
    stop_after(server, fetcher, 3)
    (commit,) = server.repos[REPO].commits
    listing = fetcher().hub.list_files(REPO)
    server.repos[REPO].commits[commit][NAME] = BIG[::-1]
    (done,) = fetcher().fetch(listing, listing.files)
    assert done.path.read_bytes() == BIG[::-1]
    assert any("replaced" in text for text in notes.texts)


def test_bytes_that_stay_wrong_are_refused_and_nothing_kept(
    server: HubServer, fetcher: Make, place: Place
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", flip_at=1234))
    with pytest.raises(DownloadError, match="arrived damaged"):
        fetch(fetcher())
    assert [p for p in place.root.rglob("*") if p.suffix in (".part", ".journal", ".bin")] == []


@pytest.mark.parametrize(
    "headers", [{"Content-Length": "12"}, {"Content-Length": str(len(BIG) + 1)}]
)
def test_a_wrong_size_in_head_is_told(
    server: HubServer, fetcher: Make, headers: dict[str, str]
) -> None:
    server.faults.append(Fault("HEAD", "*", headers=headers))
    with pytest.raises(HubError, match=f"lists {len(BIG)} bytes"):
        fetch(fetcher())


def test_a_missing_etag_in_head_is_made_up_for_by_the_hash(
    server: HubServer, fetcher: Make
) -> None:
    server.faults.append(Fault("HEAD", "*", headers={"ETag": None}))
    assert fetch(fetcher()).path.read_bytes() == BIG


def test_redirects_in_circles_end(server: HubServer, fetcher: Make) -> None:
    path = f"/{REPO}/resolve/main/{NAME}"
    loop = Fault("GET", "*/resolve/*", status=302, headers={"Location": path})
    server.faults.append(loop)
    with pytest.raises(HubError):
        fetch(fetcher())


def test_the_token_is_not_sent_to_the_file_host(
    server: HubServer, fetcher: Make, place: Place
) -> None:
    server.redirect = True
    fetch(fetcher(hub=HfHub(token="hf_member")))
    bodies = server.body_requests()
    assert bodies
    assert all("authorization" not in r.headers for r in bodies)
    texts = [p.read_bytes() for p in place.root.rglob("*") if p.is_file()]
    assert not any(b"hf_member" in text for text in texts)


def test_a_server_without_tls_is_told_and_not_asked_again(server: HubServer, fetcher: Make) -> None:
    secure = server.endpoint.replace("http://", "https://")
    with pytest.raises(HubError, match=r"secure connection|cannot reach") as caught:
        HfHub(secure, retry_waits_s=(0.0,)).list_files(REPO)
    assert caught.value.hint


def test_an_untrusted_certificate_is_told(server: HubServer, fetcher: Make, tmp_path: Path) -> None:
    origin = tls_origin(tmp_path)
    with pytest.raises(HubError, match="no secure connection") as caught:
        HfHub(origin, retry_waits_s=(0.0, 0.0)).list_files(REPO)
    assert not isinstance(caught.value, HubUnreachableError)


def tls_origin(folder: Path) -> str:
    """A server whose certificate nobody knows; the address of it."""
    import shutil
    import socket
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, cert = folder / "key.pem", folder / "cert.pem"
    line = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    names = ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*line.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            while True:
                plain, _ = listener.accept()
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except OSError:
                    plain.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"https://127.0.0.1:{listener.getsockname()[1]}"


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
    place = LocalFolder(small_disk / "models")
    with pytest.raises(DiskFullError, match="not enough space"):
        fetch(fetcher(place=place))
    # the check was wrong, or is overruled: the disk itself says so before anything is fetched
    for options in ({"free_bytes": lambda folder: 10**12}, {"is_forced": True}):
        with pytest.raises(DiskFullError, match="disk is full"):
            fetch(fetcher(place=place, **options))
    assert server.body_requests() == []


def test_a_disk_that_fills_up_half_way_keeps_what_came(
    server: HubServer, fetcher: Make, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a file system that cannot set space aside
    monkeypatch.setattr("gguf_hub.download.partfile._fallocate", lambda fd, size_bytes: False)
    place = LocalFolder(small_disk / "models")
    with pytest.raises(DiskFullError, match="disk is full") as caught:
        fetch(fetcher(place=place, is_forced=True))
    assert "goes on from what is there" in str(caught.value.hint)
    came = sent_bytes(server)
    assert came > 500_000
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    server.requests.clear()
    assert fetch(fetcher(place=place, is_forced=True)).path.read_bytes() == BIG
    assert sent_bytes(server) < len(BIG) - 400_000


def test_a_read_only_target_is_told(server: HubServer, fetcher: Make, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(fetcher(place=LocalFolder(small_disk), is_forced=True))
    assert server.body_requests() == []


def test_a_second_process_is_told_who_is_at_it(fetcher: Make, place: Place) -> None:
    listing = fetcher().hub.list_files(REPO)
    lock = place.lock_of(listing, listing.files[0])
    code = (
        "import sys, pathlib, gguf_hub.download.locking as l\n"
        f"with l.only_one(pathlib.Path({str(lock)!r}), 'm', pathlib.Path('.')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        assert child.stdout and child.stdout.readline()
        with pytest.raises(LockedError, match=f"pid {child.pid}"):
            fetch(fetcher())
        child.communicate()
    assert fetch(fetcher()).path.read_bytes() == BIG


def test_a_lock_of_another_machine_or_program_is_named_as_well_as_it_can_be(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "m.lock"
    with only_one(lock, "m", tmp_path):
        owner = tmp_path / "m.lock.owner"
        owner.write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
        with pytest.raises(LockedError, match="pid 7 on elsewhere"), only_one(lock, "m", tmp_path):
            pass
        owner.write_text("?")
        with pytest.raises(LockedError, match="another process is"), only_one(lock, "m", tmp_path):
            pass


def test_a_clock_that_was_set_back_does_not_make_others_fetch_again(
    server: HubServer, fetcher: Make, place: Place
) -> None:
    from huggingface_hub import hf_hub_download

    done = fetch(fetcher())
    ahead = time.time() + 86_400  # as if the bytes had been written before the clock was set back
    os.utime(done.path, (ahead, ahead))
    listing = fetcher().hub.list_files(REPO)
    fetcher().fetch(listing, listing.files)
    server.requests.clear()
    hf_hub_download(REPO, NAME, local_dir=place.root, endpoint=server.endpoint)
    assert server.body_requests() == []


# --- a look at the header


def test_a_file_that_cannot_work_is_stopped_early(
    server: HubServer, fetcher: Make, place: Place
) -> None:
    name = "m.Q4_0.gguf"
    server.add_repo(REPO, {name: b"<!DOCTYPE html>" + BIG})
    server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=2e5))
    mover = RangeMover(QUICK, worth_stopping_bytes=1)
    with pytest.raises(GgufError, match="cannot work") as caught:
        fetch(fetcher(move=mover), name)
    assert "--force" in str(caught.value.hint)
    assert sent_bytes(server) < len(BIG)
    server.faults.clear()
    forced = replace(mover, is_forced=True)
    assert fetch(fetcher(move=forced), name).gguf_problem


def test_a_sound_file_passes_the_look(server: HubServer, fetcher: Make, tmp_path: Path) -> None:
    from gguf_hub.gguf.format import Field

    write_gguf(tmp_path / "good.gguf", {"general.name": Field.of("n" * 200_000)}, [])
    data = (tmp_path / "good.gguf").read_bytes()
    server.add_repo(REPO, {"m.gguf": data})
    mover = RangeMover(QUICK, worth_stopping_bytes=1)
    assert fetch(fetcher(move=mover), "m.gguf").path.read_bytes() == data


# --- bounds


def test_a_rate_is_kept_over_all_connections_and_files(server: HubServer, fetcher: Make) -> None:
    server.add_repo(REPO, {"a.bin": BIG, "b.bin": BIG[::-1]})
    rate = 1.3e6
    limited = fetcher(replace(QUICK, connections=4, limit=RateLimit(rate)), max_workers=2)
    listing = limited.hub.list_files(REPO)
    start = time.monotonic()
    limited.fetch(listing, listing.files)
    took_s = time.monotonic() - start
    expected_s = 2 * len(BIG) / rate
    assert 0.9 * expected_s - 0.1 < took_s < 1.1 * expected_s + 1.0


def test_several_files_at_once_come_in_order(server: HubServer, fetcher: Make) -> None:
    files = {f"{n}.bin": os.urandom(100_000) for n in range(5)}
    server.add_repo(REPO, files)
    many = fetcher(max_workers=3)
    listing = many.hub.list_files(REPO)
    done = many.fetch(listing, listing.files)
    assert [d.file.path for d in done] == [f.path for f in listing.files]
    assert all(d.path.read_bytes() == files[d.file.path] for d in done)


def test_of_several_files_at_once_the_one_that_fails_is_told(
    server: HubServer, fetcher: Make
) -> None:
    server.add_repo(REPO, {f"{n}.bin": os.urandom(100_000) for n in range(4)})
    server.faults.append(Fault("GET", "*/2.bin", status=404))
    many = fetcher(max_workers=4)
    listing = many.hub.list_files(REPO)
    with pytest.raises(HubError, match="404"):
        many.fetch(listing, listing.files)
