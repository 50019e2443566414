"""Downloads through a router, and removing what was downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.server.router.harness import RunningRouter
from tests.hub.programs.folders import ollama_model
from tests.hub_server import Fault, HubServer, sha256

Start = Callable[..., RunningRouter]
NAME = "org/story:Q8_0"


@pytest.fixture
def model(hub_server: HubServer, stories: Path) -> bytes:
    """The bytes of a model on the hub."""
    content = stories.read_bytes()
    hub_server.add_repo("org/story", {"story.Q8_0.gguf": content, "README.md": b"x"})
    return content


def pull(router: RunningRouter, name: str) -> list[dict[str, Any]]:
    with router.http.stream("POST", "/api/pull", json={"model": name}) as reply:
        return [json.loads(line) for line in reply.iter_lines()]


@pytest.mark.slow
def test_a_model_is_pulled_with_progress_served_and_deleted(
    start: Start, model: bytes, hub_server: HubServer, tmp_path: Path
) -> None:
    hub_server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=2e6))
    router = start(None)
    assert router.statuses() == {}
    lines = pull(router, f"hf.co/{NAME}")
    digest = sha256(model)
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    steps = [line for line in lines if line["status"] == f"pulling {digest[:12]}"]
    assert {step["digest"] for step in steps} == {f"sha256:{digest}"}
    assert {step["total"] for step in steps} == {len(model)}
    done = [step["completed"] for step in steps]
    assert done == sorted(done)
    assert done[-1] == len(model)
    assert router.statuses() == {NAME: "unloaded"}
    assert router.ask(NAME)["model"] == NAME
    assert pull(router, NAME) == [{"status": "success"}]

    path = router.library.find(NAME).path
    reply = router.http.request("DELETE", "/api/delete", json={"model": NAME})
    assert reply.status_code == 200
    assert not path.exists()
    assert router.statuses() == {}
    assert router.fleet.loaded == []
    assert router.http.request("DELETE", "/api/delete", json={"model": NAME}).status_code == 404


@pytest.mark.slow
def test_a_download_in_the_background_is_reported_as_events(
    start: Start, model: bytes, hub_server: HubServer
) -> None:
    hub_server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=1e6))
    router = start(None)
    events = []
    with httpx.stream("GET", f"{router.url}/models/sse", timeout=60) as reply:
        lines = reply.iter_lines()
        router.wait(lambda: bool(router.fleet.events._queues))
        assert router.http.post("/models", json={"model": NAME}).json() == {"success": True}
        for line in filter(None, lines):
            events.append(json.loads(line.removeprefix("data: ")))
            if events[-1]["event"] != "download_progress":
                break
    assert events[-1] == {"model": NAME, "event": "download_finished"}
    assert events[0]["data"]["story.Q8_0.gguf"]["total"] == len(model)
    assert router.statuses() == {NAME: "unloaded"}
    assert router.http.delete("/models", params={"model": NAME}).json() == {"success": True}
    assert router.statuses() == {}


@pytest.mark.slow
def test_a_download_that_nobody_watches_any_more_stops_and_goes_on_later(
    start: Start, model: bytes, hub_server: HubServer
) -> None:
    slow = Fault("GET", "*/resolve/*", bytes_per_s=2e5)
    hub_server.faults.append(slow)
    router = start(None)
    with router.http.stream("POST", "/api/pull", json={"model": NAME}) as reply:
        for line in reply.iter_lines():
            if json.loads(line).get("completed"):
                break
    router.wait(lambda: not router.router.pulls._pulls)
    assert router.statuses() == {}
    slow.times = 0
    steps = [line["completed"] for line in pull(router, NAME) if "completed" in line]
    assert router.statuses() == {NAME: "unloaded"}
    assert steps[-1] == len(model)


def test_a_download_can_be_stopped(start: Start, model: bytes, hub_server: HubServer) -> None:
    hub_server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=2e5))
    router = start(None)
    router.http.post("/models", json={"model": NAME})
    router.wait(lambda: any(each.files for each in router.router.pulls._pulls.values()))
    assert router.http.post("/models/unload", json={"model": NAME}).json() == {"success": True}
    router.wait(lambda: not router.router.pulls._pulls)
    assert router.statuses() == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama3.2", "no"),
        ("org/story:Q2_K", "Q2_K"),
        ("org/nothing:Q4_0", "org/nothing"),
        ("/etc/passwd", "no"),
        ("https://example.com/x.gguf", "example.com"),
        ("", "model: expected a name"),
    ],
)
def test_what_cannot_be_pulled_is_an_error(
    start: Start, model: bytes, name: str, message: str
) -> None:
    router = start(None)
    reply = router.http.post("/api/pull", json={"model": name, "stream": False})
    assert reply.status_code in (400, 404, 500)
    assert message in reply.json()["error"]
    lines = [json.loads(line) for line in
             router.http.post("/api/pull", json={"model": name}).text.splitlines()]  # fmt: skip
    assert message in lines[-1]["error"]
    assert router.http.get("/health").status_code == 200


def test_models_of_other_programs_are_served_and_never_deleted(
    start: Start, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    content = stories.read_bytes()
    name = "registry.ollama.ai/library/llama3.2/3b"
    blob = ollama_model(tmp_path / "ollama", name, content)
    router = start(None)
    assert router.statuses() == {"llama3.2:3b": "unloaded"}
    assert router.ask("llama3.2:3b")["model"] == "llama3.2:3b"
    names = [model["name"] for model in router.http.get("/api/tags").json()["models"]]
    assert names == ["llama3.2:3b"]
    for method, path, body in (
        ("DELETE", "/api/delete", {"model": "llama3.2:3b"}),
        ("DELETE", "/models?model=llama3.2:3b", {}),
    ):
        reply = router.http.request(method, path, json=body)
        assert reply.status_code == 400, reply.text
        assert "the program whose file it is removes it" in reply.text
    assert blob.read_bytes() == content
