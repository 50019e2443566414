"""Roles, calls and tools that a template does not print reach the prompt in other words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.errors import ChatTemplateError
from gguf_hub.run.chat import FORMATS, ChatFormat, TemplateFormat
from gguf_hub.run.chat.generic import plain_turns

TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city",
                                         "parameters": {"type": "object"}}}  # fmt: skip
CALL = {"id": "abcdefghi", "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Köln"}}}  # fmt: skip
USER = {"role": "user", "content": "Hello"}
ASKED = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "developer": [{"role": "developer", "content": "Be PROBE"}, USER],
    "developer and system": [
        {"role": "system", "content": "Be kind"}, {"role": "developer", "content": "PROBE"}, USER,
    ],
    "developer later": [
        USER, {"role": "assistant", "content": "Hi"}, {"role": "developer", "content": "PROBE"},
        USER,
    ],
    "system later": [
        USER, {"role": "assistant", "content": "Hi"}, {"role": "system", "content": "PROBE"}, USER,
    ],
    "call": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [
            {**CALL, "function": {"name": "PROBE", "arguments": {}}}]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "sun"},
    ],
    "result": [*ASKED, {"role": "tool", "tool_call_id": "abcdefghi", "content": "PROBE"}],
    "results and a question": [
        *ASKED,
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "sun"},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "PROBE"},
        USER,
    ],
    "old function": [*ASKED, {"role": "function", "name": "weather", "content": "PROBE"}],
}  # fmt: skip
BROKEN = {"ai-sage/GigaChat-20B-A3B-instruct"}  # no conversation renders
MUTE = "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"  # noqa: E501
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def formats(data: Path) -> dict[str, ChatFormat]:
    path = data / "chat" / "chat_templates.llamacpp.json"
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    templates = {
        case["name"]: TemplateFormat(case["template_str"], bos_token="<s>", eos_token="</s>")
        for case in cases
        if "template_str" in case and case["name"] not in BROKEN
    }
    return {**templates, **FORMATS, "mute": TemplateFormat(MUTE), "strict": TemplateFormat(STRICT)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_no_message_vanishes_from_any_prompt(data: Path, name: str) -> None:
    for format_name, chat_format in formats(data).items():
        prompt = chat_format.render(CONVERSATIONS[name]).text
        assert "PROBE" in prompt, format_name
        assert "@@" not in prompt, format_name


def test_no_tool_vanishes_from_any_prompt(data: Path) -> None:
    for format_name, chat_format in formats(data).items():
        text = chat_format.render([USER], tools=[TOOL]).text
        assert "weather" in text and "of a city" in text and "Hello" in text, format_name
        assert "weather" not in chat_format.render([USER]).text


def test_what_a_template_prints_is_left_to_it() -> None:
    source = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>"
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
        "{% endfor %}"
    )
    messages = CONVERSATIONS["result"]
    text = TemplateFormat(source).render(messages, tools=[TOOL]).text
    assert text.endswith("<user>Hello<assistant>weather<tool>PROBE")
    assert text.startswith("[{")
    # the word is in the template: it knows the role
    knows = "{# developer #}" + source
    text = TemplateFormat(knows).render(CONVERSATIONS["developer"]).text
    assert text == "<developer>Be PROBE<user>Hello"


def test_a_conversation_in_plain_turns_alternates_and_names_what_came_from_where() -> None:
    turns = plain_turns([
        {"role": "developer", "content": "A"}, {"role": "system", "content": "B"}, USER,
        {"role": "assistant", "content": "Let me see", "tool_calls": [CALL, "odd"]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "sun"},
        {"role": "ipython", "content": "4"},
        {"role": "narrator", "content": "Night."},
    ])  # fmt: skip
    call = json.dumps({"name": "weather", "arguments": {"city": "Köln"}})
    assert turns == [
        {"role": "system", "content": "A\n\nB"},
        USER,
        {"role": "assistant", "content": f'Let me see\n{call}\n"odd"'},
        {"role": "user", "content": "Result of weather: sun\n\nResult of the tool: 4\n\n"
                                    "narrator: Night."},
    ]  # fmt: skip


def test_a_template_that_refuses_plain_turns_too_says_so() -> None:
    refusing = TemplateFormat("{{ raise_exception('never') }}")
    with pytest.raises(ChatTemplateError, match="cannot be applied: never"):
        refusing.render(CONVERSATIONS["result"])
