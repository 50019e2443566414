"""What clients of a router see: lists, names, state, events, keys."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.server.router.harness import RunningRouter

Start = Callable[..., RunningRouter]
Files = list[Path]


def test_lists_have_every_model_under_all_interfaces(start: Start, files: Files) -> None:
    router = start(files)
    router.ask("b")
    for path in ("/v1/models", "/models"):
        data = router.http.get(path).json()["data"]
        assert [entry["id"] for entry in data] == ["a", "b", "c"]
        assert [entry["status"]["value"] for entry in data] == ["unloaded", "loaded", "unloaded"]
        assert data[1]["meta"] == {"n_ctx": 7}  # its process says so
        assert data[0]["meta"]["size"] == files[0].stat().st_size
        assert (data[0]["meta"]["n_ctx"], data[0]["meta"]["quant"]) == (128, "F32")
    tags = router.http.get("/api/tags").json()["models"]
    assert [tag["name"] for tag in tags] == ["a:latest", "b:latest", "c:latest"]
    assert tags[0]["details"]["family"] == "llama"
    (running,) = router.http.get("/api/ps").json()["models"]
    assert running["name"] == "b:latest"
    assert running["context_length"] == 128
    assert 10**7 < running["size"] < 2 * 10**8
    assert router.http.get("/v1/models/b").json()["id"] == "b"


def test_a_model_is_shown_without_being_loaded(start: Start, files: Files) -> None:
    router = start(files)
    shown = router.http.post("/api/show", json={"name": "c"}).json()
    assert shown["model_info"]["llama.context_length"] == 128
    assert shown["details"]["quantization_level"] == "F32"
    assert router.started == []


def test_a_file_that_is_no_model_is_listed_and_fails_alone(start: Start, files: Files) -> None:
    files[1].write_bytes(b"GGUF, but not for long")
    router = start(files)
    assert list(router.statuses()) == ["a", "b", "c"]
    assert [tag["name"] for tag in router.http.get("/api/tags").json()["models"]] == [
        "a:latest",
        "c:latest",
    ]
    assert router.http.post("/api/show", json={"model": "b"}).status_code >= 400
    assert router.ask("a")["model"] == "a"


def test_a_file_that_vanishes_is_no_longer_there(start: Start, files: Files) -> None:
    router = start(files)
    router.ask("a")
    files[0].unlink()
    router.http.get("/models", params={"reload": 1})
    router.wait(lambda: not router.fleet.loaded)
    assert list(router.statuses()) == ["b", "c"]
    assert router.http.post("/completion", json={"model": "a"}).status_code == 404
    assert router.ask("b")["model"] == "b"


def test_another_file_under_a_name_is_loaded_instead(start: Start, files: Files) -> None:
    router = start(files)
    first = router.ask("a")["pid"]
    files[0].write_bytes(files[0].read_bytes() + bytes(64))
    router.http.get("/models", params={"reload": 1})
    assert router.ask("a")["pid"] != first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", {"param": "model", "code": "model_not_found"}),
        ("/completion", {"param": "model", "code": "model_not_found"}),
        ("/v1/messages", {"type": "not_found_error"}),
        ("/api/chat", None),
    ],
)
def test_an_unknown_model_is_a_404_of_each_interface(
    start: Start, files: Files, path: str, shape: dict[str, str] | None
) -> None:
    router = start(files)
    reply = router.http.post(path, json={"model": "gpt-4o", "messages": []})
    assert reply.status_code == 404
    error = reply.json()["error"]
    message = error if shape is None else error["message"]
    assert "model 'gpt-4o' not found: this server has `a`, `b`, `c`" in message
    assert shape is None or shape.items() <= error.items()
    assert router.started == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model": 3}', "model: expected a name"),
        (b'{"model": "' + b"x" * 1025 + b'"}', "at most 1024 characters"),
        (b"{", "not JSON at character 1"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
    ],
    ids=["number", "long", "cut", "deep", "bytes"],
)
def test_bodies_that_name_no_model_are_refused(
    start: Start, files: Files, content: bytes, message: str
) -> None:
    reply = start(files).http.post("/v1/completions", content=content)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_without_a_name_the_model_must_be_clear(start: Start, files: Files) -> None:
    router = start(files)
    assert router.http.post("/completion", json={}).json()["model"] == "a"  # the first one named
    assert router.http.get("/slots", params={"model": "c"}).json()["path"] == "/slots?model=c"


def test_the_only_model_that_was_named_answers_to_every_name(start: Start, files: Files) -> None:
    router = start(files[:1])
    assert router.ask("gpt-4o")["model"] == "a"
    assert router.http.post("/api/chat", json={"model": "gpt-4o"}).status_code == 404


@pytest.mark.slow
def test_a_machine_without_models_says_so(start: Start, tmp_path: Path) -> None:
    router = start(None, folder=tmp_path / "store")
    assert router.http.get("/v1/models").json()["data"] == []
    assert router.http.get("/api/tags").json() == {"models": []}
    reply = router.http.post("/completion", json={})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "no models yet" in reply.json()["error"]["message"]


def test_of_all_models_of_a_machine_none_is_the_first(
    start: Start, files: Files, tmp_path: Path
) -> None:
    from gguf_hub.hub.store import Store, StoredFile

    for path in files:
        Store(tmp_path / "store").add(StoredFile.of(path, "0" * 64))
    router = start(None, folder=tmp_path / "store")
    reply = router.http.post("/completion", json={})
    assert reply.status_code == 400
    assert "model: expected a name, as this server has several" in reply.json()["error"]["message"]
    router.ask("b")
    assert router.http.post("/completion", json={}).json()["model"] == "b"  # the only one loaded


def test_requests_reach_the_process_whole_and_without_the_clients_credentials(
    start: Start, files: Files
) -> None:
    router = start(files, app={"api_keys": ("secret",)})
    own = {"Authorization": "Bearer secret", "Cookie": "x=1", "anthropic-version": "2023-06-01"}
    reply = router.http.post("/v1/messages?beta=true", json={"model": "a"}, headers=own)
    headers = reply.json()["headers"]
    assert headers["anthropic-version"] == "2023-06-01"
    assert "cookie" not in headers
    assert "secret" not in headers["authorization"]
    query = {"model": "a", "x": "y z"}
    seen = router.http.get("/slots", params=query, headers=own).json()
    assert seen["path"] == "/slots?model=a&x=y+z"


def _paths(router: RunningRouter) -> list[tuple[str, str]]:
    """Return (path, method) of every route."""
    from gguf_hub.api.server.router import ollama, routes

    app: Any = router.server.config.app
    found = [*app.routes, *routes.router.routes, *ollama.router.routes]
    return [
        (route.path, method) for route in found for method in getattr(route, "methods", None) or ()
    ]


@pytest.mark.slow
def test_nothing_is_answered_without_the_key(start: Start, files: Files) -> None:
    router = start(files, app={"api_keys": ("secret",)})
    open_paths = {"/", "/health", "/v1/health"}
    paths = [each for each in _paths(router) if each[0] not in open_paths]
    assert len(paths) > 40
    for path, method in paths:
        filled = path.replace("{", "").replace("}", "").replace(":path", "")
        for headers in ({}, {"Authorization": "Bearer other"}):
            reply = router.http.request(method, filled, headers=headers)
            assert reply.status_code == 401, (method, path)
    assert router.started == []
    for path in open_paths:
        assert router.http.get(path).status_code == 200


def test_every_route_of_a_server_of_one_model_is_there(start: Start, files: Files) -> None:
    from gguf_hub.api.server.app import ROUTERS

    router = start(files)
    own = set(_paths(router))
    for each in ROUTERS:
        for route in each.routes:
            assert {(route.path, method) for method in route.methods or ()} <= own
    assert router.http.get("/no/such/path").status_code == 404
    assert router.http.get("/completion").status_code == 405
    paths = router.http.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/models/load", "/api/pull"} <= set(paths)


# -- loading by hand ------------------------------------------------------------------------------


def test_loading_and_unloading_by_hand_is_told_to_whoever_listens(
    start: Start, files: Files
) -> None:
    router = start(files, autoload=False)
    router.orders["a"] = {"notes": ["kernels are compiled"]}
    events: list[dict[str, Any]] = []

    def listen() -> None:
        with httpx.stream("GET", f"{router.url}/models/sse", timeout=60) as reply:
            for line in reply.iter_lines():
                if line:
                    events.append(json.loads(line.removeprefix("data: ")))
                if events and events[-1]["data"]["status"] == "unloaded":
                    return

    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(listen)
        router.wait(lambda: bool(router.fleet.events._queues))
        reply = router.http.post("/completion", json={"model": "a"})
        assert (reply.status_code, router.started) == (400, [])
        assert "is not loaded" in reply.json()["error"]["message"]
        assert router.http.post("/models/load", json={"model": "a"}).json() == {"success": True}
        router.wait(lambda: router.statuses()["a"] == "loaded")
        assert router.ask("a")["model"] == "a"
        assert router.http.post("/models/unload", json={"model": "a"}).json() == {"success": True}
        listening.result(30)
    assert [event["data"]["status"] for event in events] == ["loading", "loaded", "unloaded"]
    assert {event["model"] for event in events} == {"a"}
    assert router.notes == ["a: kernels are compiled"]
    reply = router.http.post("/models/unload", json={"model": "a"})
    assert reply.status_code == 400
    assert router.http.post("/completion?autoload=true", json={"model": "b"}).status_code == 200


def test_the_router_has_properties_and_metrics_of_its_own(start: Start, files: Files) -> None:
    router = start(files, max_models=2)
    router.ask("a")
    props = router.http.get("/props").json()
    assert (props["role"], props["max_instances"]) == ("router", 2)
    assert router.http.get("/props", params={"model": "a"}).json()["model"] == "a"
    text = router.http.get("/metrics").text
    assert "\ngguf_hub_models_loaded 1\n" in text
    assert '\ngguf_hub_requests_total{route="/completion",status="200"} 1\n' in text


def test_a_stored_response_is_found_in_whichever_process_has_it(start: Start, files: Files) -> None:
    router = start(files)
    router.ask("a")
    router.ask("b")
    assert router.http.get("/v1/responses/resp_a").json() == {"id": "a"}
    assert router.http.get("/v1/responses/resp_b").json() == {"id": "b"}
    assert router.http.get("/v1/responses/resp_b/input_items").json() == {"id": "b"}
    reply = router.http.get("/v1/responses/resp_c")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert router.started == ["a", "b"]


# -- Ollama ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_keep_alive_of_a_request_says_how_long_a_model_stays(start: Start, files: Files) -> None:
    router = start(files, keep_alive_s=0.3)

    def expiry() -> str:
        return str(router.http.get("/api/ps").json()["models"][0]["expires_at"])

    router.http.post("/api/generate", json={"model": "a", "keep_alive": -1, "prompt": "x"})
    assert expiry().startswith("9999")
    time.sleep(0.5)
    router.http.post("/api/chat", json={"model": "a:latest", "keep_alive": "1h30m"})
    assert not expiry().startswith("9999")
    time.sleep(0.5)
    assert router.statuses()["a"] == "loaded"
    router.http.post("/api/chat", json={"model": "a", "keep_alive": 0, "messages": [{"x": 1}]})
    router.wait(lambda: router.statuses()["a"] == "unloaded")
    assert router.started == ["a"]


@pytest.mark.parametrize(
    ("path", "part"),
    [("/api/generate", {"response": ""}),
     ("/api/chat", {"message": {"role": "assistant", "content": ""}})],
)  # fmt: skip
def test_unloading_through_ollamas_interface_loads_nothing(
    start: Start, files: Files, path: str, part: dict[str, Any]
) -> None:
    router = start(files)
    for _ in range(2):
        body = router.http.post(path, json={"model": "a", "keep_alive": 0}).json()
        assert (body["done"], body["done_reason"]) == (True, "unload")
        assert part.items() <= body.items()
    assert router.started == []


def test_a_wrong_keep_alive_is_refused(start: Start, files: Files) -> None:
    router = start(files)
    for value in ("soon", True, [], "5x", "1h5"):
        body = {"model": "a", "keep_alive": value, "prompt": "x"}
        reply = router.http.post("/api/generate", json=body)
        assert reply.status_code == 400
        assert "keep_alive: " in reply.json()["error"]


def test_what_ollama_makes_of_models_is_refused_plainly(start: Start, files: Files) -> None:
    router = start(files)
    for path in ("/api/create", "/api/copy", "/api/push"):
        reply = router.http.post(path, json={"source": "a", "destination": "z"})
        assert reply.status_code == 400
        assert "models have the names of their files" in reply.json()["error"]
    reply = router.http.request("DELETE", "/api/delete", json={"model": "a"})
    assert reply.status_code == 400
    assert files[0].exists()
    reply = router.http.post("/api/pull", json={"model": "org/other:Q4_0"})
    assert reply.status_code == 400
    assert "named to it" in reply.json()["error"]
    assert router.http.post("/api/pull", json={"model": "a", "stream": False}).json() == {
        "status": "success"
    }


@pytest.mark.slow
def test_listening_ends_when_the_server_stops(start: Start, files: Files) -> None:
    router = start(files)
    ended = threading.Event()

    def listen() -> None:
        with httpx.stream("GET", f"{router.url}/models/sse", timeout=60) as reply:
            list(reply.iter_lines())
        ended.set()

    thread = threading.Thread(target=listen)
    thread.start()
    router.wait(lambda: bool(router.fleet.events._queues))
    start_time = time.monotonic()
    router.stop()
    thread.join(10)
    assert ended.is_set()
    assert time.monotonic() - start_time < 8


@pytest.mark.slow
def test_a_list_says_how_each_model_fits(start: Start, files: list[Path]) -> None:
    for ram_bytes, verdict in ((10**12, "fits in RAM"), (10**7, "too big")):
        router = start(files, ram_bytes=ram_bytes)
        plain = router.http.get("/v1/models").json()["data"]
        assert all("fit" not in entry for entry in plain)
        data = router.http.get("/models?fit=1").json()["data"]
        assert [entry["fit"]["verdict"] for entry in data] == [verdict] * 3
        assert all(entry["fit"]["ram_bytes"] > 0 for entry in data)
        assert all(bool(entry["fit"]["reason"]) == (verdict == "too big") for entry in data)
    listed = start(None).http.get("/models?fit=1&catalog=1").json()["data"]
    quants = {
        entry["id"]: entry for entry in listed if entry["status"]["value"] == "not_downloaded"
    }
    assert quants["Q4_K_M"]["meta"]["size"] > 10**10
    assert quants["Q4_K_M"]["fit"]["ram_bytes"] > 10**10
    assert router.fleet.loaded == []


def test_heads_are_answered_by_the_router_and_by_models(start: Start, files: Files) -> None:
    router = start(files)
    for path in ("/health", "/v1/models", "/models", "/v1/models/b", "/props", "/api/tags"):
        assert router.http.head(path).status_code == 200, path
    assert router.http.head("/v1/models/other").status_code == 404
    assert router.started == []
    assert router.http.head("/slots?model=b").status_code == 200
    assert router.started == ["b"]
    events = router.http.head("/models/sse")  # whose body has no end
    assert events.headers["content-type"].startswith("text/event-stream")
    assert router.http.head("/models/load").status_code == 405


def test_a_packed_body_and_a_target_with_a_host_reach_the_model(start: Start, files: Files) -> None:
    router = start(files)
    body = gzip.compress(json.dumps({"model": "b", "prompt": "x"}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = router.http.post("/completion", content=body, headers=headers)
    assert answer.json()["model"] == "b"
    host, port = router.url.removeprefix("http://").split(":")
    head = "GET http://localhost/slots?model=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, int(port))) as client, client.makefile("rb") as reply:
        client.sendall(head.encode())
        assert b'"path": "/slots?model=b"' in reply.read()
