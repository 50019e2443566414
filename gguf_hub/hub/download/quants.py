"""Quants in names of files: how they are written, and which file a wanted one means."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from typing import TypeVar

from gguf_hub.gguf.raw_parts import parse_raw_part

# Names in use: Q4_K_M, IQ2_XXS, Q4_0_4_8, TQ1_0, IQ4_KSS, IQ1_S_R4 and I2_S (ik_llama.cpp,
# BitNet), MXFP4_MOE, NVFP4; before them what tells apart two files of one quant: UD- (unsloth),
# i1- (mradermacher: by importance matrix), smol- (ubergarm), DQ- (dynamic). APEX: mudler's own.
_PREFIX = r"(?:(?:UD|i1|smol|DQ)-)*"
_FLOAT = r"BF16|FP?(?:16|32)|FP8"
_MIX = (
    r"(?:I|T)?Q\d(?:_(?:\d{1,2}|K\d{0,2}[STLV]{0,2}|X{0,3}[SL]|M|NL|P|R\d{1,2}))*"
    r"|I2_S|MXFP[468](?:_MOE)?|NVFP4"
)
_APEX = r"APEX-(?:I-)?(?:Nano|Mini|Compact|Balanced|Quality)"
_UNKNOWN = rf"{_PREFIX}[IT]?Q\d(?:_[A-Z0-9]+)*"
_QUANT = rf"(?:{_PREFIX}(?:{_FLOAT}|{_MIX})|{_APEX})"
_IN_NAME = re.compile(rf"(?<![A-Za-z0-9]){_QUANT}(?![A-Za-z0-9])", re.IGNORECASE)
_IS_FLOAT = re.compile(rf"{_PREFIX}(?:{_FLOAT})", re.IGNORECASE)
_SUFFIXES = re.compile(r"(?:-\d{5}-of-\d{5})?\.gguf(?:_file)?$", re.IGNORECASE)
_FP = re.compile(r"(?<![a-z0-9])fp(?=16|32)")
_LETTERS = frozenset(string.ascii_lowercase + string.digits)
_MAX_CHARS = 1000  # no file system takes longer names; looking for quants goes back and forth
_AS_TEXT = 9
"""Farther than any quant whose prefixes were not asked for."""
_T = TypeVar("_T")


def stem_of(path: str) -> str:
    """Return a path without what says that it is a GGUF, a shard or a raw part."""
    path = path[-_MAX_CHARS:]
    part = parse_raw_part(path)
    return _SUFFIXES.sub("", part.whole if part else path)


def looks_like_quant(text: str) -> bool:
    """Return whether ``text`` by itself is written like a quant, known or not, in any case."""
    return re.fullmatch(rf"{_QUANT}|{_UNKNOWN}", text, re.IGNORECASE) is not None


def quant_of(path: str) -> str | None:
    """Return the quant that a path names, as it is written there, or None.

    The file's name comes before that of its folder. Of several the last one counts, but a float
    only where there is nothing else: in ``f16.Q6_K`` and ``Q8_0.f16`` it is the type of a few
    tensors.
    """
    for name in stem_of(path).split("/")[:-3:-1]:
        quants: list[str] = _IN_NAME.findall(name)
        if quants:
            return next((q for q in reversed(quants) if not _IS_FLOAT.fullmatch(q)), quants[-1])
    return None


def quant_distance(path: str, quant: str) -> int | None:
    """Return how far a path is from a wanted quant, in any case; None for another quant.

    0 is exactly this quant. 1 has a prefix that was not asked for, as ``UD-Q4_K_XL`` for
    ``Q4_K_XL``, and so on. Farthest are paths that name the wanted text elsewhere, between
    separators. ``Q4_K`` is no match for ``Q4_K_M``, nor is ``Q4_K_M`` for ``IQ4_K_M``.
    """
    wanted = _fold(quant)
    parts = _fold(quant_of(path) or "").split("-")
    for n_left_out in range(len(parts)):
        if "-".join(parts[n_left_out:]) == wanted:
            return n_left_out
    return _AS_TEXT if _names(_fold(stem_of(path)), wanted) else None


def nearest(files: Iterable[_T], quant: str, path_of: Callable[[_T], str]) -> list[_T]:
    """Return the files of the smallest distance from a quant, in order: exact before near."""
    distances = [(file, quant_distance(path_of(file), quant)) for file in files]
    least = min((d for _, d in distances if d is not None), default=None)
    return [file for file, distance in distances if distance is not None and distance == least]


def _names(text: str, wanted: str) -> bool:
    """Return whether a text holds another between separators."""
    # an underscore may stand before a quant (`model_q4_0.gguf`) but not inside one
    before = _LETTERS if looks_like_quant(wanted) else _LETTERS | {"_"}
    after = _LETTERS | {"_"}
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        if text[max(at - 1, 0) : at] not in before and text[end : end + 1] not in after:
            return True
        at = text.find(wanted, at + 1)
    return False


def _fold(text: str) -> str:
    """Ignore case, and that F16 is written FP16 too."""
    return _FP.sub("f", text.lower())
