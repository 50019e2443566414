"""Formats of strings as regular expressions: each describes texts that any checker of it accepts.

They leave out what is rare (comments in addresses, labels of 63 characters), so that a text with a
format comes to an end.

Source: JSON Schema 2020-12, Validation, section 7.3, and the RFCs that it names.
"""

from __future__ import annotations

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
_SEGMENT = r"(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2}){1,64}"
_QUERY = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2}){0,128}"
_TAIL = rf"(?:\?{_QUERY})?(?:#{_QUERY})?"
_URI = (
    rf"(?:https?|ftp|wss?)://{_HOST}(?::[1-9]\d{{0,3}})?(?:/{_SEGMENT}){{0,8}}/?{_TAIL}"
    rf"|(?:mailto:{_EMAIL}|urn:[a-z0-9]{{2,16}}:{_SEGMENT})"
)
_REFERENCE = rf"{_URI}|/?(?:{_SEGMENT}(?:/{_SEGMENT}){{0,8}})?/?{_TAIL}"
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
