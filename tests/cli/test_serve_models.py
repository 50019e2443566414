"""``gguf-hub serve`` with several models: real processes, from the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

MODELS = ("stories260K.f32", "stories260K.q8_0")
SETTINGS = ["-c", "256", "-np", "2", "-t", "1", "--temp", "0", "--seed", "1"]


class Program:
    """``gguf-hub serve`` in a process."""

    def __init__(self, *arguments: object) -> None:
        import httpx

        pipe = subprocess.PIPE
        line = [sys.executable, "-m", "gguf_hub", "serve", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        self.http = httpx.Client(base_url=url, timeout=120)
        self.http.headers["Authorization"] = "Bearer secret"

    def children(self) -> list[psutil.Process]:
        """Return its processes of models."""
        return psutil.Process(self.process.pid).children()

    def text(self, model: str, **body: Any) -> str:
        reply = self.http.post("/completion", json={"model": model, "prompt": "Once", **body})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["content"])

    def stop(self) -> str:
        """Stop it with Ctrl-C; return what it said."""
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=60)
        return err


@pytest.fixture
def program(data: Path, tmp_path: Path) -> Iterator[Program]:
    for package in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    paths = [data / "models" / f"{name}.gguf" for name in MODELS]
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(paths[0].read_bytes()[:100_000])
    found = Program(*paths, cut, "--models-max", 1, "--api-key", "secret", *SETTINGS)
    try:
        yield found
    finally:
        found.http.close()
        found.process.kill()
        found.process.communicate()


@pytest.mark.slow
def test_several_models_answer_one_at_a_time_as_each_alone(program: Program, data: Path) -> None:
    from gguf_hub import Llama

    f32, q8 = MODELS
    expected = {}
    for name in MODELS:
        llama = Llama(str(data / "models" / f"{name}.gguf"), n_ctx=256, n_threads=1, verbose=False)
        expected[name] = llama("Once", max_tokens=12, temperature=0)["choices"][0]["text"]

    # 1) swaps: every client gets the answers of its model, one process at a time
    with ThreadPoolExecutor(4) as pool:
        names = [f32, q8] * 3
        answers = list(pool.map(lambda name: program.text(name, n_predict=12), names))
    assert answers == [expected[name] for name in names]
    assert len(program.children()) == 1

    # 2) each interface reaches its model, by every name
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    for path, name in (("/v1/chat/completions", f32), ("/v1/messages", f"{f32}.gguf"),
                       ("/api/chat", f"{f32}:latest")):  # fmt: skip
        reply = program.http.post(path, json={"model": name, **chat, "stream": False})
        assert reply.status_code == 200, reply.text
        assert reply.json()["model"] == name
    answer = program.http.post("/v1/responses", json={"model": f32, "input": "Hi",
                                                      "max_output_tokens": 4}).json()  # fmt: skip
    kept = program.http.get(f"/v1/responses/{answer['id']}")
    assert kept.json()["id"] == answer["id"]

    # 3) a process that is killed while it answers takes one stream with it, and no more
    body = {"model": f32, "prompt": "Once", "n_predict": 200, "stream": True, "ignore_eos": True}
    with program.http.stream("POST", "/completion", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        (child,) = program.children()
        child.kill()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert "ended in the middle" in events[-1]["error"]["message"]
    assert program.text(f32, n_predict=12) == expected[f32]

    # 4) so does a file that is damaged
    damaged = program.http.post("/completion", json={"model": "cut", "prompt": "x"})
    assert damaged.status_code == 500
    assert "model 'cut' cannot be loaded" in damaged.json()["error"]["message"]
    assert "the file ends too early" in damaged.json()["error"]["message"]
    assert program.http.get("/v1/models/cut").json()["status"]["exit_code"] == 1
    assert program.text(f32, n_predict=12) == expected[f32]

    # 5) what it said of that, and no process is left
    (child,) = program.children()
    err = program.stop()
    assert program.process.returncode == 0, err
    assert "3 models, loaded when requests name them" in err
    assert f"{f32}: its process was ended by signal 9" in err
    assert "Traceback" not in err and "Fatal" not in err
    assert not child.is_running()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_no_process_outlives_a_server_that_is_killed(program: Program) -> None:
    program.text(MODELS[0], n_predict=1)
    (child,) = program.children()
    os.kill(program.process.pid, signal.SIGKILL)
    program.process.wait()
    end = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_one_draft_model_is_not_for_several_models(gguf_hub: Any, data: Path) -> None:
    pytest.importorskip("fastapi")
    paths = [data / "models" / f"{name}.gguf" for name in MODELS]
    code, out, err = gguf_hub("serve", *paths, "-md", paths[0], "--port", 0)
    assert (code, out) == (2, "")
    assert "`--model-draft` drafts for one model, and there are several" in err
