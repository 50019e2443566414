"""Facts of the plots that need more than a row of a table: who can do what, what is missing.

Every function settles facts with the teller before the plot of the same name is performed.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.stories import words
from tools.stories.teller import Teller


def lost_thing(t: Teller) -> None:
    """Let a thing get stuck where only some animals can reach it; two others cannot."""
    t.set_some("things", ("thing",))
    t.set_some("colours", ("colour",))
    t.set_some("trees", ("tree",))
    escape = t.pick(words.ESCAPES)
    able = t.pick([animal for animal, (skill, _) in words.HELPERS.items() if skill in escape.ways])
    others = [animal for animal, (skill, _) in words.HELPERS.items() if skill not in escape.ways]
    skill, food = words.HELPERS[able]
    t.set(able=able, skill=words.ABILITIES[skill], treat=food)
    for slot, animal in zip(("wrong", "wrong2"), t.sample(others, 2), strict=True):
        t.set(**{slot: animal, f"{slot}_skill": words.ABILITIES[words.HELPERS[animal][0]]})
    t.set(
        happens=t.fill(escape.happens), where=t.fill(escape.where), way=t.fill(escape.ways[skill])
    )
    if "wind" in escape.happens:
        t.change_weather("windy")


def bake(t: Teller) -> None:
    """Choose a dish and which of its ingredients is missing, and who has that."""
    dish = t.pick(list(words.DISHES))
    one, two, missing = t.sample(words.DISHES[dish], 3)
    t.set(dish=dish, dish_noun=dish.removeprefix("a ").removeprefix("an "))
    t.set(one=one, two=two, missing=missing, who=words.SOURCES[missing])
    t.set(was="was" if missing in words.UNCOUNTABLE else "were")


def gift(t: Teller) -> None:
    """Choose the colour that the friend loves, and three things of which one has it."""
    loved, other, third = t.sample(words.COLOURS, 3)
    thing = t.pick(words.THINGS)
    shown = t.sample((loved, other, third), 3)
    t.set(loved=loved, wrong=other, thing=thing, right=f"{loved} {thing}")
    for slot, colour in zip(("one", "two", "three"), shown, strict=True):
        t.set(**{slot: f"{colour} {thing}"})


def riddle(t: Teller) -> None:
    """Choose a riddle, and for the first try the answer of another one."""
    (question, answer), (_, guess) = t.sample(words.RIDDLES, 2)
    t.set(question=question, answer=answer, guess=guess)


def storm(t: Teller) -> None:
    """Choose three guests and what each of them likes to eat."""
    guests = t.sample(list(words.HELPERS), 3)
    for slot, guest in zip(("one", "two", "three"), guests, strict=True):
        t.set(**{slot: guest, f"food_{slot}": words.HELPERS[guest][1]})


def trade(t: Teller) -> None:
    """Choose four things and three that trade them."""
    t.set_some("things", ("one", "two", "three", "four"))
    for slot, trader in zip(("w1", "w2", "w3"), t.sample(words.TRADERS, 3), strict=True):
        t.set(**{slot: trader})


def weather_day(t: Teller) -> None:
    """Let the weather decide what goes wrong and what helps."""
    what, thing, then = words.DAYS[t.weather]
    t.set_some("colours", ("colour",))
    t.set(what=t.fill(what), thing=thing, then=t.fill(then))
    t.set(a_thing=thing if thing == "lemonade" else words.a(f"{t.slots['colour']} {thing}"))


FACTS: dict[str, Callable[[Teller], None]] = {
    function.__name__: function
    for function in (lost_thing, bake, gift, riddle, storm, trade, weather_day)
}
