"""Parts of calls, read one character after another.

Each is a generator: it is sent characters, returns what it has read, and raises ``NotACallError``
at the first one that cannot stand there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from typing import Any

from gguf_hub.run.generation.parts import Call

SPACE = " \t\r\n"
MAX_DEPTH = 100
"""Deepest nesting of arguments."""
_CALL_KEYS = frozenset({"name", "arguments", "parameters", "type", "id", "function"})

Tools = Mapping[str, Any]
"""Name of a tool -> JSON schema of its parameters; None where it is unknown."""
Steps = Generator[None, str, Any]
Reader = Generator[None, str, list[Call]]


class NotACallError(Exception):
    """What has been read is text."""


def require(condition: bool) -> None:
    """Refuse what has been read unless this holds."""
    if not condition:
        raise NotACallError


def literal(text: str) -> Steps:
    """Read this text."""
    for char in text:
        require((yield) == char)


def after_space(char: str = " ") -> Steps:
    """Return the first character that is not blank, ``char`` being the first one."""
    while char in SPACE:
        char = yield
    return char


def one_of(texts: tuple[str, ...], read: str = "") -> Steps:
    """Read one of these texts, none of which begins another, and return it.

    Args:
        texts: What may stand here.
        read: What is read of it.
    """
    while not read or read not in texts:
        require(any(text.startswith(read) for text in texts))
        read += yield
    return read


def until(end: str) -> Steps:
    """Read up to and with ``end``; return what stands before it."""
    text = ""
    while not text.endswith(end):
        text += yield
    return text[: -len(end)]


def read_name(char: str, ends: str, tools: Tools) -> Steps:
    """Return the name of a tool that begins with ``char``, and the character after it."""
    name = ""
    while char not in ends:
        name += char
        require(any(tool.startswith(name) for tool in tools))
        char = yield
    require(name in tools)
    return name, char


def calls(char: str, tools: Tools) -> Reader:
    """Read a call, or the first of a list, that begins with ``char``."""
    if char == "[":
        char = yield from after_space()
    return [_call_of((yield from json_object(char, tools)), tools)]


def _call_of(data: Mapping[str, Any], tools: Tools) -> Call:
    inner = data.get("function")
    name = data.get("name", inner)
    if isinstance(inner, Mapping):
        data, name = inner, inner.get("name")
    arguments = data.get("arguments", data.get("parameters"))
    if isinstance(arguments, str):  # as in OpenAI's answers
        arguments = decode(arguments)
    require(isinstance(name, str) and name in tools and isinstance(arguments, dict))
    return Call(str(name), json.dumps(arguments))


def argument(tools: Tools, name: str, key: str, text: str) -> Any:
    """Return the value of an argument that is written without quotes.

    Args:
        tools: Their schemas say which arguments are texts.
        name: The tool.
        key: The argument.
        text: Its text, which is its value unless it is JSON and may be other than text.
    """
    schema = tools[name]
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    types = _types(properties.get(key)) if isinstance(properties, Mapping) else set()
    if types == {"string"}:
        return text
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
    is_other = not types.isdisjoint(_TYPES[type(value)])
    return text if "string" in types and not is_other else value


_TYPES: Mapping[type, tuple[str, ...]] = {
    dict: ("object",), list: ("array",), bool: ("boolean",), type(None): ("null",),
    int: ("integer", "number"), float: ("number",), str: (),
}  # fmt: skip
"""Type of a value that is no text -> its names in JSON schemas."""


def _types(schema: Any) -> set[Any]:
    """Return the types that a JSON schema names, itself or by its alternatives."""
    if not isinstance(schema, Mapping):
        return set()
    found: set[Any] = set()
    for key in ("anyOf", "oneOf"):
        alternatives = schema.get(key)
        for each in alternatives if isinstance(alternatives, list) else ():
            found |= _named(each.get("type")) if isinstance(each, Mapping) else set()
    return found | _named(schema.get("type"))


def _named(types: Any) -> set[Any]:
    names = types if isinstance(types, list) else [types]
    return {name for name in names if isinstance(name, str)}


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def decode(text: str) -> Any:
    """Return the value of JSON text."""
    try:
        return json.loads(text, strict=False)  # models write line breaks into texts
    except (ValueError, RecursionError) as exc:
        raise NotACallError from exc


_CLOSERS = {"{": "}", "[": "]"}
_WORD = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null")
_WORD_STARTS, _WORD_CHARACTERS = frozenset("-0123456789tfn"), frozenset("+-.0123456789eEtrufalsn")


def json_object(char: str, tools: Tools | None = None) -> Steps:
    """Read a JSON object that begins with ``char``; return it.

    Args:
        char: Its first character.
        tools: It must be a call of one of these; None for any object.
    """
    require(char == "{")
    text, closers, expected, key = ["{"], ["}"], "first", ""
    char = ""
    while closers:
        char = char or (yield)
        text.append(char)
        if char in SPACE:
            pass
        elif char == closers[-1] and expected in ("first", "comma"):
            closers.pop()
            expected = "comma"
        elif expected in ("comma", "colon"):
            require(char == {"comma": ",", "colon": ":"}[expected])
            expected = "value" if expected == "colon" else "next"
        elif closers[-1] == "}" and expected != "value":
            require(char == '"')
            key = yield from _string(text)
            require(len(closers) > 1 or tools is None or key in _CALL_KEYS)
            expected = "colon"
        elif char == '"':
            value = yield from _string(text)
            require(len(closers) > 1 or tools is None or key != "name" or value in tools)
            expected = "comma"
        elif char in _CLOSERS:
            closers.append(_CLOSERS[char])
            require(len(closers) <= MAX_DEPTH)
            expected = "first"
        else:
            char = yield from _word(text)
            expected = "comma"
            continue  # with the character after the word
        char = ""
    return decode("".join(text))


def _string(text: list[str]) -> Steps:
    """Read a JSON string after its first quote, onto ``text``; return its value."""
    start, char = len(text) - 1, ""
    while char != '"':
        char = yield
        text.append(char)
        if char == "\\":
            text.append((yield))
    return decode("".join(text[start:]))


def _word(text: list[str]) -> Steps:
    """Read a number, ``true``, ``false`` or ``null``; return the character after it."""
    start = len(text) - 1
    require(text[start] in _WORD_STARTS)
    char = yield
    while char in _WORD_CHARACTERS:
        text.append(char)
        char = yield
    require(_WORD.fullmatch("".join(text[start:])) is not None)
    return char
