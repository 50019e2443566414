"""From a model argument to a verified file, as every command that takes one does it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.cli.models import open_hub, pick_file, resolve_model
from gguf_hub.errors import (
    GgufHubError,
    HubUnreachableError,
    ModelNotFoundError,
    RemoteFileNotFoundError,
)
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import HfCache
from gguf_hub.hub.download.fetch import Fetcher
from gguf_hub.hub.hardware import Gpu, Hardware
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.paths import default_cache_dir
from gguf_hub.progress import SILENT
from gguf_hub.units import GB
from tests.hub_server import Fault, HubServer, sha256
from tests.noise import noise

REPO = "TheBloke/Mixtral-8x7B-v0.1-GGUF"
NAME = "mixtral-8x7b-v0.1.Q4_K_M.gguf"
DATA = noise(5000)
SHARDS = {f"BF16/m-BF16-0000{i}-of-00002.gguf": bytes([i]) * 100 for i in (1, 2)}


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: DATA, "mixtral-8x7b-v0.1.Q2_K.gguf": DATA[::-1]})
    hub_server.add_repo("org/sharded", SHARDS)
    return hub_server


def resolve(argument: str | None, **options: object) -> Path:
    return resolve_model(argument, progress=SILENT, **options)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def become(ram_gb: float, *vram_gb: float) -> None:
        gpus = tuple(Gpu("card", 99 * GB, round(each * GB)) for each in vram_gb)
        ram_bytes = round(ram_gb * GB)
        seen = Hardware(ram_bytes, ram_bytes, None, 4, 4, "cpu", gpus, None, ())
        monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda: seen)

    return become


# --- what is here


def test_a_path_is_itself_and_asks_nobody(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"anything")
    monkeypatch.setenv("GGUF_HUB_CATALOG", "a catalog that does not exist")
    assert resolve(str(path)) == path
    assert server.requests == []


def test_a_home_is_found_behind_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HubServer
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(b"anything")
    assert resolve("~/m.gguf") == tmp_path / "m.gguf"


@pytest.mark.parametrize("argument", ["Q4_K_M", f"{REPO}:q4_k_m", f"{REPO}/{NAME}", NAME])
def test_what_was_downloaded_is_found_without_the_hub(server: HubServer, argument: str) -> None:
    first = resolve("Q4_K_M")
    assert first.read_bytes() == DATA
    asked = len(server.requests)
    assert resolve(argument) == first
    assert len(server.requests) == asked


def test_a_file_of_another_client_is_verified_once_without_the_hub(server: HubServer) -> None:
    from huggingface_hub import hf_hub_download

    theirs = hf_hub_download(REPO, NAME, endpoint=server.endpoint, cache_dir=default_cache_dir())
    server.close()
    assert resolve("Q4_K_M") == Path(theirs)
    assert Store().find_verified(Path(theirs)) is not None


def test_a_damaged_file_in_the_cache_is_fetched_again(server: HubServer) -> None:
    from huggingface_hub import hf_hub_download

    theirs = Path(
        hf_hub_download(REPO, NAME, endpoint=server.endpoint, cache_dir=default_cache_dir())
    )
    theirs.write_bytes(DATA[::-1])
    assert resolve("Q4_K_M").read_bytes() == DATA


def test_a_changed_file_is_no_longer_what_was_asked_for(server: HubServer) -> None:
    path = resolve("Q4_K_M")
    path.write_bytes(DATA[:100])
    assert resolve("Q4_K_M").read_bytes() == DATA


def test_the_same_bytes_under_another_name_are_not_copied(
    server: HubServer, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(DATA)
    Store().add(StoredFile.of(mine, sha256(DATA)))
    assert resolve("Q4_K_M") == mine
    assert server.body_requests() == []


def test_a_commit_is_told_from_another(server: HubServer) -> None:
    new = resolve("Q4_K_M")
    commit = server.add_repo(REPO, {NAME: b"old"}, revision="v0")
    old = resolve("Q4_K_M", revision="v0")
    assert (old.read_bytes(), new.read_bytes()) == (b"old", DATA)
    server.close()
    assert resolve("Q4_K_M", revision=commit) == old
    assert resolve(f"{REPO}@{commit}:Q4_K_M") == old


def test_of_a_set_of_shards_the_first_is_returned_and_all_are_there(server: HubServer) -> None:
    first = resolve("org/sharded:BF16")
    assert first.name == "m-BF16-00001-of-00002.gguf"
    second = first.with_name("m-BF16-00002-of-00002.gguf")
    assert second.read_bytes() == SHARDS["BF16/m-BF16-00002-of-00002.gguf"]
    second.unlink()
    assert resolve("org/sharded:BF16") == first
    assert second.is_file()


# --- what is missing


def test_a_download_says_first_what_it_costs(
    server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve("Q4_K_M")
    out, err = capsys.readouterr()
    assert out == ""
    assert "5,000 bytes (5.0 kB) to download" in err
    assert "free there" in err


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("nothing.gguf", ModelNotFoundError),
        ("Q7_K", ModelNotFoundError),
        (f"{REPO}:Q7_K", RemoteFileNotFoundError),
    ],
)
def test_what_does_not_exist_is_an_error(
    server: HubServer, argument: str, error: type[GgufHubError]
) -> None:
    with pytest.raises(error):
        resolve(argument)


def test_without_a_hub_what_is_missing_is_told(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError, match="offline mode"):
        resolve("Q4_K_M")


class Terminal(io.StringIO):
    """Standard input of somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def large(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that lists 2 GB, and the files that were really asked for."""
    row = {"type": "file", "path": NAME, "size": 2 * GB, "oid": "0" * 40}
    row["lfs"] = {"oid": sha256(DATA), "size": 2 * GB, "pointerSize": 134}
    server.faults.append(Fault("GET", "*/tree/*", body=json.dumps([row]).encode()))
    fetched: list[str] = []

    def fetch(self: Fetcher, listing: object, files: list[object]) -> list[object]:
        fetched.append("fetched")
        raise GgufHubError("enough seen")

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    return fetched


@pytest.mark.parametrize(
    ("answer", "is_fetched"), [("y\n", True), ("\n", True), ("n\n", False)], ids=["y", "", "n"]
)
def test_a_large_download_is_asked_about_on_a_terminal(
    large: list[str], monkeypatch: pytest.MonkeyPatch, answer: str, is_fetched: bool
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    with pytest.raises(GgufHubError, match="enough seen" if is_fetched else "nothing was down"):
        resolve("Q4_K_M")
    assert bool(large) is is_fetched


@pytest.mark.parametrize("stdin", [io.StringIO("n\n"), Terminal("n\n")], ids=["script", "--yes"])
def test_scripts_and_yes_are_not_asked(
    large: list[str], monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(GgufHubError, match="enough seen"):
        resolve("Q4_K_M", assume_yes=stdin.isatty())
    assert large


# --- the pick


def test_nothing_named_is_what_fits_the_memory(
    server: HubServer, machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(20)
    assert resolve(None).name == "mixtral-8x7b-v0.1.Q2_K.gguf"
    assert "Q2_K" in capsys.readouterr().err


@pytest.mark.parametrize(("can_offload", "quant"), [(False, "Q2_K"), (True, "Q5_K_M")])
def test_a_graphics_card_counts_only_for_who_can_use_it(
    server: HubServer, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    can_offload: bool, quant: str,
) -> None:  # fmt: skip
    from gguf_hub.hub.catalog import load_catalog

    monkeypatch.setattr("gguf_hub.cli.pick.machines.can_offload", lambda hardware: can_offload)
    machine(20, 80)
    assert pick_file(load_catalog(), is_run_here=True).quant == quant
    assert pick_file(load_catalog(), is_run_here=False).quant == "Q5_K_M"


def test_a_longer_context_can_change_the_pick(
    server: HubServer, machine: Callable[..., None]
) -> None:
    machine(19)
    assert resolve(None).name == "mixtral-8x7b-v0.1.Q2_K.gguf"
    with pytest.raises(GgufHubError, match="Q2_K"):
        resolve(None, n_ctx=32768)


# --- the hub


@pytest.mark.parametrize(
    ("token", "words"), [("hf_member", "can read the token"), (None, "can change files unnoticed")]
)
def test_plain_http_is_warned_of(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    words: str,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    open_hub(token)
    err = capsys.readouterr().err
    assert words in err
    assert "hf_member" not in err


def test_the_cache_of_the_command_line_is_that_of_huggingface_hub(server: HubServer) -> None:
    path = resolve("Q4_K_M")
    fetcher = Fetcher(HfHub(), HfCache(default_cache_dir()), Store())
    listing = fetcher.hub.list_files(REPO)
    assert path == fetcher.destination.path_of(listing, listing.find(NAME))


@pytest.mark.parametrize(
    "argument", ["~nobody-of-that-name/m.gguf", "a" * 5000, "a/" * 3000], ids=ascii
)
@pytest.mark.parametrize(
    "command", ["inspect", "verify", "pick", "run", "path", "rm", "download", "warmup"]
)
def test_a_name_that_no_file_can_have_is_an_error_of_ours(gguf_hub, command, argument) -> None:
    code, _, err = gguf_hub(command, argument)
    assert code in (1, 2)
    assert "model" in err or "repository" in err
    assert "Traceback" not in err
