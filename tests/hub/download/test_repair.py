"""Making a damaged file whole, from a real server through the real client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.errors import ChecksumError, DownloadError, HubUnreachableError, LockedError
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import LocalFolder
from gguf_hub.hub.download.engine import Settings
from gguf_hub.hub.download.fetch import Fetcher
from gguf_hub.hub.download.link import Source
from gguf_hub.hub.download.repair import RepairResult, find_damage, repair
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.download.transfer import RangeBackend
from gguf_hub.hub.download.verify import Verdict, verify_file
from gguf_hub.hub.store import Store
from tests.hub_server import Fault, HubServer, sha256
from tests.noise import noise

REPO, NAME = "org/model", "m.Q4_0.gguf"
SEGMENT = 10_000
SETTINGS = Settings(waits_s=(0.0,), segment_bytes=SEGMENT)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    """A sound GGUF of eleven segments."""
    path = tmp_path / "made.gguf"
    fields = {"general.name": Field.of(noise(50_000).hex())}
    write_gguf(path, fields, [])
    return path.read_bytes()


@pytest.fixture
def server(hub_server: HubServer, data: bytes) -> HubServer:
    hub_server.add_repo(REPO, {NAME: data})
    return hub_server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store()


@pytest.fixture
def path(server: HubServer, store: Store, tmp_path: Path) -> Path:
    """The file, downloaded, and no request counted yet."""
    destination = LocalFolder(tmp_path / "models")
    fetcher = Fetcher(HfHub(), destination, store, backend=RangeBackend(SETTINGS))
    listing = fetcher.hub.list_files(REPO)
    (done,) = fetcher.fetch(listing, listing.files)
    server.requests.clear()
    return done.path


def mend(path: Path, store: Store) -> RepairResult:
    hub = HfHub(retry_waits_s=(), timeout_s=1)
    listing = hub.list_files(REPO)
    source = Source(REPO, listing.commit, listing.files[0])
    return repair(path, source, hub=hub, store=store, settings=SETTINGS)


def flip(path: Path, *offsets: int) -> None:
    data = bytearray(path.read_bytes())
    for at in offsets:
        data[at] ^= 1
    path.write_bytes(data)


def sent_bytes(server: HubServer) -> int:
    return sum(request.sent_bytes for request in server.body_requests())


def test_only_segments_with_flipped_bytes_are_fetched(
    server: HubServer, store: Store, path: Path, data: bytes
) -> None:
    flip(path, 25_000, 26_000, 100_001)
    found = verify_file(path, store=store)
    assert found.verdict is Verdict.DIFFERENT
    assert found.bad_ranges == ((20_000, 30_000), (100_000, len(data)))
    done = mend(path, store)
    expected = SEGMENT + len(data) - 100_000
    assert (done.fetched_bytes, done.changed_bytes) == (expected, expected)
    assert sent_bytes(server) == expected
    assert path.read_bytes() == data
    assert verify_file(path, store=store).verdict is Verdict.VERIFIED


@pytest.mark.parametrize("change", [-15_000, 1, 5000], ids=["cut", "one more", "longer"])
def test_a_wrong_size_is_mended_too(
    server: HubServer, store: Store, path: Path, data: bytes, change: int
) -> None:
    path.write_bytes(data[:change] if change < 0 else data + b"x" * change)
    done = mend(path, store)
    assert path.read_bytes() == data
    assert done.fetched_bytes == sent_bytes(server) < 3 * SEGMENT


def test_without_kept_hashes_all_is_read_and_only_differences_written(
    server: HubServer, store: Store, path: Path, data: bytes
) -> None:
    for kept in (store.folder / "segments").iterdir():
        kept.unlink()
    flip(path, 25_000)
    assert verify_file(path, store=store).bad_ranges == ()
    done = mend(path, store)
    assert path.read_bytes() == data
    assert sent_bytes(server) == len(data)
    assert 0 < done.changed_bytes <= SEGMENT


def test_what_the_way_damages_is_fetched_once_more(
    server: HubServer, store: Store, path: Path, data: bytes
) -> None:
    flip(path, 25_000)
    server.faults.append(Fault("GET", "*/resolve/*", times=1, flip_at=25_500))
    assert mend(path, store).fetched_bytes == 2 * SEGMENT
    assert path.read_bytes() == data


def test_lasting_damage_on_the_way_is_an_error_and_good_segments_stay(
    server: HubServer, store: Store, path: Path, data: bytes
) -> None:
    flip(path, 25_000)
    server.faults.append(Fault("GET", "*/resolve/*", flip_at=25_500))
    with pytest.raises(HubUnreachableError, match="damaged"):
        mend(path, store)
    assert path.read_bytes()[:20_000] == data[:20_000]
    assert path.read_bytes()[30_000:] == data[30_000:]
    for kept in (store.folder / "segments").iterdir():
        kept.unlink()
    with pytest.raises(ChecksumError, match="could not be repaired"):
        mend(path, store)


def test_huggingface_hub_believes_in_a_repaired_file(
    server: HubServer, store: Store, path: Path, data: bytes
) -> None:
    from huggingface_hub import hf_hub_download

    flip(path, 25_000)
    later = path.stat().st_mtime + 100
    os.utime(path, (later, later))
    mend(path, store)
    server.requests.clear()
    hf_hub_download(REPO, NAME, local_dir=path.parent, endpoint=server.endpoint)
    assert server.body_requests() == []


def test_a_file_under_repair_is_locked(server: HubServer, store: Store, path: Path) -> None:
    from gguf_hub.hub.download.locking import download_lock

    flip(path, 1)
    with (
        download_lock(path.with_name(f".{path.name}.repair.lock"), NAME, path.parent),
        pytest.raises(LockedError, match=str(os.getpid())),
    ):
        mend(path, store)


def test_a_file_that_cannot_be_written_is_told(
    store: Store, server: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot write"):
        mend(tmp_path / "file" / NAME, store)


def test_damage_is_found_by_segments(path: Path, store: Store, data: bytes) -> None:
    hashes = SegmentHashStore(store.folder).find(sha256(data))
    assert hashes is not None
    assert find_damage(path, hashes).bad == []
    path.write_bytes(b"")
    assert find_damage(path, hashes).ranges == [(0, len(data))]


# --- from the command line


def test_verify_names_what_is_wrong_and_repair_fetches_only_that(
    server: HubServer, path: Path, data: bytes, gguf_hub: Run
) -> None:
    flip(path, 25_000)
    code, out, err = gguf_hub("verify", path)
    assert code == 1
    assert "bytes 20,000 to 30,000" in out
    assert f"gguf-hub verify --repair {path}" in err
    code, out, _ = gguf_hub("verify", "--repair", "--json", path)
    (row,) = json.loads(out)["files"]
    assert (code, row["verdict"]) == (0, "verified")
    assert row["bad_ranges"] == [[20_000, 30_000]]
    assert row["repaired"] == {"fetched_bytes": SEGMENT, "changed_bytes": SEGMENT}
    assert path.read_bytes() == data


def test_repair_leaves_a_good_file_alone(server: HubServer, path: Path, gguf_hub: Run) -> None:
    code, out, _ = gguf_hub("verify", "--repair", path)
    assert (code, "repaired" in out) == (0, False)
    assert server.requests == []


def test_a_broken_header_is_repaired_too(
    server: HubServer, path: Path, data: bytes, gguf_hub: Run
) -> None:
    flip(path, 0)
    assert gguf_hub("verify", path)[0] == 1
    code, out, _ = gguf_hub("verify", "--repair", path)
    assert (code, "repaired: " in out) == (0, True)
    assert path.read_bytes() == data


def test_a_file_of_unknown_origin_cannot_be_repaired(
    server: HubServer, path: Path, gguf_hub: Run, store: Store
) -> None:
    store.remove(path)  # the note of the folder knows the hash, not the repository
    flip(path, 25_000)
    code, _, err = gguf_hub("verify", "--repair", path)
    assert code == 1
    assert "its repository is not known" in err


def test_a_hub_that_has_other_bytes_by_now_is_told(
    server: HubServer, path: Path, gguf_hub: Run
) -> None:
    flip(path, 25_000)
    for files in server.repos[REPO].commits.values():
        files[NAME] = b"other"
    code, _, err = gguf_hub("verify", "--repair", path)
    assert code == 1
    assert "has other bytes" in err
