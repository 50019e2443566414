"""Ollama's interface, with plain HTTP and with Ollama's own client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.edit import Edits, plan_edit
from tests.api.server.running import Running
from tests.api.server.scripted import CALL, PARAMETERS, THOUGHT, post, saying

N_CTX = 1024
USER = [{"role": "user", "content": "Hi"}]
GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 12}
CHAT: dict[str, Any] = {"model": "stories", "messages": USER, "options": GREEDY}
FUNCTION = {"name": "tell", "description": "Tell it", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}


def lines(server: Running, path: str, **body: Any) -> list[dict[str, Any]]:
    with server.http.stream("POST", path, json=body) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in reply.iter_lines()]


def whole(server: Running, path: str, **body: Any) -> Any:
    return post(server, path, **body, stream=False)


def refusal(server: Running, path: str, status: int = 400, **body: Any) -> str:
    reply = post(server, path, status, **body)
    assert list(reply) == ["error"]
    return str(reply["error"])


# -- answers --------------------------------------------------------------------------------------


def test_an_answer_is_the_chats(server: Running) -> None:
    chat = post(server, "/v1/chat/completions", messages=USER, max_tokens=12, temperature=0)
    answer = whole(server, "/api/chat", **CHAT)
    content = chat["choices"][0]["message"]["content"]
    assert answer["message"] == {"role": "assistant", "content": content}
    assert (answer["model"], answer["done"], answer["done_reason"]) == ("stories", True, "length")
    assert answer["prompt_eval_count"] == chat["usage"]["prompt_tokens"]
    assert answer["eval_count"] == 12
    assert 0 < answer["eval_duration"] <= answer["total_duration"] < 60e9
    assert isinstance(answer["prompt_eval_duration"], int)
    datetime.fromisoformat(answer["created_at"].replace("Z", "+00:00"))
    system = [{"role": "system", "content": "Be brief"}, *USER]
    generated = {"model": "stories", "prompt": "Hi", "system": "Be brief", "options": GREEDY}
    expected = whole(server, "/api/chat", **{**CHAT, "messages": system})["message"]["content"]
    assert whole(server, "/api/generate", **generated)["response"] == expected


@pytest.mark.parametrize(
    ("text", "content", "thinking", "n_calls"),
    [
        ("Hello.", "Hello.", "", 0),
        (f"{THOUGHT}Hello.", "Hello.", "I wonder.", 0),
        (f"{THOUGHT}So: {CALL} {CALL}", "So: ", "I wonder.", 2),
        (CALL, "", "", 1),
    ],
)
def test_an_answer_is_the_same_whole_and_streamed(
    server: Running, text: str, content: str, thinking: str, n_calls: int
) -> None:
    options = {"num_predict": 200, "grammar": saying(text)}
    body = {"model": "stories", "messages": USER, "options": options, "tools": [TOOL]}
    message = whole(server, "/api/chat", **body)["message"]
    assert (message["content"], message.get("thinking", "")) == (content, thinking)
    functions = [call["function"] for call in message.get("tool_calls", [])]
    assert functions == [
        {"index": i, "name": "tell", "arguments": {"a": 1}} for i in range(n_calls)
    ]
    *parts, end = lines(server, "/api/chat", **body)
    assert (end["done"], end["done_reason"], end["message"]["content"]) == (True, "stop", "")
    assert not any(part["done"] for part in parts)
    messages = [part["message"] for part in parts]
    assert "".join(message["content"] for message in messages) == content
    assert "".join(message.get("thinking", "") for message in messages) == thinking
    calls = [call for message in messages for call in message.get("tool_calls", [])]
    assert [call["function"] for call in calls] == functions
    generated = {"model": "stories", "prompt": "Hi", "options": options}
    if not n_calls:
        answer = whole(server, "/api/generate", **generated)
        assert (answer["response"], answer.get("thinking", "")) == (content, thinking)


def test_options_are_the_samplers(server: Running) -> None:
    names = {"num_predict": "max_tokens"}
    options = {"seed": 7, "top_k": 20, "top_p": 0.8, "min_p": 0.1, "repeat_penalty": 1.2,
               "num_predict": 20, "stop": [" the"], "num_gpu": 99, "num_thread": 2}  # fmt: skip
    asked = {names.get(key, key): value for key, value in options.items()}
    chat = post(server, "/v1/chat/completions", messages=USER, **asked)["choices"][0]
    answer = whole(server, "/api/chat", model="stories", messages=USER, options=options)
    assert answer["message"]["content"] == chat["message"]["content"]
    assert "warnings" not in answer
    wide = whole(server, "/api/chat", model="stories", messages=USER,
                 options={**options, "num_ctx": 9999})  # fmt: skip
    assert wide["warnings"] == [
        "num_ctx: the context is 1024, as `-c` of the server says, not 9999"
    ]


def test_formats_hold_the_answer(server: Running) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    options = {"temperature": 0, "num_predict": 300}
    answer = whole(server, "/api/chat", **{**CHAT, "options": options}, format=schema)
    assert json.loads(answer["message"]["content"]) == {"a": 1}
    body = {"model": "stories", "prompt": "Hi", "options": options}
    answer = whole(server, "/api/generate", **body, format="json")
    if answer["done_reason"] == "stop":
        assert isinstance(json.loads(answer["response"]), dict)
    assert answer["response"].lstrip().startswith("{")
    assert whole(server, "/api/generate", **body, format="")["response"][:1] != "{"


def test_raw_prompts_and_log_probabilities(server: Running) -> None:
    expected = post(server, "/v1/completions", prompt="Once upon", temperature=0, max_tokens=12)
    body = {"model": "stories", "prompt": "Once upon", "raw": True, "options": GREEDY}
    answer = whole(server, "/api/generate", **body, logprobs=True, top_logprobs=2)
    assert answer["response"] == expected["choices"][0]["text"]
    assert "".join(entry["token"] for entry in answer["logprobs"]) == answer["response"]
    streamed = lines(server, "/api/generate", **body, logprobs=True, top_logprobs=2)
    assert [e for line in streamed for e in line.get("logprobs", ())] == answer["logprobs"]


def test_what_was_said_before_reaches_the_prompt(server: Running) -> None:
    calls = [{"function": {"name": "tell", "arguments": {"a": i}}} for i in (1, 2)]
    turns = [*USER, {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": calls},
             {"role": "tool", "tool_name": "tell", "content": "sun"},
             {"role": "tool", "content": "rain"}]  # fmt: skip
    named = [
        {"id": f"call0000{i}", "type": "function",
         "function": {"name": "tell", "arguments": json.dumps({"a": i})}} for i in (1, 2)
    ]  # fmt: skip
    messages = [*USER, {"role": "assistant", "content": "", "tool_calls": named},
                {"role": "tool", "tool_call_id": "call00001", "content": "sun"},
                {"role": "tool", "tool_call_id": "call00002", "content": "rain"}]  # fmt: skip
    chat = post(server, "/v1/chat/completions", messages=messages, max_tokens=12, temperature=0)
    answer = whole(server, "/api/chat", **{**CHAT, "messages": turns})
    assert answer["message"]["content"] == chat["choices"][0]["message"]["content"]
    assert answer["prompt_eval_count"] == chat["usage"]["prompt_tokens"]


@pytest.mark.parametrize(("keep_alive", "reason"), [("5m", "load"), (-1, "load"), (0, "unload")])
def test_a_request_without_a_prompt_only_loads(
    server: Running, keep_alive: Any, reason: str
) -> None:
    for path in ("/api/chat", "/api/generate"):
        answer = post(server, path, model="stories", keep_alive=keep_alive)
        assert (answer["done"], answer["done_reason"]) == (True, reason)


def test_a_call_that_the_limit_cuts_short_is_none(server: Running) -> None:
    body = {**CHAT, "tools": [TOOL], "options": {"num_predict": 6, "grammar": saying(CALL)}}
    answer = whole(server, "/api/chat", **body)
    assert ("tool_calls" in answer["message"], answer["done_reason"]) == (False, "length")


# -- the model ------------------------------------------------------------------------------------


def test_the_model_is_listed_and_described(server: Running) -> None:
    assert int(server.http.get("/api/version").json()["version"].split(".")[1]) >= 13
    (tag,) = server.http.get("/api/tags").json()["models"]
    (process,) = server.http.get("/api/ps").json()["models"]
    assert tag["name"] == tag["model"] == process["name"] == "stories:latest"
    assert tag["digest"] == process["digest"] and len(tag["digest"]) == 64
    assert tag["details"]["parameter_size"].endswith("K")
    assert (tag["details"]["format"], tag["details"]["quantization_level"]) == ("gguf", "F32")
    assert process["context_length"] == N_CTX
    show = post(server, "/api/show", model="stories")
    assert show["model_info"]["general.architecture"] == show["details"]["family"] == "llama"
    assert show["model_info"]["llama.context_length"] == N_CTX
    assert show["capabilities"] == ["completion", "tools"]
    for path in ("/", "/api/version", "/api/tags"):
        assert server.http.head(path).status_code == 200


def test_capabilities_are_those_of_the_file(server: Running, tmp_path: Path) -> None:
    names = {"prefix": "300", "suffix": "301", "middle": "302"}
    edits = {f"tokenizer.ggml.{name}_token_id": value for name, value in names.items()}
    edits["tokenizer.chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    path = tmp_path / "able.gguf"
    plan_edit(server.service.model_info.path, Edits(edits)).rewrite.write(path)
    with ExitStack() as stack:
        able = Running(path, stack, {}, name=None)
        show = post(able, "/api/show", model="able")
        assert show["capabilities"] == ["completion", "tools", "thinking", "insert"]
        body = {"model": "able", "prompt": "Once", "options": {"num_predict": 3}}
        assert whole(able, "/api/generate", **body)["response"] == ""  # it reasons
        assert whole(able, "/api/generate", **body, think=False)["response"]
        assert whole(able, "/api/generate", **body, suffix=" end")["response"]


@pytest.mark.parametrize(
    ("name", "is_served"),
    [("stories", True), ("Stories:latest", True), ("stories260K.f32", True),
     ("stories260K.f32.gguf", True), ("llama3", False), ("stories:q4", False),
     ("org/repo:Q4_K_M", False), ("https://example.org/x", False), ("\x00", False), ("~", False)],
)  # fmt: skip
def test_the_model_goes_by_its_names(server: Running, name: str, is_served: bool) -> None:
    body = {"model": name, "messages": USER, "options": {"num_predict": 1}}
    if is_served:
        assert whole(server, "/api/chat", **body)["model"] == name
        assert post(server, "/api/pull", model=name, stream=False) == {"status": "success"}
        return
    for path in ("/api/chat", "/api/pull"):
        assert "not found: this server has `stories:latest`" in refusal(server, path, 404, **body)


def test_a_model_of_the_cache_goes_by_its_repository(
    stories: Path, kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--org--repo" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    shutil.copy(stories, snapshot / "tiny.Q8_0.gguf")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with ExitStack() as stack:
        server = Running(snapshot / "tiny.Q8_0.gguf", stack, {}, name=None)
        for name in ("org/repo:Q8_0", "hf.co/org/repo:Q8_0", "org/repo:q8_0",
                     "huggingface.co/org/repo", "org/repo:latest", "hf://org/repo/tiny.Q8_0.gguf",
                     "tiny.q8_0"):  # fmt: skip
            assert post(server, "/api/show", model=name)["details"]["format"] == "gguf", name
        assert "not found" in refusal(server, "/api/show", 404, model="org/repo:Q4_K_M")
        assert "not found" in refusal(server, "/api/show", 404, model="org/other:Q8_0")


# -- embeddings -----------------------------------------------------------------------------------


def test_embeddings_are_openais(server: Running) -> None:
    texts = ["Once upon a time", "Tom"]
    expected = post(server, "/v1/embeddings", input=texts)
    answer = post(server, "/api/embed", model="stories", input=texts)
    vectors = [entry["embedding"] for entry in expected["data"]]
    assert np.allclose(answer["embeddings"], vectors, atol=1e-6)
    assert answer["prompt_eval_count"] == expected["usage"]["prompt_tokens"]
    one = post(server, "/api/embed", model="stories", input="Tom")
    assert np.allclose(one["embeddings"], vectors[1:], atol=1e-6)
    old = post(server, "/api/embeddings", model="stories", prompt="Tom")
    assert np.allclose(old["embedding"], vectors[1], atol=1e-6)
    assert post(server, "/api/embeddings", model="stories")["embedding"] == []
    assert post(server, "/api/embed", model="stories", input=[])["embeddings"] == []


def test_a_text_that_is_too_long_is_cut_where_it_may_be(server: Running) -> None:
    long = "word " * 2000
    ids = server.service.tokenizer.encode(long)[:N_CTX]
    expected = post(server, "/v1/embeddings", input=[ids])["data"][0]["embedding"]
    answer = post(server, "/api/embed", model="stories", input=long)
    assert np.allclose(answer["embeddings"][0], expected, atol=1e-6)
    assert answer["prompt_eval_count"] == N_CTX
    assert len(post(server, "/api/embeddings", model="stories", prompt="x" * 10**6)["embedding"])
    refused = refusal(server, "/api/embed", model="stories", input=long, truncate=False)
    assert "the context of 1024" in refused


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("chat", {"model": None}, "model: expected a name"),
        ("chat", {"model": 7}, "model: "),
        ("chat", {"messages": 7}, "messages: "),
        ("chat", {"messages": [{"content": "x"}]}, "messages.0.role: "),
        ("chat", {"messages": [{"role": "user", "images": ["AAAA"]}]}, "images are not read"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "function: "),
        ("chat", {"options": {"temperature": "warm"}}, "options.temperature: "),
        ("chat", {"options": {"top_p": 7}}, "top_p: expected [0, 1]"),
        ("chat", {"format": "xml"}, "format"),
        ("chat", {"think": "much"}, "think"),
        ("chat", {"tools": [7]}, "tools"),
        ("chat", {"tools": [{}]}, "expected a function with a name"),
        ("generate", {"images": ["AAAA"]}, "images are not read"),
        ("generate", {"template": "{{ .Prompt }}"}, "template: "),
        ("generate", {"context": [1, 2]}, "context: "),
        ("generate", {"suffix": "x"}, "no tokens for filling in"),
        ("generate", {"prompt": "word " * 2000}, "the context of 1024"),
        ("embed", {"input": {}}, "input"),
        ("embed", {"input": ["x"] * 2049}, "at most 2048 texts"),
        ("embed", {"input": "x", "dimensions": 65}, "dimensions: expected [1, 64]"),
        ("create", {}, "this server has one model"),
        ("copy", {}, "this server has one model"),
        ("push", {}, "this server has one model"),
        ("blobs/sha256:x", {}, "this server has one model"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_said_in_ollamas_shape(
    server: Running, path: str, fields: dict[str, Any], message: str
) -> None:
    body = {"model": "stories", "prompt": "x", "messages": USER, **fields}
    assert message in refusal(server, f"/api/{path}", **body)


def test_other_replies_have_its_shape_too(serve: Callable[..., Running]) -> None:
    server = serve({"api_keys": ("secret",)})
    assert "expected the key" in refusal(server, "/api/chat", 401, **CHAT)
    headers = {"Authorization": "Bearer secret"}
    for method, path, status in (("GET", "/api/nothing", 404), ("GET", "/api/chat", 405),
                                 ("DELETE", "/api/delete", 400)):  # fmt: skip
        reply = server.http.request(method, path, headers=headers)
        assert (reply.status_code, list(reply.json())) == (status, ["error"])
    assert server.http.head("/api/blobs/sha256:x", headers=headers).status_code == 404


def test_an_error_in_a_stream_is_a_line(server: Running, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(server.service.scheduler, "round", fail)
    assert lines(server, "/api/chat", **CHAT)[-1] == {"error": "RuntimeError: broken"}


def test_a_stream_shows_that_the_answer_is_computed(slow_server: Running) -> None:
    parts = lines(slow_server, "/api/chat", **{**CHAT, "options": {"num_predict": 1}})
    assert sum(part["message"]["content"] == "" and not part["done"] for part in parts) > 2


# -- Ollama's own client --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    ollama = pytest.importorskip("ollama", reason="ollama is not installed")
    with ollama.Client(host=server.url) as found:
        yield found


def test_ollamas_client_chats_generates_and_embeds(client: Any) -> None:
    answer = client.chat(**CHAT)
    parts = list(client.chat(**CHAT, stream=True))
    assert "".join(part.message.content for part in parts) == answer.message.content
    assert parts[-1].done_reason == answer.done_reason == "length"
    body = {"model": "stories", "prompt": "Hi", "options": GREEDY}
    generated = client.generate(**body)
    assert generated.response == answer.message.content
    assert "".join(part.response for part in client.generate(**body, stream=True)) == (
        generated.response)  # fmt: skip
    assert len(client.embed(model="stories", input=["a", "b"]).embeddings) == 2
    assert len(client.embeddings(model="stories", prompt="a").embedding) == 64


def test_ollamas_client_lists_shows_and_pulls(client: Any) -> None:
    import ollama

    assert [model.model for model in client.list().models] == ["stories:latest"]
    assert client.ps().models[0].expires_at.year == 9999
    assert client.show("stories").modelinfo["llama.context_length"] == N_CTX
    assert client.pull("stories").status == "success"
    assert [each.status for each in client.pull("stories", stream=True)] == ["success"]
    with pytest.raises(ollama.ResponseError, match="not found") as found:
        client.show("llama3")
    assert found.value.status_code == 404
    refused: tuple[Callable[[], Any], ...] = (
        lambda: client.delete("stories"),
        lambda: client.copy("stories", "x"),
        lambda: client.create("x", from_="stories"),
        lambda: client.push("stories"),
    )
    for act in refused:
        with pytest.raises(ollama.ResponseError, match="this server has one model"):
            act()


def test_ollamas_client_calls_tools(client: Any) -> None:
    def tell(a: int) -> str:
        """Tell it.

        Args:
            a: What.
        """
        return "told"

    options = {"num_predict": 200, "grammar": saying(f"{THOUGHT}{CALL}")}
    answer = client.chat(model="stories", messages=USER, tools=[tell], options=options)
    (call,) = answer.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("tell", {"a": 1})
    assert answer.message.thinking == "I wonder."
    result = {"role": "tool", "tool_name": "tell", "content": "told"}
    messages = [*USER, answer.message, result]
    assert client.chat(**{**CHAT, "messages": messages}).done


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_durations_can_be_divided_by(
    server: Running, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: 7.0)  # a clock that does not see so little
    body = {"model": "stories", "prompt": "Once", "raw": True, "stream": False,
            "options": {"num_predict": limit}}  # fmt: skip
    answer = post(server, "/api/generate", **body)
    assert answer["eval_count"] == limit
    assert answer["prompt_eval_duration"] >= 1
    assert answer["eval_duration"] == min(limit, 1)
