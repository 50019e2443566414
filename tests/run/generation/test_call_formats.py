"""Calls in every format: the same whole and streamed, and no mark of them in the text."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.run.chat import TemplateFormat
from gguf_hub.run.generation.chat import ChatPlan, plan_chat
from gguf_hub.run.generation.marks import mark_ids
from gguf_hub.run.generation.parts import CallDelta, Part, ReasoningDelta
from gguf_hub.run.generation.tool_calls import split_answer
from gguf_hub.run.tokenizer import EDGE, StreamDecoder, load_tokenizer
from tests.run.generation.calls_written import ALL_MARKS, FORMATS, Calls, harmony, with_edges
from tests.run.tokenizer.small import bpe_metadata

WEATHER = {"city": 'Köln {<b>} "a"\n', "code": "12", "days": [2, -1.5, True, {"x": {}}], "n": 3}
SCHEMAS: Mapping[str, Any] = {
    "weather": {"properties": {"city": {"type": "string"}, "code": {"type": "string"}}},
    "weather_now": None,
}
CALLS: dict[str, Calls] = {
    "none": [],
    "one": [("weather", WEATHER)],
    "two": [("weather", WEATHER), ("weather_now", {})],
}
LEAD = "Let me see [1] <b>: "
TEMPLATE = "".join(sorted(ALL_MARKS))
HARMONY = ChatPlan(
    "<|start|>user<|message|>Hi<|end|><|start|>assistant", tools=SCHEMAS, is_harmony=True
)


def plan_of(has_marks: bool) -> ChatPlan:
    marks = ALL_MARKS if has_marks else frozenset()
    return ChatPlan("", tools=SCHEMAS, splits_reasoning=True, marks=marks)


def read(plan: ChatPlan, pieces: Iterable[str], reason: str = "stop") -> tuple[Any, ...]:
    """Return text, reasoning, calls and the reason for the end of an answer in pieces."""
    parser = plan.parser()
    parts: list[Part] = [part for piece in pieces for part in parser.feed(piece)] + parser.finish()
    text = "".join(part for part in parts if isinstance(part, str))
    reasoning = "".join(part.text for part in parts if isinstance(part, ReasoningDelta))
    calls: dict[int, list[str]] = {}
    for part in parts:
        if isinstance(part, CallDelta):
            calls.setdefault(part.index, [part.name, ""])[1] += part.arguments
    return text, reasoning, [tuple(call) for call in calls.values()], parser.finish_reason(reason)


def cuts(text: str) -> Iterable[list[str]]:
    """Yield a text whole, by characters, cut once at every place, and at many by chance."""
    yield list(text)
    yield from ([text[:i], text[i:]] for i in range(len(text)))
    chance = random.Random(len(text))
    for _ in range(20):
        places = sorted(chance.sample(range(len(text) + 1), min(len(text), 6)))
        yield [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]


def decoded(calls: Iterable[tuple[str, str]]) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in calls]


@pytest.mark.parametrize("has_marks", [False, True], ids=["text", "control tokens"])
@pytest.mark.parametrize("lead", ["", LEAD], ids=["alone", "after text"])
@pytest.mark.parametrize("number", CALLS)
@pytest.mark.parametrize("form", FORMATS)
def test_calls_are_the_same_whole_and_streamed(
    form: str, number: str, lead: str, has_marks: bool
) -> None:
    calls = CALLS[number]
    text = lead + (FORMATS[form](calls) if calls else "")
    text, plan = with_edges(text) if has_marks else text, plan_of(has_marks)
    whole = read(plan, [text])
    content, reasoning, found, reason = whole
    assert (content, reasoning, decoded(found)) == (lead, "", list(calls))
    assert reason == ("tool_calls" if calls else "stop")
    assert all(read(plan, pieces) == whole for pieces in cuts(text))


@pytest.mark.parametrize("form", FORMATS)
def test_a_call_that_the_limit_cuts_off_says_so_and_shows_no_mark(form: str) -> None:
    text, plan = with_edges(FORMATS[form](CALLS["two"])), plan_of(has_marks=True)
    for i in range(len(text) + 1):
        content, _, calls, reason = read(plan, [text[:i]], "length")
        assert EDGE not in content and not any(mark in content for mark in ALL_MARKS)
        assert reason in ("length", "tool_calls") and (calls or reason == "length")
        assert decoded(calls) == list(CALLS["two"])[: len(calls)]
    assert (len(calls), reason) == (2, "tool_calls")
    (first, *_), second = read(plan, [text])[2], FORMATS[form](CALLS["two"][1:])
    begun = with_edges(FORMATS[form](CALLS["one"])) + with_edges(second)[: len(second) // 2]
    *_, found, reason = read(plan, [begun], "length")
    assert (found, reason) == ([first], "length")


@pytest.mark.parametrize("form", FORMATS)
def test_calls_of_other_tools_are_text_without_marks(form: str) -> None:
    text = FORMATS[form]([("storm", {"a": 1})])
    content, *_, calls, _ = read(plan_of(has_marks=False), [text])
    assert (content, calls) == (text, [])
    content, *_, calls, _ = read(plan_of(has_marks=True), [with_edges(text)])
    assert calls == [] and "storm" in content and not any(mark in content for mark in ALL_MARKS)


@pytest.mark.parametrize("number", CALLS)
@pytest.mark.parametrize("text", ["", "The <|x|> answer < all.\n"])
@pytest.mark.parametrize("thought", ["", "I wonder <|en."])
def test_channels_are_split(number: str, text: str, thought: str) -> None:
    calls = CALLS[number]
    written = harmony(calls, text, thought)
    whole = read(HARMONY, [written])
    reason = "tool_calls" if calls else "stop"
    assert (*whole[:2], decoded(whole[2]), whole[3]) == (text, thought, list(calls), reason)
    assert all(read(HARMONY, pieces) == whole for pieces in cuts(written))
    ended = [f"{written}{end}" for end in ("<|end|>", "<|call|>", "<|return|>")]
    assert all(read(HARMONY, [each]) == whole for each in ended if written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (" to=functions.weather_now<|channel|>commentary json<|message|>{}",
         ("", "", [("weather_now", "{}")])),
        ("<|channel|>commentary to=functions.storm<|message|>{}", ("{}", "", [])),
        ("<|channel|>analysis to=python code<|message|>1+1", ("", "1+1", [])),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b"
         "<|end|><|start|>assistant<|channel|>commentary<|message|>c<|end|><|start|>assistant"
         "<|channel|>final<|message|>d", ("c\n\nd", "a\n\nb", [])),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>b", ("b", "a", [])),
        ("<|start|>assistant<|channel|>final<|message|>b", ("b", "", [])),
        ('{"answer": 1}', ('{"answer": 1}', "", [])),
        ("total: 1", ("total: 1", "", [])),
        ("to=5", ("to=5", "", [])),
        ("<|x|> is a mark", ("<|x|> is a mark", "", [])),
        ("<|channel|>fin", ("", "", [])),
        ("", ("", "", [])),
    ],
)  # fmt: skip
def test_messages_have_many_forms(written: str, expected: tuple[Any, ...]) -> None:
    whole = read(HARMONY, [written])
    assert whole[:3] == expected
    assert all(read(HARMONY, pieces) == whole for pieces in cuts(written))


ATOMS = st.sampled_from(
    ["{", "<", "a", " ", "\n", ",", "</", "tell", *with_edges(" ".join(sorted(ALL_MARKS))).split(),
     EDGE, *ALL_MARKS, "weather_now", "call:", "{}", "function", "```", "<function=weather_now>",
     "</function>", "<parameter=", "thought\n", "x", '"']
)  # fmt: skip
CHANNELS = st.sampled_from(
    ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|", "<", "analysis",
     "final", "commentary", " to=functions.weather_now", "to=", "to=func",
     "assistant", "{}", "{", "a", " "]
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(ATOMS, max_size=12).map("".join), st.lists(CHANNELS, max_size=12).map("".join))
def test_how_any_answer_is_cut_makes_no_difference(text: str, channels: str) -> None:
    for plan, written in ((plan_of(has_marks=True), text), (HARMONY, channels)):
        for reason in ("stop", "length"):
            whole = read(plan, [written], reason)
            assert EDGE not in whole[0] + whole[1]
            assert all(read(plan, pieces, reason) == whole for pieces in cuts(written))


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "integer"}, "12", 12),
        ({"type": ["string", "null"]}, "12", "12"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, '"a"', '"a"'),
        ({"anyOf": [{"type": "string"}, {"type": "number"}]}, "12", 12),
        ({"type": "array"}, "[1]", [1]),
        ({"type": "array"}, "[1", "[1"),
        ({"type": "number"}, "NaN", "NaN"),
        ({}, '{"x": [true]}', {"x": [True]}),
        (None, "a", "a"),
    ],
)
def test_values_without_quotes_are_of_the_type_that_the_schema_says(
    schema: Any, text: str, value: Any
) -> None:
    tools = {"tell": {"properties": {"a": schema}}}
    for form in ("GLM 4.5", "Qwen, XML"):
        written = FORMATS[form]([("tell", {"a": "@"})]).replace("@", text)
        calls = read(ChatPlan("", tools=tools), [written])[2]
        assert decoded(calls) == [("tell", {"a": value})]


def test_a_message_that_is_continued_is_of_its_channel() -> None:
    prompt = f"{HARMONY.prompt}<|channel|>analysis<|message|>I think"
    plan = ChatPlan(prompt, is_harmony=True)
    written = " so.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    assert read(plan, [written])[:2] == ("Yes.", " so.")


def test_calls_of_channels_that_the_limit_cuts_off_say_so() -> None:
    written = harmony(CALLS["two"], "", "I wonder.")
    first = written.index("<|end|>", written.index("to="))
    for i in range(len(written) + 1):
        content, _, calls, reason = read(HARMONY, [written[:i]], "length")
        is_whole = i == len(written) or first - 1 < i < first + len("<|end|>") + 1
        assert content in ("", "<") and len(calls) <= 2
        if reason == "tool_calls":
            assert is_whole and all(json.loads(arguments) is not None for _, arguments in calls)
    assert (len(calls), reason) == (2, "tool_calls")
    limited = ChatPlan(HARMONY.prompt, tools=SCHEMAS, is_harmony=True, max_calls=1)
    assert decoded(read(limited, [written])[2]) == list(CALLS["one"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[THINK]a[/THINK]b", ("b", "a")),
        ("b [THINK]\na [ARGS]c\n[/THINK]\n d", ("b d", "a c")),
        ("[THINK]a[/THINK]b[THINK]c[/THINK]", ("b", "a\n\nc")),
        ("<|channel>thought\na\nb<channel|>c", ("c", "a\nb")),
        ("<|channel>thought\n<channel|>c", ("c", "")),
        ("<|channel>thought<channel|>c", ("c", "")),
        ("<|channel>though", ("", "though")),
        (" [ARGS]b[/THINK]", (" b", "")),
        ("b <think>", ("b ", "")),
    ],
)
def test_reasoning_between_control_tokens_may_stand_anywhere(
    text: str, expected: tuple[str, str]
) -> None:
    plan, written = plan_of(has_marks=True), with_edges(text)
    whole = read(plan, [written])
    assert whole[:2] == expected
    assert all(read(plan, pieces) == whole for pieces in cuts(written))


def test_reasoning_between_calls_is_reasoning_and_may_be_cut_off() -> None:
    call = FORMATS["Mistral, later"](CALLS["one"])
    plan, written = plan_of(has_marks=True), with_edges(f"{call}[THINK]a{{[/THINK]{call}")
    content, reasoning, calls, reason = read(plan, [written])
    assert (content, reasoning, decoded(calls), reason) == (
        "", "a{", [*CALLS["one"], *CALLS["one"]], "tool_calls")  # fmt: skip
    assert read(plan, [written[: written.index("a{") + 2]], "length")[3] == "length"


def test_marks_are_those_of_the_template_and_none_where_a_schema_holds_the_answer() -> None:
    user = [{"role": "user", "content": "Hi"}]
    chat_format = TemplateFormat("{{ messages[0].content }}{# [TOOL_CALLS] [THINK] #}")
    assert plan_chat(chat_format, user).marks == {"[TOOL_CALLS]", "[THINK]"}
    held = plan_chat(chat_format, user, json_schema={"type": "object"})
    assert held.marks == frozenset() and not held.is_harmony
    assert plan_chat(TemplateFormat("<|channel|><|message|>"), user).is_harmony


def test_only_marks_are_printed_of_control_tokens() -> None:
    specials = {"[ARGS]": 3, "[INST]": 3, "<|tool_response>": 3, "[THINK]": 4}
    tokenizer = load_tokenizer(bpe_metadata([], specials, pre="llama-bpe"))
    ids = mark_ids(tokenizer, ("[ARGS]", "<|tool_response>", "[THINK]", "[/THINK]"))
    tokens = tokenizer.encode("a[ARGS]é[INST]<|tool_response>[THINK]", parse_special=True)
    decoder = StreamDecoder(tokenizer, marks=ids)
    text = "".join(map(decoder.feed, tokens)) + decoder.flush()
    assert text == f"a{EDGE}[ARGS]{EDGE}é[THINK]"
    forged = StreamDecoder(tokenizer, marks=ids)
    text = "".join(map(forged.feed, tokenizer.encode(f"a{EDGE}b")))
    assert text == "ab"


def test_a_whole_answer_is_split_alike() -> None:
    text = with_edges(LEAD + FORMATS["GLM 4.5"](CALLS["one"]))
    content, reasoning, calls = split_answer(plan_of(has_marks=True).parser(), text)
    assert (content, reasoning, [call.name for call in calls]) == (LEAD, "", ["weather"])


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('<｜DSML｜invoke name="tell">{"a": "x"}</｜DSML｜invoke>', {"a": "x"}),
        ('<｜DSML｜invoke name="tell"><｜DSML｜parameter name="a">12</｜DSML｜parameter>'
         "</｜DSML｜invoke>", {"a": "12"}),
        ('<｜DSML｜invoke name="tell"><｜DSML｜parameter name="b" string="false">no JSON'
         "</｜DSML｜parameter></｜DSML｜invoke>", {"b": "no JSON"}),
        ('<｜DSML｜invoke name="tell"><｜DSML｜parameter name="b" string="true"> 1\n'
         "</｜DSML｜parameter></｜DSML｜invoke>", {"b": " 1\n"}),
        ("<|tool_call_begin|>tell:3<|tool_call_argument_begin|>{}<|tool_call_end|>", {}),
        ("<|tool_call_begin|> functions.tell <|tool_call_argument_begin|> {}", {}),
    ],
)  # fmt: skip
def test_calls_are_read_as_models_also_write_them(written: str, arguments: Any) -> None:
    tools = {"tell": {"properties": {"a": {"type": "string"}}}}
    content, _, calls, _ = read(ChatPlan("", tools=tools), [f"So: {written}"])
    assert (content, decoded(calls)) == ("So: ", [("tell", arguments)])
