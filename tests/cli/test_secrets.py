"""Tokens and signed links: used, and never to be read anywhere afterwards."""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download import engine
from gguf_hub.hub.download.external import has_hf_transfer
from tests.hub_server import Fault, HubServer
from tests.noise import noise

REPO, NAME = "org/gated", "m.bin"
DATA = noise(3_000_000)
TOKEN = "hf_member"
SECRETS = (TOKEN, "sig=")
SAID_BACK = "{authorization}"  # a hub that tells in its answer what it was sent

Run = Callable[..., tuple[int, str, str]]

WAYS = {
    "all is well": (0, []),
    "json": (0, [], "--json"),
    "events": (0, [], "--progress", "json"),
    "hf-transfer": (0, [], "--engine", "hf-transfer"),
    "xet": (1, [], "--engine", "xet"),
    "dry run": (0, [], "--dry-run"),
    "links expire": (1, [Fault("GET", "/cdn/*", status=403)]),
    "events and links expire": (1, [Fault("GET", "/cdn/*", status=403)], "--progress", "json"),
    "no such link": (1, [Fault("GET", "/cdn/*", status=404)]),
    "cut": (0, [Fault("GET", "/cdn/*", times=3, drop_after=10_000)]),
    "damaged": (1, [Fault("GET", "/cdn/*", flip_at=5)]),
    "no hub": (1, [Fault("*", "/api/*", body=b"<html>")]),
    "token refused": (1, [Fault("*", "/api/*", status=401)]),
    "not a member": (1, [Fault("HEAD", "*/resolve/*", status=403)]),
    "circles": (1, [Fault("HEAD", "*", status=302, headers={"Location": f"/{REPO}/resolve/x/y"})]),
    "elsewhere": (
        1, [Fault("HEAD", "*", status=302, headers={"Location": "https://127.0.0.1:9/x?sig=1"})]),
    "a link that is none": (
        1, [Fault("HEAD", "*", status=302, headers={"Location": "http://[::1/?sig=1"})]),
    "said back": (1, [Fault("GET", "/api/*", status=400, headers={"X-Error-Message": SAID_BACK})]),
    "said back in broken HTTP": (
        1, [Fault("HEAD", "*/resolve/*", headers={f"a {SAID_BACK}": "x"})]),
    "said back as a commit": (
        1, [Fault("GET", "/api/*", body=b'{"sha": "%s"}' % SAID_BACK.encode())]),
    "the next page elsewhere": (
        1, [Fault("GET", "*/tree/*", headers={"Link": '<http://127.0.0.1:9/>; rel="next"'})]),
    "replaced": (1, [Fault("HEAD", "*", headers={"X-Linked-Size": "5"})]),
}  # fmt: skip


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.redirect = True
    hub_server.add_repo(REPO, {NAME: DATA}, gated=True)
    return hub_server


@pytest.mark.parametrize(
    ("way", "by"),
    [*((way, "option") for way in WAYS), ("all is well", "variable"), ("hf-transfer", "variable")],
)
def test_no_secret_is_told_or_kept(
    server: HubServer,
    gguf_hub: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way: str,
    by: str,
) -> None:
    monkeypatch.setattr(engine, "Settings", partial(engine.Settings, waits_s=(0.0,)))
    monkeypatch.setitem(HfHub.__init__.__kwdefaults__, "retry_waits_s", ())
    caplog.set_level(logging.DEBUG)
    if way == "hf-transfer" and not has_hf_transfer():
        pytest.skip("hf_transfer is not installed")
    expected, faults, *options = WAYS[way]
    server.faults += [Fault(**vars(fault)) for fault in faults]
    if by == "option":
        options += ["--token", TOKEN]
    else:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, out, err = gguf_hub("download", REPO, NAME, "--local-dir", tmp_path / "m", *options)
    assert code == expected, err
    if way not in ("no hub", "token refused"):
        assert any(TOKEN in r.headers.get("authorization", "") for r in server.requests)
    told = {"stdout": out, "stderr": err}
    assert [(w, s) for w, text in told.items() for s in SECRETS if s in text] == []
    if "said back" not in way:  # the client's own logger tells, at the level of debug, what came
        assert TOKEN not in caplog.text
    assert found_in_files(tmp_path) == []
    foreign = [r for r in server.requests if r.origin != server.endpoint]
    assert [r for r in foreign if "authorization" in r.headers] == []


def found_in_files(folder: Path) -> list[str]:
    """Files, and names of files, that hold a secret: parts, journals, locks, records."""
    found = [str(p) for p in folder.rglob("*") for s in SECRETS if s in p.name]
    for path in folder.rglob("*"):
        if path.is_file() and stat.S_ISREG(path.stat().st_mode):
            data = path.read_bytes()
            found += [str(path) for secret in SECRETS if secret.encode() in data]
    return found


def test_a_killed_download_leaves_no_secret(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys
    import time

    server.faults.append(Fault("GET", "/cdn/*", bytes_per_s=2e5))
    line = [sys.executable, "-m", "gguf_hub", "download", REPO, NAME, "--token", TOKEN]
    with subprocess.Popen([*line, "--local-dir", str(tmp_path / "m")]) as child:
        until = time.monotonic() + 30
        while not list(tmp_path.rglob("*.journal")) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.3)
        child.kill()
    assert list(tmp_path.rglob("*.journal"))
    assert found_in_files(tmp_path) == []


def test_a_repair_leaves_no_secret(server: HubServer, gguf_hub: Run, tmp_path: Path) -> None:
    assert gguf_hub("download", REPO, NAME, "--token", TOKEN, "--local-dir", tmp_path)[0] == 0
    with (tmp_path / NAME).open("r+b") as file:
        file.write(b"?")
    _, out, err = gguf_hub("verify", "--repair", tmp_path / NAME, "--token", TOKEN)
    assert [s for s in SECRETS if s in out + err] == []
    assert found_in_files(tmp_path) == []
