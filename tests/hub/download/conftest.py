"""A hub with one file, somewhere to put it, and what fetches it; tests may have their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import Destination, LocalFolder
from gguf_hub.hub.download.engine import Settings
from gguf_hub.hub.download.fetch import Fetcher
from gguf_hub.hub.download.transfer import RangeBackend
from gguf_hub.hub.store import Store
from tests.hub.download.transfers import BIG, NAME, QUICK, REPO, Make
from tests.hub_server import HubServer
from tests.notes import Notes


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: BIG})
    return hub_server


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def destination(tmp_path: Path) -> Destination:
    return LocalFolder(tmp_path / "models")


@pytest.fixture
def fetcher(server: HubServer, destination: Destination, tmp_path: Path, notes: Notes) -> Make:
    def make(settings: Settings = QUICK, **changes: object) -> Fetcher:
        options: dict[str, object] = {
            "hub": HfHub(retry_waits_s=(0.0,), timeout_s=0.5),
            "destination": destination,
            "store": Store(tmp_path / "record"),
            "progress": notes,
            "backend": RangeBackend(settings),
        }
        return Fetcher(**options | changes)

    return make
