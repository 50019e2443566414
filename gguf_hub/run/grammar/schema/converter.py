"""From a schema to rules: each part of the schema becomes a rule, once."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from gguf_hub.budget import look, spend
from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar.gbnf import Chars, Literal, Node, Ref
from gguf_hub.run.grammar.schema import numbers
from gguf_hub.run.grammar.schema.arrays import array
from gguf_hub.run.grammar.schema.check import CannotCheck, conforms
from gguf_hub.run.grammar.schema.conversion import FAMILIES, MAX_RULES, SPACE, braces, separated
from gguf_hub.run.grammar.schema.disjoint import are_disjoint, have_tags
from gguf_hub.run.grammar.schema.merge import Document, NotSupported, Plain, Schema, all_of
from gguf_hub.run.grammar.schema.negate import negate
from gguf_hub.run.grammar.schema.objects import object_
from gguf_hub.run.grammar.schema.scalars import number, string
from gguf_hub.run.grammar.schema.strings import any_char
from gguf_hub.run.grammar.trees import EMPTY, NOTHING, alt, prune, repeat, seq

_KNOWN = {"type", "enum", "anyOf", "_oneOfs", "_nots", *(k for f in FAMILIES.values() for k in f)}

_BUILDERS = {"string": string, "integer": number, "number": number, "array": array,
             "object": object_}  # fmt: skip

_MAX_COMPARED = 300

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


def schema_to_rules(
    schema: Schema | str, *, strict: bool = True
) -> tuple[dict[str, Node], list[str]]:
    """Return the rules of a grammar for JSON that satisfies a schema.

    Args:
        schema: The schema, or its JSON text.
        strict: Refuse what a grammar cannot hold; otherwise it is left out.

    Returns:
        Rules by name, first ``root``; and what was left out, a line for each.

    Raises:
        GrammarError: The schema is wrong, cannot be satisfied, or (strict) cannot be held.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as exc:
            raise GrammarError(f"schema: expected JSON: {exc}") from exc
    converter = _Converter(schema, strict)
    try:
        converter.rules.setdefault("root", converter.visit(schema, "root"))
        rules = prune(converter.rules, "root")
    except RecursionError as exc:
        raise GrammarError("schema: it is nested too deeply") from exc
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as exc:
        # A keyword holds what it cannot hold, such as `"properties": 5` or `"minimum": 1e999`.
        raise GrammarError(f"schema: it is malformed: {exc}") from exc
    if rules["root"] == NOTHING:
        raise GrammarError("schema: found no value that satisfies it")
    return rules, converter.left_out


class _Converter:
    """One conversion: rules so far, and the document that references point into."""

    def __init__(self, root: Schema, strict: bool) -> None:
        self.document = Document(root)
        self.rules: dict[str, Node] = dict(_COMMON)
        self.left_out: list[str] = []
        self._strict = strict
        self._names: dict[str, str] = {}
        self._used: Counter[str] = Counter()

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
            self.rules[rule] = self._build(schema, rule)
        return Ref(self._names[key])

    def fresh(self, name: str) -> str:
        """Return a rule name like ``name`` that is not in use."""
        if len(self.rules) > MAX_RULES:
            raise GrammarError(f"schema: it is too large: over {MAX_RULES:,} rules")
        base = name = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60] or "value"
        while name in self.rules:
            spend()
            self._used[base] += 1
            name = f"{base}-{self._used[base] + 1}"
        return name

    def conforms(self, value: Any, schema: Schema) -> bool:
        """Return whether a value satisfies a schema."""
        try:
            return conforms(value, schema, self.document.resolve)
        except CannotCheck as exc:
            raise NotSupported("enum", f"stands with what cannot be checked: {exc}") from exc

    def _leave_out(self, name: str, problem: NotSupported) -> None:
        """Raise if strict; otherwise note what is left out."""
        if self._strict:
            raise GrammarError(
                f"schema, at `{name}`: {problem}",
                hint="take it out of the schema, or allow that it is left out",
            )
        self.left_out.append(f"{name}: {problem}")

    def _build(self, schema: Schema, name: str) -> Node:
        try:
            plain = self.document.plain(schema)
        except NotSupported as problem:
            self._leave_out(name, problem)
            plain = {k: v for k, v in schema.items() if k in _KNOWN}
            if isinstance(plain.get("type"), str):
                plain["type"] = [plain["type"]]
        if plain is False:
            return NOTHING
        return self._build_plain(plain if isinstance(plain, dict) else {}, name)

    def _build_plain(self, s: Plain, name: str) -> Node:
        for keyword in s.keys() - _KNOWN:
            self._leave_out(name, NotSupported(keyword, "is not known"))
            s = {k: v for k, v in s.items() if k != keyword}
        if "enum" in s:
            return self._values(s, name)
        if "_nots" in s:
            return self._without(s, name)
        for keyword in ("anyOf", "_oneOfs"):
            if keyword in s:
                return self._choices(s, keyword, name)
        types = s.get("type") or [t for t, keys in FAMILIES.items() if any(k in s for k in keys)]
        return alt(*(self._typed(kind, s, name) for kind in types)) if types else Ref("value")

    def _values(self, s: Plain, name: str) -> Node:
        """Return the values of an ``enum`` that satisfy the rest."""
        rest = {k: v for k, v in s.items() if k != "enum"}
        try:
            values = [v for v in s["enum"] if self.conforms(v, rest)]
        except NotSupported as problem:
            self._leave_out(name, problem)
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
            self._leave_out(name, problem)
            return self._build_plain(rest, name)
        return alt(*(self.visit(all_of(rest, c), f"{name}-{i}") for i, c in enumerate(choices)))

    def _choices(self, s: Plain, keyword: str, name: str) -> Node:
        """Return one of the options of ``anyOf`` or ``oneOf``, each with the rest of the schema."""
        rest = {k: v for k, v in s.items() if k != keyword}
        options = s[keyword]
        if keyword == "_oneOfs":
            options, *others = s[keyword]
            rest = {**rest, **({"_oneOfs": others} if others else {})}
        merged = [all_of(rest, option) for option in options]
        if keyword == "_oneOfs":
            self._check_disjoint(merged, options, name)
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

    def _check_disjoint(self, merged: list[Schema], options: list[Schema], name: str) -> None:
        """Refuse options that may both match what one of them writes."""
        if have_tags(options, self.document):
            return
        if len(options) > _MAX_COMPARED:
            problem = f"has {len(options)} options, too many to tell that none matches another's"
            self._leave_out(name, NotSupported("oneOf", problem))
            return
        for i, schema in enumerate(merged):
            for j, other in enumerate(options):
                if i != j and not are_disjoint(schema, other, self.document):
                    problem = f"options {i} and {j} may both match one value (write `anyOf`?)"
                    self._leave_out(name, NotSupported("oneOf", problem))
                    return

    def _typed(self, kind: str, s: Plain, name: str) -> Node:
        if kind in ("null", "boolean"):
            return Ref(kind)
        family = FAMILIES["number" if kind == "integer" else kind]
        keywords = {"type": kind, **{k: s[k] for k in family if k in s}}
        for _ in range(len(keywords)):
            try:
                return _BUILDERS[kind](self, keywords, name)
            except NotSupported as problem:
                self._leave_out(name, problem)
                keywords = {k: v for k, v in keywords.items() if k != problem.keyword}
        return Ref(kind)


def _orders(schema: Any) -> list[Any]:
    """Return the order of properties, in which otherwise equal schemas may differ."""
    spend()
    if isinstance(schema, dict):
        rule = list(schema["properties"]) if isinstance(schema.get("properties"), dict) else []
        return [rule, *(_orders(value) for _, value in sorted(schema.items()))]
    return [_orders(value) for value in schema] if isinstance(schema, list) else []
