"""How models write calls of tools.

Each format is a reader (``reading``): it is sent one character after another and returns the calls
once they are complete. Sources are the chat templates of the models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from gguf_hub.run.generation.parts import Call
from gguf_hub.run.generation.reading import (
    MAX_DEPTH,
    SPACE,
    Reader,
    Steps,
    Tools,
    after_space,
    argument,
    calls,
    json_object,
    literal,
    one_of,
    read_name,
    require,
    until,
)

Format = Callable[[Tools], Reader]
"""Tools -> a reader of calls of them."""

_BAR, _LOW = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"


def _deepseek_mark(words: str) -> str:
    return f"<{_BAR}{words.replace(' ', _LOW)}{_BAR}>"


_CALLS_BEGIN, _CALLS_END = map(_deepseek_mark, ("tool calls begin", "tool calls end"))
_CALL_BEGIN, _CALL_END = map(_deepseek_mark, ("tool call begin", "tool call end"))
_CALL_SEP = _deepseek_mark("tool sep")
_DSML = f"{_BAR}DSML{_BAR}"
_KIMI_BEGIN, _KIMI_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_KIMI_CALL, _KIMI_ARGUMENTS = "<|tool_call_begin|>", "<|tool_call_argument_begin|>"
_KIMI_CALL_END = "<|tool_call_end|>"

MARKS = frozenset({
    "<tool_call>", "</tool_call>", "<|tool_call|>", "<|/tool_call|>", "<|python_tag|>",
    "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]",
    "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
    "<|tool_call>", "<tool_call|>", '<|"|>',
    "<start_function_call>", "<end_function_call>", "<escape>",
    _CALLS_BEGIN, _CALLS_END, _CALL_BEGIN, _CALL_END, _CALL_SEP, _DSML,
    _KIMI_BEGIN, _KIMI_END, _KIMI_CALL, _KIMI_ARGUMENTS, _KIMI_CALL_END,
})  # fmt: skip
"""Marks of these formats that vocabularies have as tokens."""


def _bare(tools: Tools) -> Reader:
    """``{"name": ..., "arguments": {...}}`` or a list of such: OpenAI's and Llama 3's."""
    return (yield from calls((yield), tools))


def _marked(mark: str) -> Format:
    """Return the format of such an object or list after a mark."""

    def read(tools: Tools) -> Reader:
        """Read the mark, then the calls behind it."""
        yield from literal(mark)
        return (yield from calls((yield from after_space()), tools))

    return read


def _mistral(tools: Tools) -> Reader:
    """``[TOOL_CALLS]name[ARGS]{...}``: Mistral's later models, some with ``[CALL_ID]id``."""
    yield from literal("[TOOL_CALLS]")
    name, char = yield from read_name((yield from after_space()), "[{" + SPACE, tools)
    char = yield from after_space(char)
    if char == "[":
        if (yield from one_of(("[CALL_ID]", "[ARGS]"), char)) == "[CALL_ID]":
            yield from until("[ARGS]")
        char = yield from after_space()
    return [Call(name, json.dumps((yield from json_object(char))))]


def _function(before: str) -> Format:
    """``<function=name>{...}</function>``: functionary's, and Llama 3.1's own tools.

    ``<function=name><parameter=key>value</parameter></function>``: Qwen's coders and Qwen 3.5.
    """

    def read(tools: Tools) -> Reader:
        """Read one call: its arguments are a JSON object, or a tag for each."""
        if before:
            yield from literal(before)
            yield from one_of(("<function=",), (yield from after_space()))
        else:
            yield from literal("<function=")
        name, _ = yield from read_name((yield), ">", tools)
        char = yield from after_space()
        if char == "{":
            return [Call(name, json.dumps((yield from json_object(char))))]
        arguments: dict[str, Any] = {}
        while (yield from one_of(("<parameter=", "</function>"), char)) == "<parameter=":
            key = yield from until(">")
            value = yield from until("</parameter>")
            value = value.removeprefix("\n").removesuffix("\n")
            arguments[key] = argument(tools, name, key, value)
            char = yield from after_space()
        return [Call(name, json.dumps(arguments))]

    return read


def _glm(tools: Tools) -> Reader:
    """``<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>``: GLM's."""
    yield from literal("<tool_call>")
    name, char = yield from read_name((yield from after_space()), "<" + SPACE, tools)
    char = yield from after_space(char)
    arguments: dict[str, Any] = {}
    while (yield from one_of(("<arg_key>", "</tool_call>"), char)) == "<arg_key>":
        key = (yield from until("</arg_key>")).strip()
        yield from one_of(("<arg_value>",), (yield from after_space()))
        arguments[key] = argument(tools, name, key, (yield from until("</arg_value>")))
        char = yield from after_space()
    return [Call(name, json.dumps(arguments))]


def _deepseek(begins: bool) -> Format:
    """DeepSeek's calls between marks: from V3.1 on ``name``, the separator, ``{...}``.

    Before, ``function``, the separator, ``name`` and the arguments as a block of Markdown.
    """

    def read(tools: Tools) -> Reader:
        """Read one call; before V3.1 the word ``function`` comes first, the name after it."""
        if begins:
            yield from literal(_CALLS_BEGIN)
            yield from one_of((_CALL_BEGIN,), (yield from after_space()))
        else:
            yield from literal(_CALL_BEGIN)
        name, char = yield from read_name((yield), "<", {"function": None, **tools})
        yield from one_of((_CALL_SEP,), char)
        char = yield from after_space()
        if char == "{":
            require(name in tools)
            return [Call(name, json.dumps((yield from json_object(char))))]
        name, char = yield from read_name(char, SPACE, tools)
        yield from one_of(("```json",), (yield from after_space(char)))
        arguments = yield from json_object((yield from after_space()))
        yield from one_of(("```",), (yield from after_space()))
        return [Call(name, json.dumps(arguments))]

    return read


def _dsml(begins: bool) -> Format:
    """DeepSeek's markup from V3.2 on, in which each tag has ``｜DSML｜``.

    ``<invoke name="name"><parameter name="key" string="true">value</parameter></invoke>``: what
    ``string`` denies is JSON. Several stand in ``function_calls``, or ``tool_calls`` from V4 on.
    """
    invoke, invoke_end = f'<{_DSML}invoke name="', f"</{_DSML}invoke>"
    parameter, parameter_end = f'<{_DSML}parameter name="', f"</{_DSML}parameter>"

    def read(tools: Tools) -> Reader:
        """Read one ``invoke``: its arguments are a tag for each, or a JSON object."""
        if begins:
            yield from literal(f"<{_DSML}")
            yield from one_of(("function_calls>", "tool_calls>"))
            yield from one_of((invoke,), (yield from after_space()))
        else:
            yield from literal(invoke)
        name, _ = yield from read_name((yield), '"', tools)
        yield from literal(">")
        char = yield from after_space()
        if char == "{":
            return [Call(name, json.dumps((yield from json_object(char))))]
        arguments: dict[str, Any] = {}
        while (yield from one_of((parameter, invoke_end), char)) == parameter:
            key = yield from until('"')
            is_text = (yield from until(">")).strip() == 'string="true"'
            value = yield from until(parameter_end)
            arguments[key] = value if is_text else argument(tools, name, key, value)
            char = yield from after_space()
        return [Call(name, json.dumps(arguments))]

    return read


def _kimi(begins: bool) -> Format:
    """``functions.name:0`` and ``{...}`` between marks: Kimi K2's, several in one section."""

    def read(tools: Tools) -> Reader:
        """Read one call; the number behind its name is dropped."""
        if begins:
            yield from literal(_KIMI_BEGIN)
            yield from one_of((_KIMI_CALL,), (yield from after_space()))
        else:
            yield from literal(_KIMI_CALL)
        named = {**{f"functions.{tool}": None for tool in tools}, **tools}
        name, char = yield from read_name((yield from after_space()), ":<" + SPACE, named)
        while char != "<":  # the number of the call
            require(char in ":0123456789" + SPACE)
            char = yield
        yield from one_of((_KIMI_ARGUMENTS,), char)
        arguments = yield from json_object((yield from after_space()))
        name = name if name in tools else name.removeprefix("functions.")
        return [Call(name, json.dumps(arguments))]

    return read


def _gemma(start: str, quote: str, end: str) -> Format:
    """``call:name{key:value}`` between marks, texts between quotes of their own: Gemma's."""

    def read(tools: Tools) -> Reader:
        """Read one call, its arguments in Gemma's own notation."""
        yield from literal(start)
        yield from one_of(("call:",), (yield from after_space()))
        name, char = yield from read_name((yield), "{" + SPACE, tools)
        char = yield from after_space(char)
        require(char == "{")
        arguments, char = yield from _gemma_value(char, quote, MAX_DEPTH)
        yield from one_of((end,), (yield from after_space(char)))
        return [Call(name, json.dumps(arguments))]

    return read


_GEMMA_WORD = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null")


def _gemma_value(char: str, quote: str, depth: int) -> Steps:
    """Read a value that begins with ``char``; return it and the character after it."""
    require(depth > 0)
    if char == quote[0]:
        yield from one_of((quote,), char)
        return (yield from until(quote)), (yield)
    if char == "[":
        items: list[Any] = []
        char = yield from after_space()
        while char != "]":
            value, char = yield from _gemma_value(char, quote, depth - 1)
            items.append(value)
            char = yield from _next_item(char, "]")
        return items, (yield)
    if char == "{":
        members: dict[str, Any] = {}
        char = yield from after_space()
        while char != "}":
            key = yield from _gemma_key(char, quote)
            value, char = yield from _gemma_value((yield from after_space()), quote, depth - 1)
            members[key] = value
            char = yield from _next_item(char, "}")
        return members, (yield)
    word = ""
    while char not in ",]}" + SPACE:
        word += char
        char = yield
    require(_GEMMA_WORD.fullmatch(word) is not None)
    return json.loads(word), char


def _gemma_key(char: str, quote: str) -> Steps:
    """Read a key, in quotes or not, and the colon after it."""
    if char == quote[0]:
        yield from one_of((quote,), char)
        key = yield from until(quote)
        require((yield from after_space()) == ":")
        return key
    require(char not in ":,{}[]")
    return (char + (yield from until(":"))).rstrip()


def _next_item(char: str, end: str) -> Steps:
    """Return the first character of the next item, or the one that ends them."""
    char = yield from after_space(char)
    require(char in ("," + end))
    return (yield from after_space()) if char == "," else char


def _closing(mark: str) -> Format:
    """Return the format of a mark that stands after calls."""

    def read(tools: Tools) -> Reader:
        """Read the mark; there is no call in it."""
        yield from literal(mark)
        return []

    return read


FORMATS: tuple[Format, ...] = (
    _bare,
    _marked("<tool_call>"),  # Hermes, Qwen
    _marked("<|tool_call|>"),  # Granite, Phi 4
    _marked("<|python_tag|>"),  # Llama 3
    _marked("[TOOL_CALLS]"),  # Mistral
    _mistral,
    _function(""),
    _function("<tool_call>"),
    _glm,
    _gemma("<|tool_call>", '<|"|>', "<tool_call|>"),  # Gemma 4
    _gemma("<start_function_call>", "<escape>", "<end_function_call>"),  # FunctionGemma
    _deepseek(True),
    _deepseek(False),
    _dsml(True),
    _dsml(False),
    _kimi(True),
    _kimi(False),
)
"""How models write calls; several may begin alike. gpt-oss's is ``harmony.HarmonyParser``."""

CLOSINGS = tuple(map(_closing, (
    "]", "</tool_call>", "<|/tool_call|>", "</function>", _CALL_END, _CALLS_END,
    f"</{_DSML}invoke>", f"</{_DSML}function_calls>", f"</{_DSML}tool_calls>",
    _KIMI_CALL_END, _KIMI_END,
)))  # fmt: skip
"""What may stand after calls; commas of lists and blanks are dropped there anyway."""

_STARTS = re.compile(r"[][{<]")


def next_start(text: str, at: int) -> int:
    """Return where a call may begin or be closed: all formats begin with a bracket."""
    match = _STARTS.search(text, at)
    return len(text) if match is None else match.start()
