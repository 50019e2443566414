"""A template language for prose: ``[this|that]`` chooses, ``{slot}`` fills in.

Choices nest and may be empty: ``"{h} ran[| quickly] to the [old |]mill."``. A slot whose name
starts with a capital letter puts its value with a capital: ``{He}`` from the slot ``he``. This room
knows nothing about stories.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Any

# A parsed template: plain texts, ("slot", name) pairs and ("choice", (Parts, Parts, ...)) pairs.
Parts = tuple[Any, ...]


class TemplateError(ValueError):
    """A template with a bracket too many or too few, or a slot that nobody filled."""


def render(template: str, rng: Random, slots: Mapping[str, str]) -> str:
    """Write one of the texts that a template stands for.

    Args:
        template: Text with ``[a|b]`` and ``{slot}``.
        rng: Where choices come from.
        slots: Slot name in lower case -> text.

    Returns:
        The text, every choice made and every slot filled.

    Raises:
        TemplateError: If brackets do not match or a slot is unknown.
    """
    out: list[str] = []
    _write(parse(template), rng, slots, out)
    return "".join(out)


@cache
def parse(template: str) -> Parts:
    """Parse a template into parts (cached: a few thousand templates write millions of texts)."""
    options, end = _parse_options(template, 0, closing="")
    if end != len(template) or len(options) != 1:
        raise TemplateError(f"stray `]` or `|` in template: {template!r}")
    return options[0]


def _parse_options(text: str, start: int, closing: str) -> tuple[list[Parts], int]:
    """Parse ``a|b|c`` up to ``closing``; return the options and the position after it."""
    options: list[Parts] = []
    parts: list[Any] = []
    i = start
    while i < len(text):
        char = text[i]
        if char == "[":
            inner, i = _parse_options(text, i + 1, closing="]")
            parts.append(("choice", tuple(inner)))
        elif char == "{":
            end = text.find("}", i)
            if end < 0:
                raise TemplateError(f"`{{` without `}}` in template: {text!r}")
            parts.append(("slot", text[i + 1 : end]))
            i = end + 1
        elif char == "]" and closing:
            return [*options, tuple(parts)], i + 1
        elif char == "|" and closing:
            options.append(tuple(parts))
            parts = []
            i += 1
        elif char in "]|}":
            raise TemplateError(f"stray `{char}` at {i} in template: {text!r}")
        else:
            end = _next_special(text, i)
            parts.append(text[i:end])
            i = end
    if closing:
        raise TemplateError(f"`[` without `]` in template: {text!r}")
    return [*options, tuple(parts)], i


def _next_special(text: str, start: int) -> int:
    """Return the position of the next character that means something, or the end."""
    for i in range(start, len(text)):
        if text[i] in "[]{}|":
            return i
    return len(text)


def _write(parts: Parts, rng: Random, slots: Mapping[str, str], out: list[str]) -> None:
    for part in parts:
        if isinstance(part, str):
            out.append(part)
            continue
        kind, value = part
        if kind == "choice":
            _write(rng.choice(value), rng, slots, out)
        else:
            out.append(_fill(value, slots))


def _fill(name: str, slots: Mapping[str, str]) -> str:
    """Return a slot's text, with a capital if the slot is written with one."""
    key = name[:1].lower() + name[1:]
    try:
        value = slots[key]
    except KeyError as exc:
        known = ", ".join(sorted(slots))
        raise TemplateError(f"no slot `{exc.args[0]}`; there are: {known}") from exc
    return value[:1].upper() + value[1:] if name[:1].isupper() else value
