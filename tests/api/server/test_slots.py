"""Slots: their state, their caches in files, and prompts that are computed anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.server.offers import Offers
from gguf_hub.api.server.slot_files import MAX_NAME_BYTES, SlotFiles, check_folder
from gguf_hub.errors import UsageError
from tests.api.server.running import Running
from tests.api.server.scripted import post

PROMPT = "Once upon a time there was a little girl who liked to play in the park with"
GREEDY: dict[str, Any] = {"temperature": 0, "n_predict": 8, "prompt": PROMPT}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slots").mkdir()
    return tmp_path / "slots"


def act(server: Running, slot: int, action: str, status: int = 200, **body: Any) -> Any:
    return post(server, f"/slots/{slot}?action={action}", status, **body)


def test_a_slot_is_saved_erased_and_restored_to_the_same_text(
    serve: Callable[..., Running], folder: Path
) -> None:
    server = serve(slot_folder=folder, n_slots=2)
    first = post(server, "/completion", **GREEDY, id_slot=0)
    saved = act(server, 0, "save", filename="girl.bin")
    assert saved["n_saved"] == first["tokens_evaluated"] + first["tokens_predicted"] - 1
    assert saved["n_written"] == (folder / "girl.bin").stat().st_size
    assert saved["timings"]["save_ms"] > 0 and list(folder.iterdir()) == [folder / "girl.bin"]
    assert act(server, 0, "erase") == {"id_slot": 0, "n_erased": saved["n_saved"]}
    assert [slot["n_prompt_tokens"] for slot in server.http.get("/slots").json()] == [0, 0]

    restored = act(server, 1, "restore", filename="girl.bin")
    assert restored["n_restored"] == saved["n_saved"]
    assert (restored["id_slot"], restored["n_read"]) == (1, saved["n_written"])
    again = post(server, "/completion", **GREEDY, id_slot=1)
    assert again["content"] == first["content"]
    assert again["timings"]["cache_n"] == first["tokens_evaluated"] - 1
    act(server, 1, "save", filename="girl.bin")  # a saved slot is replaced


def test_a_saved_slot_outlives_the_server_and_fits_no_other_settings(
    serve: Callable[..., Running], folder: Path
) -> None:
    first = serve(slot_folder=folder, n_slots=1)
    post(first, "/completion", **GREEDY)
    act(first, 0, "save", filename="a")
    second = serve(slot_folder=folder, n_slots=1)
    act(second, 0, "restore", filename="a")
    assert post(second, "/completion", **GREEDY)["timings"]["prompt_n"] == 1
    other = serve(slot_folder=folder, n_slots=1, n_ctx=128)
    error = act(other, 0, "restore", 400, filename="a")["error"]
    assert "has another model, context, cache type" in error["message"]


@pytest.mark.parametrize(
    ("action", "slot", "body", "message"),
    [
        ("save", 7, {"filename": "a"}, "id_slot: expected [0, 0], found 7"),
        ("save", 0, {}, "filename: expected the name of a file"),
        ("restore", 0, {"filename": "none"}, "filename: no saved slot `none`"),
        ("dance", 0, {}, "action: expected save, restore or erase, found `dance`"),
        ("restore", 0, {"filename": "pipe"}, "is not a regular file"),
        ("restore", 0, {"filename": "link"}, "is not a regular file"),
        ("save", 0, {"filename": "link"}, "is a link: it is not replaced"),
        ("restore", 0, {"filename": "other"}, "is not a prompt cache"),
    ],
)
def test_what_cannot_be_done_is_said(
    serve: Callable[..., Running], folder: Path, action: str, slot: int, body: Any, message: str
) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(folder / "other")
    (folder / "other").write_text("something else")
    server = serve(slot_folder=folder, n_slots=1)
    assert message in act(server, slot, action, 400, **body)["error"]["message"]
    assert (folder / "other").read_text() == "something else"


def test_files_of_others_are_not_replaced(serve: Callable[..., Running], folder: Path) -> None:
    (folder / "other").write_text("something else")
    server = serve(slot_folder=folder, n_slots=1)
    post(server, "/completion", **GREEDY)
    error = act(server, 0, "save", 400, filename="other")["error"]
    assert error["message"].startswith("filename: `other` is there and is no saved slot")
    assert (folder / "other").read_text() == "something else"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", ".hidden", "a.", " a", "a\n", "a\0b",
     "c:a", "a*", "x" * (MAX_NAME_BYTES + 1), "\u2215a", "\u0085"],
)  # fmt: skip
def test_a_name_leads_nowhere_else(folder: Path, name: str) -> None:
    model: Any = None
    with pytest.raises(UsageError, match="filename"):
        SlotFiles(folder, model, "").path_of(name)
    assert SlotFiles(folder, model, "").path_of("Tim's slot-1.bin").parent == folder


def test_a_folder_that_is_none_is_said_at_the_start(folder: Path) -> None:
    assert check_folder(folder) == folder.resolve()
    with pytest.raises(UsageError, match="expected a folder"):
        check_folder(folder / "none")


def test_a_slot_that_writes_is_waited_for(serve: Callable[..., Running], folder: Path) -> None:
    server = serve(slot_folder=folder, n_slots=1, n_ctx=512)
    body = {**GREEDY, "n_predict": 100, "stream": True}
    with server.http.stream("POST", "/completion", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        (state,) = server.http.get("/slots").json()
        saved = act(server, 0, "save", filename="a")
    assert state["is_processing"] and state["next_token"][0]["n_decoded"] > 0
    assert state["params"]["temperature"] == 0 and "prompt" not in state
    assert saved["n_saved"] > state["n_prompt_tokens"]


def test_parts_of_the_interface_may_be_turned_off(serve: Callable[..., Running]) -> None:
    closed = serve({"offers": Offers(slots=False, page=False)})
    assert closed.http.get("/slots").status_code == 501
    assert closed.http.get("/").status_code == closed.http.get("/page/main.js").status_code == 404
    error = post(closed, "/slots/0?action=erase", 501)["error"]
    assert (error["type"], "--slot-save-path" in error["message"]) == ("not_supported_error", True)
    assert post(closed, "/props", 501)["error"]["code"] == 501
    props = closed.http.get("/props").json()
    assert (props["endpoint_slots"], props["endpoint_props"], props["webui"]) == (False,) * 3
    open_ = serve({"offers": Offers(props=True)})
    assert post(open_, "/props") == {"success": True}
    assert "no property can be changed" in post(open_, "/props", 400, a=1)["error"]["message"]
    assert open_.http.get("/slots?fail_on_no_slot=1").status_code == 200


def test_a_prompt_is_computed_anew_where_that_is_asked_for(serve: Callable[..., Running]) -> None:
    def n_cached(server: Running, **body: Any) -> int:
        return int(post(server, "/completion", **GREEDY, **body)["timings"]["cache_n"])

    usual = serve(n_slots=2)
    assert n_cached(usual) == 0 and n_cached(usual) > 0
    assert n_cached(usual, cache_prompt=False) == 0 and n_cached(usual) > 0
    never = serve(n_slots=2, reuses_cache=False)
    assert n_cached(never) == n_cached(never) == 0
    assert n_cached(never, cache_prompt=True) > 0
