"""Reasoning in front of an answer, split off as the answer grows.

Models that reason write it between two marks before they answer. Many templates write the first
mark themselves, as the end of the prompt: then the answer begins inside.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_hub.run.generation.tool_calls import AnswerParser, Part, ReasoningDelta

MARKS = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen 3, GLM
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
)
"""What stands around the reasoning."""


@dataclass(frozen=True)
class OpenReasoning:
    """Reasoning that the prompt has begun.

    Attributes:
        end: The mark that ends it.
    """

    end: str

    def close(self, prompt: str) -> str:
        """Return the prompt with empty reasoning."""
        return f"{prompt.rstrip()}\n\n{self.end}\n\n"


def open_reasoning(prompt: str) -> OpenReasoning | None:
    """Return the reasoning that a prompt begins at its end, or None."""
    text = prompt.rstrip()
    return next((OpenReasoning(end) for start, end in MARKS if text.endswith(start)), None)


class ReasoningParser:
    """Splits reasoning from the answer, which another parser reads.

    Blank text around the reasoning is dropped.

    Args:
        answer: Reads what follows the reasoning.
        opened: What the prompt has begun.
    """

    def __init__(self, answer: AnswerParser, opened: OpenReasoning | None = None) -> None:
        self._answer = answer
        self._end = opened.end if opened is not None else ""
        self._held = ""
        self._is_begun = False  # some reasoning has been returned
        self._read = self._reasoning if self._end else self._start

    def feed(self, text: str) -> list[Part]:
        """Add text; see ``AnswerParser``."""
        self._held += text
        return self._read()

    def finish(self) -> list[Part]:
        """Return the rest; reasoning may have no end."""
        held, self._held = self._held, ""
        if self._read == self._reasoning:
            return [*self._delta(held.rstrip()), *self._answer.finish()]
        rest = held if self._read == self._start else ""
        return [*self._answer.feed(rest), *self._answer.finish()]

    def finish_reason(self, reason: str) -> str:
        """Return why the answer ended; see ``AnswerParser``."""
        if self._read == self._reasoning:
            return reason
        return self._answer.finish_reason(reason)

    def _start(self) -> list[Part]:
        """Find out whether the answer begins with a mark."""
        text = self._held.lstrip()
        for start, end in MARKS:
            if text.startswith(start):
                self._held, self._end, self._read = text[len(start) :], end, self._reasoning
                return self._read()
        if any(start.startswith(text) for start, _ in MARKS):
            return []
        return self._pass_on()

    def _reasoning(self) -> list[Part]:
        if not self._is_begun:
            self._held = self._held.lstrip()
        text, mark, rest = self._held.partition(self._end)
        if mark:
            self._held, self._read = rest, self._gap
            return [*self._delta(text.rstrip()), *self._gap()]
        n_end = next(n for n in range(len(self._end), -1, -1) if text.endswith(self._end[:n]))
        decided = text[: len(text) - n_end].rstrip()
        self._held = text[len(decided) :]
        return self._delta(decided)

    def _gap(self) -> list[Part]:
        """Drop the blanks in front of the answer."""
        self._held = self._held.lstrip()
        return self._pass_on() if self._held else []

    def _pass_on(self) -> list[Part]:
        self._read = self._pass_on
        held, self._held = self._held, ""
        return self._answer.feed(held)

    def _delta(self, text: str) -> list[Part]:
        if not text:
            return []
        self._is_begun = True
        return [ReasoningDelta(text)]
