"""The teller: keeps the cast and the facts of one story and writes its sentences.

A plot is a function that is given a teller, settles what happens, and tells it in paragraphs. All
that a sentence says about the world comes from the teller's slots, so a name, a colour or a
pronoun stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from tools.stories import words
from tools.stories.template import render

T = TypeVar("T")


@dataclass(frozen=True)
class Character:
    """Somebody in a story: ``kind`` is "fox", ``trait`` is "brave"."""

    name: str
    is_she: bool
    kind: str
    trait: str

    def slots(self, suffix: str) -> dict[str, str]:
        """Return the words for this character; ``suffix`` is empty for the hero."""
        she = self.is_she
        forms = {
            "he": "she" if she else "he",
            "him": "her" if she else "him",
            "his": "her" if she else "his",
            "himself": "herself" if she else "himself",
            "h": self.name,
            "kind": self.kind,
            "trait": self.trait,
            "trait_kind": f"{self.trait} {self.kind}",
        }
        return {word + suffix: text for word, text in forms.items()}


@dataclass(frozen=True)
class Story:
    """A finished story and what somebody could have asked for to get it."""

    title: str
    text: str
    hero: str
    subject: str
    language: str = ""


class Slots(dict[str, str]):
    """The facts of a story; ``a_fox`` is the slot ``fox`` with its article."""

    def __missing__(self, key: str) -> str:
        if key.startswith("a_"):
            return words.a(self[key[2:]])
        raise KeyError(key)


class Teller:
    """Tells one story: ``rng`` decides, ``slots`` holds the facts."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.slots = Slots()
        self.title = ""
        self._paragraphs: list[list[str]] = [[]]
        self.cast = _draw_cast(rng, 3)
        for character, suffix in zip(self.cast, ("", "2", "3"), strict=True):
            self.slots.update(character.slots(suffix))
        home = rng.choice(words.HOMES)
        place = rng.choice(list(words.PLACES))
        love, love_end = rng.choice(words.LOVES)
        self.set(
            home=home,
            the_home="the " + home.split(" ", 1)[1],
            place=place,
            at_place=f"{words.PLACES[place]} the {place}",
            love=love,
            love_end=love_end,
            feel=rng.choice(words.FEELINGS),
            food=rng.choice(words.FOODS),
        )
        self.change_weather(rng.choice(list(words.WEATHER)))

    def change_weather(self, weather: str) -> None:
        """Let it be ``weather`` in this story."""
        self.weather = weather
        self.set(weather=weather, sky=words.WEATHER[weather])

    def set(self, **facts: str) -> None:
        """Settle facts, each under a slot's name."""
        self.slots.update(facts)

    def set_some(self, source: str, names: Sequence[str]) -> None:
        """Settle one fact per name with different words of a list in `words.LISTS`."""
        for name, word in zip(names, self.sample(words.LISTS[source], len(names)), strict=True):
            self.set(**{name: word})

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return self.rng.choice(options)

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Return ``count`` different options in a random order."""
        return self.rng.sample(options, count)

    def fill(self, *templates: str) -> str:
        """Write one of the templates and return it, without telling it."""
        return render(self.rng.choice(templates), self.rng, self.slots)

    def call(self, *titles: str) -> None:
        """Choose the title."""
        self.title = self.fill(*titles)

    def tell(self, *templates: str) -> None:
        """Tell one of the templates."""
        self._paragraphs[-1].append(self.fill(*templates))

    def pause(self) -> None:
        """Begin a new paragraph."""
        self._paragraphs.append([])

    def story(self, subject: str) -> Story:
        """Return what was told."""
        text = "\n\n".join(" ".join(lines) for lines in self._paragraphs if lines)
        hero = self.fill("{h}", "{a_kind} named {h}", "{a_trait_kind} named {h}", "{a_trait_kind}")
        return Story(self.title, text, hero, subject)

    def open(self) -> None:
        """Introduce the hero, the home and what the hero loves."""
        self.tell(
            "Once upon a time, there was {a_trait_kind} named {h}. {He} lived in {home}.",
            "Once upon a time, {a_trait_kind} named {h} lived in {home}.",
            "Once upon a time, in {home}, there lived {a_trait_kind}. {His} name was {h}.",
            "There once was {a_trait_kind} called {h}, and {he} lived in {home}.",
            "In {home} lived {a_trait_kind} named {h}.",
            "Far away, in {home}, lived {h}. {He} was {a_trait_kind}.",
            "{h} was {a_trait_kind} who lived in {home}.",
        )
        self.tell(
            "{He} loved {love} more than anything.",
            "{h} loved {love}.",
            "Every day, {he} spent [hours|the whole morning] {love}.",
            "There was nothing that {h} liked more than {love}.",
            "What {he} liked best was {love}.",
        )

    def morning(self) -> None:
        """Say what kind of day it is; later beats may use the weather again."""
        self.pause()
        self.tell(
            "One {weather} morning, {h} [went|walked|ran] to the {place}. {sky}.",
            "One {weather} day, {h} was on the way to the {place}. {sky}.",
            "It was a {weather} [day|morning]. {sky}, and {h} was in a good mood.",
            "One {weather} afternoon, {h} was {at_place}.",
        )
        if self.rng.random() < 0.3:
            self.tell(*words.SIGHTS)

    def close(self, *, at_home: bool = False) -> None:
        """End on the hero's love, the feeling, or the way home."""
        endings = [
            "That evening, {h} {love_end}.",
            "When the moon came up, {h} {love_end} and fell asleep with a smile.",
            "And so {h}, the {trait} {kind}, went to bed {feel}.",
            "That night, in {the_home}, {he} {love_end}. The end.",
            "It had been a good day for {a_trait_kind}. The end.",
        ]
        if not at_home:
            endings += [
                "{h} was {feel}. Back home, {he} {love_end}.",
                "Then {h} went home to {the_home}, {feel}.",
                "From that day on, everyone {at_place} knew the {trait} {kind} named {h}.",
            ]
        self.tell(*endings)


def _draw_cast(rng: Random, count: int) -> list[Character]:
    """Draw characters with different names, kinds and traits."""
    names = rng.sample(words.SHE + words.HE, count)
    kinds = rng.sample(words.HERO_KINDS, count)
    traits = rng.sample(words.TRAITS, count)
    cast = []
    for name, kind, trait in zip(names, kinds, traits, strict=True):
        is_she = name in words.SHE
        if rng.random() < 0.15:
            name = rng.choice(words.FIRST_SYLLABLES) + rng.choice(words.LAST_SYLLABLES)
        if rng.random() < 0.2:
            kind = "girl" if is_she else "boy"
        cast.append(Character(name, is_she, kind, trait))
    return cast
