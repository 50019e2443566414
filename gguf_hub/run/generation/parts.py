"""What an answer is made of, and what every parser of answers offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Call:
    """A tool that the model calls.

    Attributes:
        name: The tool.
        arguments: JSON text.
    """

    name: str
    arguments: str


@dataclass(frozen=True)
class CallDelta:
    """Part of a call.

    Attributes:
        index: Number of the call in the answer.
        name: The tool.
        arguments: What is added to the JSON text of its arguments.
    """

    index: int
    name: str
    arguments: str


@dataclass(frozen=True)
class ReasoningDelta:
    """Part of what a model thinks before it answers.

    Attributes:
        text: What is added.
    """

    text: str


Part = str | ReasoningDelta | CallDelta


class AnswerParser(Protocol):
    """Splits an answer into reasoning, text and calls."""

    def feed(self, text: str) -> list[Part]:
        """Add text; return what is decided by now."""
        ...

    def finish(self) -> list[Part]:
        """Return the rest at the end of the answer."""
        ...

    def finish_reason(self, reason: str) -> str:
        """Return why the answer ended, once it has, given why its text did."""
        ...
