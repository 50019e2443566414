"""Calls in answers: whatever form a model gives them, however the answer is cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gguf_hub.run.generation.chat import ChatPlan
from gguf_hub.run.generation.parts import Call, CallDelta, Part
from gguf_hub.run.generation.tool_calls import ForcedCallParser, TextParser, split_answer

WHERE = {"city": 'Köln } "a"', "days": [2, -1.5e3, True, None, {"x": {}}]}
TOOLS = ("weather", "tell")


def read(text: str, **options: Any) -> tuple[str, list[tuple[str, Any]]]:
    content, _, calls = split_answer(TextParser(TOOLS, **options), text)
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


def joined(parts: Iterable[Part]) -> list[Part]:
    """Parts with the texts that follow each other put together."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


def call(name: str = "weather", key: str = "arguments", arguments: Any = WHERE) -> str:
    return json.dumps({"name": name, key: arguments})


W, T = call(), call("tell", "parameters", {})
BOTH = [("weather", WHERE), ("tell", {})]
FORMS = {
    "OpenAI": (W, BOTH[:1]),
    "Llama 3": (call(key="parameters"), BOTH[:1]),
    "after space": ("\n " + W, BOTH[:1]),
    "before space": (W + "\n\n", BOTH[:1]),
    "arguments first": ('{"arguments": {}, "name": "tell"}', BOTH[1:]),
    "arguments as text": (call("tell", arguments="{ }"), BOTH[1:]),
    "as in OpenAI's answers": ('{"type": "function", "function": ' + T + "}", BOTH[1:]),
    "function names it": ('{"function": "tell", "parameters": {}}', BOTH[1:]),
    "line breaks in a text": ('{"name": "tell", "arguments": {"a": "b\nc"}}',
                              [("tell", {"a": "b\nc"})]),
    "list": (f"[{W}, {T}]", BOTH),
    "list over lines": (f"[\n  {W},\n  {T}\n]", BOTH),
    "one after another": (f"{W}\n{T}", BOTH),
    "Llama 3, several": (f"<|python_tag|>{W}; {T}", BOTH),
    "Hermes": (f"<tool_call>\n{W}\n</tool_call>", BOTH[:1]),
    "Hermes, several": (f"<tool_call>{W}</tool_call>\n<tool_call>\n{T}\n</tool_call>\n", BOTH),
    "Hermes, never closed": (f"<tool_call>{W}<tool_call>{T}", BOTH),
    "Hermes, a list": (f"<tool_call>[{W},{T}]</tool_call>", BOTH),
    "Mistral": (f"[TOOL_CALLS][{W}, {T}]", BOTH),
    "Mistral, spaced": (f"[TOOL_CALLS] [{W}, {T}]", BOTH),
    "Mistral, one": (f"[TOOL_CALLS]{W}", BOTH[:1]),
    "Mistral's later models": (f"[TOOL_CALLS]weather[ARGS]{json.dumps(WHERE)}", BOTH[:1]),
    "Mistral's later models, several": (
        f"[TOOL_CALLS]weather{json.dumps(WHERE)}[TOOL_CALLS]tell {{}}", BOTH),
    "functionary": (f"<function=weather>{json.dumps(WHERE)}</function>", BOTH[:1]),
    "functionary, several": (
        f"<function=weather>{json.dumps(WHERE)}</function><function=tell>{{}}</function>", BOTH),
}  # fmt: skip


@pytest.mark.parametrize("lead", ["", "Let me see {x} [1] <b>: ", "{", "[a", "<", "<tool_", "{ [a"])
@pytest.mark.parametrize("form", FORMS)
def test_calls_are_read_in_every_common_form(form: str, lead: str) -> None:
    text, calls = FORMS[form]
    content, found = read(lead + text)
    assert (content.rstrip(), found) == (lead.rstrip(), calls)
    first, _ = read(lead + text, max_calls=1)
    assert read(lead + text, max_calls=1) == (first, calls[:1])


@pytest.mark.parametrize(
    "text",
    [
        call("wether"),
        call(arguments="Köln"),
        call(arguments=[1]),
        call(key="input"),
        '{"name": ["weather"], "parameters": {}}',
        '{"parameters": {}}',
        '{"answer": "weather", "name": "tell", "arguments": {}}',
        '{"name": "tell", "arguments": {"a": 01}}',
        '{"name": "tell", "arguments": {"a": "\\x"}}',
        '{"name": "tell", "arguments": {} "id": 1}',
        '{"name": "tell", "arguments": {"a": }}',
        '{"name": "tell", "arguments": {,}}',
        '{"name": "tell", "arguments": ' + '{"a":' * 200 + "1" + "}" * 201,
        "[]",
        '"weather"',
        W[:-1],
        f"<tool_call> none {W[:-1]}",
        "<tool_call></tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]wether{}",
        "[TOOL_CALLS]weather[ARGS][]",
        "<function=wether>{}</function>",
        "if (a < b) { return [1, 2]; }",
        " \n ",
        "",
    ],
)
def test_what_calls_no_tool_is_text(text: str) -> None:
    assert read(text) == (text, [])
    assert split_answer(TextParser(), text) == (text, "", [])


@pytest.mark.parametrize(
    ("tail", "content"),
    [
        ("Then {x}.", "First.Then {x}."),
        ("\nThen.", "First.\nThen."),
        ("</tool_call>Then.", "First.Then."),
        ("</tool_cal", "First.</tool_cal"),
        ("]", "First."),
        (", 1]", "First., 1]"),
        (", " + W[:-1], "First., " + W[:-1]),
    ],
)
def test_text_after_a_call_stays_text(tail: str, content: str) -> None:
    assert read(f"First.[{W}{tail}") == (content, BOTH[:1])


ATOMS = st.sampled_from(
    ["{", "}", "[", "]", "<", ">", '"', ":", ",", " ", "\n", "\\", "a", "1", "-", "tr", "true",
     "{}", '"name"', '"arguments"', "weather", '"tell"', "<tool_call>", "</tool_call>",
     "[TOOL_CALLS]", "[ARGS]", "<function=tell>", "</function>", "<|python_tag|>", W, T, ";",
     W[:9], T[5:]]
)  # fmt: skip
TEXTS = st.lists(ATOMS, max_size=14).map("".join)


@pytest.mark.slow
@settings(max_examples=50)
@given(TEXTS, st.integers(1, 3))
@example(f"I will call: {W}", 1)
@example(f"<<tool_call>{W}</tool_call", 1)
def test_how_an_answer_is_cut_makes_no_difference(text: str, max_calls: int) -> None:
    whole = TextParser(TOOLS, max_calls=max_calls)
    expected = joined([*whole.feed(text), *whole.finish()])
    for at in range(len(text) + 1):
        cut = TextParser(TOOLS, max_calls=max_calls)
        assert joined([*cut.feed(text[:at]), *cut.feed(text[at:]), *cut.finish()]) == expected
        assert cut.finish_reason("length") == whole.finish_reason("length")
    single = TextParser(TOOLS, max_calls=max_calls)
    assert joined([part for c in text for part in single.feed(c)] + single.finish()) == expected


@given(TEXTS)
def test_without_calls_no_character_is_lost(text: str) -> None:
    content, _, calls = split_answer(TextParser(TOOLS), text)
    assert calls or content == text


def test_text_is_shown_as_soon_as_it_can_be_no_call() -> None:
    parser = TextParser(TOOLS)
    words = ["Use ", "{x} ", "and ", '{"a": 1} ', "[1] ", "<b> ", '{"name": "Tom" ', "go on"]
    assert ["".join(map(str, parser.feed(word))) for word in words] == words
    assert parser.feed('{"name"') == []
    assert parser.feed(': "Tom"') == ['{"name": "Tom"']


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (W, "tool_calls"),
        (f"Text {W}\n", "tool_calls"),
        (f"{W} and", "length"),
        (f"{W}<tool_c", "length"),
        (f"{W}{T[:-1]}", "length"),
        ("text", "length"),
    ],
)
def test_what_the_limit_cuts_off_says_so(text: str, reason: str) -> None:
    parser = TextParser(TOOLS)
    split_answer(parser, text)
    assert parser.finish_reason("length") == reason
    assert parser.finish_reason("stop") == ("stop" if text == "text" else "tool_calls")


@pytest.mark.parametrize(
    ("text", "reason"), [('{"a": 1}', "tool_calls"), ('{"a": ', "length"), ("", "length")]
)
def test_the_answer_of_a_forced_tool_is_its_arguments(text: str, reason: str) -> None:
    parser = ForcedCallParser("tell")
    parts = [part for char in text for part in parser.feed(char)] + parser.finish()
    assert parts == [CallDelta(0, "tell", part) for part in text or [""]]
    assert split_answer(ForcedCallParser("tell"), text) == ("", "", [Call("tell", text)])
    assert parser.finish_reason("length") == reason
    # cut by a stop text it is no call, as it is not when the limit cuts it
    assert parser.finish_reason("stop") == ("stop" if text == '{"a": ' else "tool_calls")


def test_a_plan_reads_what_it_asked_for() -> None:
    assert split_answer(ChatPlan("").parser(), W) == (W, "", [])
    assert split_answer(ChatPlan("", tool="tell").parser(), W) == ("", "", [Call("tell", W)])
    assert len(split_answer(ChatPlan("", tools=TOOLS).parser(), W + T)[2]) == 2
    assert len(split_answer(ChatPlan("", tools=TOOLS, max_calls=1).parser(), W + T)[2]) == 1
