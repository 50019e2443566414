"""Requests that other servers take: SillyTavern's, lm-evaluation-harness's, llama.cpp's users'."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.errors import UsageError
from gguf_hub.gguf.edit import Edits, plan_edit
from tests.api.server.running import Running

USER = [{"role": "user", "content": "Hi"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}

# fields of SillyTavern's llama.cpp backend (public/scripts/textgen-settings.js)
SILLY_TAVERN: dict[str, Any] = {
    "model": "x", "max_new_tokens": 4, "max_tokens": 4, "n_predict": 4, "num_ctx": 4096,
    "temperature": 0.7, "typical": 1, "typical_p": 1, "sampler_seed": -1, "num_beams": 1,
    "repetition_penalty": 1.2, "add_bos_token": True, "smoothing_factor": 0, "seed": -1,
    "dry_allowed_length": 2, "dry_multiplier": 0.8, "dry_base": 1.75, "dry_penalty_last_n": 0,
    "dry_sequence_breakers": ["\n", ":", '"', "*"], "stop": ["\nUser:"], "tfs": 1, "tfs_z": 1,
    "samplers": ["dry", "top_k", "tfs_z", "typical_p", "top_p", "min_p", "xtc", "temperature"],
    "grammar_string": "", "grammar": "", "json_schema": {}, "logit_bias": [[5, False]],
    "n_probs": 10, "xtc_threshold": 0.1, "xtc_probability": 0, "stream": False,
}  # fmt: skip


def post(server: Running, path: str, **body: Any) -> Any:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refusal(server: Running, path: str, **body: Any) -> Any:
    headers = {"content-type": "application/json"}
    reply = server.http.post(path, content=json.dumps(body), headers=headers)
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]


def test_sillytaverns_bodies_are_taken_and_constrain_nothing(server: Running) -> None:
    answer = post(server, "/completion", prompt="Once", **SILLY_TAVERN)
    assert answer["tokens_predicted"] == 4
    greedy = {"prompt": "Once", "temperature": 0, "n_predict": 4}
    plain = post(server, "/completion", **greedy)["content"]
    assert post(server, "/completion", **greedy, grammar="", json_schema={})["content"] == plain


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("completions", {"samplers": ["top_k", "nonsense"]}, "samplers: no step `nonsense`"),
        ("completions", {"dry_sequence_breakers": []}, "dry_sequence_breakers"),
        ("completions", {"grammar": 'root ::= "a"', "json_schema": {"enum": [1]}}, "found both"),
        ("completions", {"prompt": "\ud83d"}, "surrogate"),
        ("completions", {"prompt": [1, [2]]}, "prompt"),
        ("embeddings", {"input": "x", "dimensions": 65}, "dimensions: expected [1, 64]"),
        ("chat/completions", {"messages": USER, "response_format": {"type": "regex"}}, "`regex`"),
        ("chat/completions", {"messages": USER, "json_schema": {"enum": [1]},
                              "response_format": {"type": "json_object", "value": {}}}, "found 2"),
    ],
    ids=str,
)  # fmt: skip
def test_what_would_not_be_followed_is_refused(
    server: Running, path: str, fields: dict[str, Any], message: str
) -> None:
    assert message in refusal(server, f"/v1/{path}", **fields)["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"json_schema": {"enum": [7]}},
        {"response_format": {"type": "json_object", "value": {"enum": [7]}}},
        {"response_format": {"type": "json", "value": {"enum": [7]}}},
        {"response_format": {"type": "json_object", "schema": {"enum": [7]}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [7]}}}},
        {"response_format": {"type": "json_schema", "schema": {"enum": [7]}}},
        {"response_format": {"type": "text"}, "json_schema": {"enum": [7]}},
    ],
    ids=str,
)
def test_a_schema_is_followed_wherever_it_stands(server: Running, fields: dict[str, Any]) -> None:
    chat = post(server, "/v1/chat/completions", messages=USER, **fields)
    assert chat["choices"][0]["message"]["content"].strip() == "7"
    text = post(server, "/v1/completions", prompt="Hi", **fields)
    assert text["choices"][0]["text"].strip() == "7"


def test_samplers_are_followed(server: Running) -> None:
    body = {"prompt": "Once upon a time", "temperature": 5, "max_tokens": 16, "seed": 1}
    cold = post(server, "/v1/completions", **body, samplers=["top_k"], top_k=1)
    greedy = post(server, "/v1/completions", **{**body, "temperature": 0})
    warm = post(server, "/v1/completions", **body, samplers="t")
    texts = [answer["choices"][0]["text"] for answer in (cold, greedy, warm)]
    assert texts[0] == texts[1] != texts[2]


def test_prompts_may_be_texts_and_ids_in_one_list(server: Running) -> None:
    upon = [407, 259]
    prompts = ["Once", [1, 403, *upon], [1, 403, " upon a"], "Tom"]
    answer = post(server, "/v1/completions", prompt=prompts, echo=True, n=2, **GREEDY)
    assert [choice["index"] for choice in answer["choices"]] == list(range(8))
    alone = [
        post(server, "/v1/completions", prompt=[prompt], echo=True, **GREEDY)["choices"][0]["text"]
        for prompt in prompts
    ]
    assert [choice["text"] for choice in answer["choices"][::2]] == alone
    one = post(server, "/v1/completions", prompt=[1, 403, " upon a"], echo=True, **GREEDY)
    assert [choice["text"] for choice in one["choices"]] == alone[2:3]


def test_a_prompt_counts_once_however_many_texts_follow_it(server: Running) -> None:
    prompts = ["Once upon a time", "Tom"]
    n_prompt = sum(
        post(server, "/v1/completions", prompt=prompt, **GREEDY)["usage"]["prompt_tokens"]
        for prompt in prompts
    )
    usage = post(server, "/v1/completions", prompt=prompts, n=3, **GREEDY)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (n_prompt, 24)
    chat = [
        post(server, "/v1/chat/completions", messages=USER, n=n, **GREEDY)["usage"]
        for n in (1, 2)
    ]  # fmt: skip
    assert chat[0]["prompt_tokens"] == chat[1]["prompt_tokens"]


def test_one_model_can_be_asked_for_by_its_name(server: Running) -> None:
    (listed,) = server.http.get("/v1/models").json()["data"]
    assert server.http.get("/v1/models/stories").json() == listed
    for other in ("gpt-4o", "org/other"):
        reply = server.http.get(f"/v1/models/{other}")
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (404, "model_not_found")
        assert (error["param"], error["type"]) == ("model", "invalid_request_error")


def test_a_prompt_that_is_too_long_has_openais_code_and_llama_servers_numbers(
    server: Running,
) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": [1] * 300}),
        ("/completion", {"prompt": [1] * 300}),
    ):
        error = refusal(server, path, **body)
        assert error["code"] == "context_length_exceeded"
        assert error["type"] == "exceed_context_size_error"
        assert (error["n_prompt_tokens"], error["n_ctx"]) == (300, 256)


def test_curl_sends_a_form_that_is_json(server: Running) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        reply = server.http.post(
            "/completion", content=b'{"prompt": "Once", "n_predict": 2}',
            headers={"content-type": kind},
        )  # fmt: skip
        assert (reply.status_code, reply.json()["tokens_predicted"]) == (200, 2)
    text = server.http.get("/metrics").text
    assert 'gguf_hub_requests_total{route="/completion",status="200"}' in text


@pytest.mark.parametrize(
    ("body", "message"),
    [("prompt=Once", "not JSON at character 0"), ('{"a": }', "not JSON at character 6"),
     ("", "the body is empty"), ("[]", "expected an object, found a list")],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_named(server: Running, body: str, message: str) -> None:
    reply = server.http.post("/completion", content=body)
    assert (reply.status_code, message in reply.json()["error"]["message"]) == (400, True)


# -- log probabilities of the prompt ------------------------------------------------------------


@pytest.fixture(scope="module")
def llm(server: Running) -> Any:
    with Llama(server.service.model_info.path, n_ctx=256, logits_all=True) as model:
        yield model


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
@pytest.mark.parametrize("prompt", ["Once upon a time", [1, 403, 407, 261], [403, 407]], ids=str)
def test_an_echo_has_the_log_probabilities_of_the_prompt(
    server: Running, llm: Llama, prompt: Any, max_tokens: int
) -> None:
    body = {"prompt": prompt, "echo": True, "logprobs": 2, "temperature": 0, "seed": 1}
    (choice,) = post(server, "/v1/completions", **body, max_tokens=max_tokens)["choices"]
    logprobs = choice["logprobs"]
    n_prompt = len(prompt) if isinstance(prompt, list) else 4  # the begin token is no text
    assert {len(values) for values in logprobs.values()} == {n_prompt + max_tokens}
    assert (logprobs["text_offset"][0], logprobs["token_logprobs"][0]) == (0, None)
    assert (logprobs["top_logprobs"][0], choice["finish_reason"]) == (None, "length")
    for token, logprob, top in list(
        zip(*(logprobs[key] for key in ("tokens", "token_logprobs", "top_logprobs")), strict=True)
    )[1:]:
        assert top[token] == logprob <= max(top.values())
    if max_tokens:
        expected = llm(prompt, echo=True, logprobs=2, temperature=0, max_tokens=max_tokens)
        assert choice == expected["choices"][0]


def test_log_probabilities_of_a_prompt_are_the_same_however_it_is_computed(
    serve: Any, server: Running
) -> None:
    body = {"prompt": "Once upon a time there was a girl", "echo": True, "logprobs": 3,
            "temperature": 0, "max_tokens": 2, "n": 2}  # fmt: skip
    first, second = post(server, "/v1/completions", **body)["choices"]
    again = post(server, "/v1/completions", **body)["choices"][0]  # its prompt is in the cache
    small = post(serve(n_batch=3), "/v1/completions", **body)["choices"][0]
    assert first["logprobs"] == second["logprobs"] == again["logprobs"] == small["logprobs"]


def test_a_streamed_echo_has_them_too(server: Running, llm: Llama) -> None:
    body: dict[str, Any] = {"prompt": "Once upon", "echo": True, "logprobs": 1, **GREEDY}
    (whole,) = post(server, "/v1/completions", **body)["choices"]
    for chunks in (llm(**body, stream=True), streamed(server, body)):
        parts = [chunk["choices"][0] for chunk in chunks]
        assert "".join(part["text"] for part in parts) == whole["text"]
        for key, values in whole["logprobs"].items():
            assert [x for p in parts if p["logprobs"] for x in p["logprobs"][key]] == values


def streamed(server: Running, body: dict[str, Any], path: str = "/v1/completions") -> list[Any]:
    with server.http.stream("POST", path, json={**body, "stream": True}) as reply:
        lines = [line for line in reply.iter_lines() if line and "[DONE]" not in line]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_lm_evaluation_harness_gets_its_figures(server: Running, llm: Llama) -> None:
    """The requests and the reading of lm_eval 0.4's ``local-completions``."""
    contexts = [[1, 403, 407], [1, 403]]
    endings = [[261, 378], [407]]
    prompts = [a + b for a, b in zip(contexts, endings, strict=True)]
    body = {"model": "stories", "prompt": prompts, "temperature": 0, "max_tokens": 1,
            "logprobs": 1, "seed": 1234, "echo": True}  # fmt: skip
    choices = sorted(post(server, "/v1/completions", **body)["choices"], key=lambda c: c["index"])
    for choice, context, prompt in zip(choices, contexts, prompts, strict=True):
        figures = choice["logprobs"]
        found = figures["token_logprobs"][len(context) : -1]
        llm.reset()
        llm.eval(prompt)
        rows = llm.logits_to_logprobs(llm.scores[: len(prompt)])
        expected = [float(rows[i - 1][prompt[i]]) for i in range(len(context), len(prompt))]
        assert found == pytest.approx(expected, abs=1e-5)
        is_greedy = [
            logprob == max(top.values())
            for logprob, top in zip(found, figures["top_logprobs"][len(context) : -1], strict=True)
        ]
        assert is_greedy == [
            int(rows[i - 1].argmax()) == prompt[i] for i in range(len(context), len(prompt))
        ]


# -- conversations --------------------------------------------------------------------------------


def test_a_conversation_that_ends_with_an_answer_is_continued(server: Running) -> None:
    begun = [*USER, {"role": "assistant", "content": "Once upon"}]
    answer = post(server, "/v1/chat/completions", messages=begun, **GREEDY)
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nOnce upon"
    expected = post(server, "/v1/completions", prompt=prompt, **GREEDY)
    assert answer["choices"][0]["message"]["content"] == expected["choices"][0]["text"]
    assert answer["usage"]["total_tokens"] == expected["usage"]["total_tokens"]
    both = {"add_generation_prompt": True, "continue_final_message": True}
    message = refusal(server, "/v1/chat/completions", messages=begun, **both)["message"]
    assert "found both" in message


def test_variables_of_templates_may_have_any_name(server: Running) -> None:
    names = ["self", "messages", "tools", "json_schema", "continue_final_message", "bos_token", "x"]
    variables = dict.fromkeys(names, "x")
    post(server, "/v1/chat/completions", messages=USER, chat_template_kwargs=variables, **GREEDY)


TELL = {"type": "function", "function": {"name": "tell", "parameters": {"type": "object"}}}
CALL = '{"name":"tell","arguments":{"a":1}}'


@pytest.mark.parametrize(
    ("text", "content", "n_calls"),
    [
        (f"So: {CALL} [{CALL}]", "So: ", 2),
        (f"<tool_call>\n{CALL}\n</tool_call>", None, 1),
        ("Take {x} and [y].", "Take {x} and [y].", 0),
    ],
)
def test_calls_in_text_are_the_same_whole_and_streamed(
    server: Running, text: str, content: str | None, n_calls: int
) -> None:
    body = {"messages": USER, "tools": [TELL], "grammar": f"root ::= {json.dumps(text)}"}
    (choice,) = post(server, "/v1/chat/completions", **body)["choices"]
    calls = choice["message"].get("tool_calls", [])
    assert (choice["message"]["content"], len(calls)) == (content, n_calls)
    assert choice["finish_reason"] == ("tool_calls" if n_calls else "stop")
    chunks = streamed(server, body, "/v1/chat/completions")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == (content or "")
    parts = [part for delta in deltas for part in delta.get("tool_calls", ())]
    assert [part["function"] for part in parts] == [call["function"] for call in calls]
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    one = post(server, "/v1/chat/completions", **body, parallel_tool_calls=False)["choices"][0]
    assert len(one["message"].get("tool_calls", ())) == min(n_calls, 1)


@pytest.mark.parametrize(
    ("fields", "reasoning", "content"),
    [({}, "I wonder", "Yes."), ({"reasoning_format": "none"}, "", "<think>I wonder</think>Yes."),
     ({"max_tokens": 12}, "I wonder", "")],
)  # fmt: skip
def test_reasoning_is_the_same_whole_and_streamed(
    server: Running, fields: dict[str, Any], reasoning: str, content: str
) -> None:
    text = "<think>I wonder</think>Yes."
    body = {"messages": USER, "grammar": f"root ::= {json.dumps(text)}", "temperature": 0, **fields}
    (choice,) = post(server, "/v1/chat/completions", **body)["choices"]
    message = choice["message"]
    found = message.get("reasoning_content", "")
    assert (reasoning.startswith(found), message["content"]) == (True, content)
    assert bool(found) == bool(reasoning)
    chunks = streamed(server, body, "/v1/chat/completions")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == found
    assert "".join(delta.get("content") or "" for delta in deltas) == content
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_the_limit_cuts_short_says_so(server: Running, stream: bool) -> None:
    body = {"messages": USER, "tools": [TELL], "tool_choice": "required", "max_tokens": 1}
    if stream:
        choice = streamed(server, body, "/v1/chat/completions")[-1]["choices"][0]
    else:
        (choice,) = post(server, "/v1/chat/completions", **body)["choices"]
    assert choice["finish_reason"] == "length"


# -- filling in the middle ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def infilling(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose file names tokens for it."""
    path = tmp_path_factory.mktemp("infill") / "infill.gguf"
    names = {"prefix": "300", "suffix": "301", "middle": "302"}
    edits = Edits({f"tokenizer.ggml.{name}_token_id": value for name, value in names.items()})
    plan_edit(server.service.model_info.path, edits).rewrite.write(path)
    return path


def test_a_suffix_is_filled_up_to(server: Running, infilling: Path) -> None:
    ids = server.service.tokenizer.encode
    suffix = ids("☺ there was")[len(ids("☺")) :]
    prompt = [1, 300, *ids("Once upon", add_bos=False), 301, *suffix, 302]
    expected = post(server, "/v1/completions", prompt=prompt, **GREEDY)
    body = {"prompt": "Once upon", "suffix": " there was", **GREEDY}
    with ExitStack() as stack:
        answer = post(Running(infilling, stack, {}), "/v1/completions", **body)
    assert answer["choices"] == expected["choices"]
    assert answer["usage"]["total_tokens"] == expected["usage"]["total_tokens"]
    with Llama(infilling, n_ctx=256) as llm:
        assert llm(**body)["choices"] == expected["choices"]


def test_a_suffix_that_cannot_be_filled_up_to_is_refused(server: Running, llm: Llama) -> None:
    body = {"prompt": "Once", "suffix": " there"}
    assert "no tokens for filling in" in refusal(server, "/v1/completions", **body)["message"]
    with pytest.raises(UsageError, match="no tokens for filling in"):
        llm(**body)
    plain = post(server, "/v1/completions", prompt="Once", suffix="", **GREEDY)
    assert plain["usage"]["completion_tokens"] == 4
