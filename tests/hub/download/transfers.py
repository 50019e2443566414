"""What the tests of the engine share: a file, a quick engine, and ways to look at what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gguf_hub.errors import HubUnreachableError
from gguf_hub.hub.client import HfHub, RemoteFile, RepoListing
from gguf_hub.hub.download.destinations import Destination
from gguf_hub.hub.download.engine import Settings
from gguf_hub.hub.download.fetch import FetchedFile, Fetcher
from tests.hub_server import Fault, HubServer
from tests.noise import noise

REPO, NAME = "org/model", "m.bin"
SEGMENT = 65_536
BIG = noise(20 * SEGMENT - 1000)
QUICK = Settings(waits_s=(0.0, 0.0, 0.0), segment_bytes=SEGMENT)

Make = Callable[..., Fetcher]


def fetch(fetcher: Fetcher, name: str = NAME) -> FetchedFile:
    listing = fetcher.hub.list_files(REPO)
    return fetcher.fetch(listing, [listing.find(name)])[0]


def listed(fetcher: Fetcher) -> tuple[RepoListing, RemoteFile]:
    listing = fetcher.hub.list_files(REPO)
    return listing, listing.files[0]


def part_of(destination: Destination) -> Path:
    listing = HfHub().list_files(REPO)
    return destination.part_of(listing, listing.files[0])


def sent_bytes(server: HubServer) -> int:
    return sum(r.sent_bytes for r in server.body_requests() if r.status in (200, 206))


def stop_after(server: HubServer, fetcher: Make, n: int) -> int:
    """Break a download off after ``n`` requests; return how much came."""
    server.faults += [Fault("GET", "*/resolve/*", times=n), Fault("GET", "*/resolve/*", status=503)]
    with pytest.raises(HubUnreachableError):
        fetch(fetcher(replace(QUICK, connections=1)))
    server.faults.clear()
    came = sent_bytes(server)
    assert 0 < came < len(BIG)
    return came
