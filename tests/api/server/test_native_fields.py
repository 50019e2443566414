"""Fields of llama-server's ``/completion``, as its README documents them."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.server.running import Running
from tests.api.server.scripted import post, saying

GREEDY: dict[str, Any] = {"prompt": "Once", "temperature": 0, "n_predict": 8}


def chunks(server: Running, path: str = "/completion", **body: Any) -> list[dict[str, Any]]:
    text = server.http.post(path, json={**body, "stream": True}).text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("stop", [[], [" time"]], ids=["limit", "word"])
def test_tokens_are_those_of_the_text_whole_and_streamed(server: Running, stop: list[str]) -> None:
    body = {**GREEDY, "stop": stop}
    assert post(server, "/completion", **body)["tokens"] == []
    whole = post(server, "/completion", **body, return_tokens=True)
    assert len(whole["tokens"]) == whole["tokens_predicted"] > 1
    text = post(server, "/detokenize", tokens=whole["tokens"])["content"]
    assert text.strip().startswith(whole["content"].strip())
    if not stop:
        assert text.strip() == whole["content"].strip()
    streamed = chunks(server, **body)
    assert [i for chunk in streamed for i in chunk["tokens"]] == whole["tokens"]


def test_chosen_fields_alone_are_returned(server: Running) -> None:
    fields = ["content", "generation_settings/n_predict", "timings/prompt_n", "none", "stop/x"]
    answer = post(server, "/completion", **GREEDY, response_fields=fields)
    assert list(answer) == ["content", "generation_settings/n_predict", "timings/prompt_n"]
    assert answer["generation_settings/n_predict"] == 8
    last = chunks(server, **GREEDY, response_fields=["stop_type"])[-1]
    assert last == {"stop_type": "limit"}


def test_settings_that_were_used_are_returned(server: Running) -> None:
    body = {**GREEDY, "temperature": 0.7, "seed": 7, "min_keep": 3, "top_k": 9, "stop": ["zz"],
            "logit_bias": [[5, False], [6, 1.5]]}  # fmt: skip
    settings = post(server, "/completion", **body)["generation_settings"]
    expected = {"temperature": 0.7, "seed": 7, "min_keep": 3, "top_k": 9, "stop": ["zz"],
                "n_predict": 8, "n_ctx": 256, "min_p": 0.05}  # fmt: skip
    assert expected.items() <= settings.items()
    assert settings["logit_bias"] == [{"token": 5, "bias": False}, {"token": 6, "bias": 1.5}]
    drawn = post(server, "/completion", **{**GREEDY, "temperature": 1})["generation_settings"]
    again = post(server, "/completion", **{**GREEDY, "temperature": 1, "seed": drawn["seed"]})
    assert again["generation_settings"]["seed"] == drawn["seed"]


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_after_sampling_are_of_what_is_left(server: Running, stream: bool) -> None:
    body = {**GREEDY, "temperature": 2.0, "top_k": 3, "top_p": 1, "min_p": 0, "seed": 3,
            "n_probs": 10, "post_sampling_probs": True}  # fmt: skip
    if stream:
        entries = [entry for chunk in chunks(server, **body)
                   for entry in chunk.get("completion_probabilities", ())]  # fmt: skip
    else:
        entries = post(server, "/completion", **body)["completion_probabilities"]
    assert len(entries) == 8
    for entry in entries:
        probs = [top["prob"] for top in entry["top_probs"]]
        assert len(probs) == 3
        assert math.isclose(sum(probs), 1, rel_tol=1e-5)
        assert probs == sorted(probs, reverse=True)
        assert entry["prob"] in probs
        assert "logprob" not in entry


def test_probabilities_after_greedy_sampling_are_certain(server: Running) -> None:
    body = {**GREEDY, "n_probs": 4, "post_sampling_probs": True}
    for entry in post(server, "/completion", **body)["completion_probabilities"]:
        assert [top["prob"] for top in entry["top_probs"]] == [1.0]
        assert entry["prob"] == 1.0


@pytest.mark.parametrize(
    "step", [{"top_p": 1e-6}, {"min_p": 1}, {"typical_p": 1e-6}], ids=lambda step: next(iter(step))
)
def test_as_many_candidates_are_kept_as_are_wanted(server: Running, step: dict[str, float]) -> None:
    body = {**GREEDY, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, **step, "seed": 1,
            "n_predict": 3, "n_probs": 20, "post_sampling_probs": True}  # fmt: skip

    def n_kept(**more: Any) -> set[int]:
        entries = post(server, "/completion", **body, **more)["completion_probabilities"]
        return {len(entry["top_probs"]) for entry in entries}

    assert n_kept() == {1}
    assert n_kept(min_keep=5) == {5}


def test_xtc_keeps_as_many_as_are_wanted(server: Running) -> None:
    body = {**GREEDY, "temperature": 1, "top_k": 4, "top_p": 1, "min_p": 0, "seed": 1, "n_probs": 9,
            "xtc_probability": 1, "xtc_threshold": 1e-9, "post_sampling_probs": True}  # fmt: skip
    for min_keep, expected in ((0, 1), (1, 1), (2, 4)):
        answer = post(server, "/completion", **body, min_keep=min_keep)
        kept = {len(entry["top_probs"]) for entry in answer["completion_probabilities"]}
        assert kept == {expected}


def test_a_time_limit_ends_a_text_after_a_line_end(server: Running) -> None:
    body = {**GREEDY, "n_predict": 200, "t_max_predict_ms": 1}
    lines = "root ::= " + json.dumps("a\n" * 60)
    cut = post(server, "/completion", **body, grammar=lines)
    assert cut["stop_type"] == "limit"
    assert cut["content"].startswith("a\n")
    assert cut["tokens_predicted"] < 100
    line = post(server, "/completion", **body, grammar=saying("a" * 100))
    assert line["content"].endswith("a" * 100)
    assert post(server, "/completion", **{**body, "t_max_predict_ms": 0}, grammar=lines)[
        "content"
    ].count("\n") == 60  # fmt: skip


def test_a_request_gets_the_slot_that_it_names(server: Running) -> None:
    for slot in (2, 0, 1):
        answer = post(server, "/completion", **GREEDY, id_slot=slot)
        assert answer["id_slot"] == slot
    refused = post(server, "/completion", 400, **GREEDY, id_slot=3)
    assert "id_slot: expected [0, 2] or -1 for any, found 3" in refused["error"]["message"]
    assert post(server, "/completion", **GREEDY)["id_slot"] in range(3)


def test_a_slot_that_is_busy_is_waited_for_and_others_go_on(slow_server: Running) -> None:
    server = slow_server
    ends: dict[str, float] = {}

    def ask(name: str, **body: Any) -> None:
        answer = post(server, "/completion", **{**GREEDY, **body})
        ends[name] = time.monotonic()
        assert answer["id_slot"] == body.get("id_slot", answer["id_slot"])

    first = threading.Thread(target=ask, args=("first",), kwargs={"id_slot": 1, "n_predict": 12})
    second = threading.Thread(target=ask, args=("second",), kwargs={"id_slot": 1, "n_predict": 1})
    first.start()
    server.wait(lambda: server.service.scheduler.n_busy == 1)
    second.start()
    server.wait(lambda: server.service.scheduler.n_waiting == 1)
    ask("other", n_predict=1)
    first.join()
    second.join()
    assert ends["other"] < ends["first"] < ends["second"]


@pytest.mark.parametrize("path", ["/completion", "/v1/completions", "/v1/chat/completions"])
def test_timings_stand_in_every_chunk_on_demand(server: Running, path: str) -> None:
    body = {**GREEDY, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
    plain = chunks(server, path, **body)
    assert all("timings" not in chunk for chunk in plain[:-1])
    timed = chunks(server, path, **body, timings_per_token=True)
    assert len(timed) > 2
    counts = [chunk["timings"]["predicted_n"] for chunk in timed]
    assert counts == sorted(counts)
    assert counts[-1] == 8


def test_an_answer_has_the_prompt_and_says_whether_it_has_a_line_end(server: Running) -> None:
    for text, has_line_end in (("a b", False), ("a\nb", True)):
        body = {"prompt": ["Once", 407], "grammar": saying(text)}
        whole = post(server, "/completion", **body)
        last = chunks(server, **body)[-1]
        for answer in (whole, last):
            assert answer["has_new_line"] is has_line_end
            assert answer["prompt"] == "<s> Once upon"


def test_several_texts_of_a_prompt_have_seeds_of_their_own(server: Running) -> None:
    body = {"prompt": ["Once", "Tom"], "n_predict": 6, "temperature": 3, "top_k": 0, "seed": 5}
    answers = post(server, "/completion", **body, n_cmpl=2)
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    assert [answer["prompt"] for answer in answers] == ["<s> Once"] * 2 + ["<s> Tom"] * 2
    assert len({answer["content"] for answer in answers}) == 4
    assert [a["content"] for a in post(server, "/completion", **body, n=2)] == [
        answer["content"] for answer in answers
    ]
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "n_cmpl": 3}
    assert len(post(server, "/v1/chat/completions", **chat)["choices"]) == 3
    text = {"prompt": "Once", "max_tokens": 1, "n_cmpl": 3}
    assert len(post(server, "/v1/completions", **text)["choices"]) == 3


@pytest.mark.parametrize("name", ["n_predict", "max_tokens", "max_completion_tokens"])
def test_a_limit_has_one_meaning_under_each_of_its_names(server: Running, name: str) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    for path, body in (("/v1/chat/completions", chat), ("/v1/completions", {"prompt": "Once"})):
        answer = post(server, path, **body, temperature=0, **{name: 3})
        assert answer["usage"]["completion_tokens"] == 3
    answer = post(server, "/completion", prompt="Once", temperature=0, **{name: 3})
    assert answer["tokens_predicted"] == 3


def test_probabilities_are_asked_for_by_openais_name_too(server: Running) -> None:
    entries = post(server, "/completion", **GREEDY, logprobs=3)["completion_probabilities"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [3] * 8


@pytest.mark.parametrize(
    ("bias", "expected"),
    [
        ([[" the", 1.5]], {"the": 1.5}),
        ({" the": 1.5}, {"the": 1.5}),
        ([[" the", False]], {"the": False}),
        ([[" the", 1.5], [" the", 1]], {"the": 2.5}),
        ([["5", 1.5]], {"5": 1.5}),  # in a list a text is one, whatever it holds
    ],
    ids=str,
)
def test_a_bias_of_a_text_is_that_of_its_tokens(
    server: Running, bias: Any, expected: dict[str, Any]
) -> None:
    ((text, value),) = expected.items()
    ids = post(server, "/tokenize", content=text if text == "5" else f" {text}")["tokens"]
    settings = post(server, "/completion", **GREEDY, logit_bias=bias)["generation_settings"]
    assert settings["logit_bias"] == [{"token": i, "bias": value} for i in dict.fromkeys(ids)]


def test_a_text_that_is_banned_is_not_written(server: Running) -> None:
    plain = post(server, "/completion", **GREEDY)["content"]
    word = plain.split()[0]
    for path, field in (("/completion", "n_predict"), ("/v1/completions", "max_tokens")):
        body = {"prompt": "Once", "temperature": 0, field: 8, "logit_bias": [[f" {word}", False]]}
        answer = post(server, path, **body)
        text = answer["content"] if field == "n_predict" else answer["choices"][0]["text"]
        assert not text.startswith(f" {word}")
    many = [[f"w{i}", 1] for i in range(1025)]
    refused = post(server, "/completion", 400, **GREEDY, logit_bias=many)["error"]["message"]
    assert "logit_bias: expected at most 1,024 texts" in refused


# -- progress of the prompt -----------------------------------------------------------------------

LONG = "Once upon a time there was a little girl and she had a dog"


@pytest.mark.parametrize("path", ["/completion", "/v1/completions", "/v1/chat/completions"])
def test_a_stream_says_how_much_of_the_prompt_is_computed(
    serve: Callable[..., Running], path: str
) -> None:
    server = serve(n_batch=8)
    body = {"prompt": LONG, "messages": [{"role": "user", "content": LONG}], "max_tokens": 3,
            "temperature": 0}  # fmt: skip
    plain = chunks(server, path, **body, cache_prompt=False)
    found = chunks(serve(n_batch=8), path, **body, return_progress=True)
    shown = [chunk["prompt_progress"] for chunk in found if "prompt_progress" in chunk]
    assert [chunk for chunk in found[: len(shown)] if "prompt_progress" not in chunk] == []
    n_total = shown[0]["total"]
    assert [each["processed"] for each in shown] == [*range(0, n_total, 8), n_total]
    assert {each["cache"] for each in shown} == {0}
    times = [each["time_ms"] for each in shown]
    assert times == sorted(times) and times[0] == 0
    if path == "/completion":
        rest = [chunk["content"] for chunk in found[len(shown) :]]
        assert rest == [chunk["content"] for chunk in plain]
    else:
        assert [c["choices"] for c in found[len(shown) :]] == [c["choices"] for c in plain]
    again = chunks(server, path, **body, return_progress=True)[0]["prompt_progress"]
    assert again["processed"] == again["cache"] == n_total - 1


def test_progress_is_shown_for_each_of_several_texts_and_in_streams_alone(server: Running) -> None:
    body = {"prompt": [LONG, "Tom"], "n_predict": 2, "return_progress": True}
    found = [chunk for chunk in chunks(server, **body) if "prompt_progress" in chunk]
    for index in (0, 1):
        shown = [chunk["prompt_progress"] for chunk in found if chunk["index"] == index]
        assert shown[-1]["processed"] == shown[-1]["total"] > shown[0]["processed"]
    assert all("prompt_progress" not in answer for answer in post(server, "/completion", **body))


@pytest.mark.parametrize(
    ("field", "value"),
    [("response_fields", "content"), ("response_fields", ["x"] * 65), ("id_slot", -2),
     ("min_keep", -1), ("return_tokens", "maybe"), ("t_max_predict_ms", "soon")],
)  # fmt: skip
def test_wrong_values_are_refused(server: Running, field: str, value: Any) -> None:
    answer = post(server, "/completion", 400, **GREEDY, **{field: value})
    assert field in answer["error"]["message"]
