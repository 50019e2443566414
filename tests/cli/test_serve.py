"""``gguf-hub serve`` from the outside: what is refused first, and a server that comes and goes."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.cli.serve.serving import rare_collections

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def need() -> None:
    """Skip where the server's packages are not installed."""
    for package in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed")


def test_an_address_in_use_is_said_before_the_model_is_looked_for(gguf_hub: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = gguf_hub("serve", "no-such-model.gguf", "--port", port)
    assert (code, out) == (1, "")
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in err
    assert "hint: choose another address with --port" in err
    assert "no-such-model" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a", "-m", "b"], 2, "MODEL is given twice"),
        (["no-such-model.gguf", "--port", "0"], 1, "no-such-model.gguf"),
        (["x", "--yarn-ext-factor", "nan"], 2, "yarn_ext_factor: expected [0, 1] or -1"),
        (["x", "--chat-template", "chatmll"], 2, "no chat format `chatmll`"),
        (["x", "--top-p", "1.5"], 2, "top_p: expected [0, 1], found 1.5"),
        (["x", "--samplers", "top_q"], 2, "samplers: no step"),
        (["x", "-ctk", "q4_0"], 2, "`q4_0`: expected f32, f16 or q8_0"),
        (["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1:8080"),
        (["x", "--api-key", ""], 2, "`--api-key`: the key is empty"),
        (
            ["x", "--api-key", "a b"],
            2,
            "`--api-key`: the key contains whitespace or a control character",
        ),
        (["x", "--api-key-file", "no-such-file"], 2, "cannot be read: no such file"),
        (["x", "--allowed-host", "http://x"], 2, "host `http://x`: expected a host name"),
        (["x", "--max-connections", "99999999999"], 2, "limits a process to"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_said(gguf_hub: Cli, arguments: list[str], code: int, message: str) -> None:
    found, out, err = gguf_hub("serve", *arguments)
    assert (found, out) == (code, "")
    assert message in err


@pytest.mark.parametrize("value", ["", " ", "one key"])
def test_a_wrong_key_of_the_environment_is_said(
    gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GGUF_HUB_API_KEY", value)
    code, out, err = gguf_hub("serve", "no-such-model.gguf", "--port", 0)
    assert (code, out) == (2, "")
    assert "`GGUF_HUB_API_KEY`: " in err
    assert "one key" not in err


@pytest.mark.slow
def test_a_server_of_this_machine_is_closed_to_others_pages_and_stops_whoever_hangs(
    embedded: Path,
) -> None:
    import httpx

    line = [sys.executable, "-m", "gguf_hub", "serve", str(embedded), "--port", "0",
            "--allowed-host", "box.example", "--context-shift"]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        url = child.stdout.readline().strip()
        try:
            hosts = {name: httpx.get(f"{url}/health", headers={"Host": name}).status_code
                     for name in ("localhost:1", "box.example", "evil.example")}  # fmt: skip
            body = {"prompt": "Once", "n_predict": 400, "ignore_eos": True, "stream": True}
            foreign = {"Origin": "https://evil.example"}
            refused = httpx.post(f"{url}/completion", json=body, headers=foreign)
            address = ("127.0.0.1", int(url.rpartition(":")[2]))
            half = [socket.create_connection(address) for _ in range(20)]
            for client, data in zip(half, [HALF_HEAD, HALF_BODY] * 10, strict=True):
                client.sendall(data)
            with httpx.stream("POST", f"{url}/completion", json=body) as reply:
                next(reply.iter_lines())
                child.send_signal(signal.SIGTERM)
                child.wait(30)
            for client in half:
                client.close()
        finally:
            child.kill()
        err = child.stderr.read()
    assert hosts == {"localhost:1": 200, "box.example": 200, "evil.example": 421}
    assert refused.status_code == 403
    assert "Traceback" not in err


HALF_HEAD = b"POST /completion HTTP/1.1\r\nHost: localhost\r\nX-"
HALF_BODY = (
    b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{"
)


SETTINGS = ["-ctk", "q8_0", "-ctv", "q8_0", "--no-mmap", "--mlock-dense", "-n", "6", "--seed", "3",
            "--temp", "1.5", "--top-k", "9", "-fa", "on"]  # fmt: skip


@pytest.mark.slow
def test_a_server_answers_with_the_settings_of_its_flags_until_ctrl_c(
    data: Path, gguf_hub: Cli
) -> None:
    import httpx

    model = data / "models" / "stories260K.f32.gguf"
    line = [sys.executable, "-m", "gguf_hub", "serve", str(model), "--port", "0", *SETTINGS]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        url = child.stdout.readline().strip()
        try:
            answer = httpx.post(f"{url}/completion", json={"prompt": "Once"}, timeout=60)
        finally:
            child.send_signal(signal.SIGINT)
        err = child.stderr.read()
    assert answer.status_code == 200
    assert child.returncode == 0, err
    assert "4 slots of 512 tokens" in err and "stopped" in err
    code, out, _ = gguf_hub("run", model, "-p", "Once", "-n", 6, "--no-display-prompt", *SETTINGS)
    assert (code, out) == (0, answer.json()["content"] + "\n")


def test_answers_are_sent_without_waiting_for_acknowledgements() -> None:
    from gguf_hub.cli.serve.serving import bind

    found: list[int] = []

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served = writer.get_extra_info("socket")
            found.append(served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(answer, sock=listener)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
            server.close()

    asyncio.run(main())
    assert found[0] != 0


@pytest.mark.parametrize(
    ("keys", "values", "counted"),
    [
        ("q8_0", "q8_0", "q8_0"),
        ("q8_0", "f16", "f16"),
        ("f16", "f32", "f32"),
        ("f32", "q8_0", "f32"),
    ],
)
def test_the_larger_type_of_a_cache_is_counted_for_several_models(
    keys: str, values: str, counted: str
) -> None:
    from gguf_hub.cli.serve.routing import _opening

    names = ("n_ctx", "ctx_size", "parallel", "mmap", "mlock", "gpu_layers")
    options = dict.fromkeys(names, 1) | {"cache_type_k": keys, "cache_type_v": values}
    assert _opening(options).kv_type == counted


def test_collections_of_garbage_are_rare_while_serving_and_as_before_after() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), rare_collections():
        assert gc.get_freeze_count() > 10_000  # what is imported
        assert gc.get_threshold()[0] > before[0]
        raise ZeroDivisionError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
