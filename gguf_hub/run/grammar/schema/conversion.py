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
"""Type -> the keywords that speak of it."""

MOST_RULES = 5_000


class Conversion(Protocol):
    """A conversion under way."""

    rules: dict[str, Node]
    document: Document

    def visit(self, schema: Schema, name: str) -> Node:
        """Return what stands for a schema; ``name`` is wanted for its rule."""

    def fresh(self, name: str) -> str:
        """Return a rule name like ``name`` that is not in use."""

    def conforms(self, value: Any, schema: Schema) -> bool:
        """Tell whether a value satisfies a schema."""


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
        parts: (part, whether it must be there).
        extra: What may follow any number of times.
        bounds: (least number of parts, of the extras one at most counted; most parts, extras
            counted, or None).
        name: For the rules.
    """
    low, high = bounds
    own = conversion.fresh(f"{name}-from")
    enough = max(low, 1) if high is None else high  # beyond, counts do not differ
    n = len(parts)
    left = None if high is None else max(high, 0)
    for done in range(min(n, enough) + 1):
        more = None if left is None else max(left - done, 0)
        # one of the extras is a part more, but two of them may be the same key
        least = 1 if done == low - 1 else 0
        end = repeat(then(extra), least, more) if done else separated(extra, least, more)
        is_short = done < low - 1 or (more is not None and more < least)
        conversion.rules[f"{own}-{n}-{done}"] = NOTHING if is_short else end
    for i in reversed(range(n)):
        part, must_be = parts[i]
        for done in range(min(i, enough) + 1):
            taken: Node = NOTHING
            if high is None or done < high:
                following = Ref(f"{own}-{i + 1}-{min(done + 1, enough)}")
                taken = seq(then(part) if done else part, following)
            skipped = NOTHING if must_be else Ref(f"{own}-{i + 1}-{done}")
            conversion.rules[f"{own}-{i}-{done}"] = alt(taken, skipped)
    return Ref(f"{own}-0-0")
