"""Memory to judge by: it stands while little changes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.hub.hardware import steady_bytes

BAND = 100


@settings(deadline=None, max_examples=50)
@given(figures=st.lists(st.integers(0, 1000), min_size=1, max_size=12))
def test_it_is_never_further_off_than_the_band_and_changes_only_then(figures: list[int]) -> None:
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_HOME", home)
        last: int | None = None
        for available in figures:
            found = steady_bytes("here", available, BAND)
            assert abs(found - available) <= BAND
            is_near = last is not None and abs(last - available) <= BAND
            assert found == (last if is_near else available)
            last = found


def test_machines_are_told_apart_and_nonsense_is_forgotten(tmp_path: Path) -> None:
    assert steady_bytes("one", 500, BAND) == 500
    assert steady_bytes("two", 520, BAND) == 520
    (file,) = Path(tmp_path).rglob("memory.json")
    for text in ("nonsense", "[]", '{"one": "much"}'):
        file.write_text(text)
        assert steady_bytes("one", 530, BAND) == 530
