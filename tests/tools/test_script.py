"""Plot files: every line kind, errors with file and line, and the plots that we ship."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tools import stories
from tools.stories import facts, script, words
from tools.stories.teller import Teller

SMALL = """\
# a comment
@let animal, sound
- cow | moo
@some colours: one, two
= The {Animal}
@open

{Animal}s say {sound}.
/ "{sound}," says the {animal}.
0% Never told.
100% {one} and {two}.

@close at home
~ {a_animal}
"""


@pytest.fixture
def plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a plot file and load it."""
    monkeypatch.setattr(script, "FOLDER", tmp_path)

    def load(text: str) -> script.Script:
        (tmp_path / "test_plot.txt").write_text(text, encoding="utf-8")
        script.load.cache_clear()
        return script.load("test_plot")

    yield load
    script.load.cache_clear()


def test_a_plot_is_performed_line_by_line(plot) -> None:
    teller = Teller(Random(1))
    story = script.perform(plot(SMALL), teller)
    opening, middle, _close = story.text.split("\n\n")
    assert teller.slots["h"] in opening
    assert middle.startswith(("Cows say moo.", '"moo," says the cow.'))
    assert middle.endswith(f"{teller.slots['one']} and {teller.slots['two']}.")
    assert "Never" not in story.text
    assert (story.title, story.subject) == ("The Cow", "a cow")


def test_words_that_are_drawn_together_differ(plot) -> None:
    small = plot(SMALL)
    for seed in range(50):
        teller = Teller(Random(seed))
        script.perform(small, teller)
        assert teller.slots["one"] != teller.slots["two"]


def test_rows_about_the_heros_own_kind_are_left_out(plot) -> None:
    two_rows = plot(SMALL.replace("- cow | moo", "- cow | moo\n- fox | yip"))
    heroes = set()
    for seed in range(400):
        teller = Teller(Random(seed))
        script.perform(two_rows, teller)
        heroes.add(teller.cast[0].kind)
        assert teller.slots["animal"] != teller.cast[0].kind
    assert "fox" in heroes


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("@jump", "unknown directive"),
        ("@close the door", "unknown directive"),
        ("@some colours", "cannot read"),
        ("/ nothing to say in another way", "cannot read"),
    ],
)
def test_a_wrong_line_is_named(plot, line: str, problem: str) -> None:
    with pytest.raises(script.ScriptError, match=rf"test_plot.txt:1: .*{problem}"):
        plot(f"{line}\n{SMALL}")


@pytest.mark.parametrize("mark", ["=", "~"])
def test_a_plot_needs_title_and_subject(plot, mark: str) -> None:
    lines = [line for line in SMALL.splitlines() if not line.startswith(mark)]
    with pytest.raises(script.ScriptError, match="a plot needs"):
        plot("\n".join(lines))


def test_a_row_has_as_many_cells_as_names(plot) -> None:
    wrong = plot(SMALL.replace("- cow | moo", "- cow"))
    with pytest.raises(ValueError, match="zip"):
        script.perform(wrong, Teller(Random(1)))


def test_facts_belong_to_plots() -> None:
    assert set(facts.FACTS) <= set(script.names())


@pytest.mark.parametrize("name", script.names())
def test_every_option_of_every_shipped_plot_can_be_told(name: str) -> None:
    """Each alternative is filled with a cast and facts of the plot: no slot is missing."""
    plot = script.load(name)
    teller = Teller(Random(name))
    stories.play(name, teller)
    for beat in plot.beats:
        if beat.kind == "tell":
            for option in beat.options:
                assert teller.fill(option)
        elif beat.kind == "let":
            for row in beat.options:
                cells = row.split(" | ")
                assert len(cells) == len(beat.names)
                assert all(teller.fill(cell) for cell in cells)
        elif beat.kind == "some":
            assert len(words.LISTS[beat.source]) >= len(beat.names)
    for option in (*plot.titles, *plot.subjects):
        assert teller.fill(option)
