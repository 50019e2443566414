"""Text of strangers: nothing that is printed steers a terminal, and nothing is lost."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.printable import LAYOUT, json_printable, printable, printable_text

EVERY = st.text(st.characters())  # surrogates, too
UNSAFE = {"Cc", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ümläut, 日本語, \N{LLAMA}", "plain, ümläut, 日本語, \N{LLAMA}"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\n\tb\0", r"a\r\n\tb\x00"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u2028b\u200bc\ufeffd", r"a\u2028b\u200bc\ufeffd"),
        ("\U000e0041", r"\U000e0041"),
        (b"\xff\x80".decode("utf-8", "surrogateescape"), r"\xff\x80"),
        ("\ud800", r"\ud800"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_what_steers_is_seen_and_the_rest_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(EVERY)
def test_no_control_character_is_left(text: str) -> None:
    shown = printable(text)
    assert not UNSAFE & {unicodedata.category(char) for char in shown}
    marks = {char for char in shown if unicodedata.category(char) == "Cf"}
    assert not any("\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u2069" for char in marks)
    shown.encode()
    assert printable(shown) == shown


@given(EVERY)
def test_a_text_of_several_lines_keeps_its_layout(text: str) -> None:
    kept = [char for char in printable(text, keep=LAYOUT) if char in LAYOUT]
    assert kept == [char for char in text if char in LAYOUT]


@given(EVERY)
def test_text_of_a_model_keeps_the_marks_of_scripts(text: str) -> None:
    shown = printable_text(text)
    assert not {"\x1b", "\r", "\x9b", "\0"} & set(shown)
    assert shown.count("\u200f") == text.count("\u200f")


@pytest.mark.slow
@given(st.recursive(EVERY, lambda inner: st.lists(inner) | st.dictionaries(EVERY, inner)))
def test_json_says_the_same_and_is_printable(data: object) -> None:
    document = json_printable(json.dumps(data, ensure_ascii=False, indent=1))
    assert json.loads(document) == data
    document.encode()
    assert printable(document, keep="\n") == document


def test_a_flood_costs_little() -> None:
    assert len(printable("\x1b" * 1_000_000)) == 4_000_000
    assert len(json_printable('"' + "\x9b" * 1_000_000 + '"')) == 6_000_002
