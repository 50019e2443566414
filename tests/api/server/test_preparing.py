"""What requests need before they are computed: it holds up nobody else, however long it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.conftest import need
from tests.api.server.running import Running

MEGABYTES = 4_000_000
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/completion", {"prompt": "Hello", "n_predict": 2}),
    ("/completion", {"prompt": "Hello", "n_predict": 2, "stream": True}),
    ("/v1/completions", {"prompt": ["Hello", "There"], "n": 2, "max_tokens": 2}),
    ("/v1/completions", {"prompt": "Hello", "max_tokens": 2, "stream": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/embeddings", {"input": ["Hello", "There"]}),
    ("/tokenize", {"content": "Hello"}),
    ("/tokenize", {"content": "Hello " * 5000, "with_pieces": True}),
    ("/detokenize", {"tokens": [5, 6]}),
    ("/detokenize", {"tokens": [5, 6] * 5000}),
]


class LocalFile:
    """Stands before a tokenizer or a chat format: calls begin, and wait."""

    def __init__(self, real: Any, names: tuple[str, ...]) -> None:
        self._real, self._names = real, names
        self.has_begun, self.gate = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in self._names:
            return real

        def hold(*args: Any, **kwargs: Any) -> Any:
            self.has_begun.set()
            assert self.gate.wait(60)
            return real(*args, **kwargs)

        return hold


@pytest.fixture(scope="module")
def tiny(embedded: Path, kernels: None) -> Iterator[Running]:
    """The model that ships with the package, in a server."""
    need()
    with ExitStack() as stack:
        yield Running(embedded, stack, {}, n_ctx=128)


def ask_while_held(server: Running, held: LocalFile, path: str, body: dict[str, Any]) -> int:
    """Return the status of a request during whose preparation others were served."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.http.post, path, json=body)
        try:
            assert held.has_begun.wait(60)
            for _ in range(3):
                assert server.http.get("/health").status_code == 200
            assert not asked.done()
        finally:
            held.gate.set()
        status: int = asked.result(60).status_code
        return status


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_encoding_and_decoding_hold_up_nobody(
    tiny: Running, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    held = LocalFile(tiny.service.tokenizer, ("encode", "decode"))
    monkeypatch.setattr(tiny.service, "tokenizer", held)
    assert ask_while_held(tiny, held, path, body) == 200


def test_rendering_a_conversation_holds_up_nobody(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = LocalFile(tiny.service.chat_format, ("render",))
    monkeypatch.setattr(tiny.service, "chat_format", held)
    assert ask_while_held(tiny, held, "/v1/chat/completions", CHAT) == 200


def test_tokens_of_others_come_while_a_long_text_is_encoded(tiny: Running) -> None:
    long = {"content": "x" * 400_000}
    with ThreadPoolExecutor(1) as pool:
        encoded = pool.submit(tiny.http.post, "/tokenize", json=long)
        n_texts = 0
        while not encoded.done():
            body = {"prompt": "Once", "n_predict": 4, "ignore_eos": True}
            answer = tiny.http.post("/completion", json=body).json()
            assert answer["tokens_predicted"] == 4
            n_texts += not encoded.done()
    assert encoded.result().status_code == 200
    assert n_texts >= 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {"prompt": "x" * MEGABYTES}),
        ("/completion", {"prompt": [300] * 250_000}),
        ("/v1/completions", {"prompt": ["a", "x " * (MEGABYTES // 2)]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 100_000}]}),
        ("/v1/embeddings", {"input": "</s>" * (MEGABYTES // 4)}),
    ],
    ids=["native", "ids", "several", "chat", "embeddings"],
)
def test_what_cannot_fit_the_context_is_refused_before_it_is_encoded(
    tiny: Running, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    encoded: list[int] = []
    real = tiny.service.tokenizer.encode
    monkeypatch.setattr(
        tiny.service.tokenizer,
        "encode",
        lambda text, *args, **kwargs: (encoded.append(len(text)), real(text, *args, **kwargs))[1],
    )
    reply = tiny.http.post(path, json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "exceed_context_size_error")
    assert error["n_ctx"] == 128 < error["n_prompt_tokens"]
    assert max(encoded, default=0) < 100


def test_a_text_without_a_context_has_an_end_too(tiny: Running) -> None:
    reply = tiny.http.post("/tokenize", json={"content": "word " * (MEGABYTES // 5)})
    assert reply.status_code == 400
    assert "expected at most 1048576 characters, found 4000000" in reply.json()["error"]["message"]


def test_what_just_does_not_fit_is_told_in_the_same_way(tiny: Running) -> None:
    reply = tiny.http.post("/completion", json={"prompt": "word " * 128})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "exceed_context_size_error")
    n_tokens = len(tiny.service.tokenizer.encode("word " * 128))
    assert error["n_prompt_tokens"] == n_tokens


def test_a_client_that_goes_is_not_encoded_for(
    tiny: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    service = tiny.service
    held = LocalFile(service.tokenizer, ("encode",))
    monkeypatch.setattr(service, "tokenizer", held)
    n_threads = 2
    with ThreadPoolExecutor(n_threads) as pool:
        first = [pool.submit(tiny.http.post, "/tokenize", json={"content": "a"})
                 for _ in range(n_threads)]  # fmt: skip
        tiny.wait(lambda: len(service.pool._open_calls) == n_threads)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{tiny.url}/tokenize", json={"content": "b"}, timeout=0.1)
        requests = tiny.server.server_state.tasks
        tiny.wait(lambda: len(requests) == n_threads)
        held.gate.set()
        assert [one.result(60).status_code for one in first] == [200] * n_threads
    tiny.wait(lambda: not service.pool._open_calls)


def test_model_names_have_an_end(tiny: Running) -> None:
    reply = tiny.http.post("/v1/completions", json={"prompt": "x", "model": "m" * 10_000})
    assert reply.status_code == 400
    assert "model: " in reply.json()["error"]["message"]
