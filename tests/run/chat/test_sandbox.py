"""Templates that mean harm are stopped in time and space, and reach nothing."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.budget import limit
from gguf_hub.errors import ChatTemplateError
from gguf_hub.run.chat import TemplateFormat, searching
from tests.run.chat.hostile import SPENT, TEMPLATES

MESSAGES = [{"role": "user", "content": "hi"}]
SET = "{% set ns = namespace(s=START) %}{% for i in range(60) %}{% set ns.s = NEXT %}{% endfor %}"


def grow(start: str, following: str, end: str = "{{ ns.s }}") -> str:
    """A template that makes a value larger again and again."""
    return SET.replace("START", start).replace("NEXT", following) + end


MILLION = "{% set x = 'a' * 1000000 %}"
HOSTILE = {
    # time
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}"
    "{% endfor %}",
    "mapped loops": "{% for i in range(99999) %}{% set q = range(99999) | map('string') | list %}"
    "{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(90) }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "squares": grow("3", "ns.s * ns.s"),
    "strip": MILLION + "{{ x.strip('b' * 100000) }}",
    "trim": MILLION + "{{ x | trim('b' * 100000) }}",
    "compared": "{% set ns = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set ns.a = "
    "[ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
    # space
    "multiplied text": "{{ 'a' * 10 ** 9 }}",
    "multiplied list": "{{ [1] * 10 ** 9 }}",
    "doubled text": grow("'a'", "ns.s + ns.s"),
    "doubled by ~": grow("'a'", "ns.s ~ ns.s"),
    "doubled block": grow("'a'", "1").replace(
        "{% set ns.s = 1 %}", "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"
    ),
    "doubled list": grow("[1]", "[ns.s, ns.s]"),
    "doubled tuple": grow("(1,)", "(ns.s, ns.s)"),
    "doubled dict": grow("{}", "{'a': ns.s, 'b': ns.s}"),
    "doubled call": grow("{}", "dict(a=ns.s, b=ns.s)"),
    "doubled namespace": grow("namespace()", "namespace(a=ns.s, b=ns.s)"),
    "replace": MILLION + "{{ x.replace('a', x) }}",
    "replace filter": MILLION + "{{ x | replace('a', x) }}",
    "join": MILLION + "{{ x.join(x) }}",
    "join filter": MILLION + "{{ [x, x, x, x, x] | join }}",
    "indent": "{{ ('a\n' * 100000) | indent(10 ** 9) }}",
    "json indent": "{{ [1] | tojson(indent=10 ** 9) }}",
    "json separators": MILLION + "{{ [1, 2, 3, 4, 5, 6] | tojson(separators=(x, x)) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "format": "{{ '{:1000000000d}'.format(1) }}",
    "ljust": "{{ 'a'.ljust(10 ** 9) }}",
    "center": "{{ 'a' | center(10 ** 9) }}",
    "sum": "{{ ([[1] * 1000] * 1000) | sum(start=[]) }}",
    "summed lists": "{{ [[1], [1]] | sum }}",
    "round": "{{ 1.5 | round(10 ** 9, 'ceil') }}",
    "output": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "plain output": "{% for a in range(99999) %}" + "x" * 40_000 + "{% endfor %}",
    "caught output": "{% set q %}{% for a in range(99999) %}" + "x" * 40_000 + "{% endfor %}"
    "{% endset %}",
    "kept lists": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set ns.l = ns.l + ['x' * 1000000] %}{% endfor %}",
    "date": "{{ strftime_now('%0999999999Y') }}",
    # compiling
    "long": "x" * 50_000,
    "many parts": "{{ a }}" * 6_500,
    "deep": "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "deep loops": "{% for a in [1] %}" * 900 + "{% endfor %}" * 900,
    # reaching out
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "attr filter": "{{ (messages | attr('__class__')).__mro__ }}",
    "map attribute": "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
    "append": "{{ messages.append(1) }}",
    "pop": "{{ messages.pop() }}",
    "update": "{{ messages[0].update(a=1) }}",
    "encode": "{{ 'a'.encode() }}",
    "self": "{{ self }}",
    "self context": "{{ self._TemplateReference__context.environment }}",
    "macro in list": "{% macro f() %}{% endmacro %}{{ [f] }}",
    "include": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_stopped(source: str) -> None:
    start = time.process_time()
    with pytest.raises(ChatTemplateError):
        TemplateFormat(source).render(MESSAGES)
    assert time.process_time() - start < 6.0


def test_a_refused_attribute_prints_nothing() -> None:
    source = "[{{ ''|attr('__class__') }}{{ raise_exception.__globals__ }}{{ range.__class__ }}]"
    assert TemplateFormat(source).render(MESSAGES).text == "[]"


def test_templates_cannot_change_what_they_are_given() -> None:
    messages = [{"role": "user", "content": "hi"}]
    TemplateFormat("{% for m in messages %}{% set m = {} %}{% endfor %}").render(messages)
    assert messages == [{"role": "user", "content": "hi"}]


def test_a_template_works_again_after_one_that_was_stopped() -> None:
    with pytest.raises(ChatTemplateError, match="more than 4,000,000 characters"):
        TemplateFormat("{{ 'a' * 10 ** 9 }}").render(MESSAGES)
    template = TemplateFormat("{{ 'a' * 1000000 }}")
    assert [len(template.render(MESSAGES).text) for _ in range(70)] == [1_000_000] * 70


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_takes_long(name: str) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "yo"}, *MESSAGES]
    began = time.thread_time()
    # what would spend the whole budget gets a small one here
    with limit(0.1 if name in SPENT else 0.5, 200_000_000):
        try:
            TemplateFormat(TEMPLATES[name], bos_token="<s>", eos_token="</s>").render(messages)
            error = ""
        except ChatTemplateError as exc:
            error = str(exc)
    assert time.thread_time() - began < 6.0
    if name in SPENT:
        assert "it takes more than" in error


def test_waiting_for_others_costs_a_template_nothing() -> None:
    template = TemplateFormat("{% for i in range(3000) %}x{% endfor %}")
    is_over = threading.Event()
    others = [threading.Thread(target=_spin, args=(is_over,)) for _ in range(6)]
    for thread in others:
        thread.start()
    try:
        assert template.render(MESSAGES).text == "x" * 3000
    finally:
        is_over.set()
        for thread in others:
            thread.join()


def _spin(is_over: threading.Event) -> None:
    while not is_over.is_set():
        pass


LETTERS = st.text("ab", max_size=9)
BOUNDS = st.none() | st.integers(-12, 12)


@given(text=LETTERS, part=LETTERS, start=BOUNDS, end=BOUNDS, count=st.integers(-2, 4))
def test_searching_from_the_end_finds_what_python_finds(
    text: str, part: str, start: int | None, end: int | None, count: int
) -> None:
    assert searching.rfind(text, part, start, end) == text.rfind(part, start, end)
    if text.rfind(part, start) >= 0:
        assert searching.rindex(text, part, start) == text.rindex(part, start)
    else:
        with pytest.raises(ValueError, match="not found"):
            searching.rindex(text, part, start)
    assert searching.rsplit(text, None, count) == text.rsplit(None, count)
    if part:
        assert searching.rpartition(text, part) == text.rpartition(part)
        assert searching.rsplit(text, part, count) == text.rsplit(part, count)


def test_templates_may_search_from_the_end() -> None:
    source = (
        "{{ 'a.b.c'.rsplit('.', 1)[0] }} {{ 'a.b'.rfind('.') }} {{ 'a b'.rsplit() | join('-') }}"
    )
    assert TemplateFormat(source).render(MESSAGES).text == "a.b 1 a-b"
