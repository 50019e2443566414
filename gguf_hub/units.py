"""Sizes, rates and times: parsing what people type and printing what people read.

Sizes are decimal (GB = 10**9 bytes) unless the text says GiB, as on the model card.
"""

from __future__ import annotations

import re

from gguf_hub.errors import UsageError

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40

_FACTORS = {
    "": 1, "b": 1,
    "k": KB, "kb": KB, "kib": KIB,
    "m": MB, "mb": MB, "mib": MIB,
    "g": GB, "gb": GB, "gib": GIB,
    "t": TB, "tb": TB, "tib": TIB,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,20}(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)")


def parse_size(text: str, *, default_unit: str | None = "b") -> int:
    """Return the bytes that ``text`` names.

    Args:
        text: ``"24GB"``, ``"24 gib"``, ``"1.5g"``, ``"500M"``; letters in any case.
        default_unit: What a bare number counts, e.g. ``"gb"`` for options that take gigabytes;
            None to refuse it.

    Raises:
        UsageError: The text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = (match[2] or default_unit) if match else None
    factor = None if unit is None else _FACTORS.get(unit.lower())
    if match is None or factor is None:
        raise UsageError(
            f"`{text}` is not a size: expected a number and a unit",
            hint="write for example 24GB (decimal), 24GiB (binary) or 500MB",
        )
    return round(float(match[1]) * factor)


def format_gb(size_bytes: int) -> str:
    """Return decimal gigabytes with two places, as the model card prints them: ``26.44 GB``."""
    return f"{size_bytes / GB:.2f} GB"


def format_size(size_bytes: int) -> str:
    """Return a decimal size in the largest unit that keeps it at 1 or more: ``717.6 kB``."""
    for factor, unit in ((TB, "TB"), (GB, "GB"), (MB, "MB"), (KB, "kB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.{2 if factor >= GB else 1}f} {unit}"
    return f"{size_bytes} B"


def format_gib(size_bytes: int) -> str:
    """Return binary gibibytes with two places: ``24.62 GiB``."""
    return f"{size_bytes / GIB:.2f} GiB"


def format_count(n: int) -> str:
    """Return a count as people say it: ``46.70 B``, ``260.0 k``."""
    for factor, unit in ((GB, "B"), (MB, "M"), (KB, "k")):
        if n >= factor:
            return f"{n / factor:.{2 if factor >= MB else 1}f} {unit}"
    return str(n)


def format_duration(seconds: float) -> str:
    """Return a duration for people: ``0.8 s``, ``47 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
