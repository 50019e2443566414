"""Calls of tools in an answer, read as it grows.

An answer is text with calls in it, each written in one of ``FORMATS``. A format is a generator that
is sent one character after another. It returns the calls once they are complete, and raises
``NotACallError`` at the first character that no call has there: what it has read is text then, and
reading goes on with that character. So each character is read once, how the answer is cut makes no
difference, and text is shown as soon as it can be no call. A mark (``marks``) is never shown.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from gguf_hub.run.generation.call_formats import CLOSINGS, FORMATS, next_start
from gguf_hub.run.generation.marks import Mark
from gguf_hub.run.generation.parts import AnswerParser, Call, CallDelta, Part, ReasoningDelta
from gguf_hub.run.generation.reading import NotACallError, Reader

_SPACE = " \t\r\n"
_BETWEEN_CALLS = _SPACE + ";,"


class ForcedCallParser:
    """The whole answer is the arguments of one tool."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._texts: list[str] = []

    def feed(self, text: str) -> list[Part]:
        """Add text; see ``AnswerParser``."""
        self._texts.append(text)
        return [CallDelta(0, self._tool, text)] if text else []

    def finish(self) -> list[Part]:
        """Return the call of an empty answer."""
        return [] if any(self._texts) else [CallDelta(0, self._tool, "")]

    def finish_reason(self, reason: str) -> str:
        """Return the reason itself for arguments that a limit or a stop text cut short."""
        text = "".join(self._texts)
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return reason if text or reason == "length" else "tool_calls"
        return "tool_calls"


class TextParser:
    """Text with any number of calls.

    Blank text around calls is dropped, and so is what closes them.

    Args:
        tools: Names of the tools that may be called, or their names and the JSON schemas of their
            parameters; other calls are text.
        max_calls: Calls to return; further ones are dropped.
    """

    def __init__(self, tools: Collection[str] = (), *, max_calls: int | None = None) -> None:
        known = tools if isinstance(tools, Mapping) else dict.fromkeys(tools)
        self._tools: Mapping[str, Any] = known
        self._max_calls = max_calls
        self._n_calls = 0
        self._is_open = False  # a call has begun at the end
        self._is_mark = False  # what is read now
        self._readers: list[Reader] = []
        self._held: list[str] = []  # what the readers have read
        # blank text since the start or the last call; None after other text
        self._gap: list[str] | None = [] if tools else None

    def feed(self, text: str) -> list[Part]:
        """Add text; see ``AnswerParser``."""
        self._is_mark = isinstance(text, Mark)
        parts: list[Part] = []
        at = 0
        while at < len(text):
            if self._readers:
                at += self._read(text[at], parts)
                continue
            start = next_start(text, at) if self._tools else len(text)
            self._add_text(self._shown(text[at:start]), parts)
            if start < len(text):
                self._readers = self._open()
            at = start
        return parts

    def finish(self) -> list[Part]:
        """Return the rest; a call that is not complete is text."""
        parts: list[Part] = []
        self._is_open = bool(self._held)
        self._give_up(parts)
        if self._gap and not self._n_calls:
            parts.append("".join(self._gap))
        return parts

    def finish_reason(self, reason: str) -> str:
        """Return ``tool_calls`` if there are any, unless the limit cut off what follows them."""
        is_cut = reason == "length" and (self._gap is None or self._is_open)
        return "tool_calls" if self._n_calls and not is_cut else reason

    def _open(self) -> list[Reader]:
        is_after_call = self._n_calls and self._gap is not None
        formats = (*FORMATS, *CLOSINGS) if is_after_call else FORMATS
        readers = [read(self._tools) for read in formats]
        for reader in readers:
            next(reader)
        return readers

    def _read(self, char: str, parts: list[Part]) -> bool:
        """Pass a character to the readers; return whether one of them took it."""
        left: list[Reader] = []
        for reader in self._readers:
            try:
                reader.send(char)
                left.append(reader)
            except NotACallError:
                continue
            except StopIteration as end:
                self._add_calls(end.value, parts)
                return True
        if left:
            self._readers = left
            self._held.append(self._shown(char))
            return True
        was_first = not self._held
        self._give_up(parts)
        if was_first:  # it starts no call: reading it again would not either
            self._add_text(self._shown(char), parts)
        return was_first

    def _shown(self, text: str) -> str:
        return "" if self._is_mark else text

    def _give_up(self, parts: list[Part]) -> None:
        held, self._held, self._readers = "".join(self._held), [], []
        self._add_text(held, parts)

    def _add_text(self, text: str, parts: list[Part]) -> None:
        if not text:
            return
        if self._gap is not None:
            self._gap.append(text)
            if not text.strip(_BETWEEN_CALLS if self._n_calls else _SPACE):
                return
            text, self._gap = "".join(self._gap), None
        if parts and isinstance(parts[-1], str):
            text = parts.pop() + text  # type: ignore[operator]
        parts.append(text)

    def _add_calls(self, calls: list[Call], parts: list[Part]) -> None:
        self._held, self._readers, self._gap = [], [], []
        for call in calls:
            if self._max_calls is None or self._n_calls < self._max_calls:
                parts.append(CallDelta(self._n_calls, call.name, call.arguments))
                self._n_calls += 1


def split_answer(parser: AnswerParser, text: str) -> tuple[str, str, list[Call]]:
    """Return the text, the reasoning and the calls of a whole answer."""
    parts = [*parser.feed(text), *parser.finish()]
    calls: dict[int, Call] = {}
    for part in parts:
        if isinstance(part, CallDelta):
            before = calls.get(part.index, Call(part.name, "")).arguments
            calls[part.index] = Call(part.name, before + part.arguments)
    text = "".join(part for part in parts if isinstance(part, str))
    reasoning = "".join(part.text for part in parts if isinstance(part, ReasoningDelta))
    return text, reasoning, list(calls.values())
