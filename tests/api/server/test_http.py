"""The server as a server: keys, limits, who waits and who goes, llama-server's routes, the page."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gguf_hub.api.llama import Llama
from tests.api.server.running import Running

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

ENDLESS: dict[str, Any] = {"prompt": "Once", "max_tokens": 250, "ignore_eos": True}


# -- llama-server's routes ----------------------------------------------------------------------


def test_it_is_healthy_and_tells_what_it_serves(server: Running) -> None:
    assert server.http.get("/health").json() == {"status": "ok"}
    props = server.http.get("/props").json()
    assert props["total_slots"] == 3
    assert props["model"]["quant"] == "F32"
    assert (props["bos_token"], props["eos_token"]) == ("<s>", "</s>")


def test_text_and_tokens_go_both_ways(server: Running) -> None:
    ids = server.http.post("/tokenize", json={"content": "Once upon", "add_special": True})
    assert ids.json() == {"tokens": [1, 403, 407]}
    text = server.http.post("/detokenize", json=ids.json())
    assert text.json() == {"content": "<s> Once upon"}  # as llama-server, pieces one by one
    text = server.http.post("/detokenize", json={"tokens": ids.json()["tokens"][1:]})
    assert text.json() == {"content": "Once upon"}
    pieces = server.http.post("/tokenize", json={"content": "Once", "with_pieces": True}).json()
    assert pieces["tokens"] == [{"id": 403, "piece": " Once"}]
    body = {"content": "</s>😀", "with_pieces": True, "parse_special": True}
    pieces = server.http.post("/tokenize", json=body).json()["tokens"]
    assert pieces[0] == {"id": 2, "piece": "</s>"}
    bytes_of = [byte for piece in pieces[1:] if piece["piece"] != " " for byte in piece["piece"]]
    assert bytes(bytes_of).decode() == "😀"


def test_llama_servers_completion(server: Running) -> None:
    body = {"prompt": "Once upon", "n_predict": 12, "temperature": 0}
    with Llama(server.service.model_info.path, n_ctx=256) as llm:
        expected = llm("Once upon", max_tokens=12, temperature=0)["choices"][0]["text"]
    answer = server.http.post("/completion", json={**body, "n_probs": 2}).json()
    assert answer["content"] == expected
    assert (answer["stop"], answer["stop_type"], answer["tokens_predicted"]) == (True, "limit", 12)
    assert len(answer["completion_probabilities"][0]["top_logprobs"]) == 2
    stopped = server.http.post("/completion", json={**body, "stop": [" there"]}).json()
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", " there")
    with server.http.stream("POST", "/completion", json={**body, "stream": True}) as reply:
        parts = [json.loads(line[6:]) for line in reply.iter_lines() if line]
    assert "".join(part["content"] for part in parts) == expected
    assert parts[-1]["stop"] is True


def test_requests_that_name_no_setting_get_the_servers(serve: Callable[..., Running]) -> None:
    server = serve(defaults={"temp": 0.0, "repeat_penalty": 1.3}, n_predict=9)
    asked = {"prompt": "Once", "temperature": 0, "repeat_penalty": 1.3, "n_predict": 9}

    def text(**body: Any) -> str:
        return str(server.http.post("/completion", json=body).json()["content"])

    assert text(prompt="Once") == text(**asked)
    assert len(text(prompt="Once", n_predict=2)) < len(text(prompt="Once"))
    assert text(prompt="Once", repeat_penalty=1) == text(**{**asked, "repeat_penalty": 1})
    seeds = [text(prompt="Once", temperature=5, top_k=0, seed=seed) for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1] != seeds[2]
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    usage = server.http.post("/v1/chat/completions", json=chat).json()["usage"]
    assert usage["completion_tokens"] <= 9
    params = server.http.get("/props").json()["default_generation_settings"]["params"]
    assert (params["temperature"], params["repeat_penalty"], params["top_k"]) == (0, 1.3, 40)
    assert params["max_tokens"] == params["n_predict"] == 9


def test_a_full_context_goes_on_as_the_command_line_does(
    serve: Callable[..., Running], gguf_hub: Callable[..., tuple[int, str, str]]
) -> None:
    server = serve(n_ctx=32, n_keep=0)
    body = {"prompt": "Once upon a time", "temperature": 0, "n_predict": 60, "n_keep": 3}
    answer = server.http.post("/completion", json=body).json()
    flags = ("-c", 32, "--context-shift", "--keep", 3, "-n", 60, "--temp", 0, "--no-display-prompt")
    path = server.service.model_info.path
    assert gguf_hub("run", path, "-p", "Once upon a time", *flags)[1] == answer["content"] + "\n"
    assert (answer["tokens_predicted"], answer["truncated"]) == (60, True)
    assert answer["timings"]["prompt_n"] == 5
    other = server.http.post("/completion", json={**body, "n_keep": 0}).json()
    assert other["content"] != answer["content"]


def test_no_text_goes_on_for_ever(serve: Callable[..., Running]) -> None:
    body = {"prompt": "Once", "temperature": 0, "ignore_eos": True}
    # the model was trained on 512 tokens; two of them are the prompt
    shifting = serve(n_ctx=32, n_keep=0).http.post("/completion", json=body).json()
    assert (shifting["tokens_predicted"], shifting["stop_type"]) == (510, "limit")
    stopping = serve(n_ctx=32).http.post("/completion", json={**body, "n_keep": 3}).json()
    assert (stopping["tokens_predicted"], stopping["truncated"]) == (31, False)


def test_a_json_schema_holds_llama_servers_completion(server: Running) -> None:
    body = {"prompt": "Hi", "json_schema": {"type": "array", "items": {"enum": [1]}, "maxItems": 2}}
    found = json.loads(server.http.post("/completion", json=body).json()["content"])
    assert set(found) <= {1}


def test_metrics_count(server: Running) -> None:
    def value(name: str) -> float:
        lines = server.http.get("/metrics").text.splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))

    before = value("gguf_hub_generated_tokens_total")
    server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 5, "ignore_eos": True})
    assert value("gguf_hub_generated_tokens_total") == before + 5
    assert value("gguf_hub_slots_busy") == 0
    text = server.http.get("/metrics").text
    assert 'gguf_hub_requests_total{route="/v1/completions",status="200"}' in text


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/completions", {"prompt": "x", "temperature": "warm"}, "temperature: "),
        ("/v1/completions", {"prompt": "x", "top_p": 2}, "top_p: expected [0, 1], found 2"),
        ("/v1/completions", {"prompt": [5000]}, "the prompt has the token 5000"),
        ("/v1/completions", {"prompt": "x", "n": 99}, "n: "),
        ("/v1/completions", {"prompt": "x", "n_keep": -7}, "n_keep: "),
        ("/v1/completions", {"prompt": "x", "grammar": "root ::= ("}, "line 1"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"a": "b"}}, "logit_bias"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"9999": 1}}, "logit_bias"),
        ("/v1/completions", {"prompt": "word " * 300}, "fewer than the context of 256"),
        ("/v1/chat/completions", {"messages": []}, "messages: "),
        ("/v1/chat/completions", {"messages": [{"content": "x"}]}, "messages.0.role: "),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "xml"}},
            "response_format",
        ),
        ("/v1/embeddings", {"input": "word " * 300}, "fewer than the context of 256"),
        ("/detokenize", {"tokens": [9999]}, "token id"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_cannot_be_is_said(server: Running, path: str, body: Any, message: str) -> None:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_what_is_not_there_is_said_in_the_same_shape(server: Running) -> None:
    reply = server.http.get("/v1/nothing")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, 404)
    assert server.http.get("/v1/completions").status_code == 405


def test_a_key_is_asked_of_all_but_page_and_health(serve: Callable[..., Running]) -> None:
    server = serve({"api_keys": ("secret", "other")})
    for path in ("/", "/health", "/page/main.js"):
        assert server.http.get(path).status_code == 200
    for path in ("/v1/models", "/props", "/metrics", "/openapi.json"):
        assert server.http.get(path).status_code == 401
        wrong = {"Authorization": "Bearer secre"}
        assert server.http.get(path, headers=wrong).status_code == 401
        right = {"Authorization": "Bearer other"}
        assert server.http.get(path, headers=right).status_code == 200


@pytest.mark.slow
def test_every_route_of_every_interface_asks_for_the_key(serve: Callable[..., Running]) -> None:
    server = serve({"api_keys": ("secret",)})
    headers = {"Authorization": "Bearer secret"}
    paths = server.http.get("/openapi.json", headers=headers).json()["paths"]
    assert {"/api/chat", "/v1/messages", "/v1/responses/{response_id}", "/props"} <= paths.keys()
    for path, methods in paths.items():
        if path == "/health":
            continue
        for method in methods:
            url = path.replace("{", "").replace("}", "")
            reply = server.http.request(method.upper(), url, json={})
            assert reply.status_code == 401, (method, path)
            assert "error" in reply.json()


def test_bodies_have_a_limit(serve: Callable[..., Running]) -> None:
    server = serve({"max_body_bytes": 1000})
    reply = server.http.post("/tokenize", json={"content": "x" * 2000})
    assert reply.status_code == 413

    def pieces() -> Any:  # of which no length is told
        yield from [b'{"content": "', *[b"x" * 500] * 4, b'"}']

    headers = {"content-type": "application/json"}
    reply = server.http.post("/tokenize", content=pieces(), headers=headers)
    assert reply.status_code == 413
    assert server.http.post("/tokenize", json={"content": "x"}).status_code == 200


def test_pages_of_other_origins_are_let_in_only_when_named(
    server: Running, serve: Callable[..., Running]
) -> None:
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    closed = server.http.options("/v1/completions", headers=headers)
    assert "access-control-allow-origin" not in closed.headers
    named = serve({"origins": ("https://example.org",), "api_keys": ("k",)})
    opened = named.http.options("/v1/completions", headers=headers)
    assert opened.headers["access-control-allow-origin"] == "https://example.org"


# -- who waits and who goes ---------------------------------------------------------------------


@pytest.mark.slow
def test_many_at_once_get_what_one_alone_gets(server: Running) -> None:
    body = {"temperature": 0, "max_tokens": 20}
    prompts = ["Once", "Tom", "Lily", "The", "A dog", "Once upon a time"]

    def ask(prompt: str) -> str:
        url = f"{server.url}/v1/completions"
        reply = httpx.post(url, json={"prompt": prompt, **body}, timeout=60)
        text: str = reply.json()["choices"][0]["text"]
        return text

    alone = {prompt: ask(prompt) for prompt in prompts}
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: ask(prompts[i % 6])}))
        for i in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: alone[prompts[i % 6]] for i in range(24)}


def slow(
    server: Running, monkeypatch: pytest.MonkeyPatch, token_s: float = 0.01
) -> threading.Event:
    """Let the server compute a token only every now and then, until told otherwise."""
    free = threading.Event()
    model = server.service.scheduler._model
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda rows: (free.wait(token_s), decode(rows))[1])
    return free


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_client_that_goes_frees_its_slot_within_a_token(
    is_streamed: bool, serve: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(n_slots=1)
    slow(server, monkeypatch, token_s=0.2)
    scheduler = server.service.scheduler
    body = json.dumps({**ENDLESS, "stream": is_streamed}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + body)
        server.wait(lambda: scheduler.counts.generated_tokens >= 2)
    so_far = scheduler.counts.generated_tokens
    server.wait(lambda: scheduler.counts.cancelled == 1)
    assert scheduler.n_busy == 0
    assert scheduler.counts.generated_tokens <= so_far + 1  # the one that was being computed


def test_too_many_are_told_to_come_again(
    serve: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(n_slots=1, n_waiting=1)
    free, scheduler = slow(server, monkeypatch), server.service.scheduler
    replies: list[int] = []

    def ask() -> None:
        replies.append(httpx.post(f"{server.url}/v1/completions", json=ENDLESS, timeout=30)
                       .status_code)  # fmt: skip

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for n, thread in enumerate(threads):
        thread.start()
        server.wait(lambda n=n: scheduler.n_busy + scheduler.n_waiting > n)  # type: ignore[misc]
    refused = server.http.post("/v1/completions", json=ENDLESS)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    free.set()
    for thread in threads:
        thread.join()
    assert replies == [200, 200]


def test_a_stop_ends_what_is_under_way(
    serve: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(n_slots=1)
    slow(server, monkeypatch)
    with server.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as reply:
        lines = reply.iter_lines()
        next(lines)
        server.server.should_exit = True
        try:
            rest = list(lines)
        except httpx.RemoteProtocolError:
            rest = []
    assert len(rest) < 2 * 250
    server.thread.join(30)
    assert not server.thread.is_alive()


# -- the page -----------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere(server: Running) -> None:
    reply = server.http.get("/")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    files = [server.http.get(f"/page/{name}") for name in ("main.js", "style.css")]
    for text in (reply.text, *(file.text for file in files)):
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
    assert all(file.status_code == 200 for file in files)
