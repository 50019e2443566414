"""Whatever a hub lists and whatever lies in the destination: nothing is written outside of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gguf_hub.errors import DownloadError, HubError
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.fetch import Fetcher
from gguf_hub.hub.download.plan import FileSelector, select
from gguf_hub.hub.store import Store
from tests.hub.download.transfers import REPO
from tests.hub_server import Fault, HubServer, sha256

NAME = "sub/m.bin"
DATA = b"data" * 1000


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: DATA})
    return hub_server


@pytest.fixture(params=["cache", "folder"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    root = tmp_path / "place"
    return HfCache(root) if request.param == "cache" else LocalFolder(root)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that must stay empty."""
    folder = tmp_path / "outside"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def fetcher(destination: Destination, tmp_path: Path) -> Fetcher:
    return Fetcher(HfHub(retry_waits_s=()), destination, Store(tmp_path / "record"))


@pytest.mark.parametrize(
    "name",
    ["../m.bin", "../../outside/m.bin", "/tmp/m.bin", "C:/m.bin", "c:m.bin", "..\\m.bin", "NUL",
     "a/../../m.bin", "\0", "m\0.bin", "sub/con.bin", ".cache/huggingface/download/m.bin.metadata",
     ".git/hooks/post-checkout", "sub /m.bin"],
)  # fmt: skip
def test_a_listing_cannot_name_what_is_outside(
    server: HubServer, tmp_path: Path, outside: Path, destination: Destination, name: str
) -> None:
    """The hub itself is hostile: the answer is as it stands on the wire."""
    entry = {"type": "file", "path": name, "size": len(DATA), "oid": "0" * 40}
    entry["lfs"] = {"oid": sha256(DATA), "size": len(DATA), "pointerSize": 134}
    server.faults.append(Fault("GET", "*/tree/*", body=json.dumps([entry]).encode()))
    listing = fetcher(destination, tmp_path).hub.list_files(REPO)
    for wanted in (FileSelector(include=("*",)), FileSelector(filenames=(name,))):
        with pytest.raises(HubError, match="refused"):
            select(listing, wanted)
    assert server.body_requests() == []
    assert not destination.root.exists()


def test_a_folder_that_leads_out_is_refused(
    server: HubServer, destination: Destination, tmp_path: Path, outside: Path
) -> None:
    getter = fetcher(destination, tmp_path)
    listing = getter.hub.list_files(REPO)
    link = destination.path_of(listing, listing.files[0]).parent
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    for go in (getter.plan, getter.fetch):
        with pytest.raises(DownloadError, match="leads out") as caught:
            go(listing, listing.files)
    assert "--local-dir" in str(caught.value.hint)
    assert server.body_requests() == []


def test_a_folder_of_notes_that_leads_out_is_refused(
    server: HubServer, tmp_path: Path, outside: Path
) -> None:
    destination = LocalFolder(tmp_path / "place")
    link = tmp_path / "place" / ".cache" / "huggingface" / "download" / "sub"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    getter = fetcher(destination, tmp_path)
    listing = getter.hub.list_files(REPO)
    with pytest.raises(DownloadError, match="leads out"):
        getter.fetch(listing, listing.files)


def test_a_name_of_a_revision_that_leads_out_is_refused(
    server: HubServer, tmp_path: Path, outside: Path
) -> None:
    cache = HfCache(tmp_path / "cache")
    server.add_repo(REPO, {NAME: DATA}, revision="pr/1")
    link = cache.root / "models--org--model" / "refs" / "pr"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    getter = fetcher(cache, tmp_path)
    listing = getter.hub.list_files(REPO, "pr/1")
    with pytest.raises(DownloadError, match="leads out"):
        getter.fetch(listing, listing.files)


def test_a_part_that_is_a_link_is_not_written_through(
    server: HubServer, destination: Destination, tmp_path: Path, outside: Path
) -> None:
    getter = fetcher(destination, tmp_path)
    listing = getter.hub.list_files(REPO)
    part = destination.part_of(listing, listing.files[0])
    part.parent.mkdir(parents=True)
    part.symlink_to(outside / "m.bin")
    with pytest.raises(DownloadError, match="cannot write"):
        getter.fetch(listing, listing.files)


def test_a_destination_may_be_a_link_itself(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    getter = fetcher(LocalFolder(tmp_path / "models"), tmp_path)
    listing = getter.hub.list_files(REPO)
    (done,) = getter.fetch(listing, listing.files)
    assert (tmp_path / "disk" / NAME).read_bytes() == done.path.read_bytes() == DATA
