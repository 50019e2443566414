"""Where the parts of a schema document stand, and what their references point to.

Source: JSON Schema 2020-12 Core, sections 8.2 (``$id``, ``$anchor``, ``$ref``) and 9.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urljoin

from gguf_hub.budget import spend
from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar.pattern import InvalidPatternError, PatternError, read_pattern

Schema = Any

_SCHEMAS = frozenset({
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items",
    "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_MAPS = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties",
                   "properties"})  # fmt: skip
_IN_PLACE = ("allOf", "anyOf", "oneOf", "then", "else", "if", "not")
_MAX_SEARCHED = 200
_ENTRY_BYTES = 300


class References:
    """The index of a document: pointers, base URIs and anchors of its schemas.

    Where parts have URIs of their own, the document is copied and its references are made
    absolute: equal ones then mean the same.

    Attributes:
        root: The document, or its copy.

    Raises:
        GrammarError: A text of it cannot be written, or a pattern is no regular expression.
    """

    def __init__(self, root: Schema) -> None:
        _check_texts(root)
        self.root = root
        self._index()
        if len(self._resources) > 1:
            self.root = copy.deepcopy(root)
            self._index()
            for _, base, schema in self._entries.values():
                for keyword in ("$ref", "$dynamicRef"):
                    if isinstance(schema.get(keyword), str):
                        uri, sharp, fragment = schema[keyword].partition("#")
                        schema[keyword] = f"{_join(base, uri)}{sharp}{fragment}"
        self._is_absolute = len(self._resources) > 1

    def _index(self) -> None:
        self._entries: dict[int, tuple[str, str, Schema]] = {}  # id -> (pointer, base, schema)
        self._resources: dict[str, Schema] = {}
        self._anchors: dict[tuple[str, str], Schema] = {}
        self._dynamic: dict[str, list[Schema]] = {}
        self._walk(self.root, "", "")
        self._resources.setdefault("", self.root)

    def pointer(self, schema: Schema) -> str | None:
        """Return the JSON pointer of a part of the document, None for a schema made of parts."""
        entry = self._entries.get(id(schema))
        return None if entry is None else entry[0]

    def place(self, schema: Schema, keyword: str) -> str | None:
        """Return the JSON pointer of a keyword in a schema or in what applies beside it."""
        queue: list[Schema] = [schema]
        visited: set[int] = set()
        for at in queue:  # which grows
            if not isinstance(at, dict) or id(at) in visited or len(visited) > _MAX_SEARCHED:
                continue
            visited.add(id(at))
            pointer = self.pointer(at)
            if keyword in at and pointer is not None:
                return f"{pointer}/{escape(keyword)}"
            for name in _IN_PLACE:
                inner = at.get(name, ())
                queue += inner if isinstance(inner, list) else [inner]
            queue += [self.resolve(at, key) for key in ("$ref", "$dynamicRef") if key in at]
        return None

    def resolve(self, schema: Mapping[str, Any], keyword: str = "$ref") -> Schema:
        """Return what a reference in a schema points to.

        Args:
            schema: Has the reference.
            keyword: ``$ref`` or ``$dynamicRef``.

        Raises:
            GrammarError: It points outside of the document, or to nothing.
            LookupError: Only who follows it, schema by schema, knows where ``$dynamicRef`` points.
        """
        ref = schema[keyword]
        pointer, base, _ = self._entries.get(id(schema), ("", "", None))
        base = "" if self._is_absolute else base
        target = self._find(ref, base, f"{pointer}/{escape(keyword)}")
        name = ref.partition("#")[2]
        if keyword == "$dynamicRef" and isinstance(target, dict) and (
            target.get("$dynamicAnchor") == name
        ) and len(self._dynamic[name]) > 1:  # fmt: skip
            raise LookupError(f"has {len(self._dynamic[name])} anchors `{name}` to choose from")
        return target

    def _find(self, ref: Any, base: str, place: str) -> Schema:
        if not isinstance(ref, str):
            raise GrammarError(f"schema, at `{place}`: expected a text, found {ref!r:.60}")
        uri, _, fragment = ref.partition("#")
        uri = _join(base, uri)
        if uri not in self._resources:
            raise GrammarError(
                f"schema, at `{place}`: `{ref}` leaves the document",
                hint="put what it refers to under `$defs` and refer to `#/$defs/...`",
            )
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            if (uri, fragment) not in self._anchors:
                raise GrammarError(f"schema, at `{place}`: `{ref}` points to nothing: no anchor "
                                   f"`{fragment}`")  # fmt: skip
            return self._anchors[uri, fragment]
        return self._follow(self._resources[uri], uri, fragment, f"schema, at `{place}`: `{ref}`")

    def _follow(self, at: Schema, base: str, pointer: str, what: str) -> Schema:
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, list) and key.isdecimal() and int(key) < len(at):
                at = at[int(key)]
            elif isinstance(at, dict) and key in at:
                at = at[key]
                base = self._entries.get(id(at), ("", base))[1]
            else:
                raise GrammarError(f"{what} points to nothing: no `{key}`")
        if isinstance(at, dict) and id(at) not in self._entries:  # under a keyword of its own
            self._walk(at, pointer, base)
        return at

    def _walk(self, root: Schema, pointer: str, base: str) -> None:
        """Index a schema and those inside."""
        stack = [(root, pointer, base)]
        while stack:
            schema, pointer, base = stack.pop()
            if not isinstance(schema, dict) or id(schema) in self._entries:
                continue
            spend(_ENTRY_BYTES + len(pointer))
            base = self._name(schema, base)
            self._entries[id(schema)] = pointer, base, schema
            _check_patterns(schema, pointer)
            stack += [(part, f"{pointer}/{name}", base) for name, part in _parts(schema)]

    def _name(self, schema: dict[str, Any], base: str) -> str:
        """Note the names of a schema; return the base URI of those inside."""
        own = schema.get("$id")
        if isinstance(own, str) and own:
            uri, _, fragment = own.partition("#")
            base = _join(base, uri)
            if uri:
                self._resources.setdefault(base, schema)
            if fragment:  # draft 6 and 7
                self._anchors.setdefault((base, fragment), schema)
        for keyword in ("$anchor", "$dynamicAnchor"):
            name = schema.get(keyword)
            if isinstance(name, str):
                self._anchors.setdefault((base, name), schema)
                if keyword == "$dynamicAnchor":
                    self._dynamic.setdefault(name, []).append(schema)
        return base


def escape(key: str) -> str:
    """Return a key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _join(base: str, uri: str) -> str:
    try:
        return urljoin(base, uri) if uri else base
    except ValueError:  # such as `http://[`
        return uri


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, Schema]]:
    """Yield (end of the pointer, schema) of all schemas directly inside one."""
    for keyword, value in schema.items():
        if keyword in _SCHEMAS and isinstance(value, dict):
            yield keyword, value
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((f"{keyword}/{i}", part) for i, part in enumerate(value))
        elif keyword in _MAPS and isinstance(value, dict):
            yield from ((f"{keyword}/{escape(str(name))}", part) for name, part in value.items())


def _check_patterns(schema: dict[str, Any], pointer: str) -> None:
    """Refuse what is no regular expression; what is not supported is left to who needs it."""
    patterns = [("pattern", schema.get("pattern"))]
    if isinstance(schema.get("patternProperties"), dict):
        patterns += [("patternProperties", pattern) for pattern in schema["patternProperties"]]
    for keyword, pattern in patterns:
        try:
            if isinstance(pattern, str):
                read_pattern(pattern)
        except InvalidPatternError as exc:
            raise GrammarError(
                f"schema, at `{pointer}/{keyword}`: `{pattern}`: {exc}",
                hint="patterns are ECMAScript's regular expressions",
            ) from exc
        except PatternError:
            continue


def _check_texts(root: Any) -> None:
    """Refuse halves of surrogate pairs, which no output can have."""
    stack = [(root, "")]
    while stack:
        at, pointer = stack.pop()
        if isinstance(at, str):
            try:
                at.encode()
            except UnicodeEncodeError as exc:
                problem = "expected a text, found half of a surrogate pair"
                raise GrammarError(f"schema, at `{pointer}`: {problem}") from exc
            continue
        spend()
        if isinstance(at, list):
            stack += [(part, f"{pointer}/{i}") for i, part in enumerate(at)]
        elif isinstance(at, dict):
            keys = [(key, f"{pointer} (a key)") for key in at if isinstance(key, str)]
            parts = [(v, f"{pointer}/{_printable(k)}") for k, v in at.items()]
            stack += keys + parts


def _printable(key: Any) -> str:
    return escape(str(key)).encode("utf-8", "backslashreplace").decode("utf-8")
