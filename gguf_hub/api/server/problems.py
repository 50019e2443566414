"""What is wrong with a body, in words: where, what was expected and what was found.

pydantic reports an error for each alternative of a value that may be of several kinds. Here they
are one: of the alternatives that the value comes closest to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Place = tuple[Any, ...]

MAX_PROBLEMS = 5
_MAX_ERRORS = 2000  # that are looked at: an object may have as many as a body has values
_MAX_CHARACTERS = 60  # of a key or a value in a message


@dataclass(frozen=True)
class _Problem:
    """An error of one alternative.

    Attributes:
        place: Keys and indices that lead to the value.
        expected: What it should be; empty where ``text`` says all.
        found: What it is.
        text: What is wrong, otherwise.
    """

    place: Place
    expected: str = ""
    found: str = ""
    text: str = ""


def problems_of(errors: Sequence[Mapping[str, Any]], body: Any, *, n_outer: int = 0) -> list[str]:
    """Return what is wrong with a body, at most ``MAX_PROBLEMS`` of it.

    Args:
        errors: pydantic's.
        body: The body, which tells its keys from names of alternatives; None where it is unknown.
        n_outer: How many parts in front of each place name none of the body.
    """
    groups: dict[Place, dict[Any, list[_Problem]]] = {}
    for error in errors[:_MAX_ERRORS]:
        loc, is_missing = error["loc"][n_outer:], error["type"] == "missing"
        place, union, branch = _locate(loc, body, is_missing=is_missing)
        group = groups.setdefault(place if branch is None else union, {})
        group.setdefault(branch, []).append(_problem(error, place))
    texts = [text for branches in groups.values() for text in _texts(_closest(branches))]
    return texts[:MAX_PROBLEMS]


def _locate(loc: Place, body: Any, *, is_missing: bool) -> tuple[Place, Place, Any]:
    """Return the place of an error, that of the outermost choice there, and the alternative."""
    if body is None:
        return loc, (), None
    place: list[Any] = []
    union, branch, value = (), None, body
    for i, part in enumerate(loc):
        if _has(value, part):
            value = value[part]
            place.append(part)
        elif is_missing and i == len(loc) - 1:
            place.append(part)
        elif branch is None:
            union, branch = tuple(place), part
    return tuple(place), union, branch


def _has(value: Any, part: Any) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _closest(branches: Mapping[Any, Sequence[_Problem]]) -> list[_Problem]:
    """Return the problems of the alternatives that were read furthest."""

    def end(problems: Sequence[_Problem]) -> Place:
        """Return the place that a branch got to before its last problem."""
        indices = (tuple(p if isinstance(p, int) else 0 for p in each.place) for each in problems)
        return max(indices)

    innermost = [_innermost(problems) for problems in branches.values()]
    furthest = max(map(end, innermost))
    return [each for problems in innermost if end(problems) == furthest for each in problems]


def _innermost(problems: Sequence[_Problem]) -> list[_Problem]:
    """Return problems without those of values that have others inside: there, a choice failed."""
    outer = {each.place[:n] for each in problems for n in range(len(each.place))}
    return [each for each in problems if each.place not in outer]


def _texts(problems: Sequence[_Problem]) -> Iterator[str]:
    """Yield a text for each place."""
    at: dict[Place, list[_Problem]] = {}
    for problem in problems:
        at.setdefault(problem.place, []).append(problem)
    for place, found in at.items():
        expected = list(dict.fromkeys(each.expected for each in found if each.expected))
        quoted = (each.found for each in found if each.found.startswith("`"))
        text = f"expected {_joined(expected)}, found {next(quoted, found[0].found)}"
        own = next((each.text for each in found if each.text), text)
        name = ".".join(str(part)[:_MAX_CHARACTERS] for part in place)
        yield f"{name}: {own}" if name else own


def _joined(texts: Sequence[str]) -> str:
    *before, last = texts or ("another value",)
    return f"{', '.join(before)} or {last}" if before else last


# -- single errors --------------------------------------------------------------------------------

_KINDS = {
    "string_type": "text", "int_type": "a whole number", "int_parsing": "a whole number",
    "int_from_float": "a whole number", "int_parsing_size": "a smaller number",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
    "bool_type": "true or false", "bool_parsing": "true or false", "list_type": "a list",
    "tuple_type": "a list", "dict_type": "an object", "model_type": "an object",
    "model_attributes_type": "an object",
}  # fmt: skip
_BOUNDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda ctx: f"a number of at least {ctx['ge']}",
    "less_than_equal": lambda ctx: f"a number of at most {ctx['le']}",
    "too_long": lambda ctx: f"at most {ctx['max_length']:,} values",
    "too_short": lambda ctx: f"at least {ctx['min_length']:,} values",
    "string_too_long": lambda ctx: f"at most {ctx['max_length']:,} characters",
    "literal_error": lambda ctx: _quoted(ctx["expected"]),
}


def _problem(error: Mapping[str, Any], place: Place) -> _Problem:
    kind, value, ctx = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return _Problem(place, "a value", "none")
    if kind == "union_tag_not_found":
        return _Problem((*place, "type"), "a value", "none")
    if kind == "union_tag_invalid":
        return _Problem((*place, "type"), _quoted(ctx["expected_tags"]), f"`{ctx['tag']:.60}`")
    if kind in _KINDS:
        return _Problem(place, _KINDS[kind], kind_of(value))
    if kind in _BOUNDS:
        return _Problem(place, _BOUNDS[kind](ctx), _found(kind, value))
    return _Problem(place, text=str(error["msg"]).removeprefix("Value error, "))


def _quoted(expected: str) -> str:
    """Return pydantic's list of values, as messages here have them."""
    return expected.replace("''", "empty text").replace("'", "`").replace("False", "false")


def _found(kind: str, value: Any) -> str:
    if isinstance(value, (str, list)) and kind in ("too_long", "too_short", "string_too_long"):
        return f"{len(value):,}"
    if isinstance(value, str):
        return f"`{value[:_MAX_CHARACTERS]}`"
    return kind_of(value)


def kind_of(value: Any) -> str:
    """Return what a value is, without the content of texts, lists and objects."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        number = repr(value)
        return number if len(number) <= _MAX_CHARACTERS else "a longer number"
    names: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "another value")
