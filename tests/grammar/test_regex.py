"""Regular expressions as trees, against Python's own."""

from __future__ import annotations

import re

import pytest

from gguf_hub.grammar import Grammar
from gguf_hub.grammar.regex import PatternError, parse_pattern
from gguf_hub.grammar.schema.strings import samples

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
