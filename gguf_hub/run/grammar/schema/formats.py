"""Formats of strings as regular expressions: each describes texts that any checker of it accepts.

They leave out what is rare (comments in addresses, labels of 63 characters), so that a text with a
format comes to an end. Beside a length, long formats lose their own counts to keep within the
other.

Source: JSON Schema 2020-12, Validation, section 7.3, and the RFCs that it names.
"""

from __future__ import annotations

from gguf_hub.run.grammar.gbnf import Alt, Repeat, Seq
from gguf_hub.run.grammar.language import MAX_STATES, Language
from gguf_hub.run.grammar.pattern import Pattern, read_pattern
from gguf_hub.run.grammar.regex import parse_pattern
from gguf_hub.run.grammar.schema.lengths import length_range

_YEAR = r"[1-9]\d{3}"
_LEAP_YEAR = r"(?:[1-9]\d(?:0[48]|[2468][048]|[13579][26])|(?:1[26]|[2468][048]|[3579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
    rf"|(?:0[13578]|1[02])-31)|{_LEAP_YEAR}-02-29)"
)
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_CLOCK}:[0-5]\d(?:\.\d{{1,9}})?(?:Z|[+-]{_CLOCK})"
_HEX4 = r"[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(
    (
        rf"(?:{_HEX4}:){{7}}{_HEX4}",
        rf"(?:{_HEX4}:){{1,7}}:",
        *(rf"(?:{_HEX4}:){{1,{7 - n}}}(?::{_HEX4}){{1,{n}}}" for n in range(1, 7)),
        rf":(?:(?::{_HEX4}){{1,7}}|:)",
    )
)
_LABEL = r"[A-Za-z0-9]{1,32}(?:-[A-Za-z0-9]{1,16}){0,2}"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,4}}"
_ATOM = r"[A-Za-z0-9_+%-]{1,32}"
_EMAIL = rf"{_ATOM}(?:\.{_ATOM}){{0,3}}@{_LABEL}(?:\.{_LABEL}){{0,2}}\.[A-Za-z]{{2,12}}"
_SEGMENT = r"(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2}){1,32}"
_QUERY = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2}){0,64}"
_TAIL = rf"(?:\?{_QUERY})?(?:#{_QUERY})?"
_PATH = rf"(?:/{_SEGMENT}){{0,6}}/?"
_URI = (
    rf"[a-z][a-z0-9+.-]{{1,15}}:"
    rf"(?://{_HOST}(?::[1-9]\d{{0,3}})?|{_SEGMENT}(?::{_SEGMENT}){{0,3}}){_PATH}{_TAIL}"
)
_REFERENCE = rf"{_URI}|(?:{_SEGMENT})?{_PATH}{_TAIL}"
_POINTER = r"(?:/(?:[^~/]|~[01]){0,64}){0,16}"


def _units(*letters: str) -> str:
    """Return counts with these letters in order, none left out between two."""
    chains = []
    for i in range(len(letters)):
        chain = ""
        for letter in reversed(letters[i:]):
            chain = rf"\d{{1,4}}{letter}" + (f"(?:{chain})?" if chain else "")
        chains.append(chain)
    return f"(?:{'|'.join(chains)})"


_DURATION_TIME = f"T{_units('H', 'M', 'S')}"
_DURATION = rf"P(?:\d{{1,4}}W|{_units('Y', 'M', 'D')}(?:{_DURATION_TIME})?|{_DURATION_TIME})"

FORMATS = {
    name: f"^(?:{pattern})$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}T{_TIME}",
        "duration": _DURATION,
        "uuid": r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}",
        "ipv4": r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)",
        "ipv6": _IPV6,
        "email": _EMAIL,
        "idn-email": _EMAIL,
        "hostname": _HOST,
        "idn-hostname": _HOST,
        "uri": _URI,
        "iri": _URI,
        "uri-reference": _REFERENCE,
        "iri-reference": _REFERENCE,
        "uri-template": _REFERENCE,
        "json-pointer": _POINTER,
        "relative-json-pointer": rf"(?:0|[1-9]\d{{0,3}})(?:#|{_POINTER})",
    }.items()
}
"""Format -> a regular expression of whole texts."""

NOTES = frozenset({"password", "binary"})
"""Formats of strings (OpenAPI's) that restrict nothing."""

_SHORT = 64  # characters up to which a format is counted as it is
_MAX_LABEL = 63


def of_length(name: str, low: int, high: int | None) -> Language:
    """Return the texts of a format that have ``low`` to ``high`` characters.

    Of long formats it has those that are short enough to be counted, in a few thousand states, and
    with names of hosts those that cannot have too long a label.

    Raises:
        PatternError: They are too many to count.
    """
    tree = read_pattern(FORMATS[name])
    _, longest = length_range(parse_pattern(FORMATS[name]))
    if longest is None or longest > _SHORT:
        loose = Language.of_tree(_loosened(tree))
        most = MAX_STATES // len(loose.rows)
        if name in ("email", "idn-email", "hostname", "idn-hostname"):
            most = _MAX_LABEL
        if low <= most:
            return loose & Language.of_length(low, most if high is None else min(high, most))
    return Language.of_tree(tree) & Language.of_length(low, high)


def _loosened(tree: Pattern) -> Pattern:
    """Return a pattern with loops instead of counts that vary."""
    if isinstance(tree, Seq):
        return Seq(tuple(map(_loosened, tree.items)))
    if isinstance(tree, Alt):
        return Alt(tuple(map(_loosened, tree.options)))
    if not isinstance(tree, Repeat):
        return tree
    varies = tree.high is not None and tree.high > max(tree.low, 1)
    return Repeat(_loosened(tree.item), tree.low, None if varies else tree.high)
