"""Which models are loaded, and what becomes of requests meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gguf_hub.hub.fit import Machine
from gguf_hub.hub.fit.machine import RESERVE_SHARE
from tests.api.server.router.harness import RunningRouter

Start = Callable[..., RunningRouter]
Files = list[Path]


def test_a_model_is_loaded_once_by_requests_that_come_together(start: Start, files: Files) -> None:
    router = start(files)
    router.orders["a"] = {"load_s": 0.3}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(router.ask, ["a"] * 8))
    assert router.started == ["a"]
    assert len({answer["pid"] for answer in answers}) == 1
    assert router.statuses() == {"a": "loaded", "b": "unloaded", "c": "unloaded"}


def test_the_least_recently_used_makes_room(start: Start, files: Files) -> None:
    router = start(files, max_models=2)
    for name in ("a", "b", "a", "c"):
        assert router.ask(name)["model"] == name
    assert router.started == ["a", "b", "c"]
    assert router.statuses() == {"a": "loaded", "b": "unloaded", "c": "loaded"}


@pytest.mark.slow
def test_two_clients_of_two_models_with_room_for_one_both_get_all_answers(
    start: Start, files: Files
) -> None:
    router = start(files, max_models=1)
    n_loaded: list[int] = []

    def client(name: str) -> list[str]:
        answers = []
        for _ in range(6):
            answers.append(router.ask(name, wait=0.02)["model"])
            n_loaded.append(len(router.fleet.loaded))
        return answers

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(client, "ab")) == [["a"] * 6, ["b"] * 6]
    assert max(n_loaded) == 1


@pytest.mark.slow
def test_a_swap_waits_for_what_is_being_answered_and_loses_none(start: Start, files: Files) -> None:
    router = start(files, max_models=1)
    router.ask("a")
    with ThreadPoolExecutor(9) as pool:
        slow = pool.submit(router.ask, "a", wait=0.6)
        time.sleep(0.2)
        others = [pool.submit(router.ask, name) for name in "bababab"]
        assert slow.result()["model"] == "a"
        assert [other.result()["model"] for other in others] == list("bababab")
    assert router.started[:2] == ["a", "b"]


def test_a_model_that_is_always_busy_does_not_starve_another(start: Start, files: Files) -> None:
    router = start(files, max_models=1)
    is_over = threading.Event()

    def keep_busy() -> int:
        n = 0
        while not is_over.is_set():
            router.ask("a", wait=0.05)
            n += 1
        return n

    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(keep_busy) for _ in range(3)]
        time.sleep(0.3)
        assert router.ask("b")["model"] == "b"
        is_over.set()
        assert all(each.result() for each in busy)


@pytest.mark.slow
def test_a_request_that_finds_no_room_in_time_is_told_to_come_back(
    start: Start, files: Files
) -> None:
    router = start(files, max_models=1, wait_s=0.4)
    router.ask("a")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(router.ask, "a", wait=1.5)
        time.sleep(0.1)
        reply = router.http.post("/v1/completions", json={"model": "b", "prompt": "x"})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert "no room for it within" in reply.json()["error"]["message"]
        # nobody needs its room any more
        assert router.ask("a")["model"] == "a"
        assert slow.result()["model"] == "a"
    assert router.started == ["a"]


def test_a_client_that_goes_leaves_the_queue(start: Start, files: Files) -> None:
    router = start(files, max_models=1)
    router.ask("a")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(router.ask, "a", wait=1)
        time.sleep(0.1)
        with pytest.raises(httpx.ReadTimeout):
            router.http.post("/completion", json={"model": "b"}, timeout=0.2)
        router.wait(lambda: router.fleet.n_waiting == 0)
        slow.result()
    assert router.started == ["a"]


@pytest.mark.slow
def test_a_model_stays_when_nobody_needs_its_room_any_more(start: Start, files: Files) -> None:
    router = start(files, max_models=1)
    router.ask("a")
    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(router.ask, "a", wait=2)
        time.sleep(0.1)
        body = {"model": "b"}
        gone = pool.submit(lambda: router.http.post("/completion", json=body, timeout=0.5))
        router.wait(lambda: router.fleet.n_waiting == 1)
        again = pool.submit(router.ask, "a")
        assert again.result()["model"] == slow.result()["model"] == "a"
        with pytest.raises(httpx.ReadTimeout):
            gone.result()
    assert router.started == ["a"]


# -- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def model_bytes(files: Files) -> int:
    """What one of the models takes, with what is left to other programs beside it."""
    from gguf_hub.api.server.router.room import OpeningFacts, Room

    room = Room(OpeningFacts(n_ctx=128, n_slots=1), lambda: Machine(10**12), lambda: None)
    return round(room.demand_of(files[0]).ram_bytes / (1 - RESERVE_SHARE))


@pytest.mark.slow
def test_memory_for_one_holds_one_at_a_time(start: Start, files: Files, model_bytes: int) -> None:
    router = start(files, ram_bytes=round(1.8 * model_bytes))
    for name in "aba":
        assert router.ask(name)["model"] == name
        assert [each.model.name for each in router.fleet.loaded] == [name]


@pytest.mark.slow
def test_memory_for_two_holds_two(start: Start, files: Files, model_bytes: int) -> None:
    router = start(files, ram_bytes=round(2.5 * model_bytes))
    for name in "abc":
        router.ask(name)
    assert router.started == ["a", "b", "c"]
    assert [each.model.name for each in router.fleet.loaded] == ["c", "b"]


def test_a_model_that_never_fits_is_refused_and_unloads_nothing(
    start: Start, files: Files, model_bytes: int
) -> None:
    router = start(files, ram_bytes=model_bytes // 2)
    reply = router.http.post("/v1/chat/completions", json={"model": "a", "messages": []})
    assert reply.status_code == 500
    assert "does not fit this machine: it takes" in reply.json()["error"]["message"]
    assert router.started == []
    assert router.http.get("/health").json() == {"status": "ok"}


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("orders", "message", "status"),
    [
        ({"error": "no such tensor"}, "cannot be loaded: no such tensor; look elsewhere", 1),
        ({"exit": signal.SIGKILL}, "its process was ended by signal 9", -9),
    ],
    ids=["error", "killed"],
)
def test_a_model_that_cannot_be_loaded_says_why_and_others_go_on(
    start: Start, files: Files, orders: dict[str, Any], message: str, status: int
) -> None:
    router = start(files)
    router.ask("b")
    router.orders["a"] = orders
    reply = router.http.post("/completion", json={"model": "a"})
    assert reply.status_code == 500
    assert message in reply.json()["error"]["message"]
    entry = router.http.get("/v1/models/a").json()["status"]
    assert (entry["value"], entry["failed"], entry["exit_code"]) == ("unloaded", True, status)
    assert router.ask("b")["model"] == "b"
    assert router.ask("a")["model"] == "a"  # the next request tries again
    assert "failed" not in router.http.get("/v1/models/a").json()["status"]


def test_a_process_of_which_nothing_is_heard_is_given_up(start: Start, files: Files) -> None:
    router = start(files, wait_s=0.5)
    router.orders["a"] = {"load_s": 60}
    reply = router.http.post("/completion", json={"model": "a"})
    assert reply.status_code == 500
    assert "nothing was heard of its process" in reply.json()["error"]["message"]


def test_a_process_that_dies_before_it_answers_is_replaced(
    start: Start, files: Files, tmp_path: Path
) -> None:
    router = start(files)
    answer = router.ask("a", die=str(tmp_path / "died"))
    assert answer["model"] == "a"
    assert router.started == ["a", "a"]
    assert any("ended with exit code 3" in note for note in router.notes)


@pytest.mark.slow
def test_all_that_a_process_had_not_answered_is_answered_by_the_next(
    start: Start, files: Files, tmp_path: Path
) -> None:
    router = start(files)
    router.ask("a")
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(router.ask, "a", wait=0.8) for _ in range(3)]
        router.ask("a", wait=0.3, die=str(tmp_path / "died"))
        assert [other.result()["model"] for other in others] == ["a"] * 3
    assert router.started == ["a", "a"]


@pytest.mark.slow
def test_a_request_that_kills_each_process_is_answered_with_an_error(
    start: Start, files: Files
) -> None:
    router = start(files)
    reply = router.http.post("/completion", json={"model": "a", "die": "always"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert router.started == ["a", "a"]
    assert router.ask("b")["model"] == "b"


def test_an_idle_process_that_was_killed_costs_no_request(start: Start, files: Files) -> None:
    router = start(files)
    os.kill(router.ask("a")["pid"], signal.SIGKILL)
    assert router.ask("a")["model"] == "a"
    assert router.started == ["a", "a"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "kind", "end"),
    [
        ("/v1/chat/completions", "text/event-stream", 'data: {"error":{"message":'),
        ("/v1/messages", "text/event-stream", 'event: error\ndata: {"type":"error","error":'),
        ("/v1/responses", "text/event-stream", 'event: error\ndata: {"type":"error","code":'),
        ("/api/generate", "application/x-ndjson", '{"error":"the process of this model'),
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error_of_its_interface(
    start: Start, files: Files, path: str, kind: str, end: str
) -> None:
    router = start(files)
    body = {"model": "a", "prompt": "x", "lines": 4, "type": kind, "die": "now"}
    reply = router.http.post(path, json=body)
    first, _, rest = reply.text.partition("data: 2\n\n")
    assert first.endswith("data: 1\n\n")
    assert rest.startswith(end)
    assert "ended in the middle of its answer" in rest
    assert router.ask("a")["model"] == "a"


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_idle_model_is_unloaded_and_a_busy_one_is_not(start: Start, files: Files) -> None:
    router = start(files, keep_alive_s=0.3)
    router.ask("a", wait=0.6)
    assert router.statuses()["a"] == "loaded"
    router.wait(lambda: router.statuses()["a"] == "unloaded")
    assert router.ask("a")["model"] == "a"
    assert router.started == ["a", "a"]


def test_looking_at_a_model_does_not_keep_it_loaded(start: Start, files: Files) -> None:
    router = start(files, keep_alive_s=0.4)
    router.ask("a")
    end = time.monotonic() + 10
    while router.statuses()["a"] == "loaded" and time.monotonic() < end:
        router.http.get("/metrics", params={"model": "a"})
        time.sleep(0.05)
    assert router.statuses()["a"] == "unloaded"
    assert router.http.get("/metrics", params={"model": "a"}).status_code == 400


@pytest.mark.slow
def test_unloading_waits_for_the_answer_and_later_requests_load_again(
    start: Start, files: Files
) -> None:
    router = start(files)
    router.ask("a")
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(router.ask, "a", wait=0.5)
        time.sleep(0.1)
        assert router.http.post("/models/unload", json={"model": "a"}).json() == {"success": True}
        later = pool.submit(router.ask, "a")
        assert slow.result()["pid"] != later.result()["pid"]
    assert router.started == ["a", "a"]


@pytest.mark.slow
def test_loading_can_be_broken_off(start: Start, files: Files) -> None:
    router = start(files)
    router.orders["a"] = {"load_s": 2}
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(router.http.post, "/completion", json={"model": "a"})
        router.wait(lambda: router.statuses()["a"] == "loading")
        router.http.post("/models/unload", json={"model": "a"})
        assert reply.result().status_code == 503
    assert router.statuses()["a"] == "unloaded"


def test_a_server_that_stops_cuts_off_requests_and_leaves_no_process(
    start: Start, files: Files
) -> None:
    router = start(files)
    router.ask("b")
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(router.http.post, "/completion", json={"model": "a", "wait": 30})
        router.wait(lambda: router.statuses()["a"] == "loaded")
        router.stop()  # it looks for processes that are left
        assert slow.exception() is not None or slow.result().status_code == 503
