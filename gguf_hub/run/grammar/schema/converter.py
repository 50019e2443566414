"""From a schema to rules: each part of the schema becomes a rule, once."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from gguf_hub.budget import look, spend
from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar.gbnf import Chars, Literal, Node, Ref
from gguf_hub.run.grammar.schema import numbers
from gguf_hub.run.grammar.schema.arrays import array
from gguf_hub.run.grammar.schema.check import CannotCheck, conforms
from gguf_hub.run.grammar.schema.conversion import FAMILIES, MAX_RULES, SPACE, braces, separated
from gguf_hub.run.grammar.schema.disjoint import are_disjoint, have_tags
from gguf_hub.run.grammar.schema.merge import (
    TYPES,
    Document,
    NotSupported,
    Plain,
    all_of,
)
from gguf_hub.run.grammar.schema.negate import negate
from gguf_hub.run.grammar.schema.objects import object_
from gguf_hub.run.grammar.schema.references import Schema, escape
from gguf_hub.run.grammar.schema.scalars import number
from gguf_hub.run.grammar.schema.strings import any_char
from gguf_hub.run.grammar.schema.texts import string
from gguf_hub.run.grammar.trees import EMPTY, NOTHING, alt, prune, repeat, seq

_DEFERRED = ("unevaluatedProperties", "unevaluatedItems")
_KNOWN = {"type", "enum", "anyOf", "_oneOfs", "_nots", *_DEFERRED,
          *(k for f in FAMILIES.values() for k in f)}  # fmt: skip

_WRITTEN = {"_oneOfs": "oneOf", "_nots": "not", "_patterns": "pattern", "_formats": "format",
            "_unlike": "not", "_unmatched": "not"}  # fmt: skip
"""Keyword of plain schemas -> as it is written."""

_BUILDERS = {"string": string, "integer": number, "number": number, "array": array,
             "object": object_}  # fmt: skip

_MAX_COMPARED = 300
_MAX_OVERLAPPING = 6

_BLANKS = Chars(((0x09, 0x09), (0x20, 0x20)))
_COMMON: dict[str, Node] = {
    "space": alt(EMPTY, Literal(" "), seq(Literal("\n"), repeat(_BLANKS, 0, 20))),
    "char": any_char(),
    "string": seq(Literal('"'), repeat(Ref("char"), 0, None), Literal('"')),
    "number": numbers.plain_number(),
    "integer": numbers.plain_integer(),
    "boolean": alt(Literal("true"), Literal("false")),
    "null": Literal("null"),
    "object": braces(
        "{", separated(seq(Ref("string"), Literal(":"), SPACE, Ref("value")), 0, None), "}"
    ),
    "array": braces("[", separated(Ref("value"), 0, None), "]"),
    "value": alt(*map(Ref, ("object", "array", "string", "number", "boolean", "null"))),
}


@dataclass(frozen=True)
class LeftOut:
    """A part of a schema that its grammar does not hold.

    Attributes:
        pointer: Where it stands, a JSON pointer.
        reason: Why, as a sentence about the keyword.
    """

    pointer: str
    reason: str

    def __str__(self) -> str:
        return f"schema, at `{self.pointer}`: {self.reason}"


def schema_to_rules(
    schema: Schema | str, *, strict: bool = True
) -> tuple[dict[str, Node], list[LeftOut]]:
    """Return the rules of a grammar for JSON that satisfies a schema.

    Args:
        schema: The schema, or its JSON text.
        strict: Refuse what a grammar cannot hold; otherwise it is left out.

    Returns:
        Rules by name, first ``root``; and what was left out.

    Raises:
        GrammarError: The schema is wrong, cannot be satisfied, or (strict) cannot be held.
    """
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
    except (ValueError, RecursionError) as exc:
        raise GrammarError(f"schema: expected JSON: {exc}") from exc
    try:
        converter = _Converter(schema, strict)
        converter.rules.setdefault("root", converter.visit(converter.root, "root"))
        rules = prune(converter.rules, "root")
    except RecursionError as exc:
        raise GrammarError("schema: it is nested too deeply") from exc
    except GrammarError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as exc:
        # A keyword holds what it cannot hold, such as `"properties": 5` or `"minimum": 1e999`.
        raise GrammarError(f"schema: it is malformed: {exc}") from exc
    if rules["root"] == NOTHING:
        raise GrammarError("schema: found no value that satisfies it")
    return rules, list(converter.left_out)


class _Converter:
    """One conversion: rules so far, and the document that references point into."""

    def __init__(self, root: Schema, strict: bool) -> None:
        self.rules: dict[str, Node] = dict(_COMMON)
        self.left_out: dict[LeftOut, None] = {}
        self._strict = strict
        self.document = Document(root, None if strict else self._leave_out_part)
        self.root = self.document.references.root
        self._at = self.root  # the innermost schema under way that is written in the document
        self._names: dict[str, str] = {}
        self._used: Counter[str] = Counter()
        self._taken = set(_COMMON)

    def visit(self, schema: Schema, name: str) -> Node:
        """Return what stands for a schema: a rule of its own, made once."""
        if schema is False:
            return NOTHING
        if schema is True or schema == {}:
            return Ref("value")
        key = json.dumps([schema, _orders(schema)], sort_keys=True)
        look()
        if key not in self._names:
            spend(len(key))
            self._names[key] = rule = self.fresh(name)
            self.rules[rule] = NOTHING  # until it is built, so that references to it work
            before, is_written = self._at, self.document.references.pointer(schema) is not None
            self._at = schema if is_written else before
            try:
                self.rules[rule] = self._build(schema, rule)
            except GrammarError:
                del self._names[key]
                raise
            finally:
                self._at = before
        return Ref(self._names[key])

    def fresh(self, name: str) -> str:
        """Return a rule name like ``name`` that is not in use, nor is any with ``--`` after it."""
        if len(self.rules) > MAX_RULES:
            raise GrammarError(f"schema: it is too large: over {MAX_RULES:,} rules")
        base = name = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60] or "value"
        while name in self._taken:
            spend()
            self._used[base] += 1
            name = f"{base}-{self._used[base] + 1}"
        self._taken.add(name)
        return name

    def conforms(self, value: Any, schema: Schema) -> bool:
        """Return whether a value satisfies a schema."""
        try:
            return conforms(value, schema, self.document.resolve)
        except CannotCheck as exc:
            raise NotSupported("enum", f"stands with what cannot be checked: {exc}") from exc

    def leave_out(self, keyword: str, reason: str) -> None:
        """Note that a keyword of the schema under way is not held; raise where it must be."""
        self._leave_out(self._at, keyword, reason)

    def _leave_out(self, schema: Schema, keyword: str, reason: str) -> None:
        written = _WRITTEN.get(keyword, keyword)
        references = self.document.references
        place = references.place(schema, written) or references.place(self._at, written)
        if place is None:
            place = f"{references.pointer(self._at)}/{escape(written)}"
        item = LeftOut(place, f"`{written}` {reason}")
        if self._strict:
            raise GrammarError(str(item), hint="take it out, or allow that it is not held: "
                               "without `strict`, that is a warning")  # fmt: skip
        self.left_out.setdefault(item)

    def _leave_out_part(self, part: Schema, problem: NotSupported) -> None:
        """Note that a whole part of a schema is not held, because one keyword cannot be."""
        self._leave_out(
            part, problem.keyword, f"{problem.reason}; the schema around it is left out"
        )

    def _build(self, schema: Schema, name: str) -> Node:
        try:
            plain = self.document.plain(schema)
        except NotSupported as problem:
            self._leave_out(schema, problem.keyword, problem.reason)
            plain = {}
        if plain is False:
            return NOTHING
        return self._build_plain(plain if isinstance(plain, dict) else {}, name)

    def _build_plain(self, s: Plain, name: str) -> Node:
        for keyword in s.keys() - _KNOWN:
            self.leave_out(keyword, "is not known")
            s = {k: v for k, v in s.items() if k != keyword}
        if "enum" in s:
            return self._values(s, name)
        is_open = not any(keyword in s for keyword in _DEFERRED)
        if "_nots" in s and is_open:
            return self._without(s, name)
        for keyword in ("anyOf", "_oneOfs"):
            if keyword in s:
                return self._choices(s, keyword, name)
        types = _types(s)
        node = alt(*(self._typed(kind, s, name) for kind in types))
        if node == NOTHING and "type" not in s:  # only values of other types satisfy it
            node = alt(*(Ref(kind) for kind in TYPES if kind not in ("integer", *types)))
        return node

    def _values(self, s: Plain, name: str) -> Node:
        """Return the values of an ``enum`` that satisfy the rest."""
        rest = {k: v for k, v in s.items() if k != "enum"}
        try:
            values = [v for v in s["enum"] if self.conforms(v, rest)]
        except NotSupported as problem:
            self.leave_out("enum", problem.reason)
            values = s["enum"]
        return alt(*(Literal(json.dumps(v, ensure_ascii=False)) for v in values))

    def _without(self, s: Plain, name: str) -> Node:
        """Hold ``not`` by choices that each fail it."""
        rest = {k: v for k, v in s.items() if k != "_nots"}
        refused, *others = s["_nots"]
        rest = {**rest, **({"_nots": others} if others else {})}
        try:
            choices = negate(refused, self.document)
        except NotSupported as problem:
            self.leave_out("not", problem.reason)
            return self._build_plain(rest, name)
        return alt(*(self.visit(all_of(rest, c), f"{name}-{i}") for i, c in enumerate(choices)))

    def _choices(self, s: Plain, keyword: str, name: str) -> Node:
        """Return one of the options of ``anyOf`` or ``oneOf``, each with the rest of the schema."""
        closing = {k: s[k] for k in _DEFERRED if k in s}
        rest = {k: v for k, v in s.items() if k != keyword and k not in closing}
        options = s[keyword]
        if keyword == "_oneOfs":
            options, *others = s[keyword]
            rest = {**rest, **({"_oneOfs": others} if others else {})}
        if closing:  # what is evaluated must be known
            options = [o for o in options if not (isinstance(o, dict) and o.get("_mixed"))]
        merged = [{"allOf": [rest, o], **closing} if closing else all_of(rest, o) for o in options]
        if keyword == "_oneOfs":
            merged = self._apart(merged, options)
        nodes = []
        for i, (option, schema) in enumerate(zip(options, merged, strict=True)):
            may_fail = isinstance(option, dict) and option.get("_may")
            build = self._visit_if_possible if may_fail else self.visit
            nodes.append(build(schema, f"{name}-{i}"))
        return alt(*nodes)

    def _visit_if_possible(self, schema: Schema, name: str) -> Node:
        """Return what stands for a schema, ``NOTHING`` where it cannot be held."""
        strict, self._strict = self._strict, True
        try:
            return self.visit(schema, name)
        except GrammarError:
            return NOTHING
        finally:
            self._strict = strict

    def _apart(self, merged: list[Schema], options: list[Schema]) -> list[Schema]:
        """Return what is written for each option, without what another one matches, too."""
        if have_tags(options, self.document):
            return merged
        if len(options) > _MAX_COMPARED:
            self.leave_out("oneOf", f"has {len(options)} options, too many to tell that none "
                           "matches another's")  # fmt: skip
            return merged
        out = []
        for i, schema in enumerate(merged):
            nots: list[Schema] = []
            for j, other in enumerate(options):
                if i == j or are_disjoint(schema, other, self.document):
                    continue
                if len(options) > _MAX_OVERLAPPING or not self._is_deniable(other):
                    self.leave_out("oneOf", f"has options {i} and {j}, which may both match one "
                                   "value (write `anyOf`?)")  # fmt: skip
                    return merged
                nots.append({"not": other})
            out.append(all_of(schema, {"allOf": nots}) if nots else schema)
        return out

    def _is_deniable(self, schema: Schema) -> bool:
        """Return whether what a schema matches can be left out, without ``oneOf`` in ``oneOf``."""
        try:
            negate(schema, self.document)
            plain = self.document.plain(schema)
        except NotSupported:
            return False
        return isinstance(plain, bool) or "_oneOfs" not in plain

    def _typed(self, kind: str, s: Plain, name: str) -> Node:
        if kind in ("null", "boolean"):
            return Ref(kind)
        family = FAMILIES["number" if kind == "integer" else kind]
        keywords = {"type": kind, **{k: s[k] for k in family if k in s}}
        while True:
            try:
                return _BUILDERS[kind](self, keywords, name)
            except NotSupported as problem:
                self.leave_out(problem.keyword, problem.reason)
                if problem.keyword not in keywords:
                    return Ref(kind)
                keywords = {k: v for k, v in keywords.items() if k != problem.keyword}


def _types(s: Plain) -> list[str]:
    """Return the types of a plain schema: where none is named, those that its keywords speak of.

    A format alone speaks of none: there are formats of texts and of numbers.
    """
    if "type" in s:
        return list(s["type"])
    spoken_of = [t for t, keys in FAMILIES.items() if any(k in s for k in keys if k != "_formats")]
    return spoken_of or [name for name in TYPES if name != "integer"]


def _orders(schema: Any) -> list[Any]:
    """Return the order of properties, in which otherwise equal schemas may differ."""
    spend()
    if isinstance(schema, dict):
        rule = list(schema["properties"]) if isinstance(schema.get("properties"), dict) else []
        return [rule, *(_orders(value) for _, value in sorted(schema.items()))]
    return [_orders(value) for value in schema] if isinstance(schema, list) else []
