"""Calls of tools in an answer, read as it grows.

An answer is text with calls in it, each written in one of ``FORMATS``. A format is a generator that
is sent one character after another. It returns the calls once they are complete, and raises
``NotACallError`` at the first character that no call has there: what it has read is text then, and
reading goes on with that character. So each character is read once, how the answer is cut makes no
difference, and text is shown as soon as it can be no call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_SPACE = " \t\r\n"
_BETWEEN_CALLS = _SPACE + ";,"
_MAX_DEPTH = 100
_CALL_KEYS = frozenset({"name", "arguments", "parameters", "type", "id", "function"})


class NotACallError(Exception):
    """What has been read is text."""


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
        """Return ``length`` for arguments that were cut short."""
        try:
            json.loads("".join(self._texts))
        except (ValueError, RecursionError):
            return reason if reason == "length" else "tool_calls"
        return "tool_calls"


class TextParser:
    """Text with any number of calls.

    Blank text around calls is dropped, and so is what closes them.

    Args:
        tools: Names of the tools that may be called; other calls are text.
        max_calls: Calls to return; further ones are dropped.
    """

    def __init__(self, tools: Collection[str] = (), *, max_calls: int | None = None) -> None:
        self._tools = frozenset(tools)
        self._max_calls = max_calls
        self._n_calls = 0
        self._readers: list[Reader] = []
        self._held: list[str] = []  # what the readers have read
        # blank text since the start or the last call; None after other text
        self._gap: list[str] | None = [] if tools else None

    def feed(self, text: str) -> list[Part]:
        """Add text; see ``AnswerParser``."""
        parts: list[Part] = []
        at = 0
        while at < len(text):
            if self._readers:
                at += self._read(text[at], parts)
                continue
            start = _next_start(text, at) if self._tools else len(text)
            self._add_text(text[at:start], parts)
            if start < len(text):
                self._readers = self._open()
            at = start
        return parts

    def finish(self) -> list[Part]:
        """Return the rest; a call that is not complete is text."""
        parts: list[Part] = []
        self._give_up(parts)
        if self._gap and not self._n_calls:
            parts.append("".join(self._gap))
        return parts

    def finish_reason(self, reason: str) -> str:
        """Return ``tool_calls`` if there are any, unless the limit cut off what follows them."""
        is_cut = reason == "length" and self._gap is None
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
            self._held.append(char)
            return True
        was_first = not self._held
        self._give_up(parts)
        if was_first:  # it starts no call: reading it again would not either
            self._add_text(char, parts)
        return was_first

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


# -- formats --------------------------------------------------------------------------------------

Reader = Generator[None, str, list[Call]]
Format = Callable[[frozenset[str]], Reader]
"""Names of the tools -> a reader of calls of them."""


def _bare(tools: frozenset[str]) -> Reader:
    """``{"name": ..., "arguments": {...}}`` or a list of such: OpenAI's and Llama 3's."""
    return (yield from _calls((yield), tools))


def _marked(mark: str) -> Format:
    """Return the format of such an object or list after a mark."""

    def read(tools: frozenset[str]) -> Reader:
        yield from _literal(mark)
        return (yield from _calls((yield from _after_space()), tools))

    return read


def _mistral(tools: frozenset[str]) -> Reader:
    """``[TOOL_CALLS]name{...}``, ``[TOOL_CALLS]name[ARGS]{...}``: Mistral's later models."""
    yield from _literal("[TOOL_CALLS]")
    name, char = yield from _name((yield from _after_space()), "[{" + _SPACE, tools)
    if char == "[":
        yield from _literal("ARGS]")
    if char != "{":
        char = yield from _after_space()
    return [Call(name, json.dumps((yield from _object(char))))]


def _functionary(tools: frozenset[str]) -> Reader:
    """``<function=name>{...}</function>``: functionary's, and Llama 3.1's own tools."""
    yield from _literal("<function=")
    name, _ = yield from _name((yield), ">", tools)
    return [Call(name, json.dumps((yield from _object((yield from _after_space())))))]


def _closing(mark: str) -> Format:
    """Return the format of a mark that stands after calls."""

    def read(tools: frozenset[str]) -> Reader:
        yield from _literal(mark)
        return []

    return read


FORMATS: tuple[Format, ...] = (
    _bare,
    _marked("<tool_call>"),  # Hermes, Qwen
    _marked("<|python_tag|>"),  # Llama 3
    _marked("[TOOL_CALLS]"),  # Mistral
    _mistral,
    _functionary,
)
"""How models write calls; several may begin alike."""

CLOSINGS = (_closing("]"), _closing("</tool_call>"), _closing("</function>"))
"""What may stand after calls; commas of lists and blanks are dropped there anyway."""

_STARTS = re.compile(r"[][{<]")


def _next_start(text: str, at: int) -> int:
    """Return where a call may begin or be closed: all formats begin with a bracket."""
    match = _STARTS.search(text, at)
    return len(text) if match is None else match.start()


# -- parts of formats -----------------------------------------------------------------------------

_Steps = Generator[None, str, Any]


def _require(condition: bool) -> None:
    if not condition:
        raise NotACallError


def _literal(text: str) -> _Steps:
    for char in text:
        _require((yield) == char)


def _after_space() -> _Steps:
    """Return the first character that is not blank."""
    char = yield
    while char in _SPACE:
        char = yield
    return char


def _name(char: str, ends: str, tools: frozenset[str]) -> _Steps:
    """Return the name of a tool that begins with ``char``, and the character after it."""
    name = ""
    while char not in ends:
        name += char
        _require(any(tool.startswith(name) for tool in tools))
        char = yield
    _require(name in tools)
    return name, char


def _calls(char: str, tools: frozenset[str]) -> Reader:
    """Read a call, or the first of a list, that begins with ``char``."""
    if char == "[":
        char = yield from _after_space()
    return [_call_of((yield from _object(char, tools)), tools)]


def _call_of(data: Mapping[str, Any], tools: frozenset[str]) -> Call:
    inner = data.get("function")
    name = data.get("name", inner)
    if isinstance(inner, Mapping):
        data, name = inner, inner.get("name")
    arguments = data.get("arguments", data.get("parameters"))
    if isinstance(arguments, str):  # as in OpenAI's answers
        arguments = _decode(arguments)
    _require(isinstance(name, str) and name in tools and isinstance(arguments, dict))
    return Call(str(name), json.dumps(arguments))


def _decode(text: str) -> Any:
    try:
        return json.loads(text, strict=False)  # models write line breaks into texts
    except (ValueError, RecursionError) as exc:
        raise NotACallError from exc


_CLOSERS = {"{": "}", "[": "]"}
_WORD = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null")
_WORD_STARTS, _WORD_CHARACTERS = frozenset("-0123456789tfn"), frozenset("+-.0123456789eEtrufalsn")


def _object(char: str, tools: frozenset[str] | None = None) -> _Steps:
    """Read a JSON object that begins with ``char``; return it.

    Args:
        char: Its first character.
        tools: It must be a call of one of these; None for any object.
    """
    _require(char == "{")
    text, closers, expected, key = ["{"], ["}"], "first", ""
    char = ""
    while closers:
        char = char or (yield)
        text.append(char)
        if char in _SPACE:
            pass
        elif char == closers[-1] and expected in ("first", "comma"):
            closers.pop()
            expected = "comma"
        elif expected in ("comma", "colon"):
            _require(char == {"comma": ",", "colon": ":"}[expected])
            expected = "value" if expected == "colon" else "next"
        elif closers[-1] == "}" and expected != "value":
            _require(char == '"')
            key = yield from _string(text)
            _require(len(closers) > 1 or tools is None or key in _CALL_KEYS)
            expected = "colon"
        elif char == '"':
            value = yield from _string(text)
            _require(len(closers) > 1 or tools is None or key != "name" or value in tools)
            expected = "comma"
        elif char in _CLOSERS:
            closers.append(_CLOSERS[char])
            _require(len(closers) <= _MAX_DEPTH)
            expected = "first"
        else:
            char = yield from _word(text)
            expected = "comma"
            continue  # with the character after the word
        char = ""
    return _decode("".join(text))


def _string(text: list[str]) -> _Steps:
    """Read a JSON string after its first quote, onto ``text``; return its value."""
    start, char = len(text) - 1, ""
    while char != '"':
        char = yield
        text.append(char)
        if char == "\\":
            text.append((yield))
    return _decode("".join(text[start:]))


def _word(text: list[str]) -> _Steps:
    """Read a number, ``true``, ``false`` or ``null``; return the character after it."""
    start = len(text) - 1
    _require(text[start] in _WORD_STARTS)
    char = yield
    while char in _WORD_CHARACTERS:
        text.append(char)
        char = yield
    _require(_WORD.fullmatch("".join(text[start:])) is not None)
    return char
