"""The map of replacements: every key is found, the longest first, and damage is named."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import TokenizerError
from gguf_hub.gguf.charsmap import Charsmap, charsmap_problem
from tests.gguf.charsmaps import charsmap

texts = st.text(alphabet="abé漢\u0301", max_size=6)


@given(
    rules=st.dictionaries(texts.filter(bool), texts, min_size=1, max_size=12), text=texts,
)  # fmt: skip
def test_the_longest_key_is_found(rules: dict[str, str], text: str) -> None:
    data = charsmap(rules)
    assert charsmap_problem(data) == ""
    keys = [key for key in rules if text.startswith(key)]
    longest = max(keys, key=len, default="")
    expected = rules[longest].encode() if keys else b""
    found = Charsmap(data).find(b"\xff" + text.encode(), 1)
    assert found == (len(longest.encode()), expected)


def test_distances_may_count_in_256s() -> None:
    # the root's children are 256 away: a 1 shifted, instead of a 256
    units = [(1 << 10) | (1 << 9), *[0] * 511]
    units[256 ^ ord("a")] = ord("a") | 1 << 8 | (256 ^ ord("a") ^ 2) << 10
    units[2] = 1 << 31
    data = struct.pack("<I512I", 2048, *units) + b"b\0"
    assert Charsmap(data).find(b"a", 0) == (1, b"b")


def test_a_map_is_not_followed_out_of_itself() -> None:
    data = bytearray(charsmap({"a": "b"}))
    data[4:8] = struct.pack("<I", 0x1FFFFF << 10)
    with pytest.raises(TokenizerError, match="leads out of itself") as caught:
        Charsmap(bytes(data)).find(b"a", 0)
    assert caught.value.hint


def test_an_offset_behind_the_replacements_is_an_error() -> None:
    good = charsmap({"a": "b"})
    end = 4 + struct.unpack_from("<I", good)[0]
    units = np.frombuffer(good[4:end], "<u4").copy()
    units[units >> 31 == 1] += 9
    data = good[:4] + units.tobytes() + good[end:]
    with pytest.raises(TokenizerError, match="leads out of itself"):
        Charsmap(data).find(b"a", 0)


def test_no_map_finds_nothing() -> None:
    assert charsmap_problem(b"") == ""
    assert Charsmap(b"").find(b"abc", 1) == (0, b"")
