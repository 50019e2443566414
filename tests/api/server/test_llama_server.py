"""Routes of llama-server beside ``/completion``, and what it adds to OpenAI's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.edit import Edits, plan_edit
from gguf_hub.run.chat import TemplateFormat
from tests.api.server.running import Running
from tests.api.server.scripted import PARAMETERS, post

N_CTX = 512
USER = [{"role": "user", "content": "Hi"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": PARAMETERS}}


def test_paths_without_a_prefix_are_llama_servers(server: Running) -> None:
    assert server.http.get("/v1/health").json() == {"status": "ok"}
    assert server.http.get("/models").json() == server.http.get("/v1/models").json()
    chat = post(server, "/chat/completions", messages=USER, **GREEDY)
    expected = post(server, "/v1/chat/completions", messages=USER, **GREEDY)
    assert chat["choices"] == expected["choices"]
    native = post(server, "/completions", prompt="Once", temperature=0, n_predict=4)
    assert native["content"] == post(
        server, "/completion", prompt="Once", temperature=0, n_predict=4
    )["content"]  # fmt: skip


def test_a_template_is_applied(server: Running) -> None:
    user = [{"role": "user", "content": "a <|im_end|>"}]  # its text, which ends no turn
    prompt = post(server, "/apply-template", messages=user)["prompt"]
    assert prompt == "<|im_start|>user\na <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    n_tokens = post(server, "/v1/chat/completions/input_tokens", messages=USER)["input_tokens"]
    chat = post(server, "/v1/chat/completions", messages=USER, **GREEDY)
    assert n_tokens == chat["usage"]["prompt_tokens"]


def test_slots_adapters_and_properties_are_told(serve: Callable[..., Running]) -> None:
    server = serve(n_slots=2)
    assert server.http.get("/slots").json() == [
        {"id": i, "n_ctx": 256, "speculative": False, "is_processing": False, "n_prompt_tokens": 0}
        for i in range(2)
    ]
    assert server.http.get("/lora-adapters").json() == []
    props = server.http.get("/props").json()
    assert props["chat_template_caps"]["supports_tools"] is True
    assert props["modalities"] == {"vision": False, "audio": False}
    template = TemplateFormat(props["chat_template"])  # of the format that it falls back on
    expected = post(server, "/apply-template", messages=USER)["prompt"]
    assert template.render(USER).text == expected


def test_vectors_are_openais(server: Running) -> None:
    texts = ["Once", "Tom"]
    expected = post(server, "/v1/embeddings", input=texts)["data"]
    for path, field in (("/embedding", "content"), ("/embeddings", "input")):
        found = server.http.post(path, json={field: texts}).json()
        assert [entry["index"] for entry in found] == [0, 1]
        for entry, other in zip(found, expected, strict=True):
            assert np.allclose(entry["embedding"], [other["embedding"]], atol=1e-6)


def test_a_text_is_filled_in(server: Running, tmp_path: Path) -> None:
    body = {"input_prefix": "Once", "input_suffix": " end", "temperature": 0, "n_predict": 4}
    assert "no tokens for filling in" in post(server, "/infill", 400, **body)["error"]["message"]
    names = {"prefix": "300", "suffix": "301", "middle": "302"}
    edits = Edits({f"tokenizer.ggml.{name}_token_id": value for name, value in names.items()})
    path = tmp_path / "infill.gguf"
    plan_edit(server.service.model_info.path, edits).rewrite.write(path)
    with ExitStack() as stack:
        able = Running(path, stack, {})
        found = post(able, "/infill", **body)
        expected = post(able, "/v1/completions", prompt="Once", suffix=" end", **GREEDY)
        assert found["content"] == expected["choices"][0]["text"]
        n_plain = found["tokens_evaluated"]
        more = post(able, "/infill", **body, prompt="Tom",
                    input_extra=[{"filename": "a", "text": "Lily"}])  # fmt: skip
        assert more["tokens_evaluated"] > n_plain + 2


@pytest.mark.parametrize("stream", [False, True])
def test_answers_say_what_was_cached_and_how_long_it_took(server: Running, stream: bool) -> None:
    body = {"messages": USER, **GREEDY, "stream_options": {"include_usage": True}}
    post(server, "/v1/chat/completions", **body)
    if stream:
        text = server.http.post("/v1/chat/completions", json={**body, "stream": True}).text
        answer = json.loads(text.strip().split("\n\n")[-2].removeprefix("data: "))
    else:
        answer = post(server, "/v1/chat/completions", **body)
    usage, timings = answer["usage"], answer["timings"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": usage["prompt_tokens"] - 1}
    assert (timings["cache_n"], timings["prompt_n"]) == (usage["prompt_tokens"] - 1, 1)
    assert (timings["predicted_n"], timings["predicted_ms"] > 0) == (4, True)
    several = post(server, "/v1/chat/completions", **{**body, "n": 2})
    assert "timings" not in several


@pytest.mark.parametrize("shape", ["chat", "responses"])
def test_only_tools_that_are_allowed_are_called(server: Running, shape: str) -> None:
    allowed = {"mode": "required", "tools": [tool("b")]}
    if shape == "responses":
        allowed["tools"] = [{"type": "function", "name": "b"}]
    choice = {
        "type": "allowed_tools",
        **({"allowed_tools": allowed} if shape == "chat" else allowed),
    }
    body = {"messages": USER, "tools": [tool("a"), tool("b")], "max_tokens": 60}
    answer = post(server, "/v1/chat/completions", **body, tool_choice=choice)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "b"


@pytest.mark.parametrize(
    ("allowed", "message"),
    [({"mode": "required", "tools": [tool("c")]}, "none of the tools"),
     ({"mode": "maybe", "tools": [tool("a")]}, "`auto` or `required`"),
     ({"tools": 7}, "expected `tools`"), (7, "expected `tools`"),
     ({"mode": "required", "tools": [7, {"function": 7}]}, "none of the tools")],
    ids=str,
)  # fmt: skip
def test_what_is_allowed_must_be_there(server: Running, allowed: Any, message: str) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    body = {"messages": USER, "tools": [tool("a")], "tool_choice": choice}
    assert message in post(server, "/v1/chat/completions", 400, **body)["error"]["message"]


def test_several_prompts_have_an_array_of_answers(server: Running) -> None:
    body = {"n_predict": 5, "temperature": 0, "cache_prompt": False}
    prompts: list[Any] = ["Once upon", [1, 403], "Tom"]
    alone = [post(server, "/completion", prompt=prompt, **body) for prompt in prompts]
    both = server.http.post("/completion", json={**body, "prompt": prompts}).json()
    assert [each["index"] for each in both] == [0, 1, 2]
    assert [each["content"] for each in both] == [each["content"] for each in alone]
    assert post(server, "/completion", prompt=["Tom"], **body)["content"] == alone[2]["content"]
    mixed = post(server, "/completion", prompt=["Once", 407], **body)  # one prompt
    assert mixed["tokens_evaluated"] == 3
    asked = {**body, "prompt": prompts, "stream": True}
    with server.http.stream("POST", "/completion", json=asked) as reply:
        parts = [json.loads(line[6:]) for line in reply.iter_lines() if line]
    texts = ["".join(p["content"] for p in parts if p["index"] == i) for i in range(3)]
    assert texts == [each["content"] for each in alone]
    assert sorted(part["index"] for part in parts if part["stop"]) == [0, 1, 2]


def test_as_many_texts_are_embedded_as_clients_send_at_once(server: Running) -> None:
    """LangChain's, LlamaIndex's and LiteLLM's clients send a hundred and more."""
    answer = post(server, "/v1/embeddings", input=["Tom"] * 130)
    assert len(answer["data"]) == 130


def test_pages_of_other_origins_load_no_model(server: Running) -> None:
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    for path in ("/slots", "/props", "/lora-adapters"):
        assert server.http.get(path, headers=foreign).status_code == 403
        assert server.http.get(path, headers={"Sec-Fetch-Site": "none"}).status_code == 200
    assert server.http.get("/v1/models", headers=foreign).status_code == 200


def test_each_choice_has_calls_of_its_own(server: Running) -> None:
    answer = post(server, "/v1/chat/completions", messages=USER, tools=[tool("tell")], n=2,
                  tool_choice="required", **GREEDY)  # fmt: skip
    ids = [c["message"]["tool_calls"][0]["id"] for c in answer["choices"]]
    assert len(set(ids)) == 2
