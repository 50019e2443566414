"""A hub that says no, or lies about a file: no space is taken, and nothing is left or harmed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.errors import GatedRepoError, HubError
from gguf_hub.hub.download.destinations import Destination
from tests.hub.download.transfers import BIG, NAME, REPO, Make, fetch, part_of, stop_after
from tests.hub_server import Fault, HubServer

Run = Callable[..., tuple[int, str, str]]


def left(folder: Path) -> dict[str, int]:
    """Files with something in them, or with space set aside: name -> bytes on the disk."""
    sizes = {path.name: path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()}
    return {name: size for name, size in sizes.items() if size > 4096 or "part" in name}


def test_a_gated_file_takes_no_space(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    server.repos[REPO].gated = True
    with pytest.raises(GatedRepoError):
        fetch(fetcher())
    assert left(destination.root) == {}
    assert server.body_requests() == []


def test_access_is_asked_for_before_space(server: HubServer, fetcher: Make) -> None:
    """A file that no disk can hold, and that we may not have: the hub's answer comes first."""
    entry = {"type": "file", "path": NAME, "size": 2**60, "oid": "0" * 40}
    server.faults.append(Fault("GET", "*/tree/*", body=json.dumps([entry]).encode()))
    server.repos[REPO].gated = True
    with pytest.raises(GatedRepoError):
        fetch(fetcher(is_forced=True))


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500])
def test_a_file_that_is_refused_after_all_leaves_nothing(
    server: HubServer, fetcher: Make, destination: Destination, status: int
) -> None:
    """The hub tells where the file is, and then does not give it."""
    server.faults.append(Fault("GET", "*/resolve/*", status=status))
    with pytest.raises(HubError):
        fetch(fetcher())
    assert left(destination.root) == {}


def test_a_refusal_keeps_what_an_earlier_run_brought(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    stop_after(server, fetcher, 5)
    assert part_of(destination).exists()
    for method in ("HEAD", "GET"):
        server.faults.append(Fault(method, "*/resolve/*", status=410))
        with pytest.raises(HubError):
            fetch(fetcher())
        server.faults.clear()
    server.requests.clear()
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert sum(r.sent_bytes for r in server.body_requests()) < len(BIG)


@pytest.mark.parametrize(
    "etag", ['"../../EVIL"', '""', 'W/"x"', '"' + "a" * 5000 + '"', '"' + "A" * 64 + '"', None]
)
def test_an_etag_that_is_no_hash_names_nothing(
    server: HubServer, fetcher: Make, destination: Destination, etag: str | None
) -> None:
    """What a file is, is told by the listing and by its bytes."""
    server.faults.append(Fault("HEAD", "*/resolve/*", headers={"ETag": etag}))
    assert fetch(fetcher()).path.read_bytes() == BIG
    assert not list(destination.root.parent.rglob("*EVIL*"))


@pytest.mark.parametrize("size", ["-1", "9" * 30, "²", "1.5", "NaN", "", "12 12"])
def test_a_size_that_is_none_is_no_size(server: HubServer, fetcher: Make, size: str) -> None:
    headers = {"X-Linked-Size": size.encode().decode("latin-1")}
    server.faults.append(Fault("HEAD", "*/resolve/*", headers=headers))
    assert fetch(fetcher()).path.read_bytes() == BIG


PLANTED = {
    "hooks": {"sub/.git/config": b"[core]", "sub/.git/HEAD": b"ref: x"},
    "a bare repository": {"HEAD": b"ref: x", "objects/x": b"", "refs/x": b"", "config": b"[core]"},
    "settings of another system": {"a/.hg/hgrc": b"[hooks]"},
    "names that are one": {"a.txt": b"1", "A.txt": b"2"},
    "a name that is too long": {"a" * 300: b"1"},
}


@pytest.mark.parametrize("files", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("to", ["folder", "cache"])
def test_files_that_would_do_harm_are_not_put_anywhere(
    server: HubServer, gguf_hub: Run, tmp_path: Path, files: dict[str, bytes], to: str
) -> None:
    server.add_repo("org/evil", {"README.md": b"hi", **files})
    options = (
        ["--local-dir", tmp_path / "out"] if to == "folder" else ["--cache-dir", tmp_path / "out"]
    )
    code, _, err = gguf_hub("download", "org/evil", "--include", "*", *options)
    assert (code, "org/evil` lists" in err) == (1, True), err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert server.body_requests() == []
    assert gguf_hub("download", REPO, NAME, *options)[0] == 0
