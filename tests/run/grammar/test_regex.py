"""Regular expressions as trees, automata and searches, against Python's own."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar import Grammar
from gguf_hub.run.grammar.language import Language
from gguf_hub.run.grammar.pattern import InvalidPatternError, PatternError, read_pattern
from gguf_hub.run.grammar.regex import parse_pattern
from gguf_hub.run.grammar.search import has_match

TEXTS = ["", "a", "ab", "abc", "b", "ba", "aab", "-", "_", "7", "a7", "77", " ", "\t", "A", "é",
         "^", "]", "a-b", "\n", "xay", "aXb", "$", ".", "\\", "/", "\x08", "AB"]  # fmt: skip

EXACT = [
    "^ab*$", "^a|b$", "a", "^$", "^(ab|c)+$", "^a{2}b$", "^[ab]{1,2}$", "^a{2,}$", "^(?:a|b)?$",
    "^\\d+$", "^[\\d_-]$", "^[a-c]$", "^[^ab]$", "^.$", "^\\.$", "^\\x41\\u0042$", "^\\t$",
    "^a+?$", "^[\\]a]$", "^[a-]$", "^\\$$", "^\\^$", "^\\\\$", "^[\\b]$", "^\\/$", "a.b",
    "^[^\\]]$",
]  # fmt: skip
CLASSES = ["^\\w$", "^\\D$", "^\\W$", "^\\S$", "^[^\\d]$", "^\\s$", "^[\\D\\d]$"]
NOT_SUPPORTED = {
    "(?i:a)": "flags",
    "(?P<n>a)": "flags",
    "(a)\\1": "`\\\\1`",
    "(?<x>a)\\k<x>": "`\\\\k`",
    "[\\d-z]": "a class in a range",
    "[a-\\d]": "a class in a range",
    "\\p{Script=Greek}": "Script=Greek",
    "a{99999999999}": "count is too large",
    "a{,2}": "at this place",
    "\\01": "`\\\\0`",
    "\\x4": "`\\\\x`",
    "\\ud83d\\u0041": "surrogate pair",
    "(" * 200 + ")" * 200: "nested more than 100 deep",
}
INVALID = ["(", "a)", "[a", "[b-a]", "a{3,2}", "^*", "a**", "a{2}{3}", "?a", "a\\", "\\u{110000}",
           "\\u{}", "\\p", "(?<1>a)", "(?<x>a)(?<x>b)"]  # fmt: skip


def grammar(pattern: str) -> Grammar:
    return Grammar({"root": parse_pattern(pattern)})


@pytest.mark.parametrize("pattern", EXACT)
def test_a_pattern_finds_what_python_finds(pattern: str) -> None:
    found = grammar(pattern)
    # `$` of Python also matches before a final line break; that of ECMA does not
    texts = [t for t in TEXTS if not t.endswith("\n")]
    assert [t for t in texts if found.accepts(t)] == [t for t in texts if re.search(pattern, t)]


@pytest.mark.parametrize("pattern", CLASSES)
def test_classes_are_those_of_ecmascript(pattern: str) -> None:
    found = grammar(pattern)
    for text in [*TEXTS, "\u0660", "\u2003", "\ufeff"]:
        is_space = text in ("\u2003", "\ufeff")  # of which Python's ASCII knows nothing
        expected = re.search(python(pattern), " " if is_space else text, re.ASCII) is not None
        assert found.accepts(text) == has_match(pattern, text) == expected, text


def python(pattern: str) -> str:
    """Return a pattern that means to Python, with re.ASCII, what it means to ECMAScript."""
    return pattern.replace("$", r"\Z").replace("\\B", r"(?!\b)")


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^\\p{Lu}\\p{L}*$", ["Ab", "Éa", "Ωω"], ["ab", "A1"]),
        ("^\\P{Letter}$", ["1", " "], ["a", "é"]),
        ("^\\p{gc=Nd}$", ["7", "\u0667"], ["a"]),
        ("^[\\p{ASCII}]$", ["a"], ["é"]),
        ("^(?<year>\\d{4})-(?<month>\\d\\d)$", ["2024-01"], ["2024-1"]),
        ("^\\u{1F600}\\uD83D\\uDE00$", ["😀😀"], ["😀"]),
        ("^\\cA[\\cb]$", ["\x01\x02"], ["AB"]),
        ("^[^]$", ["a", "\n", "😀"], ["", "ab"]),
        ("^a|[]$", ["ab"], ["b", ""]),
        ("^a\\/b\\-c$", ["a/b-c"], ["a\\/b-c"]),
        ("(^a|b$)", ["ac", "cb"], ["ca", "bc"]),
        ("^(a$|b)c?", ["a", "b", "bc"], ["ac"]),
        ("^(?!foo)(?=.*z)[a-z]+$", ["zfoo", "az"], ["fooz", "a"]),
        ("x|^(?!a).*$|^a$", ["x", "b", "a", "ax"], ["ab"]),
        ("a^b", [], ["ab", ""]),
    ],
)
def test_what_ecmascript_has_beyond_python(pattern: str, good: list[str], bad: list[str]) -> None:
    language, schema = Language.of_pattern(pattern), {"type": "string", "pattern": pattern}
    for text in [*good, *bad]:
        assert language.contains(text) == has_match(pattern, text) == (text in good), text
    if good:
        written = Grammar.from_schema(schema)
        assert [
            t for t in [*good, *bad] if written.accepts(json.dumps(t, ensure_ascii=False))
        ] == good


@pytest.mark.parametrize("pattern", NOT_SUPPORTED)
def test_what_a_grammar_cannot_follow_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match=NOT_SUPPORTED[pattern]) as caught:
        read_pattern(pattern)
    assert not isinstance(caught.value, InvalidPatternError)


@pytest.mark.parametrize("pattern", INVALID)
def test_what_is_no_regular_expression_is_an_error_with_and_without_strict(pattern: str) -> None:
    for schema in ({"pattern": pattern}, {"patternProperties": {pattern: {}}}):
        for strict in (True, False):
            with pytest.raises(GrammarError, match=r"at `/pattern.*it is no regular expression: "):
                Grammar.from_schema(schema, strict=strict)


@pytest.mark.parametrize("pattern", ["\\ba", "(?<=a)b", "b(?=a)", "(?:^(?=a)a)"])
def test_what_only_a_search_follows_is_refused_as_a_set(pattern: str) -> None:
    assert has_match(pattern, "ab ba")
    with pytest.raises(PatternError, match=r"not supported|supported after a leading"):
        Language.of_pattern(pattern)


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


TEXT_LISTS = st.lists(st.text("ab é1\n_-", max_size=7), min_size=1, max_size=4)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(pattern=PATTERNS, texts=TEXT_LISTS)
def test_a_pattern_is_found_where_pythons_engine_finds_it(pattern: str, texts: list[str]) -> None:
    expected = re.compile(python(pattern), re.ASCII)
    for text in texts:
        assert has_match(pattern, text) == (expected.search(text) is not None), (pattern, text)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(a=PATTERNS, b=PATTERNS, texts=TEXT_LISTS, low=st.integers(0, 3), more=st.integers(0, 4))
def test_sets_of_texts_meet_join_and_part(
    a: str, b: str, texts: list[str], low: int, more: int
) -> None:
    try:
        x, y = Language.of_pattern(a), Language.of_pattern(b)
    except PatternError:
        return
    long_enough = Language.of_length(low, low + more)
    for text in texts:
        in_x, in_y = has_match(a, text), has_match(b, text)
        assert x.contains(text) == in_x
        assert (x & y).contains(text) == (in_x and in_y)
        assert (x | y).contains(text) == (in_x or in_y)
        assert (x - y).contains(text) == (in_x and not in_y)
        assert (x & long_enough).contains(text) == (in_x and low <= len(text) <= low + more)
    assert (x - x).is_empty and (x - Language.everything()).is_empty
    assert not (Language.of_texts(texts) - Language.of_texts(texts[1:])).contains(texts[-1] + "x")


@given(st.text("ab()[]{}|?*+^$\\.,-1:=!dwP\U0001f999", max_size=12))
def test_any_text_is_read_or_refused(pattern: str) -> None:
    try:
        read_pattern(pattern)
    except PatternError:
        return
    has_match(pattern, "ab")


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
