"""Control tokens that are marks of a format: parsers of answers read them, clients never see them.

Many vocabularies have what stands around reasoning and calls as control tokens, which print
nothing. A text for a parser has these, each between two ``EDGE``s, so that they are told apart from
a text that only looks like one.
"""

from __future__ import annotations

from collections.abc import Collection

from gguf_hub.run.generation.parts import AnswerParser, Part
from gguf_hub.run.tokenizer import EDGE, Tokenizer


class Mark(str):
    """The text of a control token, passed to parsers as a piece of its own."""

    __slots__ = ()


class MarkedParser:
    """Cuts the marks out of a text, and passes both on.

    Args:
        answer: Reads the text and its marks.
    """

    def __init__(self, answer: AnswerParser) -> None:
        self._answer = answer
        self._mark: str | None = None  # what has been read of one

    def feed(self, text: str) -> list[Part]:
        """Add text; see ``AnswerParser``."""
        parts: list[Part] = []
        for i, piece in enumerate(text.split(EDGE)):
            if i:
                parts += self._turn()
            if self._mark is not None:
                self._mark += piece
            elif piece:
                parts += self._answer.feed(piece)
        return parts

    def _turn(self) -> list[Part]:
        """Begin or end a mark."""
        if self._mark is None:
            self._mark = ""
            return []
        mark, self._mark = Mark(self._mark), None
        return self._answer.feed(mark)

    def finish(self) -> list[Part]:
        """Return the rest; see ``AnswerParser``."""
        return self._answer.finish()

    def finish_reason(self, reason: str) -> str:
        """Return why the answer ended; see ``AnswerParser``."""
        return self._answer.finish_reason(reason)


def mark_ids(tokenizer: Tokenizer, marks: Collection[str]) -> frozenset[int]:
    """Return the ids of the control tokens that are marks; none of those that end an answer."""
    ids = tokenizer.vocab.control_ids if marks else {}
    return frozenset(ids[mark] for mark in marks if mark in ids) - tokenizer.eog_ids
