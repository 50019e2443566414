"""Plots are text files; this room reads and performs them.

One line is one sentence or beat::

    # a comment
    @let rival, stop           draw one row; its cells fill slots, and may use earlier slots
    - hare | took a nap
    - dog | ran the wrong way
    @some colours: good, bad   draw different words of a list in `tools.stories.words`
    = The Great Race           a title; several lines are alternatives
    @open                      introduce the hero (also @morning, @close, @close at home)

    Off went the {rival}.      an empty line begins a paragraph
    / The {rival} was fast.    says the line before in another way
    30% A bird sang.           told with this chance
    ~ a race                   what one could ask for to get this story
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.stories.teller import Story, Teller

FOLDER = Path(__file__).parent / "plots"
CHANCE = re.compile(r"(\d+)% (.*)")


class ScriptError(ValueError):
    """A plot file with a line that nobody understands."""


@dataclass
class Beat:
    """One step of a plot: ``kind`` is tell, let, some, or the name after ``@``."""

    kind: str
    options: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    source: str = ""
    chance: float = 1.0


@dataclass
class Script:
    """A plot: its titles, its beats in order, and what somebody could ask for."""

    titles: list[str] = field(default_factory=list)
    beats: list[Beat] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)


@cache
def names() -> tuple[str, ...]:
    """Return the names of all plots, in alphabetical order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))


@cache
def load(name: str) -> Script:
    """Read the plot called ``name``.

    Raises:
        ScriptError: If a line cannot be understood, or a title, beat or subject is missing.
    """
    path = FOLDER / f"{name}.txt"
    script = Script()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            _read_line(line, script)
        except (ValueError, IndexError) as exc:
            raise ScriptError(f"{path.name}:{number}: cannot read {line!r}: {exc}") from exc
    if not (script.titles and script.beats and script.subjects):
        raise ScriptError(f"{path.name}: a plot needs a title, a sentence and a subject")
    return script


def _read_line(line: str, script: Script) -> None:
    """Add one line to the script."""
    if line.startswith("#"):
        return
    mark, _, rest = line.partition(" ")
    if mark in ("/", "-"):
        script.beats[-1].options.append(rest)
    elif mark == "=":
        script.titles.append(rest)
    elif mark == "~":
        script.subjects.append(rest)
    elif mark.startswith("@"):
        script.beats.append(_directive(mark[1:], rest))
    elif not line:
        script.beats.append(Beat("pause"))
    elif chance := CHANCE.fullmatch(line):
        script.beats.append(Beat("tell", [chance[2]], chance=int(chance[1]) / 100))
    else:
        script.beats.append(Beat("tell", [line]))


def _directive(word: str, rest: str) -> Beat:
    """Return the beat of a line that begins with ``@``."""
    if word == "let":
        return Beat("let", names=_names(rest))
    if word == "some":
        source, wanted = rest.split(": ")
        return Beat("some", names=_names(wanted), source=source)
    if word in ("open", "morning") and not rest:
        return Beat(word)
    if word == "close" and rest in ("", "at home"):
        return Beat("close", options=[rest])
    raise ValueError("unknown directive")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def perform(script: Script, teller: Teller) -> Story:
    """Tell the story of a plot: first all facts, then the title, then the beats in order."""
    told = [beat for beat in script.beats if beat.kind not in FACTS]
    for beat in script.beats:
        if beat.kind in FACTS:
            FACTS[beat.kind](beat, teller)
    teller.call(*script.titles)
    for beat in told:
        _tell(beat, teller)
    return teller.story(teller.fill(*script.subjects))


def _tell(beat: Beat, teller: Teller) -> None:
    if beat.kind == "tell":
        if beat.chance == 1.0 or teller.rng.random() < beat.chance:
            teller.tell(*beat.options)
    elif beat.kind == "close":
        teller.close(at_home=beat.options == ["at home"])
    else:
        {"pause": teller.pause, "open": teller.open, "morning": teller.morning}[beat.kind]()


def _let(beat: Beat, teller: Teller) -> None:
    """Draw a row and settle its cells; rows about the hero's own kind are left out."""
    rows = [row for row in beat.options if teller.cast[0].kind not in set(_words(row))]
    cells = teller.pick(rows or beat.options).split(" | ")
    for name, cell in zip(beat.names, cells, strict=True):
        teller.set(**{name: teller.fill(cell)})


def _words(text: str) -> Iterator[str]:
    return (match[0] for match in re.finditer(r"\w+", text))


def _some(beat: Beat, teller: Teller) -> None:
    """Draw different words of a list."""
    teller.set_some(beat.source, beat.names)


FACTS: dict[str, Callable[[Beat, Teller], None]] = {"let": _let, "some": _some}
