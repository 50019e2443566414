"""Regular expressions as trees, against Python's own."""

from __future__ import annotations

import re
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.run.grammar import Grammar
from gguf_hub.run.grammar.pattern import PatternError, read_pattern
from gguf_hub.run.grammar.regex import parse_pattern
from gguf_hub.run.grammar.schema.strings import samples
from gguf_hub.run.grammar.search import has_match

TEXTS = ["", "a", "ab", "abc", "b", "ba", "aab", "-", "_", "7", "a7", "77", " ", "\t", "A", "é",
         "^", "]", "a-b", "\n", "xay", "aXb", "$", ".", "\\", "/", "\x08", "AB"]  # fmt: skip

EXACT = [
    "^ab*$", "^a|b$", "a", "^$", "^(ab|c)+$", "^a{2}b$", "^[ab]{1,2}$", "^a{2,}$", "^(?:a|b)?$",
    "^\\d+$", "^[\\d_-]$", "^[a-c]$", "^[^ab]$", "^.$", "^\\.$", "^\\x41\\u0042$", "^\\t$",
    "^a+?$", "^[]a]$", "^[a-]$", "^\\$$", "^\\^$", "^\\\\$", "^[\\b]$", "^\\/$", "a.b", "^[^\\]]$",
]  # fmt: skip
INSIDE = ["^\\w$", "^\\D$", "^\\W$", "^\\S$", "^[^\\d]$", "^\\s$"]
REFUSED = {
    "(?=a)": "look ahead",
    "(?i:a)": "flags",
    "(?P<n>a)": "names",
    "(a)\\1": "`\\\\1`",
    "\\bword": "`\\\\b`",
    "a^": "at this place",
    "(a$)": "anchor inside a group",
    "[\\d-z]": "no regular expression|range",
    "a{2}{3}": "repetition|no regular",
    "(": "no regular expression",
    "a$b": "is not supported",
    "\\p{L}": "`\\\\p`|no regular",
    "(?!a)": "look ahead or behind",
    "a{3,2}": "runs backwards",
    "a{99999999999}": "count is too large",
    "a{,2}": "at this place",
    "^*": "at this place",
    "a**": "repetition of a repetition",
    "[b-a]": "runs backwards",
    "[a": "a class does not end",
    "a)": "without",
    "\\01": "`\\\\0`",
    "\\x4": "`\\\\x`",
    "(" * 200 + ")" * 200: "nested more than 100 deep",
    "[a-\\d]": "no regular expression|range",
}


def grammar(pattern: str) -> Grammar:
    return Grammar({"root": parse_pattern(pattern)})


@pytest.mark.parametrize("pattern", EXACT)
def test_a_pattern_finds_what_python_finds(pattern: str) -> None:
    found = grammar(pattern)
    # `$` of Python also matches before a final line break; that of ECMA does not
    texts = [t for t in TEXTS if not t.endswith("\n")]
    assert [t for t in texts if found.accepts(t)] == [t for t in texts if re.search(pattern, t)]


@pytest.mark.parametrize("pattern", INSIDE)
def test_classes_beyond_ascii_are_held_to_what_is_certain(pattern: str) -> None:
    found = grammar(pattern)
    accepted = [t for t in TEXTS if found.accepts(t)]
    assert accepted and all(re.search(pattern, t) for t in accepted)


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_a_grammar_cannot_follow_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match=REFUSED[pattern]):
        parse_pattern(pattern)


@pytest.mark.parametrize("pattern", ["^[a-z]{2,4}-\\d+$", "^(foo|ba+r)?$", "b$", "^\\w*$", "."])
def test_samples_are_different_and_match(pattern: str) -> None:
    found = samples(parse_pattern(pattern), 12)
    assert len(found) == len(set(found)) >= 2
    assert all(re.search(pattern, text) for text in found)


PIECES = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "^",
        "$",
        "\\b",
        "\\B",
        "\\d",
        "\\W",
        "\\s",
        "[ab]",
        "[^a]",
        "[^\\w-]",
        "é",
        "-",
    ]
)
PATTERNS = st.recursive(
    PIECES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.builds(
            lambda item, count: f"(?:{item}){count}",
            inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}", "{2,}", "{0,900}"]),
        ),
        st.builds(lambda look, item: f"({look}{item})", st.sampled_from(["?=", "?!", ""]), inner),
        st.sampled_from(["(?<=a)", "(?<!b)", "(?<=\\s)", "(?<![ab])"]),
    ),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(pattern=PATTERNS, texts=st.lists(st.text("ab é1\n_-", max_size=7), min_size=1, max_size=4))
def test_a_pattern_is_found_where_pythons_engine_finds_it(pattern: str, texts: list[str]) -> None:
    expected = re.compile(pattern)
    for text in texts:
        assert has_match(pattern, text) == (expected.search(text) is not None), (pattern, text)


@given(st.text("ab()[]{}|?*+^$\\.,-1:=!dwP\U0001f999", max_size=12))
def test_any_text_is_read_or_refused(pattern: str) -> None:
    try:
        read_pattern(pattern)
    except PatternError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `[[` may mean something one day
        re.compile(pattern)  # what is read is a regular expression to Python, too


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("^(a|a|aa)+$", "a" * 5000 + "!", False),
        ("(a*)*(a*)*b", "a" * 5000, False),
        ("(x+x+)+y", "x" * 5000, False),
        ("^(?=(a+)+$)((a*)*)*$", "a" * 300 + "!", False),
        ("^a{1000000000}$", "a" * 300, False),
        ("^a{0,1000000000}$", "a" * 300, True),
        ("(?<=(a+)+)b", "a" * 2000 + "b", True),
    ],
)
def test_nothing_makes_a_search_go_back(pattern: str, text: str, expected: bool) -> None:
    began = time.thread_time()
    assert has_match(pattern, text) == expected
    assert time.thread_time() - began < 6.0


def test_a_pattern_with_too_many_states_is_refused() -> None:
    with pytest.raises(PatternError, match="over 10,000 states"):
        has_match("^(((a{1,50}){1,50}){1,50}){1,50}$", "a" * 60)
