"""Reasoning in front of answers: the same however the answer is cut."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from gguf_hub.run.chat import TemplateFormat, find_format
from gguf_hub.run.generation.chat import ChatPlan, plan_chat
from gguf_hub.run.generation.parts import CallDelta, Part, ReasoningDelta
from gguf_hub.run.generation.reasoning import MARKS, open_reasoning

USER = [{"role": "user", "content": "Hi"}]
CALL = '{"name": "tell", "arguments": {}}'
OPENED = open_reasoning("assistant\n<think>\n")

CASES = [
    ("<think>a b</think>c", None, "a b", "c"),
    (" \n<think>\na\n\nb \n</think>\n\nc\n", None, "a\n\nb", "c\n"),
    ("[THINK]a[/THINK]c", None, "a", "c"),
    ("<think></think>c", None, "", "c"),
    ("<think>a</thin", None, "a</thin", ""),
    ("<think>a </", None, "a </", ""),
    ("<think> ", None, "", ""),
    ("<thi", None, "", "<thi"),
    (" c", None, "", " c"),
    ("c <think>a</think>", None, "", "c <think>a</think>"),
    ("a</think>c", OPENED, "a", "c"),
    ("\n a </think > </think> c", OPENED, "a </think >", "c"),
    ("a", OPENED, "a", ""),
    ("a [/THINK]</think>c", OPENED, "a [/THINK]", "c"),
]


def read(plan: ChatPlan, pieces: Any) -> list[Part]:
    parser = plan.parser()
    return [part for piece in pieces for part in parser.feed(piece)] + parser.finish()


@pytest.mark.parametrize(("text", "opened", "reasoning", "answer"), CASES)
def test_reasoning_is_split_however_the_answer_is_cut(
    text: str, opened: Any, reasoning: str, answer: str
) -> None:
    plan = ChatPlan("", splits_reasoning=True, opened=opened)
    cuts = [[text], list(text)]
    cuts += [[text[:i], text[i:]] for i in range(len(text))]
    for pieces in cuts:
        parts = read(plan, pieces)
        assert "".join(p.text for p in parts if isinstance(p, ReasoningDelta)) == reasoning
        assert "".join(p for p in parts if isinstance(p, str)) == answer


def test_reasoning_comes_before_the_answer_and_as_soon_as_it_can_be_no_mark() -> None:
    parser = ChatPlan("", splits_reasoning=True).parser()
    assert parser.feed("<think>a <b") == [ReasoningDelta("a <b")]
    assert parser.feed(" ") == []  # may be the blank in front of the mark
    assert parser.feed("c</th") == [ReasoningDelta(" c")]
    assert parser.feed("ink>\nd") == ["d"]
    assert parser.feed("</think>") == ["</think>"]


def test_calls_follow_reasoning_and_none_stands_in_it() -> None:
    plan = ChatPlan("", tools=("tell",), splits_reasoning=True)
    parts = read(plan, f"<think>I could {CALL}</think>\n{CALL}")
    calls = [part for part in parts if isinstance(part, CallDelta)]
    assert len(calls) == 1
    thought = "".join(part.text for part in parts if isinstance(part, ReasoningDelta))
    assert thought == f"I could {CALL}"


def test_an_answer_that_the_limit_ends_while_it_reasons_says_so() -> None:
    parser = ChatPlan("", tools=("tell",), splits_reasoning=True).parser()
    parser.feed("<think>a")
    parser.finish()
    assert parser.finish_reason("length") == "length"


@pytest.mark.parametrize(("start", "end"), MARKS)
def test_a_template_that_begins_the_reasoning_is_known_by_its_mark(start: str, end: str) -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %}" + start + "{{ '\\n' }}"
    chat_format = TemplateFormat(source)

    def plan(**options: Any) -> ChatPlan:
        return plan_chat(chat_format, USER, splits_reasoning=True, **options)

    assert plan().opened is not None and plan().prompt == f"Hi{start}\n"
    closed = f"Hi{start}\n\n{end}\n\n"
    for options in ({"json_schema": {"type": "object"}},
                    {"variables": {"enable_thinking": False}}):  # fmt: skip
        assert (plan(**options).opened, plan(**options).prompt) == (None, closed)
    assert plan(grammar='root ::= "x"').opened is None
    assert plan(grammar=f'root ::= "x{end}y"').opened is not None
    assert plan_chat(chat_format, USER).opened is None  # unless it is split, all is text


def test_without_marks_nothing_changes() -> None:
    for options in itertools.product([True, False]):
        plan = plan_chat(find_format("chatml"), USER, splits_reasoning=options[0])
        assert "".join(map(str, read(plan, "Hello <think>"))) == "Hello <think>"
