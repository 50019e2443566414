"""Strings of a schema: lengths, patterns, formats and texts that they may not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from gguf_hub.run.grammar.gbnf import Chars, Literal, Node, Ref
from gguf_hub.run.grammar.language import Language
from gguf_hub.run.grammar.pattern import PatternError
from gguf_hub.run.grammar.regex import parse_pattern
from gguf_hub.run.grammar.schema.conversion import FAMILIES, Conversion
from gguf_hub.run.grammar.schema.formats import FORMATS, NOTES, of_length
from gguf_hub.run.grammar.schema.lengths import with_length
from gguf_hub.run.grammar.schema.merge import NotSupported, Plain, all_of
from gguf_hub.run.grammar.schema.strings import in_json, unlike
from gguf_hub.run.grammar.trees import EMPTY, NOTHING, alt, repeat, seq


def string(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the strings of a schema."""
    return seq(Literal('"'), _text(conversion, s, name), Literal('"'))


def language_of(conversion: Conversion, s: Plain) -> Language:
    """Return the texts that a plain schema of strings allows.

    Raises:
        NotSupported: It has keywords beside those of strings.
    """
    if "anyOf" in s:
        rest = {k: v for k, v in s.items() if k != "anyOf"}
        union = Language.of_texts(())
        for option in s["anyOf"]:
            plain = conversion.document.plain(all_of(rest, option))
            union = union | language_of(conversion, plain) if isinstance(plain, dict) else union
        return union
    if s.keys() - {"type", "enum", *FAMILIES["string"]}:
        raise NotSupported("propertyNames", "has more than a few keywords of strings")
    if "string" not in s.get("type", ["string"]):
        return Language.of_texts(())
    whole = Language.everything()
    if "enum" in s:
        whole = Language.of_texts(value for value in s["enum"] if isinstance(value, str))
    return _narrowed(conversion, whole, list(_conditions(conversion, s)))


def rules_of(conversion: Conversion, language: Language, name: str) -> Node:
    """Return what stands in a JSON string for a set of texts: one rule for each state."""
    if language.is_empty:
        return NOTHING
    prefix = conversion.fresh(f"{name}-text")
    char = cache(lambda ranges: in_json(Chars(ranges)))
    for state, edges in enumerate(language.edges()):
        steps = [seq(char(chars), Ref(f"{prefix}--{after}")) for after, chars in edges.items()]
        end = [EMPTY] if language.accepting[state] else []
        conversion.rules[f"{prefix}--{state}"] = alt(*steps, *end)
    return Ref(f"{prefix}--0")


@dataclass(frozen=True)
class _Condition:
    """Something that texts must satisfy: as a set, and as a pattern where it is one.

    Attributes:
        keyword: Says it.
        language: Makes the set.
        pattern: Describes it, too.
        is_negated: Whether texts may not be in the set.
        has_length: Whether the set is of texts as long as they must be.
    """

    keyword: str
    language: Callable[[], Language]
    pattern: str | None = None
    is_negated: bool = False
    has_length: bool = False


def _text(conversion: Conversion, s: Plain, name: str) -> Node:
    low, high = _bounds(s)
    if high is not None and high < low:
        return NOTHING
    conditions = list(_conditions(conversion, s, has_length=False))
    if not conditions:
        return repeat(Ref("char"), low, high)
    if len(conditions) == 1 and low <= 1 and high is None and "_unlike" in s:
        return in_json(unlike([*s["_unlike"], *([""] if low else [])]))
    if len(conditions) == 1 and conditions[0].pattern is not None:
        tree = _tree(conditions[0].pattern, low, high)
        if tree is not None:
            return in_json(tree)
    if not any(condition.has_length for condition in conditions):
        conditions += _length(s)
    return rules_of(conversion, _narrowed(conversion, Language.everything(), conditions), name)


def _bounds(s: Plain) -> tuple[int, int | None]:
    high = s.get("maxLength")
    return int(s.get("minLength", 0)), None if high is None else int(high)


def _tree(pattern: str, low: int, high: int | None) -> Node | None:
    """Return a pattern of a length as a tree, None where it takes an automaton."""
    try:
        return with_length(parse_pattern(pattern), low, high)
    except PatternError:
        return None


def _conditions(
    conversion: Conversion, s: Plain, *, has_length: bool = True
) -> Iterator[_Condition]:
    for pattern in s.get("_patterns", ()):
        yield _pattern_condition("pattern", pattern)
    for name in s.get("_formats", ()):
        if name in FORMATS:
            has_bounds = "minLength" in s or "maxLength" in s
            counted = partial(of_length, name, *_bounds(s))
            whole = partial(Language.of_pattern, FORMATS[name])
            language = counted if has_bounds else whole
            yield _Condition("format", language, FORMATS[name], has_length=has_bounds)
        elif name not in NOTES:
            conversion.leave_out("format", f"`{name}` is not known")
    for pattern in s.get("_unmatched", ()):
        yield _Condition("not", partial(Language.of_pattern, pattern), is_negated=True)
    if "_unlike" in s:
        yield _Condition("not", lambda: Language.of_texts(s["_unlike"]), is_negated=True)
    if has_length:
        yield from _length(s)


def _pattern_condition(keyword: str, pattern: str) -> _Condition:
    return _Condition(keyword, lambda: Language.of_pattern(pattern), pattern)


def _length(s: Plain) -> Iterator[_Condition]:
    low, high = _bounds(s)
    if low > 0 or high is not None:
        keyword = "minLength" if high is None else "maxLength"
        yield _Condition(keyword, lambda: Language.of_length(low, high))


def _narrowed(conversion: Conversion, whole: Language, conditions: list[_Condition]) -> Language:
    """Return the texts that satisfy all conditions; those that are too much are left out."""
    for condition in conditions:
        try:
            language = condition.language()
            whole = whole - language if condition.is_negated else whole & language
        except PatternError as exc:
            what = f"`{condition.pattern}`: " if condition.keyword == "pattern" else ""
            conversion.leave_out(condition.keyword, f"{what}{exc}")
    return whole
