"""The template language: choices, slots, and errors that name the template."""

from __future__ import annotations

from random import Random

import pytest

from tools.stories.template import TemplateError, render


def write(template: str, seed: int = 0, **slots: str) -> str:
    return render(template, Random(seed), slots)


def all_of(template: str, **slots: str) -> set[str]:
    return {write(template, seed, **slots) for seed in range(200)}


def test_plain_text_stays_as_it_is() -> None:
    assert write('"No," said the fox – 3 times.') == '"No," said the fox – 3 times.'


def test_every_option_is_written_and_nothing_else() -> None:
    assert all_of("a [b|c]") == {"a b", "a c"}


def test_choices_nest_and_may_be_empty() -> None:
    assert all_of("x[| [1|2]!]") == {"x", "x 1!", "x 2!"}


def test_slots_are_filled_inside_choices() -> None:
    assert all_of("[{h} ran|{h} sat]", h="Pip") == {"Pip ran", "Pip sat"}


def test_a_capital_slot_gets_a_capital() -> None:
    assert write("{He} saw that {he} won", he="she") == "She saw that she won"


def test_a_capital_leaves_the_rest_of_the_word_alone() -> None:
    assert write("{Thing}", thing="blue UFO") == "Blue UFO"


def test_the_same_seed_writes_the_same() -> None:
    template = "[a|b|c][a|b|c][a|b|c][a|b|c]"
    assert [write(template, 5) for _ in range(3)] == [write(template, 5)] * 3


@pytest.mark.parametrize("template", ["[a|b", "a]", "a|b", "{h", "h}", "[a|[b]", "[a]]"])
def test_broken_brackets_are_refused(template: str) -> None:
    with pytest.raises(TemplateError, match="template"):
        write(template, h="Pip")


def test_an_unknown_slot_is_named_with_those_that_exist() -> None:
    with pytest.raises(TemplateError, match="no slot `hero`; there are: h, he"):
        write("{hero}", h="Pip", he="he")
