"""Whether two schemas can be satisfied by one value: ``oneOf`` needs to know that none can."""

from __future__ import annotations

from collections.abc import Sequence

from gguf_hub.budget import spend
from gguf_hub.run.grammar.schema.check import CannotCheck, canonical, conforms, json_type
from gguf_hub.run.grammar.schema.merge import Document, NotSupported, Plain, extra_schema
from gguf_hub.run.grammar.schema.references import Schema

_PAIR_BYTES = 200
_EVERY = ("object", "array", "string", "number", "boolean", "null")


def are_disjoint(schema: Schema, other: Schema, document: Document) -> bool:
    """Return whether surely nothing that is written for one schema satisfies another.

    Args:
        schema: Schema whose values are written, with additional properties as ``extra_schema``
            has it.
        other: The other schema.
        document: Where both stand.
    """
    try:
        a, b = document.plain(schema), document.plain(other)
    except NotSupported:
        return False
    key = (id(schema), id(other))  # the document keeps both
    if key not in document.disjoint_pairs:
        document.disjoint_pairs[key] = False  # meanwhile, for recursive schemas
        document.disjoint_pairs[key] = _compute(a, b, other, document)
    return document.disjoint_pairs[key]


def have_tags(schemas: Sequence[Schema], document: Document) -> bool:
    """Return whether all are objects with one required property, whose values all differ.

    Then surely no value satisfies two of them. Takes time linear in their number.
    """
    try:
        plains = [document.plain(schema) for schema in schemas]
    except NotSupported:
        return False
    objects = [s for s in plains if isinstance(s, dict) and s.get("type") == ["object"]]
    if not objects or len(objects) < len(plains):
        return False
    names = set(objects[0].get("required", ())).intersection(*(s.get("required", ())
                                                               for s in objects))  # fmt: skip
    return any(_are_tags([s.get("properties", {}).get(name) for s in objects]) for name in names)


def _are_tags(schemas: list[Schema]) -> bool:
    """Return whether each lists its values, all different."""
    known_values: set[str] = set()
    for schema in schemas:
        if not isinstance(schema, dict) or not ("const" in schema or "enum" in schema):
            return False
        values = set(map(canonical, [schema["const"]] if "const" in schema else schema["enum"]))
        if values & known_values:
            return False
        known_values |= values
    return True


def _compute(a: Plain | bool, b: Plain | bool, other: Schema, document: Document) -> bool:
    spend(_PAIR_BYTES)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is False or b is False
    if "enum" in a:
        return _none_conforms(a, other, document)
    shared = _types(a) & _types(b)
    return not shared or (shared <= {"object"} and _are_objects_disjoint(a, b, document))


def _types(s: Plain) -> set[str]:
    if "enum" in s:
        return {json_type(value) for value in s["enum"]}
    return {"number" if t == "integer" else t for t in s.get("type", _EVERY)}


def _none_conforms(a: Plain, other: Schema, document: Document) -> bool:
    try:
        return not any(conforms(value, other, document.resolve) for value in a["enum"])
    except CannotCheck:
        return False


def _are_objects_disjoint(a: Plain, b: Plain, document: Document) -> bool:
    a_properties, b_properties = a.get("properties", {}), b.get("properties", {})
    required = set(a.get("required", ()))
    is_closed = extra_schema(a) is False and not a.get("patternProperties")
    for name in b.get("required", ()):
        # the other needs a property that is never written
        if is_closed and name not in a_properties and name not in required:
            return True
    for name in required:
        schema = b_properties.get(name)
        if schema is None:
            # a property is always written that the other refuses
            if b.get("additionalProperties") is False and not b.get("patternProperties"):
                return True
        elif are_disjoint(a_properties.get(name, True), schema, document):
            return True
    return False
