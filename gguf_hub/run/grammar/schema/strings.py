"""Texts inside JSON strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from gguf_hub.budget import spend
from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Ranges, Repeat, Seq, complement
from gguf_hub.run.grammar.trees import EMPTY, alt, chars, repeat, seq, subtract

_RAW = complement(((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)))
"""Characters that a JSON string may hold as they are; DEL may too, but no one means it."""
_SHORT = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r"}

_HEX = Chars(((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)))

FORMATS = {
    "date": r"^[1-9]\d{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
            r"|(?:0[13578]|1[02])-31)$",
    "time": r"^(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)$",
    "uuid": r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "ipv4": r"^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$",
    "ipv6": r"^(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
    "email": r"^[a-z0-9]{1,32}(?:[._+-][a-z0-9]{1,16}){0,2}@[a-z0-9]{1,32}(?:\.[a-z]{2,12}){1,2}$",
    "hostname": r"^[a-z0-9]{1,32}(?:-[a-z0-9]{1,16})?(?:\.[a-z]{2,12}){0,3}$",
    "uri": r"^https?://[a-z0-9]{1,32}(?:\.[a-z0-9]{1,32}){0,3}(?:/[A-Za-z0-9_.~-]{1,64}){0,8}/?"
           r"(?:\?[A-Za-z0-9_=&-]{1,128})?(?:#[A-Za-z0-9_-]{1,32})?$",
}  # fmt: skip
FORMATS["date-time"] = f"{FORMATS['date'][:-1]}T{FORMATS['time'][1:]}"


def any_char() -> Node:
    """Return one character of a JSON string, written in any way, surrogates left out."""
    surrogate_free = alt(
        seq(Chars(((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66))),
            repeat(_HEX, 3, 3)),
        seq(chars("dD"), Chars(((0x30, 0x37),)), repeat(_HEX, 2, 2)),
    )  # fmt: skip
    escape = alt(chars('"\\/bfnrt'), seq(Literal("u"), surrogate_free))
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


# Examples

_MAX_REPEATED = 100


def samples(tree: Node, count: int) -> list[str]:
    """Return up to ``count`` different texts of a tree, the simplest first."""
    texts: dict[str, None] = {}
    for text in islice(_texts(tree), 50 * count):
        texts.setdefault(text)
        if len(texts) == count:
            break
    return list(texts)


def _texts(tree: Node) -> Iterator[str]:
    spend()
    if isinstance(tree, Literal):
        yield tree.text
    elif isinstance(tree, Chars):
        yield from (chr(c) for low, high in _readable(tree.ranges) for c in range(low, high + 1))
    elif isinstance(tree, Alt):
        for option in tree.options:
            yield from islice(_texts(option), 40)
    elif isinstance(tree, Seq):
        if not tree.items:
            yield ""
            return
        rest = Seq(tree.items[1:])
        for first in islice(_texts(tree.items[0]), 40):
            for others in islice(_texts(rest), 40):
                yield first + others
    elif isinstance(tree, Repeat):
        if tree.low > _MAX_REPEATED:
            return
        max_repeats = tree.low + 40 if tree.high is None else min(tree.high, tree.low + 40)
        for n in range(tree.low, max_repeats + 1):
            yield from islice(_texts(Seq((tree.item,) * n)), 40)


def _readable(ranges: Ranges) -> list[tuple[int, int]]:
    """Return ranges with letters and digits in front."""
    plain = ((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A))
    inside = subtract(ranges, subtract(ranges, plain))
    return [*reversed(inside), *subtract(ranges, plain)]
