"""``gguf-hub serve`` from the outside: what is refused first, and a server that comes and goes."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
    assert "hint: choose another one with --port" in err
    assert "no-such-model" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a", "-m", "b"], 2, "MODEL is given twice"),
        (["no-such-model.gguf", "--port", "0"], 1, "no-such-model.gguf"),
        (["x", "--yarn-ext-factor", "nan"], 2, "yarn_ext_factor: expected [0, 1] or -1"),
        (["x", "--chat-template", "chatmll"], 2, "no chat format `chatmll`"),
        (["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1:8080"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_said(gguf_hub: Cli, arguments: list[str], code: int, message: str) -> None:
    found, out, err = gguf_hub("serve", *arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_a_server_answers_until_ctrl_c(data: Path) -> None:
    import httpx

    model = data / "models" / "stories260K.f32.gguf"
    line = [sys.executable, "-m", "gguf_hub", "serve", str(model), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        url = child.stdout.readline().strip()
        try:
            body = {"prompt": "Once", "n_predict": 2}
            answer = httpx.post(f"{url}/completion", json=body, timeout=60)
        finally:
            child.send_signal(signal.SIGINT)
        err = child.stderr.read()
    assert answer.status_code == 200
    assert child.returncode == 0, err
    assert "4 slots of 512 tokens" in err and "stopped" in err


def test_answers_are_sent_without_waiting_for_acknowledgements() -> None:
    from gguf_hub.cli.serving import bound

    found: list[int] = []

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served = writer.get_extra_info("socket")
            found.append(served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bound("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(answer, sock=listener)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
            server.close()

    asyncio.run(main())
    assert found[0] != 0
