"""Templates of GGUF files: published ones render as expected, broken ones say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import ChatTemplateError, UnsupportedGgufError, UsageError
from gguf_hub.run.chat import ChatPrompt, TemplateFormat, choose_format

CONVERSATION = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]

# Templates that jinja itself cannot render, upstream too, and cases that come without a template;
# test_formats renders their formats by name.
REFUSED = {"ai-sage/GigaChat-20B-A3B-instruct": "'additional_special_tokens' is undefined"}
WITHOUT_TEMPLATE = {"inclusionAI/Ling-lite", "ByteDance-Seed/Seed-OSS-36B-Instruct"}


@pytest.fixture(scope="session")
def published(data: Path) -> dict[str, Any]:
    path = data / "chat" / "chat_templates.llamacpp.json"
    published: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert len(published["cases"]) == 36
    return published


def tool_turns(name: str) -> list[dict[str, str]]:
    """The turns that upstream's test adds to its cases with tool calls."""
    call = '{"name": "get_weather", "arguments": {"location": "NYC"}}'
    content = f"[{call}]" if "3.x" in name else f"<tool_call>\n{call}\n</tool_call>"
    return [
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant_tool_call", "content": content},
        {"role": "tool_response", "content": '{"temperature": 72}'},
    ]


def render(source: str, messages: list[Any] | None = None, **values: Any) -> str:
    template = TemplateFormat(source, bos_token="<s>", eos_token="</s>")
    return template.render(CONVERSATION if messages is None else messages, **values).text


def test_published_templates_render_to_the_expected_text(published: dict[str, Any]) -> None:
    wrong = {}
    for case in published["cases"]:
        name = case["name"]
        if name in WITHOUT_TEMPLATE:
            assert "template_str" not in case
            continue
        messages = [{"role": role, "content": text} for role, text in published["conversation"]]
        messages += tool_turns(name) if "tool call" in name else []
        tokens = {key: case.get(key, "") for key in ("bos_token", "eos_token")}
        expected = case["expected_output_jinja"] or case["expected_output"]
        try:
            text = TemplateFormat(case["template_str"], **tokens).render(messages).text
        except ChatTemplateError as exc:
            text = expected if REFUSED.get(name, "no") in str(exc) else str(exc)
        if text != expected:
            wrong[name] = text
    assert wrong == {}


def test_the_generation_prompt_is_a_choice() -> None:
    source = "{{ messages[0].content }}{% if add_generation_prompt %}>>{% endif %}"
    assert render(source) == "Hello>>"
    assert render(source, add_generation_prompt=False) == "Hello"


def test_tokens_tools_and_variables_reach_the_template() -> None:
    tools = [{"type": "function", "function": {"name": "weiß", "parameters": {}}}]
    source = "{{ bos_token }}{{ tools | tojson }}{{ eos_token }}{{ enable_thinking }}"
    assert render(source, tools=tools, enable_thinking=True) == (
        '<s>[{"type": "function", "function": {"name": "weiß", "parameters": {}}}]</s>True'
    )
    assert render("{{ tools is none }}") == "True"


def test_a_system_message_without_a_place_joins_the_first_user_message() -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    source = refuses + "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
    system = {"role": "system", "content": "Be kind"}
    assert render(source, [system, *CONVERSATION]) == "u:Be kind\nHello;a:Hi;"
    assert render(source, [system]) == "u:Be kind;"


def test_a_system_message_with_a_place_stays_there() -> None:
    source = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
    messages = [{"role": "system", "content": "Be kind"}, *CONVERSATION]
    assert render(source, messages) == "s:Be kind;u:Hello;a:Hi;"


def test_content_may_be_parts_of_text_or_nothing() -> None:
    source = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert render(source, messages) == "[a\nb][]"


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"content": "a"}, "message 0: expected a role and content"),
        ("hello", "message 0: expected a role and content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "found 'image_url'"),
        ({"role": "user", "content": 5}, "expected content of text, found 5"),
        ({"role": "user", "content": object()}, "messages: expected plain text"),
    ],
    ids=["no role", "text", "image", "number", "object"],
)
def test_a_message_that_is_none_is_named(message: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        render("", [message])


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("\n\n{% for %}", "error in line 3: Expected an expression"),
        ("{{ x | nofilter }}", "error in line 1: No filter named 'nofilter'"),
        ("{{ nope.x }}", "cannot be applied: 'nope' is undefined"),
        ("{{ raise_exception('alternate roles') }}", "cannot be applied: alternate roles"),
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
        ("{% include 'x' %}", "fails: TypeError: no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nests too deeply"),
        ("{{ x | tojson }}", "tojson got a value that is not defined"),
    ],
)
def test_a_broken_template_says_what_is_wrong_and_offers_a_way(source: str, problem: str) -> None:
    with pytest.raises(ChatTemplateError, match=problem) as caught:
        render(source)
    assert "--chat-template" in str(caught.value.hint)


def test_generation_marks_loop_controls_and_dates_work() -> None:
    loop = "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}"
    assert render("{% generation %}" + loop + "{% endgeneration %}") == "Hello"
    assert render("{{ strftime_now('%Y') | int > 2000 }}") == "True"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("' a '.strip() ~ 1 ~ none", "a1None"),
        ("'a,b'.split(',') | join('+')", "a+b"),
        ("'-'.join(['a', 'b'])", "a-b"),
        ("'aaa'.replace('a', 'b', 2) ~ 'aaa' | replace('a', 'c')", "bbaccc"),
        ("[{'x': 1}, {'x': 2}] | map(attribute='x') | sum", "3"),
        ("[{'x': 1}, {'x': 2}] | sum(attribute='x')", "3"),
        ("[{'x': 'p'}, {'x': 'q'}] | join('/', attribute='x')", "p/q"),
        ("messages | selectattr('role', 'equalto', 'user') | list | length", "1"),
        ("2 ** 3 * 2 - 7 % 4", "13"),
        ("'ab' * 2", "abab"),
        ("1.456 | round(1)", "1.5"),
        ("'7x' | int(3)", "3"),
        ("'<a>' | e", "&lt;a&gt;"),
        ("'<a>' | safe", "<a>"),
        ("'  x ' | trim", "x"),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("{'b': [1, 'é']} | tojson", '{"b": [1, "é"]}'),
        ("{'b': [1]} | tojson(indent=1)", '{\n "b": [\n  1\n ]\n}'),
        ("{'a': 1}.items() | list", "[('a', 1)]"),
        ("{'a': 1}.get('b', 2)", "2"),
        ("dict(a=1)['a']", "1"),
        ("range(3) | list", "[0, 1, 2]"),
        ("(1, 2)[1]", "2"),
        ("'x' in ['x', 'y']", "True"),
    ],
)
def test_what_templates_use_works(expression: str, value: str) -> None:
    assert render("{{ " + expression + " }}") == value


def test_namespaces_and_macros_work() -> None:
    source = (
        "{% set ns = namespace(n=0) %}{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}"
        "{% for m in messages %}{% set ns.n = ns.n + loop.index %}{% endfor %}{{ twice(ns.n) }}"
    )
    assert render(source) == "33"


def test_the_models_own_template_is_chosen_unless_a_name_or_template_is_given() -> None:
    metadata = {"tokenizer.chat_template": "{{ bos_token }}own"}
    own = choose_format(metadata, bos_token="<s>")
    named = choose_format(metadata, "chatml")
    given = choose_format(metadata, "{{ 'given' }}")
    assert own and own.render(CONVERSATION) == ChatPrompt("<s>own")
    assert named and named.render(CONVERSATION).text.startswith("<|im_start|>user\nHello")
    assert given and given.render(CONVERSATION).text == "given"
    assert choose_format({}) is None


@pytest.mark.parametrize("value", [np.array([1, 2]), np.array([]), ["a", "b"], 7, True])
def test_a_template_that_is_no_text_is_named(value: object) -> None:
    with pytest.raises(UnsupportedGgufError, match=r"`tokenizer\.chat_template`: expected a text"):
        choose_format({"tokenizer.chat_template": value})
