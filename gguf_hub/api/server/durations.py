"""Times as Ollama and its clients write them."""

from __future__ import annotations

import math
import re
from typing import Any

from gguf_hub.errors import UsageError

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})(ns|us|µs|ms|s|m|h)", re.ASCII)
_NEVER_S = 100 * 365.25 * 86_400  # a date so far away is none that calendars must hold
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,12})?", re.ASCII)


def duration_s(value: Any) -> float:
    """Return a time in seconds; infinite if it is negative, as in Ollama, or over 100 years.

    Args:
        value: Seconds, or text as ``5m``, ``1h30m`` or ``300``.

    Raises:
        UsageError: It is none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
        return math.inf if not 0 <= value < _NEVER_S else float(value)
    text = value.strip().lower() if isinstance(value, str) else ""
    sign, text = (text[0], text[1:]) if text.startswith(("+", "-")) else ("", text)
    seconds = _seconds(text)
    if seconds is None:
        raise UsageError(f"`{value!s:.40}`: expected a time, as 300, 5m or -1")
    return math.inf if (sign == "-" and seconds > 0) or seconds >= _NEVER_S else seconds


def _seconds(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return float(sum(float(number) * _UNITS_S[unit] for number, unit in parts))
