"""Which parts of its interface a server offers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Offers:
    """Parts that flags turn on and off.

    Attributes:
        slots: The state of slots, ``GET /slots``.
        props: ``POST /props``.
        page: The web page.
        prefix: Path in front of all paths, as ``check_prefix`` returns it.
    """

    slots: bool = True
    props: bool = False
    page: bool = True
    prefix: str = ""


EVERYTHING = Offers()
"""All that is offered where no flag says otherwise."""
