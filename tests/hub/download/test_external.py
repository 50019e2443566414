"""Other people's engines, and how one is chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from gguf_hub.cli.download.download_engine import backend_for
from gguf_hub.errors import HubError, HubUnreachableError, UsageError
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import LocalFolder
from gguf_hub.hub.download.external import HfTransferBackend, XetBackend, has_hf_transfer
from gguf_hub.hub.download.fetch import Fetcher, Status
from gguf_hub.hub.download.link import Source
from gguf_hub.hub.download.transfer import RangeBackend, TransferBackend
from gguf_hub.hub.store import Store
from gguf_hub.progress import SILENT
from tests.hostile import HostileFolder
from tests.hub_server import Fault, HubServer
from tests.noise import noise
from tests.notes import Notes

REPO, NAME = "org/model", "m.bin"
BIG = noise(300_000)
Run = Callable[..., tuple[int, str, str]]

# what hf_transfer does, in twelve lines: one request, no resume
STAND_IN = """
import os, urllib.request
def download(url, filename, headers, callback, **settings):
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request) as answer, open(filename, "wb") as out:
        while chunk := answer.read(100_000):
            out.write(chunk)
            callback(len(chunk))
    with open(filename + ".environment", "w") as file:
        file.write("\\n".join(os.environ))
    with open(filename + ".headers", "w") as file:
        file.write(str(headers))
"""
TRANSFER = HfTransferBackend(2)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a module ``hf_transfer``."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/hf_transfer.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "lib")


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: BIG})
    return hub_server


def fetch(tmp_path: Path, backend: TransferBackend, token: str | None = None) -> Path:
    hub, destination = HfHub(token=token, retry_waits_s=()), LocalFolder(tmp_path / "models")
    one = Fetcher(hub, destination, Store(), Notes(), backend=backend)
    listing = one.hub.list_files(REPO)
    (done,) = one.fetch(listing, listing.files)
    assert done.status is Status.DOWNLOADED
    return done.path


def move(part: Path) -> Path:
    hub = HfHub(token="hf_member", retry_waits_s=())
    listing = hub.list_files(REPO)
    source = Source(REPO, listing.commit, listing.files[0])
    TRANSFER(hub, source, part, progress=SILENT, cancel=threading.Event())
    return part


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("redirect", [False, True], ids=["direct", "redirected"])
def test_a_whole_file_comes_and_is_verified(
    server: HubServer, tmp_path: Path, redirect: bool
) -> None:
    server.redirect = redirect
    assert fetch(tmp_path, TRANSFER).read_bytes() == BIG
    assert len(server.body_requests()) == 1


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("redirect", [False, True], ids=["direct", "redirected"])
def test_the_process_is_never_given_the_token(
    server: HubServer, tmp_path: Path, redirect: bool
) -> None:
    """hf_transfer gives other ports of a host what it was given, whatever the hub says."""
    server.redirect = redirect
    assert fetch(tmp_path, TRANSFER, token="hf_member").read_bytes() == BIG
    tokens = {r.headers.get("authorization") for r in server.body_requests()}
    assert tokens == ({None} if redirect else {"Bearer hf_member"})  # the engine `ranges` had it
    headers = [path.read_text() for path in tmp_path.rglob("*.headers")]
    assert len(headers) == redirect
    assert "hf_member" not in "".join(headers)


@pytest.mark.usefixtures("stand_in")
def test_wrong_bytes_are_refused_whoever_moved_them(server: HubServer, tmp_path: Path) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", flip_at=5))
    with pytest.raises(Exception, match="arrived damaged"):
        fetch(tmp_path, TRANSFER)


@pytest.mark.usefixtures("stand_in")
def test_a_failure_names_the_engine_that_can_go_on(server: HubServer, tmp_path: Path) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", status=500))
    with pytest.raises(HubUnreachableError, match="hf_transfer failed") as caught:
        fetch(tmp_path, TRANSFER)
    assert "--engine ranges" in str(caught.value.hint)


@pytest.mark.usefixtures("stand_in")
def test_a_cancelled_one_ends(server: HubServer, tmp_path: Path) -> None:
    listing = HfHub().list_files(REPO)
    source = Source(REPO, listing.commit, listing.files[0])
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        TRANSFER(HfHub(), source, tmp_path / "part", progress=SILENT, cancel=cancel)


@pytest.mark.slow
@pytest.mark.usefixtures("stand_in")
def test_files_of_the_working_folder_do_not_see_the_token(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of the child has none, and it runs nothing of the working folder."""
    server.redirect = True  # else the hub itself would send the bytes, and `ranges` fetch them
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    hostile = HostileFolder(tmp_path / "models")
    move(tmp_path / "first")  # this process has then imported what it needs
    monkeypatch.chdir(hostile.path)
    monkeypatch.syspath_prepend("")  # as in an interpreter's own prompt
    assert move(Path("second")).read_bytes() == BIG
    assert hostile.executed() == []
    names = {n for path in tmp_path.rglob("*.environment") for n in path.read_text().split()}
    assert "PATH" in names
    assert [name for name in names if "TOKEN" in name] == []


@pytest.mark.usefixtures("stand_in")
def test_a_relative_target_is_that_of_the_working_folder(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    move(Path("part"))
    assert (tmp_path / "part").read_bytes() == BIG


def test_a_child_that_cannot_begin_is_a_failure_of_the_engine(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf_transfer.py").write_text("import os; os._exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HubUnreachableError, match="hf_transfer failed"):
        fetch(tmp_path, TRANSFER)


@pytest.mark.skipif(not has_hf_transfer(), reason="hf_transfer is not installed")
def test_the_real_hf_transfer(server: HubServer, tmp_path: Path) -> None:
    assert fetch(tmp_path, HfTransferBackend.installed(2)).read_bytes() == BIG


def test_a_hub_without_xet_is_told(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="not available through xet"):
        fetch(tmp_path, XetBackend())


# --- which one


def options(**changes: object) -> dict[str, object]:
    plain = {"engine": "auto", "connections": 8, "max_workers": 2, "limit_rate": None}
    return plain | {"is_forced": False} | changes


def test_ranges_are_the_rule_and_files_share_the_connections() -> None:
    alone, shared = backend_for(options(), 1), backend_for(options(), 5)
    assert isinstance(alone, RangeBackend) and isinstance(shared, RangeBackend)
    assert (alone.settings.connections, shared.settings.connections) == (8, 4)


def test_the_variable_of_the_model_card_selects_hf_transfer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_ENABLE_HF_TRANSFER", "1")
    mover = backend_for(options(), 1)
    assert isinstance(mover, HfTransferBackend if has_hf_transfer() else RangeBackend)
    assert isinstance(backend_for(options(engine="ranges"), 1), RangeBackend)
    assert isinstance(backend_for(options(limit_rate=5), 1), RangeBackend)
    said = capsys.readouterr().err
    assert said.count("note: HF_HUB_ENABLE_HF_TRANSFER is set") == 2


@pytest.mark.parametrize("engine", ["xet", "hf-transfer"])
def test_other_engines_know_no_rate(engine: str) -> None:
    with pytest.raises(UsageError, match="not support --limit-rate"):
        backend_for(options(engine=engine, limit_rate=5), 1)
    if engine == "xet":
        assert isinstance(backend_for(options(engine=engine), 1), XetBackend)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit-rate", "fast"], "not a size"),
        (["--limit-rate", "0"], "expected at least one byte"),
        (["--connections", "0"], "connections"),
        (["--engine", "rocket"], "engine"),
        (["--timeout", "0"], "timeout"),
    ],
)
def test_senseless_options_are_usage_errors(
    server: HubServer, gguf_hub: Run, arguments: list[str], words: str
) -> None:
    code, _, err = gguf_hub("download", REPO, NAME, *arguments)
    assert (code, words in err) == (2, True), err


def test_the_options_of_the_engine_work_together(
    server: HubServer, gguf_hub: Run, tmp_path: Path
) -> None:
    line = "--connections 2 --limit-rate 10MB/s --timeout 5 --max-workers 1 --force --engine ranges"
    code, out, _ = gguf_hub("download", REPO, NAME, "--local-dir", tmp_path, *line.split())
    assert (code, Path(out.strip()).read_bytes()) == (0, BIG)
