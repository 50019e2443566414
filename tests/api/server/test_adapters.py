"""LoRA adapters of a server: listed, applied, and asked for by requests as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import AdapterFile
from tests.api.server.running import Running
from tests.api.server.scripted import post
from tests.lora import adaptable, make_pairs, write_adapter

GREEDY = {"prompt": "Once", "temperature": 0, "n_predict": 8}


@pytest.fixture
def adapters(stories: Path, tmp_path: Path) -> tuple[AdapterFile, ...]:
    with GgufFile.open(stories) as file:
        pairs = make_pairs(file, adaptable(file))
    keys = {"adapter.lora.task_name": "rhymes", "adapter.lora.prompt_prefix": "Rhyme: "}
    first = write_adapter(tmp_path / "first.gguf", "llama", pairs, keys=keys)
    second = write_adapter(tmp_path / "second.gguf", "llama", pairs)
    return AdapterFile(first, 0.5), AdapterFile(second, 3.0)


@pytest.fixture
def adapted(serve: Callable[..., Running], adapters: tuple[AdapterFile, ...]) -> Running:
    return serve(adapters=adapters)


def test_adapters_are_listed(adapted: Running, adapters: tuple[AdapterFile, ...]) -> None:
    first, second = (str(adapter.path) for adapter in adapters)
    assert adapted.http.get("/lora-adapters").json() == [
        {"id": 0, "path": first, "scale": 0.5, "task_name": "rhymes", "prompt_prefix": "Rhyme: "},
        {"id": 1, "path": second, "scale": 3.0, "task_name": "", "prompt_prefix": ""},
    ]


def test_a_request_may_name_the_scales_that_are_applied_and_no_others(
    adapted: Running, server: Running
) -> None:
    same = [{"id": 1, "scale": 3}, {"id": 0, "scale": 0.5}]
    expected = post(adapted, "/completion", **GREEDY)["content"]
    assert post(adapted, "/completion", **GREEDY, lora=same)["content"] == expected
    assert post(server, "/completion", **GREEDY)["content"] != expected
    others: list[list[Any]] = [[], same[:1], [*same, {"id": 2, "scale": 1}], [{"id": 0}]]
    for lora in others:
        error = post(adapted, "/completion", 400, **GREEDY, lora=lora)["error"]["message"]
        assert "lora: adapters have the scales of the command line, 0.5 of 0, 3 of 1" in error


def test_without_adapters_a_request_may_name_none(server: Running) -> None:
    post(server, "/completion", **GREEDY, lora=[])
    body = {**GREEDY, "lora": [{"id": 0, "scale": 1.0}]}
    error = post(server, "/completion", 400, **body)["error"]["message"]
    assert "lora: no adapter is loaded; `gguf-hub serve MODEL --lora FILE` loads one" in error
