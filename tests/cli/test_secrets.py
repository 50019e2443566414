"""Tokens and signed links: used, and never to be read anywhere afterwards."""

from __future__ import annotations

import base64
import logging
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download import engine
from gguf_hub.hub.download.external import has_hf_transfer
from tests.hub_server import Fault, HubServer
from tests.noise import noise
from tests.synth import TINY, write_mixtral

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
    # it has a level of its own, and writes to what was stderr when it was imported
    caplog.set_level(logging.DEBUG, logger="huggingface_hub")
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [])
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


def found_in_files(folder: Path, secrets: Sequence[str] = SECRETS) -> list[str]:
    """Files, and names of files, that hold a secret: parts, journals, locks, records."""
    found = [str(p) for p in folder.rglob("*") for s in secrets if s in p.name]
    for path in folder.rglob("*"):
        if path.is_file() and stat.S_ISREG(path.stat().st_mode):
            data = path.read_bytes()
            found += [str(path) for secret in secrets if secret.encode() in data]
    return found


PASSWORD, PROXY = "MARKpassword", "MARKproxy"
TROUBLES = {
    "none": [],
    "links refused": [Fault("*", "/cdn/*", status=403)],
    "refused": [Fault("*", "*", status=403, headers={"X-Error-Message": SAID_BACK})],
    "server error": [Fault("*", "*", status=500, body=SAID_BACK.encode())],
    "reset": [Fault("*", "*", drop_after=0)],
    "cut": [Fault("GET", "/cdn/*", drop_after=20_000)],
}
COMMANDS = (
    "list {repo}", "list no/such", "inspect {repo}/m.gguf", "pick {repo} --no-probe --ram 1GB",
    "download {repo} m.gguf --local-dir {folder} --progress json", "download {repo} m.gguf --json",
    "download {link}", "path {repo}/m.gguf", "verify {folder}/m.gguf", "verify {copy}",
    "run {repo}/none.gguf -p x", "run {repo}@other/m.gguf -p x", "doctor", "ls", "gc -y",
)  # fmt: skip


@pytest.fixture
def new_client() -> Iterator[None]:
    """One HTTP client is shared by all: it has the proxy that the environment named first."""
    from huggingface_hub import close_session

    close_session()
    yield
    close_session()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("by", ["token", "password"])
def test_no_command_tells_or_keeps_a_secret(
    server: HubServer, gguf_hub: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, new_client: None, trouble: str, by: str,
) -> None:  # fmt: skip
    """Neither of the hub nor of a proxy, wherever they stand, whatever the servers do."""
    monkeypatch.setattr(engine, "Settings", partial(engine.Settings, waits_s=(0.0,)))
    monkeypatch.setitem(HfHub.__init__.__kwdefaults__, "retry_waits_s", (0.0,))
    caplog.set_level(logging.DEBUG)
    # it has a level of its own, and writes to what was stderr when it was imported
    caplog.set_level(logging.DEBUG, logger="huggingface_hub")
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [])
    monkeypatch.setattr("huggingface_hub.constants.HF_DEBUG", True)
    model = write_mixtral(tmp_path / "copy.gguf", TINY, recipe="F16")
    repo = REPO if by == "token" else "org/open"
    server.add_repo(repo, {"m.gguf": model.read_bytes()}, gated=by == "token")
    # the hub takes whole addresses in requests, so that it can be its own proxy
    monkeypatch.setenv("HTTP_PROXY", server.endpoint.replace("//", f"//user:{PROXY}@"))
    for name in ("http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    if by == "token":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        address = server.endpoint.replace("//", f"//user:{PASSWORD}@")
        monkeypatch.setenv("HF_ENDPOINT", address)
    sent = base64.b64encode(f"user:{PASSWORD}".encode()).decode() if by == "password" else TOKEN
    proxy = base64.b64encode(f"user:{PROXY}".encode()).decode()
    server.faults += [Fault(**vars(fault)) for fault in TROUBLES[trouble]]
    folder = tmp_path / "models"
    secrets = (TOKEN, PASSWORD, PROXY, sent, proxy, "sig=")
    texts = {}
    for line in COMMANDS:
        link = f"http://user:{PASSWORD}@elsewhere.example/{repo}/resolve/main/m.gguf?sig=1"
        words = line.format(repo=repo, folder=folder, copy=model, link=link).split()
        code, out, err = gguf_hub(*words)
        texts[line] = f"{out}\n{err}"
        assert code in (0, 1, 2), err
        assert "Traceback" not in err
    assert any(sent in r.headers.get("authorization", "") for r in server.requests)
    assert any(proxy in r.headers.get("proxy-authorization", "") for r in server.requests)
    assert [(line, s) for line, text in texts.items() for s in secrets if s in text] == []
    assert found_in_files(tmp_path, secrets) == []
    assert [s for s in (*secrets, "Traceback") if s in caplog.text] == []
    assert "HTTP Request: GET" in caplog.text or trouble == "reset"
    assert "Send: curl -X GET" in caplog.text
    if trouble == "none":
        assert (folder / "m.gguf").read_bytes() == model.read_bytes()


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


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HF_DEBUG=1", "HF_HUB_VERBOSITY=debug"])
def test_a_talkative_huggingface_hub_tells_no_secret(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """It reads the environment when it is imported, so in a process of its own."""
    import subprocess
    import sys

    server.add_repo("org/open", {NAME: DATA})
    monkeypatch.setenv(*variable.split("="))
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint.replace("//", f"//user:{PASSWORD}@"))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    line = ["-m", "gguf_hub", "download", "org/open", NAME, "--local-dir", str(tmp_path / "m")]
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Request" in done.stderr
    told = [s for s in (PASSWORD, "sig=", "Traceback", "user:") if s in done.stdout + done.stderr]
    assert told == []
    assert [r.path for r in server.requests if "agent" in r.path] == []
