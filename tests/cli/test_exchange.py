"""What ``gguf-hub download`` fetched, ``hf download`` takes without a byte, and vice versa.

Both run as the commands that people type, in processes of their own; the server counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.paths import default_cache_dir
from tests.hub_server import HubServer
from tests.noise import noise

REPO, NAME = "org/model", "sub/m.Q4_0.gguf"
DATA = noise(300_000)

Download = Callable[..., str]


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.redirect = True
    hub_server.add_repo(REPO, {NAME: DATA, "README.md": b"hi"})
    return hub_server


@pytest.fixture(params=["cache", "local-dir"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The options that name a place, the same for both programs."""
    if request.param == "cache":
        return ["--cache-dir", str(tmp_path / "cache")]
    return ["--local-dir", str(tmp_path / "models")]


def ours(*args: object) -> str:
    return printed_by([sys.executable, "-m", "gguf_hub", "download", "-q", *map(str, args)])


def theirs(*args: object) -> str:
    hf = Path(sys.executable).with_name("hf")
    if not hf.exists():
        pytest.skip("no `hf` beside this Python")
    text = printed_by([str(hf), "download", "--quiet", *map(str, args)])
    return text.removeprefix("path=")


def printed_by(line: list[str]) -> str:
    env = os.environ | {"HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, "README.md"])
@pytest.mark.parametrize(("first", "then"), [(ours, theirs), (theirs, ours)])
def test_the_other_program_fetches_nothing(
    server: HubServer, place: list[str], first: Download, then: Download, name: str
) -> None:
    path = first(REPO, name, *place)
    assert server.body_requests()
    server.requests.clear()
    assert Path(then(REPO, name, *place)).resolve() == Path(path).resolve()
    assert server.body_requests() == []
    assert Path(path).read_bytes() == (DATA if name == NAME else b"hi")


@pytest.mark.slow
def test_a_damaged_file_of_theirs_is_not_taken(server: HubServer, place: list[str]) -> None:
    path = Path(theirs(REPO, NAME, *place))
    path.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert Path(ours(REPO, NAME, *place)).read_bytes() == DATA
    assert server.body_requests()


@pytest.mark.slow
def test_their_cache_fills_a_folder_without_the_network(server: HubServer, tmp_path: Path) -> None:
    theirs(REPO, NAME, "--cache-dir", default_cache_dir())
    server.requests.clear()
    path = Path(ours(REPO, NAME, "--local-dir", tmp_path / "models"))
    assert (path.read_bytes(), server.body_requests()) == (DATA, [])
    # a damaged one there is found out, and not copied
    shutil.rmtree(tmp_path / "models")
    blob = next(default_cache_dir().glob("models--*/blobs/*"))
    blob.chmod(0o644)
    blob.write_bytes(DATA[::-1])
    path = Path(ours(REPO, NAME, "--local-dir", tmp_path / "models"))
    assert path.read_bytes() == DATA
    assert server.body_requests()
