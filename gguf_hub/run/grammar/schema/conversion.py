"""What the parts of a conversion offer each other, and small trees that all of them use."""

from __future__ import annotations

from typing import Any, Protocol

from gguf_hub.run.grammar.gbnf import Literal, Node, Ref
from gguf_hub.run.grammar.schema.merge import Document
from gguf_hub.run.grammar.schema.references import Schema
from gguf_hub.run.grammar.trees import EMPTY, NOTHING, alt, optional, repeat, seq

SPACE = Ref("space")

FAMILIES = {
    "object": ("properties", "required", "additionalProperties", "patternProperties",
               "propertyNames", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains",
              "minContains", "maxContains"),
    "string": ("minLength", "maxLength", "_patterns", "_formats", "_unlike", "_unmatched"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}  # fmt: skip
"""Type -> its keywords."""

MAX_RULES = 5_000


class Conversion(Protocol):
    """A conversion under way."""

    rules: dict[str, Node]
    document: Document

    def visit(self, schema: Schema, name: str) -> Node:
        """Return what stands for a schema; ``name`` is preferred for its rule."""

    def fresh(self, name: str) -> str:
        """Return a rule name like ``name`` that is not in use, nor is any with ``--`` after it."""

    def conforms(self, value: Any, schema: Schema) -> bool:
        """Return whether a value satisfies a schema."""

    def leave_out(self, keyword: str, reason: str) -> None:
        """Note that a keyword of the schema under way is not held; raise where it must be."""


def then(item: Node) -> Node:
    """Return an item after a comma."""
    return seq(Literal(","), SPACE, item)


def separated(item: Node, low: int, high: int | None) -> Node:
    """Return ``low`` to ``high`` items with commas between them."""
    if high is not None and high <= 0:
        return NOTHING if low > 0 else EMPTY
    some = seq(item, repeat(then(item), max(low - 1, 0), None if high is None else high - 1))
    return some if low > 0 else optional(some)


def braces(before: str, inside: Node, after: str) -> Node:
    """Return something between brackets, with room for blanks."""
    return seq(Literal(before), SPACE, inside, SPACE, Literal(after))


def some_of(
    conversion: Conversion,
    parts: list[tuple[Node, bool]],
    extra: Node,
    bounds: tuple[int, int | None],
    name: str,
    *,
    may_repeat: bool = False,
) -> Node:
    """Return parts in order with commas between them, those that must be and some others.

    Args:
        conversion: Where rules are added: one for each part and number of parts so far.
        parts: (part, whether it is required).
        extra: What may follow any number of times.
        bounds: (minimum, maximum or None) of parts and extras together.
        name: For the rules.
        may_repeat: Whether extras that may be the same count each for the minimum; otherwise one
            of them does.
    """
    low, high = bounds
    prefix = conversion.fresh(f"{name}-from")
    count_cap = max(low, 1) if high is None else high  # beyond, counts do not differ
    n = len(parts)
    max_parts = None if high is None else max(high, 0)
    for n_done in range(min(n, count_cap) + 1):
        hi = None if max_parts is None else max(max_parts - n_done, 0)
        lo = max(low - n_done, 0)
        end = repeat(then(extra), lo, hi) if n_done else separated(extra, lo, hi)
        is_short = (lo > 1 and not may_repeat) or (hi is not None and hi < lo)
        conversion.rules[f"{prefix}--{n}-{n_done}"] = NOTHING if is_short else end
    for i in reversed(range(n)):
        part, is_required = parts[i]
        for n_done in range(min(i, count_cap) + 1):
            with_part: Node = NOTHING
            if high is None or n_done < high:
                following = Ref(f"{prefix}--{i + 1}-{min(n_done + 1, count_cap)}")
                with_part = seq(then(part) if n_done else part, following)
            without_part = NOTHING if is_required else Ref(f"{prefix}--{i + 1}-{n_done}")
            conversion.rules[f"{prefix}--{i}-{n_done}"] = alt(with_part, without_part)
    return Ref(f"{prefix}--0-0")
