"""Reasoning in an answer, split off as the answer grows.

Models that reason write it between two marks before they answer. Many templates write the first
mark themselves, as the end of the prompt: then the answer begins inside. Where the marks are
control tokens (``marks``), which no text is mistaken for, reasoning may also stand between parts of
an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_hub.run.generation.marks import Mark
from gguf_hub.run.generation.parts import AnswerParser, Part, ReasoningDelta

MARKS = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen 3, GLM
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|channel>", "<channel|>"),  # Gemma 4
)
"""What stands around the reasoning."""
_ENDS = dict(MARKS)
_TITLES = {"<channel|>": "thought\n"}
"""Mark at the end -> what stands after the one at the start and is no reasoning."""
_BETWEEN = "\n\n"
"""Between reasoning and what follows later."""


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
        self._title = _TITLES.get(self._end, "")
        self._is_begun = False  # some reasoning has been returned since the last mark
        self._has_reasoning = False  # some has been returned before
        self._read = self._reasoning if self._end else self._start

    def feed(self, text: str) -> list[Part]:
        """Add text; see ``AnswerParser``."""
        if isinstance(text, Mark):
            return self._turn(text)
        self._held += text
        return self._read()

    def _turn(self, mark: Mark) -> list[Part]:
        """Begin or end reasoning at a mark; others stand in the answer, and in no reasoning."""
        if self._read == self._reasoning:
            if mark != self._end:
                return []
            held, self._held = self._held, ""
            return self._close(held)
        held, self._held = self._held, ""
        is_dropped = not held.strip() and (mark in _ENDS or self._read == self._gap)
        parts = [] if is_dropped else self._answer.feed(held)
        if mark in _ENDS:
            self._open(mark)
            return parts
        self._read = self._pass_on
        return parts + self._answer.feed(mark)

    def _open(self, mark: str) -> None:
        self._end, self._read = _ENDS[mark], self._reasoning
        self._title = _TITLES.get(self._end, "")
        self._has_reasoning |= self._is_begun
        self._is_begun = False

    def _close(self, text: str) -> list[Part]:
        """End reasoning with the rest of it."""
        self._read = self._gap
        return self._rest(text)

    def _rest(self, text: str) -> list[Part]:
        title, self._title = self._title, ""
        if title:
            text = text.lstrip()
            text = "" if text.rstrip() == title.rstrip() else text.removeprefix(title).lstrip()
        return self._delta(text.rstrip())

    def finish(self) -> list[Part]:
        """Return the rest; reasoning may have no end."""
        held, self._held = self._held, ""
        if self._read == self._reasoning:
            return [*self._rest(held), *self._answer.finish()]
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
        for start in _ENDS:
            if text.startswith(start):
                self._held = text[len(start) :]
                self._open(start)
                return self._read()
        if any(start.startswith(text) for start in _ENDS):
            return []
        return self._pass_on()

    def _reasoning(self) -> list[Part]:
        if not self._is_begun:
            self._held = self._held.lstrip()
        text, mark, rest = self._held.partition(self._end)
        if mark:
            self._held = rest
            return [*self._close(text), *self._gap()]
        if self._title and self._title.startswith(text):
            return []
        if self._title:
            self._held, self._title = text.removeprefix(self._title), ""
            return self._reasoning()
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
        if self._has_reasoning and not self._is_begun:
            text = _BETWEEN + text
        self._is_begun = True
        return [ReasoningDelta(text)]


class KeptReasoning:
    """Leaves reasoning in the answer's text, too: between ``<think>`` and ``</think>``.

    Args:
        answer: Splits the answer.
    """

    def __init__(self, answer: AnswerParser) -> None:
        self._answer = answer
        self._is_inside = False

    def feed(self, text: str) -> list[Part]:
        """Add text; see ``AnswerParser``."""
        return self._kept(self._answer.feed(text))

    def finish(self) -> list[Part]:
        """Return the rest; see ``AnswerParser``."""
        parts = self._kept(self._answer.finish())
        return [*parts, *self._turn(is_inside=False)]

    def finish_reason(self, reason: str) -> str:
        """Return why the answer ended; see ``AnswerParser``."""
        return self._answer.finish_reason(reason)

    def _kept(self, parts: list[Part]) -> list[Part]:
        kept: list[Part] = []
        for part in parts:
            is_reasoning = isinstance(part, ReasoningDelta)
            kept += [*self._turn(is_inside=is_reasoning), part]
            if isinstance(part, ReasoningDelta):
                kept.append(part.text)
        return kept

    def _turn(self, *, is_inside: bool) -> list[Part]:
        """Return the mark that stands where reasoning begins or ends."""
        if is_inside == self._is_inside:
            return []
        self._is_inside = is_inside
        start, end = MARKS[0]
        return [start if is_inside else end]
