"""Times as Ollama's clients write them."""

from __future__ import annotations

import math

import pytest

from gguf_hub.api.server.durations import duration_s
from gguf_hub.errors import UsageError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(300, 300), ("5m", 300), ("1h30m", 5400), ("300", 300), (0, 0), (-1, math.inf),
     ("-1", math.inf), (10**12, math.inf), ("99999999h", math.inf), (1e308, math.inf)],
)  # fmt: skip
def test_a_time_in_seconds(value: object, seconds: float) -> None:
    assert duration_s(value) == seconds


@pytest.mark.parametrize("value", ["", "x", "5 m", True, None, math.nan, [5]])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="expected a time"):
        duration_s(value)
