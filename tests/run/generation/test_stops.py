from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.run.generation import StopText

TEXT = st.text("abc", max_size=30)


def shown(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    stop = StopText(stops)
    text = "".join(stop.feed(piece) for piece in pieces)
    return text + stop.flush(), stop.match


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ([], ["a", "b"], ("ab", None)),
        (["END"], ["one E", "N", "D two"], ("one ", "END")),
        (["END"], ["one E", "N", "o"], ("one ENo", None)),
        (["bc", "abcd"], ["xabc"], ("xa", "bc")),
        (["", "x"], ["ax"], ("a", "x")),
        (["é"], ["caf", "é", "s"], ("caf", "é")),
        (["aab"], ["aa", "aab"], ("aa", "aab")),
    ],
    ids=[
        "none",
        "across pieces",
        "nearly",
        "what is complete first",
        "empty",
        "accents",
        "overlap",
    ],
)
def test_text_ends_before_a_stop_text(
    stops: list[str], pieces: list[str], expected: tuple[str, str | None]
) -> None:
    assert shown(stops, pieces) == expected


@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(TEXT, max_size=8))
def test_how_the_text_is_cut_makes_no_difference(stops: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces)
    found = [(whole.index(stop) + len(stop), whole.index(stop)) for stop in stops if stop in whole]
    text = whole[: min(found)[1]] if found else whole
    for cut in (list(whole), pieces, [whole]):
        assert shown(stops, cut)[0] == text
        assert (shown(stops, cut)[1] is not None) == bool(found)


def test_what_cannot_become_a_stop_text_is_not_held_back() -> None:
    stop = StopText(["###"])
    assert [stop.feed(piece) for piece in ["a", "b#", "c", "##"]] == ["a", "b", "#c", ""]


@given(st.lists(st.text("ab", max_size=5), max_size=3), st.lists(st.text("abc", max_size=4)))
def test_no_more_is_held_back_than_may_begin_a_stop_text(
    stops: list[str], pieces: list[str]
) -> None:
    stop = StopText(stops)
    come, out = "", ""
    for piece in pieces:
        come, out = come + piece, out + stop.feed(piece)
        if stop.match is not None:
            break
        starts = [s[:n] for s in stops for n in range(len(s)) if come.endswith(s[:n])]
        assert len(come) - len(out) == max(map(len, starts), default=0)


def test_long_stop_texts_that_almost_come_take_no_longer() -> None:
    began = time.thread_time()
    stop = StopText(["a" * 100_000 + "b", "a" * 99_999 + "c"])
    shown = sum(len(stop.feed("a" * 50)) for _ in range(6_000))
    assert shown == 300_000 - 100_000
    assert stop.feed("d") == "a" * 100_000 + "d"
    assert time.thread_time() - began < 10.0
