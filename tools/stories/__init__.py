"""Millions of small stories that are true to themselves: the text that tiny-mixtral learns from.

A story is made by a plot: it settles who there is, what is wanted and what stands in the way, and
then tells it with sentences chosen from many. Names keep their pronouns, things their colours,
animals what they can do; causes come before effects. The same seed always gives the same story.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tools.stories import facts, script
from tools.stories.abroad import LANGUAGES, tell_abroad
from tools.stories.teller import Story, Teller

__all__ = ["HELD_OUT", "document", "documents", "play", "put", "story", "tell"]

HELD_OUT = 10_000_000
"""Seeds from here on are never trained on."""

ABROAD_SHARE = 0.14
TITLE_SHARE = 0.2
ASKED_SHARE = 0.3

ASK = (
    "Tell me a story.",
    "Tell me another story.",
    "Write a short story.",
    "Please tell me a bedtime story.",
    "Can you tell me a story?",
)
ASK_ABOUT = (
    "Tell me a story about {}.",
    "Write a story about {}.",
    "Tell me a bedtime story about {}.",
    "Can you tell me a story about {}?",
    "A story about {}, please!",
)


def story(seed: int) -> Story:
    """Tell the story that belongs to ``seed``."""
    return tell(Random(seed))


def tell(rng: Random) -> Story:
    """Tell the story that ``rng`` decides."""
    if rng.random() < ABROAD_SHARE:
        return tell_abroad(rng, rng.choice(LANGUAGES))
    return play(rng.choice(script.names()), Teller(rng))


def play(plot: str, teller: Teller) -> Story:
    """Tell a story of the plot called ``plot``."""
    if plot in facts.FACTS:
        facts.FACTS[plot](teller)
    return script.perform(script.load(plot), teller)


def document(seed: int) -> str:
    """Return the story of ``seed`` as the model reads it: bare, under its title, or asked for."""
    return put(story(seed), Random(f"form {seed}"))


def put(tale: Story, rng: Random) -> str:
    """Put a story the way that ``rng`` decides."""
    form = rng.random()
    if form < TITLE_SHARE:
        return f"Title: {tale.title}\n\n{tale.text}"
    if form < TITLE_SHARE + ASKED_SHARE:
        return f"[INST] {_question(tale, rng)} [/INST] {tale.text}"
    return tale.text


def documents(first_seed: int, count: int) -> Iterator[str]:
    """Yield the documents of ``count`` seeds in a row."""
    return (document(seed) for seed in range(first_seed, first_seed + count))


def _question(tale: Story, rng: Random) -> str:
    """Ask for a story, for this hero's, or for what happens in it."""
    if tale.language:
        asks = next(lang.ask for lang in LANGUAGES if lang.name == tale.language)
        return rng.choice((*asks, f"Tell me a story in {tale.language}."))
    if rng.random() < 0.3:
        return rng.choice(ASK)
    about = rng.choice((tale.hero, tale.hero, tale.subject))
    return rng.choice(ASK_ABOUT).format(about)
