"""Conversations: which prompt they become, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import UsageError
from gguf_hub.run.chat import ChatFormat, TemplateFormat, find_format
from gguf_hub.run.generation.chat import plan_chat

CHATML = find_format("chatml")
OTHER = TemplateFormat(
    "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]"
    "{% else %} {{ m.content | trim }}</s>{% endif %}{% endfor %}"
)
# it refuses conversations that end with an answer
ASKING = TemplateFormat(
    "{% if messages[-1].role != 'user' %}{{ raise_exception('ask') }}{% endif %}"
    "{% for m in messages %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)
USER = {"role": "user", "content": "Hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def prompt(chat_format: ChatFormat, last: str | Any, **options: Any) -> str:
    messages = [USER, {"role": "assistant", "content": last}]
    return plan_chat(chat_format, messages, **options).prompt


@pytest.mark.parametrize(
    ("chat_format", "start"),
    [(CHATML, CHATML.render([USER]).text), (OTHER, "[Hi] "), (ASKING, "Hi;>")],
    ids=["named", "template", "refusing"],
)
@given(text=st.text("ab .\n", min_size=1).filter(lambda text: not text[0].isspace()))
def test_a_last_message_of_the_assistant_is_continued(
    chat_format: ChatFormat, start: str, text: str
) -> None:
    assert prompt(chat_format, text) == start + text
    parts = [{"type": "text", "text": text}]
    assert prompt(chat_format, parts, continue_final_message=True) == start + text


def test_whoever_wants_a_turn_of_its_own_says_so() -> None:
    closed = CHATML.render([USER, {"role": "assistant", "content": "So"}]).text
    assert prompt(CHATML, "So", add_generation_prompt=True) == closed
    assert prompt(CHATML, "So", continue_final_message=False) == closed
    neither = {"add_generation_prompt": False, "continue_final_message": False}
    assert prompt(CHATML, "So", **neither) == closed.removesuffix("<|im_start|>assistant\n")
    assert plan_chat(CHATML, [USER]).prompt == CHATML.render([USER]).text


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([USER], {}),
        ([USER, {"role": "assistant", "content": "a", "tool_calls": [CALL]}], {}),
        ([USER, {"role": "assistant", "content": "a"}], {"add_generation_prompt": True}),
    ],
    ids=["a question", "a call", "both"],
)
def test_what_cannot_be_continued_is_refused(messages: Any, options: Any) -> None:
    with pytest.raises(UsageError, match="continue_final_message"):
        plan_chat(CHATML, messages, continue_final_message=True, **options)


def test_a_call_is_not_continued_and_old_calls_are_calls() -> None:
    calls = plan_chat(CHATML, [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}])
    old = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    assert plan_chat(CHATML, [USER, old]).prompt == calls.prompt
    assert '{"name": "f", "arguments": {}}' in calls.prompt
    assert calls.prompt.endswith("<|im_start|>assistant\n")
