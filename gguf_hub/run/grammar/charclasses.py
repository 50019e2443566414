r"""Classes of characters of regular expressions, as ECMAScript has them with the flag ``u``.

Source: ECMA-262 (2024), 22.2.2 CharacterClassEscape and UnicodeMatchProperty.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import groupby

from gguf_hub.run.grammar.gbnf import MAX_CODE_POINT, Ranges, complement, normalise

ANY: Ranges = ((0, MAX_CODE_POINT),)
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_DIGITS: Ranges = ((0x30, 0x39),)
_SPACES: Ranges = (
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip

LETTERS: dict[str, Ranges] = {
    "d": _DIGITS, "w": WORD, "s": _SPACES, ".": complement(LINE_ENDS),
    "D": complement(_DIGITS), "W": complement(WORD), "S": complement(_SPACES),
}  # fmt: skip
r"""Letter of an escape -> its characters: ``d`` for ``\d``; ``.`` stands for itself."""

_LONG_NAMES = {
    "Letter": "L", "Cased_Letter": "LC", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll",
    "Titlecase_Letter": "Lt", "Modifier_Letter": "Lm", "Other_Letter": "Lo", "Mark": "M",
    "Nonspacing_Mark": "Mn", "Spacing_Mark": "Mc", "Enclosing_Mark": "Me", "Number": "N",
    "Decimal_Number": "Nd", "digit": "Nd", "Letter_Number": "Nl", "Other_Number": "No",
    "Punctuation": "P", "punct": "P", "Connector_Punctuation": "Pc", "Dash_Punctuation": "Pd",
    "Open_Punctuation": "Ps", "Close_Punctuation": "Pe", "Initial_Punctuation": "Pi",
    "Final_Punctuation": "Pf", "Other_Punctuation": "Po", "Symbol": "S", "Math_Symbol": "Sm",
    "Currency_Symbol": "Sc", "Modifier_Symbol": "Sk", "Other_Symbol": "So", "Separator": "Z",
    "Space_Separator": "Zs", "Line_Separator": "Zl", "Paragraph_Separator": "Zp", "Other": "C",
    "Control": "Cc", "cntrl": "Cc", "Format": "Cf", "Private_Use": "Co", "Unassigned": "Cn",
    "Surrogate": "Cs",
}  # fmt: skip


def unicode_property(text: str) -> Ranges | None:
    r"""Return the characters of ``\p{text}``, None where Python's Unicode data does not have it.

    It has general categories (``L``, ``Lu``, ``gc=Letter``), and no scripts.
    """
    if text in ("Any", "ASCII"):
        return ANY if text == "Any" else ((0x00, 0x7F),)
    key, sign, value = text.partition("=")
    if sign and key not in ("gc", "General_Category"):
        return None
    name = value if sign else key
    return _categories().get(_LONG_NAMES.get(name, name))


@lru_cache(maxsize=1)
def _categories() -> dict[str, Ranges]:
    """Return the characters of each general category, and of each group of them."""
    runs: dict[str, list[tuple[int, int]]] = {}
    start = 0
    for category, chars in groupby(map(unicodedata.category, map(chr, range(MAX_CODE_POINT + 1)))):
        after = start + sum(1 for _ in chars)
        for group in (category, category[0], *(["LC"] if category in ("Lu", "Ll", "Lt") else [])):
            runs.setdefault(group, []).append((start, after - 1))
        start = after
    return {name: normalise(ranges) for name, ranges in runs.items()}
