"""What the parts of a conversion offer each other, and small trees that all of them use."""

from __future__ import annotations

from typing import Any, Protocol

from gguf_hub.run.grammar.gbnf import Literal, Node, Ref
from gguf_hub.run.grammar.schema.merge import Document, Schema
from gguf_hub.run.grammar.trees import EMPTY, NOTHING, alt, optional, repeat, seq

SPACE = Ref("space")

FAMILIES = {
    "object": ("properties", "required", "additionalProperties", "patternProperties",
               "propertyNames", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains",
              "minContains", "maxContains"),
    "string": ("minLength", "maxLength", "pattern", "format", "_unlike"),
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
        """Return a rule name like ``name`` that is not in use."""

    def conforms(self, value: Any, schema: Schema) -> bool:
        """Return whether a value satisfies a schema."""


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
) -> Node:
    """Return parts in order with commas between them, those that must be and some others.

    Args:
        conversion: Where rules are added: one for each part and number of parts so far.
        parts: (part, whether it is required).
        extra: What may follow any number of times.
        bounds: (minimum of parts, of the extras one at most counted; maximum of parts, extras
            counted, or None).
        name: For the rules.
    """
    low, high = bounds
    prefix = conversion.fresh(f"{name}-from")
    count_cap = max(low, 1) if high is None else high  # beyond, counts do not differ
    n = len(parts)
    max_parts = None if high is None else max(high, 0)
    for n_done in range(min(n, count_cap) + 1):
        hi = None if max_parts is None else max(max_parts - n_done, 0)
        # one of the extras is a part more, but two of them may be the same key
        lo = 1 if n_done == low - 1 else 0
        end = repeat(then(extra), lo, hi) if n_done else separated(extra, lo, hi)
        is_short = n_done < low - 1 or (hi is not None and hi < lo)
        conversion.rules[f"{prefix}-{n}-{n_done}"] = NOTHING if is_short else end
    for i in reversed(range(n)):
        part, is_required = parts[i]
        for n_done in range(min(i, count_cap) + 1):
            with_part: Node = NOTHING
            if high is None or n_done < high:
                following = Ref(f"{prefix}-{i + 1}-{min(n_done + 1, count_cap)}")
                with_part = seq(then(part) if n_done else part, following)
            without_part = NOTHING if is_required else Ref(f"{prefix}-{i + 1}-{n_done}")
            conversion.rules[f"{prefix}-{i}-{n_done}"] = alt(with_part, without_part)
    return Ref(f"{prefix}-0-0")
