"""``gguf-hub doctor``: tells what is there, names what is wrong, never shows a token."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.hub.hardware import Gpu, detect
from gguf_hub.run.gpu.adapters import GpuReport, judge
from gguf_hub.run.gpu.device import AdapterInfo
from gguf_hub.run.kernels.build.cpu import ISAS
from gguf_hub.units import GB
from tests.hub_server import Fault, HubServer


class _Answer(BaseHTTPRequestHandler):
    """A hub without models."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def no_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU: to ask drivers takes a child and a second (tests/run/gpu/test_adapters.py does)."""
    monkeypatch.setattr("gguf_hub.run.gpu.adapters.find_gpus", lambda is_fresh: judge([]))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that answers, as HF_ENDPOINT; returns its address."""
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    yield endpoint
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody answers, as HF_ENDPOINT."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")


def examined(gguf_hub, *args: object) -> tuple[int, dict[str, Any]]:
    """Exit code and data of ``gguf-hub doctor --json``."""
    code, out, _ = gguf_hub("doctor", "--json", *args)
    return code, json.loads(out)


def test_sound_machine_has_no_problems(gguf_hub, hub: str) -> None:
    code, data = examined(gguf_hub)
    assert (code, data["problems"]) == (0, [])
    assert data["hub"] == {
        "endpoint": hub, "is_offline": False, "problem": None, "has_token": False
    }  # fmt: skip
    assert data["catalog"]["n_files"] == 8
    assert data["cpu"]["isa"] in ISAS
    assert data["cpu"]["n_threads"] >= 1
    assert data["memory"]["ram_available_bytes"] > 0
    assert data["versions"]["huggingface_hub"].split(".")[0] >= "2"


def test_people_read_the_same(gguf_hub, hub: str) -> None:
    code, out, err = gguf_hub("doctor")
    assert code == 0
    for title in ("versions", "processor", "memory", "GPU", "folders", "hub", "catalog"):
        assert title in out.splitlines()
    assert f"  endpoint          {hub}" in out
    assert "no problems found" in err


def test_silent_hub_is_a_problem(gguf_hub, nobody: None) -> None:
    code, out, err = gguf_hub("doctor")
    assert code == 1
    assert "no answer, see below" in out
    assert "error: hub: " in err


@pytest.mark.slow
def test_a_server_that_is_no_hub_is_a_problem(
    gguf_hub, hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examined(gguf_hub)[0] == 0
    for answer, words in {
        "404": f"`{hub_server.endpoint}/wrong` answers 404; check HF_ENDPOINT: its path `/wrong`",
        "407": "the proxy needs a user name and password",
        "login": "does not answer as a Hugging Face hub does: its answer is not JSON; check",
        "401": "refuses the token, or needs one (401)",
    }.items():
        path = "/wrong" if answer == "404" else ""
        monkeypatch.setenv("HF_ENDPOINT", hub_server.endpoint + path)
        status = int(answer) if answer.isdecimal() else None
        hub_server.faults[:] = [Fault("*", "*", status=status, body=b"<html>")]
        code, data = examined(gguf_hub)
        assert (code, [words in problem for problem in data["problems"]]) == (1, [True]), data


@pytest.mark.slow
def test_an_empty_number_of_seconds_is_none(
    gguf_hub, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "")
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", " ")
    assert examined(gguf_hub)[0] == 0


def test_a_token_that_is_not_sent_is_noted(
    gguf_hub, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.replace("//", "//me:word@"))
    monkeypatch.setenv("HF_TOKEN", "hf_averysecretword")
    code, data = examined(gguf_hub)
    assert (code, data["problems"]) == (0, [])
    assert [note for note in data["notes"] if "sent instead of the token" in note]


@pytest.mark.slow
def test_wanted_silence_is_none(gguf_hub, nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, data = examined(gguf_hub)
    assert (code, data["hub"]["is_offline"]) == (0, True)
    assert "offline (HF_HUB_OFFLINE)" in gguf_hub("doctor")[1]


@pytest.mark.slow
def test_token_is_told_and_never_shown(gguf_hub, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_averysecretword")
    code, out, err = gguf_hub("doctor")
    as_json = gguf_hub("doctor", "--json")
    assert code == 0
    assert "token             present" in out
    assert "secretword" not in f"{out}{err}{as_json}"


@pytest.fixture
def new_client() -> Iterator[None]:
    """Have the HTTP client made from the environment of the test, and not kept after it."""
    from huggingface_hub.utils import close_session

    close_session()
    yield
    close_session()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HF_HUB_DOWNLOAD_TIMEOUT", "10s", "'10s': expected a whole number of seconds"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "0", "'0': expected a whole number of seconds"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "nan", "expected a whole number of seconds"),
        ("HF_HUB_ETAG_TIMEOUT", "abc", "'abc': expected a whole number of seconds"),
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:9", "names a SOCKS proxy"),
        ("https_proxy", "foo://user:secret@127.0.0.1:9", "is not the address of a proxy"),
        ("HTTP_PROXY", "http://user:secret@[::1", "is not the address of a proxy"),
        ("HTTP_PROXY", "secret bar", "is not the address of a proxy"),
        ("http_proxy", "http://secret:99999", "is not the address of a proxy"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "cannot be used: no such file"),
        ("SSL_CERT_FILE", __file__, "cannot be used: no certificates in it"),
        ("HF_ENDPOINT", "https://user:secret@[::1", "is not the address of a hub"),
        ("HF_TOKEN", "hf_secret\nx", "is not usable"),
    ],
)
def test_what_the_environment_has_wrong_is_named(
    gguf_hub, hub: str, new_client: None, monkeypatch: pytest.MonkeyPatch,
    variable: str, value: str, words: str,
) -> None:  # fmt: skip
    """By the name of the variable, in `doctor` and wherever the hub is asked."""
    if variable == "ALL_PROXY" and find_spec("socksio"):
        pytest.skip("socksio is installed: SOCKS proxies work")
    monkeypatch.setenv(variable, value)
    code, data = examined(gguf_hub)
    assert code == 1
    assert [words in problem and variable in problem for problem in data["problems"]] == [True]
    assert (variable in data["hub"]["problem"], data["hub"]["is_offline"]) == (True, False)
    asked = [gguf_hub(name, "org/name") for name in ("list", "inspect", "pick", "download")]
    assert [code for code, _, _ in asked] == [2] * len(asked)
    told = f"{data} {gguf_hub('doctor')} {asked}"
    assert told.count(words) >= 3 + len(asked)
    assert "secret" not in told


@pytest.mark.slow
def test_unsound_catalog_is_a_problem(gguf_hub, hub: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("[]")
    code, data = examined(gguf_hub, "--catalog", path)
    assert code == 1
    assert "expected a mapping" in data["problems"][0]
    assert data["catalog"] == {"path": str(path), "repo_id": None, "n_files": 0}
    assert "invalid, see below" in gguf_hub("doctor", "--catalog", path)[1]


@pytest.mark.slow
def test_folder_that_cannot_be_written_is_a_problem(
    gguf_hub, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GGUF_HUB_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.delenv("GGUF_HUB_KERNEL_CACHE")
    code, data = examined(gguf_hub)
    assert code == 1
    assert data["problems"] == [
        f"the folder for records is not writable: {tmp_path / 'file/home/data'}"
    ]
    assert "compiled kernels are not kept beyond this session" in data["notes"][0]
    assert "(not writable)" in gguf_hub("doctor")[1]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_even_root_cannot_write_is_a_problem(
    gguf_hub, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/proc/nope")
    code, data = examined(gguf_hub)
    assert code == 1
    assert data["problems"] == ["the folder for models is not writable: /proc/nope/hub"]


@pytest.mark.slow
def test_instruction_set_that_this_cpu_lacks_is_a_problem(
    gguf_hub, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGUF_HUB_ISA", "mmx")
    code, data = examined(gguf_hub)
    assert (code, data["cpu"]["isa"]) == (1, None)
    assert "GGUF_HUB_ISA is `mmx`" in data["problems"][0]
    assert "none, see below" in gguf_hub("doctor")[1]


def test_nothing_is_written(gguf_hub, hub: str, tmp_path: Path) -> None:
    gguf_hub("doctor")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


CARD = AdapterInfo("RTX 4090", "Vulkan", "DiscreteGPU", "550.54", 0x10DE, 1, 2**31, 2**40)
LLVMPIPE = AdapterInfo("llvmpipe", "Vulkan", "CPU", "Mesa 22", 0, 0, 2**27, 2**31)


def test_gpus_are_listed_with_what_is_used(gguf_hub, hub: str, monkeypatch) -> None:
    gpus = (Gpu("RTX 4090", 24 * GB, 22 * GB, vendor_id=0x10DE),)
    seen = replace(detect(), gpus=gpus)
    monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda target: seen)
    monkeypatch.setattr(
        "gguf_hub.run.gpu.adapters.find_gpus", lambda is_fresh: judge([LLVMPIPE, CARD])
    )
    code, data = examined(gguf_hub)
    assert (code, data["gpu_backend"]["problem"]) == (0, None)
    software, card = data["gpu_backend"]["adapters"]
    assert (software["index"], software["is_used"], card["index"]) == (0, False, 1)
    assert "software" in software["problem"]
    assert (card["is_used"], card["free_bytes"], card["driver"]) == (True, 22 * GB, "550.54")
    out = gguf_hub("doctor")[1]
    assert "  device 0          llvmpipe: Vulkan, Mesa 22; not used: software" in out
    assert "  device 1          RTX 4090: Vulkan, 550.54; 22.00 GB free" in out
    assert "  used by default   device 1" in out


def test_what_pick_measured_of_a_gpu_is_shown(gguf_hub, hub: str, monkeypatch) -> None:
    from gguf_hub.run.gpu import probe

    gpus = (Gpu("RTX 4090", 24 * GB, 22 * GB, vendor_id=0x10DE),)
    seen = replace(detect(), gpus=gpus)
    monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda target: seen)
    monkeypatch.setattr("gguf_hub.run.gpu.adapters.find_gpus", lambda is_fresh: judge([CARD]))
    monkeypatch.setattr(probe, "_ask", lambda adapter: 450e9)
    assert examined(gguf_hub)[1]["gpu_backend"]["adapters"][0]["weights_bytes_per_s"] is None
    assert "free; weights are read at: not measured (`gguf-hub pick` does)" in gguf_hub("doctor")[1]
    probe.probe_bandwidth(judge([CARD]).adapters[0])
    assert examined(gguf_hub)[1]["gpu_backend"]["adapters"][0]["weights_bytes_per_s"] == 450e9
    assert "22.00 GB free; weights are read at: 450.0 GB/s" in gguf_hub("doctor")[1]


def test_no_gpu_is_no_problem_but_explained(gguf_hub, hub: str, monkeypatch) -> None:
    report = GpuReport(problem="the extra `gpu` is not installed", hint="`pip install it`")
    monkeypatch.setattr("gguf_hub.run.gpu.adapters.find_gpus", lambda is_fresh: report)
    code, data = examined(gguf_hub)
    assert (code, data["problems"]) == (0, [])
    assert data["gpu_backend"]["adapters"] == []
    out = gguf_hub("doctor")[1]
    assert "  used              none: the extra `gpu` is not installed" in out
    assert "  hint              `pip install it`" in out
