"""Whether two schemas can be satisfied by one value: ``oneOf`` needs to know that none can."""

from __future__ import annotations

from gguf_hub.budget import spend
from gguf_hub.grammar.schema.check import CannotCheck, conforms, json_type
from gguf_hub.grammar.schema.merge import Document, NotSupported, Plain, Schema, extra_schema

_PAIR_BYTES = 200
_EVERY = ("object", "array", "string", "number", "boolean", "null")


def apart(written: Schema, other: Schema, document: Document) -> bool:
    """Tell whether surely nothing that is written for one schema satisfies another.

    Args:
        written: Schema whose values are written, with additional properties as ``extra_schema``
            has it.
        other: The other schema.
        document: Where both stand.
    """
    try:
        a, b = document.plain(written), document.plain(other)
    except NotSupported:
        return False
    key = (id(written), id(other))  # the document keeps both
    if key not in document.known_apart:
        document.known_apart[key] = False  # while it is asked, for schemas that hold themselves
        document.known_apart[key] = _compute(a, b, other, document)
    return document.known_apart[key]


def _compute(a: Plain | bool, b: Plain | bool, other: Schema, document: Document) -> bool:
    spend(_PAIR_BYTES)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is False or b is False
    if "enum" in a:
        return _none_conforms(a, other, document)
    shared = _types(a) & _types(b)
    return not shared or (shared <= {"object"} and _objects_apart(a, b, document))


def _types(s: Plain) -> set[str]:
    if "enum" in s:
        return {json_type(value) for value in s["enum"]}
    return {"number" if t == "integer" else t for t in s.get("type", _EVERY)}


def _none_conforms(a: Plain, other: Schema, document: Document) -> bool:
    try:
        return not any(conforms(value, other, document.resolve) for value in a["enum"])
    except CannotCheck:
        return False


def _objects_apart(a: Plain, b: Plain, document: Document) -> bool:
    ours, theirs = a.get("properties", {}), b.get("properties", {})
    required = set(a.get("required", ()))
    closed = extra_schema(a) is False and not a.get("patternProperties")
    for name in b.get("required", ()):
        # the other needs a property that is never written
        if closed and name not in ours and name not in required:
            return True
    for name in required:
        schema = theirs.get(name)
        if schema is None:
            # a property is always written that the other refuses
            if b.get("additionalProperties") is False and not b.get("patternProperties"):
                return True
        elif apart(ours.get(name, True), schema, document):
            return True
    return False
