"""Byte ranges."""

from __future__ import annotations

import pytest

from gguf_hub.hub.mirror.ranges import parse_range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("Bytes=99-99", (99, 100)),
    ],
)
def test_one_range(text: str, expected: tuple[int, int]) -> None:
    found = parse_range(text, 100)
    assert found is not None
    assert (found.start, found.stop) == expected
    assert found.content_range == f"bytes {expected[0]}-{expected[1] - 1}/100"


@pytest.mark.parametrize(
    "text",
    [None, "", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "items=0-1", "bytes=a-b",
     "bytes=" + "9" * 5000 + "-", "bytes=1.5-2", "bytes=+1-2", "bytes=١-٢", "bytes=0x1-"],
)  # fmt: skip
def test_what_is_no_single_range_means_the_whole_file(text: str | None) -> None:
    assert parse_range(text, 100) is None


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_served(text: str) -> None:
    found = parse_range(text, 100)
    assert found is not None
    assert found.content_range == "bytes */100"


def test_no_range_of_an_empty_file_can_be_served() -> None:
    for text in ("bytes=0-", "bytes=-1"):
        found = parse_range(text, 0)
        assert found is not None
        assert found.content_range == "bytes */0"


def test_if_range_of_another_file_means_the_whole_file() -> None:
    assert parse_range("bytes=1-2", 100, if_range='"new"', etag='"old"') is None
    assert parse_range("bytes=1-2", 100, if_range='"old"', etag='"old"') is not None
