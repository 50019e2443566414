"""Files lie where huggingface_hub looks for them, and the other way round."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.fetch import FetchedFile, Fetcher, State, Status
from gguf_hub.hub.download.plan import FileSelector
from gguf_hub.hub.download.refs import Target
from gguf_hub.hub.resolve import Resolver
from gguf_hub.hub.store import Store
from tests.hub_server import HubServer

REPO = "org/model"
NAME = "sub/m.Q4_0.gguf"
DATA = bytes(range(256)) * 100


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: DATA, "README.md": b"hi"})
    return hub_server


def fetcher(destination: Destination, tmp_path: Path) -> Fetcher:
    return Fetcher(HfHub(), destination, Store(tmp_path / "record"))


def fetch(
    destination: Destination, tmp_path: Path, *names: str, revision: str = "main"
) -> list[FetchedFile]:
    getter = fetcher(destination, tmp_path)
    listing = getter.hub.list_files(REPO, revision)
    return getter.fetch(listing, [listing.find(name) for name in names or (NAME,)])


def theirs(server: HubServer, name: str = NAME, **options: object) -> Path:
    """Download with huggingface_hub itself."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(REPO, name, endpoint=server.endpoint, **options))


def never() -> HfHub:
    raise AssertionError("the hub was asked")


def options_of(destination: Destination) -> dict[str, Path]:
    key = "cache_dir" if isinstance(destination, HfCache) else "local_dir"
    return {key: destination.root, "cache_dir": destination.root.parent / "other cache"} | {
        key: destination.root
    }


@pytest.fixture(params=["cache", "folder"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    root = tmp_path / "place"
    return HfCache(root) if request.param == "cache" else LocalFolder(root)


@pytest.mark.parametrize("name", [NAME, "README.md"])
@pytest.mark.parametrize("revision", ["main", "commit"])
def test_huggingface_hub_takes_what_we_put_there(
    server: HubServer, destination: Destination, tmp_path: Path, name: str, revision: str
) -> None:
    (ours,) = fetch(destination, tmp_path, name)
    bodies = len(server.body_requests())
    wanted = server.repos[REPO].refs["main"] if revision == "commit" else "main"
    path = theirs(server, name, revision=wanted, **options_of(destination))
    assert path == ours.path
    assert len(server.body_requests()) == bodies


def test_huggingface_hub_finds_it_without_network(
    server: HubServer, tmp_path: Path, destination: Destination
) -> None:
    (ours,) = fetch(destination, tmp_path)
    server.close()
    options = options_of(destination)
    if isinstance(destination, LocalFolder):
        options["revision"] = server.repos[REPO].refs["main"]
    assert theirs(server, local_files_only=True, **options) == ours.path


def test_we_take_what_huggingface_hub_put_there(
    server: HubServer, destination: Destination, tmp_path: Path
) -> None:
    path = theirs(server, **options_of(destination))
    bodies = len(server.body_requests())
    getter = fetcher(destination, tmp_path)
    listing = getter.hub.list_files(REPO)
    assert getter.plan(listing, [listing.find(NAME)]).files[0].state is State.UNCHECKED
    (ours,) = getter.fetch(listing, [listing.find(NAME)])
    assert (ours.path, ours.status) == (path, Status.CHECKED)
    assert len(server.body_requests()) == bodies


def test_commits_share_the_bytes_in_the_cache(server: HubServer, tmp_path: Path) -> None:
    cache = HfCache(tmp_path / "cache")
    (first,) = fetch(cache, tmp_path)
    server.add_repo(REPO, {NAME: DATA}, revision="v2")
    bodies = len(server.body_requests())
    (second,) = fetch(cache, tmp_path, revision="v2")
    assert first.path != second.path
    assert first.path.samefile(second.path)
    record = Store(tmp_path / "record")
    assert {e.commit for e in record.in_repo(REPO)} == set(server.repos[REPO].commits)
    assert len(server.body_requests()) == bodies
    assert not Path(second.path.readlink()).is_absolute()


def test_a_cache_on_a_system_without_links_holds_the_files_themselves(
    server: HubServer, tmp_path: Path
) -> None:
    def no_links(source: str, name: Path) -> None:
        raise OSError("a required privilege is not held by the client")

    cache = HfCache(tmp_path / "cache", symlink=no_links)
    (first,) = fetch(cache, tmp_path)
    assert not first.path.is_symlink()
    assert first.path.read_bytes() == DATA
    assert fetch(cache, tmp_path)[0].status is Status.PRESENT


def test_a_link_whose_bytes_have_gone_is_made_anew(server: HubServer, tmp_path: Path) -> None:
    cache = HfCache(tmp_path / "cache")
    (first,) = fetch(cache, tmp_path)
    first.path.resolve().unlink()
    (second,) = fetch(cache, tmp_path)
    assert second.path.read_bytes() == DATA


def test_a_branch_that_moved_is_written_down(server: HubServer, tmp_path: Path) -> None:
    cache = HfCache(tmp_path / "cache")
    fetch(cache, tmp_path)
    commit = server.add_repo(REPO, {NAME: DATA + b"new"})
    fetch(cache, tmp_path)
    ref = tmp_path / "cache" / "models--org--model" / "refs" / "main"
    assert ref.read_text() == commit


def test_an_old_link_into_a_cache_is_replaced_not_followed(
    server: HubServer, tmp_path: Path
) -> None:
    """Older clients put links into ``--local-dir``; what they lead to stays as it is."""
    target = tmp_path / "blob"
    target.write_bytes(b"someone else's")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / NAME).symlink_to(target)
    (done,) = fetch(LocalFolder(folder), tmp_path)
    assert (done.path.read_bytes(), done.path.is_symlink()) == (DATA, False)
    assert target.read_bytes() == b"someone else's"


def test_a_read_only_cache_serves_what_it_has(server: HubServer, tmp_path: Path) -> None:
    cache = HfCache(tmp_path / "cache")
    theirs(server, cache_dir=cache.root)
    refs = tmp_path / "cache" / "models--org--model" / "refs"
    (refs / "main").unlink()
    refs.rmdir()
    locks = tmp_path / "cache" / ".locks"
    shutil.rmtree(locks)
    for folder in (refs, locks):
        folder.write_bytes(b"")  # nothing can be written below a file, not even by root
    store = Store(tmp_path / "record")
    resolver = Resolver(store=store, connect=never, custom_destination=cache)
    for is_recorded in (False, True):
        (found,) = resolver.locate(Target(REPO, FileSelector((NAME,))))
        assert found.is_verified is is_recorded
        (path,) = resolver.get(Target(REPO, FileSelector((NAME,))))
        assert path.read_bytes() == DATA
    assert fetch(cache, tmp_path)[0].status is Status.PRESENT


def test_the_folder_keeps_its_bookkeeping_out_of_git(server: HubServer, tmp_path: Path) -> None:
    fetch(LocalFolder(tmp_path / "folder"), tmp_path)
    own = tmp_path / "folder" / ".cache" / "huggingface"
    assert (own / ".gitignore").read_text() == "*"
    commit, etag, stamp = (own / "download" / f"{NAME}.metadata").read_text().split()
    assert commit == server.repos[REPO].refs["main"]
    assert etag == hashlib.sha256(DATA).hexdigest()
    assert float(stamp) >= (tmp_path / "folder" / NAME).stat().st_mtime - 1
