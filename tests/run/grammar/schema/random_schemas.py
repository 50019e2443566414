"""Schemas and values at random."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

SMALL = st.integers(0, 4)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 30), st.text('ab"\\é\n', max_size=3),
    st.sampled_from([[], {}, [1, "a"], {"a": 1}]), st.floats(-5, 5).map(lambda x: round(x, 2)),
)  # fmt: skip
NAMES = st.sampled_from(["a", "b", "ab", "x-1", 'q"', "key1"])
# what ECMAScript and Python read alike, but for a line break at the end of a text
PATTERNS = st.sampled_from(
    ["^a", "b$", "^[a-z]+$", "^x-", "[0-9]{2}", "^(foo|ba+r)?$", "[^x]", "a|b"]
)
BOUNDS = st.integers(-99, 999) | st.floats(-20, 20)
NAME_LISTS = st.lists(NAMES, max_size=2, unique=True)


def keywords(**fixed: Any) -> Any:
    """Return a strategy for dicts: ``type`` always, the rest sometimes."""
    always = {"type": st.just(fixed.pop("kind"))} if "kind" in fixed else {}
    return st.fixed_dictionaries(always, optional=fixed)


LEAVES = st.one_of(
    st.booleans(),
    st.just({}),
    st.sampled_from(["null", "boolean", "string", "integer", "number", "array", "object"]).map(
        lambda kind: {"type": kind}
    ),
    keywords(kind="string", minLength=SMALL, maxLength=SMALL, pattern=PATTERNS,
             format=st.sampled_from(["date", "uuid", "email", "time", "ipv4", "other"])),
    keywords(kind="integer", minimum=BOUNDS, maximum=BOUNDS, exclusiveMinimum=BOUNDS,
             multipleOf=st.sampled_from([1, 2, 3, 7, 100, 0.5])),
    keywords(kind="number", minimum=BOUNDS, maximum=BOUNDS, exclusiveMinimum=BOUNDS,
             exclusiveMaximum=BOUNDS, multipleOf=st.sampled_from([0.5, 0.25, 3])),
    keywords(kind="string", pattern=PATTERNS, minLength=SMALL,
             **{"not": keywords(kind="string", pattern=st.sampled_from(["^a", "[0-9]{2}"]))}),
    st.fixed_dictionaries({"enum": st.lists(VALUES, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"const": VALUES}),
)  # fmt: skip


def _larger(inner: Any) -> Any:
    some = st.lists(inner, min_size=1, max_size=3)
    maps = st.dictionaries(NAMES, inner, max_size=3)
    return st.one_of(
        keywords(kind="object", properties=maps, required=NAME_LISTS, additionalProperties=inner,
                 patternProperties=st.dictionaries(PATTERNS, inner, max_size=2),
                 propertyNames=keywords(pattern=PATTERNS, maxLength=SMALL), minProperties=SMALL,
                 maxProperties=SMALL,
                 dependentRequired=st.dictionaries(NAMES, NAME_LISTS, max_size=1),
                 dependentSchemas=st.dictionaries(NAMES, inner, max_size=1)),
        keywords(kind="array", items=inner, prefixItems=some, minItems=SMALL, maxItems=SMALL,
                 uniqueItems=st.booleans(), contains=inner, minContains=SMALL, maxContains=SMALL),
        keywords(allOf=some, anyOf=some, oneOf=some, properties=maps, required=NAME_LISTS,
                 minimum=SMALL, **{"not": inner, "if": inner, "then": inner, "else": inner}),
        keywords(anyOf=some, oneOf=some, allOf=some, properties=maps, prefixItems=some,
                 contains=inner, unevaluatedProperties=inner, unevaluatedItems=inner,
                 patternProperties=st.dictionaries(PATTERNS, inner, max_size=2),
                 **{"if": inner, "then": inner, "else": inner}),
    )  # fmt: skip


SCHEMAS = st.recursive(LEAVES, _larger, max_leaves=6)
DOCUMENTS = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
