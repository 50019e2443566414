"""Texts inside JSON strings."""

from __future__ import annotations

from collections.abc import Iterable

from gguf_hub.budget import spend
from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Ranges, Repeat, Seq, complement
from gguf_hub.run.grammar.trees import EMPTY, alt, chars, repeat, seq, subtract

_RAW = complement(((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)))
"""Characters that a JSON string may hold as they are; DEL may too, but no one means it."""
_SHORT = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r"}

_HEX = Chars(((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)))


def any_char() -> Node:
    """Return one character of a JSON string, written in any way: a pair of escapes is one."""
    surrogate_free = alt(
        seq(Chars(((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66))),
            repeat(_HEX, 3, 3)),
        seq(chars("dD"), Chars(((0x30, 0x37),)), repeat(_HEX, 2, 2)),
    )  # fmt: skip
    half = repeat(_HEX, 2, 2)
    first, second = chars("89aAbB"), chars("cdefCDEF")
    pair = seq(chars("dD"), first, half, Literal("\\u"), chars("dD"), second, half)
    escape = alt(chars('"\\/bfnrt'), seq(Literal("u"), alt(surrogate_free, pair)))
    return alt(Chars(_RAW), seq(Literal("\\"), escape))


def in_json(tree: Node) -> Node:
    """Return what stands in a JSON string for the texts of a tree."""
    if isinstance(tree, Literal):
        return seq(*(_char_in_json(((ord(c), ord(c)),)) for c in tree.text))
    if isinstance(tree, Chars):
        return _char_in_json(tree.ranges)
    if isinstance(tree, Seq):
        return seq(*map(in_json, tree.items))
    if isinstance(tree, Alt):
        return alt(*map(in_json, tree.options))
    if isinstance(tree, Repeat):
        return repeat(in_json(tree.item), tree.low, tree.high)
    return tree


def _char_in_json(ranges: Ranges) -> Node:
    """Return one character of a class; those that need it are escaped."""
    special = subtract(ranges, _RAW)
    escaped = []
    for low, high in special:
        for code in range(low, min(high, 0x7F) + 1):
            escape = _SHORT.get(code, f"u{code:04x}")
            escaped.append(Literal("\\" + escape) if code != 0x7F else Literal("\x7f"))
    return alt(Chars(subtract(ranges, subtract(ranges, _RAW))), *escaped)


def unlike(names: Iterable[str]) -> Node:
    """Return the texts that are none of ``names`` and stand in JSON as they are."""
    excluded = sorted(names)
    return _unlike(excluded) if excluded else repeat(Chars(_RAW), 0, None)


def _unlike(names: list[str]) -> Node:
    spend(sum(map(len, names)))
    firsts = sorted({name[0] for name in names if name})
    other = subtract(_RAW, tuple((ord(c), ord(c)) for c in firsts))
    rest = repeat(Chars(_RAW), 0, None)
    options = [seq(Chars(other), rest)]
    for first in firsts:
        inner = [name[1:] for name in names if name.startswith(first)]
        options.append(seq(Literal(first), _unlike(inner)))
    return alt(*options) if "" in names else alt(EMPTY, *options)
