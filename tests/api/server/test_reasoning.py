"""Reasoning of a served model: its budget, its place in the answer, defaults of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.format import Field
from gguf_hub.run.generation.logits_sampler import LogitsSampler
from tests.api.server.conftest import need
from tests.api.server.running import Running
from tests.api.server.scripted import named_events, post, saying
from tests.run.tokenizer.small import bpe_metadata
from tests.synth import TINY, write_mixtral

USER = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"
TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}[{{ reasoning_effort }} {{ tone }}]"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
DEFAULTS = {
    "variables": {"tone": "dry", "reasoning_effort": "low"}, "reasoning_budget": 3,
    "budget_message": "!", "reasoning_format": "deepseek-legacy",
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model whose vocabulary is bytes and the marks of reasoning."""
    values = bpe_metadata([], {"<think>": 4, "</think>": 4, "</s>": 3})
    n_more = TINY.n_vocab - len(values["tokenizer.ggml.tokens"])
    end = values["tokenizer.ggml.tokens"].index("</s>")
    values["tokenizer.ggml.tokens"] += [f"w{i}" for i in range(n_more)]
    values["tokenizer.ggml.token_type"] += [1] * n_more
    values |= {"tokenizer.ggml.eos_token_id": end, "tokenizer.chat_template": TEMPLATE}
    fields = {key: Field.of(value) for key, value in values.items()}
    folder = tmp_path_factory.mktemp("models")
    return write_mixtral(folder / "thinks.gguf", TINY, layout="merged", fields=fields)


@pytest.fixture(scope="module")
def server(path: Path, kernels: None) -> Iterator[Running]:
    need()
    with ExitStack() as stack:
        yield Running(path, stack, {}, n_ctx=512, n_slots=1)


@pytest.fixture(scope="module")
def changed(path: Path, kernels: None) -> Iterator[Running]:
    """Serve with other defaults."""
    need()
    with ExitStack() as stack:
        yield Running(path, stack, {}, n_ctx=512, n_slots=1, chat_defaults=DEFAULTS)


@pytest.fixture
def say(server: Running, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the model want to say a text, as far as it may."""
    ids: list[int] = []
    choose = LogitsSampler.choose

    def choose_next(sampler: LogitsSampler, logits: Any, *arguments: Any) -> int:
        wanted = np.zeros_like(logits)
        wanted[ids[0]] = 99
        token_id = choose(sampler, wanted, *arguments)
        if token_id == ids[0]:
            ids.pop(0)
        return token_id

    def begin(text: str) -> None:
        tokenizer = server.service.tokenizer
        ids[:] = tokenizer.encode(f"{text}</s>", add_bos=False, parse_special=True)

    monkeypatch.setattr(LogitsSampler, "choose", choose_next)
    return begin


def message(server: Running, **body: Any) -> dict[str, Any]:
    answer = post(server, CHAT, messages=USER, **body)
    return dict(answer["choices"][0]["message"])


@pytest.mark.parametrize("field", ["reasoning_budget_tokens", "thinking_budget_tokens"])
def test_reasoning_ends_with_its_budget(server: Running, say: Any, field: str) -> None:
    say("<think>I wonder.</think>Yes.")
    reply = message(server, **{field: 4}, reasoning_budget_message="... so")
    assert reply["reasoning_content"] == "I wo... so"
    assert reply["content"] == "nder.</think>Yes."  # what it still wanted to say
    say("<think>I wonder.</think>Yes.")
    free = message(server, **{field: -1})
    assert (free["reasoning_content"], free["content"]) == ("I wonder.", "Yes.")


def test_a_budget_is_held_in_the_text_and_in_messages_of_anthropic(
    server: Running, say: Any
) -> None:
    say("<think>I wonder.</think>Yes.")
    reply = message(server, reasoning_budget_tokens=1, reasoning_format="none")
    assert reply["content"] == "<think>I</think> wonder.</think>Yes."
    say("<think>I wonder.</think>Yes.")
    thinking = {"type": "enabled", "budget_tokens": 1}
    answer = post(server, "/v1/messages", messages=USER, max_tokens=100, thinking=thinking)
    assert answer["content"][0]["thinking"] == "I" and "warnings" not in answer


def test_a_budget_of_none_turns_reasoning_off(server: Running) -> None:
    body = {"messages": USER, "reasoning_budget_tokens": 0}
    assert post(server, "/apply-template", **body)["prompt"] == "Hi[ ]<think></think>"


def test_a_budget_beside_a_grammar_is_warned_of(server: Running) -> None:
    text = "<think>I wonder.</think>Yes."
    answer = post(server, CHAT, messages=USER, grammar=saying(text), reasoning_budget_tokens=2)
    assert answer["warnings"] == [
        "the budget of reasoning is not held: a grammar says what the answer is"
    ]
    assert answer["choices"][0]["message"]["reasoning_content"] == "I wonder."


def test_reasoning_may_stand_in_the_text_too(server: Running, say: Any) -> None:
    say("<think>I wonder.</think>Yes.")
    reply = message(server, reasoning_format="deepseek-legacy")
    assert reply["reasoning_content"] == "I wonder."
    assert reply["content"] == "<think>I wonder.</think>Yes."


def test_the_server_has_defaults_that_requests_change(changed: Running, say: Any) -> None:
    def prompt(**body: Any) -> str:
        return str(post(changed, "/apply-template", messages=USER, **body)["prompt"])

    assert prompt() == "Hi[low dry]"
    assert prompt(reasoning_effort="high") == "Hi[high dry]"
    assert prompt(reasoning_effort="none") == "Hi[ dry]<think></think>"
    assert prompt(chat_template_kwargs={"tone": "wet"}) == "Hi[low wet]"
    say("<think>I wonder.</think>Yes.")
    reply = message(changed)
    assert reply["reasoning_content"] == "I w!"
    assert reply["content"] == "<think>I w!</think>onder.</think>Yes."
    say("<think>I wonder.</think>Yes.")
    reply = message(changed, reasoning_format="auto", reasoning_budget_tokens=50)
    assert (reply["reasoning_content"], reply["content"]) == ("I wonder.", "Yes.")


def test_other_interfaces_have_the_defaults_too(changed: Running, say: Any) -> None:
    say("<think>I wonder.</think>Yes.")
    events = named_events(changed, "/v1/responses", input="Hi")
    texts = [e["delta"] for e in events if e["type"] == "response.reasoning_text.delta"]
    assert "".join(texts) == "I w!"


def test_a_text_that_says_whether_to_reason_is_refused(server: Running) -> None:
    body = {"messages": USER, "chat_template_kwargs": {"enable_thinking": "false"}}
    error = post(server, CHAT, 400, **body)["error"]
    assert "expected true or false" in error["message"]


def test_a_last_answer_may_be_answered_in_place_of_continued(
    serve: Callable[..., Running],
) -> None:
    other = serve(chat_defaults={"continues_answers": False})
    begun = [*USER, {"role": "assistant", "content": "So"}]

    def prompt(**body: Any) -> str:
        return str(post(other, "/apply-template", messages=begun, **body)["prompt"])

    assert prompt().endswith("<|im_start|>assistant\n")
    assert prompt(continue_final_message=True).endswith("So")
