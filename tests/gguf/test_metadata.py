"""Reading metadata: the right type, or an error that names key, expectation and finding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import Field, ValueType
from gguf_hub.gguf.metadata import MAX_UINT, Metadata, or_none
from tests.gguf.test_properties import fields

READERS = ("uint", "largest", "number", "text", "flag")
TYPES = {"uint": int, "largest": int, "number": float, "text": str, "flag": bool}


@given(fields(), st.sampled_from(READERS))
def test_whatever_a_file_holds_it_is_the_right_type_or_a_named_error(
    field: Field, reader: str
) -> None:
    for metadata in (Metadata({"a.key": field}), Metadata.of({"a.key": plain(field)})):
        try:
            found = getattr(metadata, reader)("a.key")
        except UnsupportedGgufError as error:
            assert error.message.startswith("metadata `a.key`: expected ")
            assert ", found " in error.message
            assert len(error.message) < 300
        else:
            assert type(found) is TYPES[reader]
            assert reader != "number" or math.isfinite(found)
            assert reader not in ("uint", "largest") or 0 <= found <= MAX_UINT


def plain(field: Field) -> Any:
    return Metadata({"x": field})["x"]


@pytest.mark.parametrize(
    ("reader", "value", "options", "message"),
    [
        ("uint", 0, {"least": 1}, "expected an integer >= 1, found 0"),
        (
            "uint",
            2**64 - 1,
            {},
            "expected an integer in [0, 4294967295], found 18446744073709551615",
        ),
        ("uint", 9, {"most": 3}, "expected an integer in [0, 3], found 9"),
        ("uint", 1.5, {}, "expected an integer >= 0, found 1.5"),
        ("uint", math.nan, {}, "expected an integer >= 0, found nan"),
        ("uint", True, {}, "expected an integer >= 0, found True"),
        ("uint", "many", {}, "expected an integer >= 0, found 'many'"),
        ("uint", np.array([8, 8], np.int32), {}, "found an array of 2 int32 values"),
        ("uint", Field.of(["a", "b"]), {}, "found an array of 2 text values"),
        ("largest", np.array([], np.int32), {}, "or an array of such, found an array of 0 int32"),
        ("largest", np.array([math.nan]), {}, "or an array of such, found nan"),
        ("number", math.inf, {}, "expected one finite number, found inf"),
        ("number", 0.0, {"above": 0}, "expected one finite number > 0, found 0.0"),
        ("number", -1e-9, {"least": 0}, "expected one finite number >= 0, found -1e-09"),
        ("number", np.array([1.0]), {}, "expected one finite number, found an array of 1 float64"),
        ("text", np.array([1, 2], np.int32), {}, "expected a text, found an array of 2 int32"),
        ("text", 7, {}, "expected a text, found 7"),
        ("flag", np.array([], np.bool_), {}, "expected true or false, found an array of 0 bool"),
        ("flag", 1, {}, "expected true or false, found 1"),
        ("flag", "\x1b[31m" + "x" * 5000, {}, r"found '\x1b[31mxxx"),
    ],
)
def test_errors_say_what_was_expected_and_found(
    reader: str, value: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedGgufError) as caught:
        getattr(Metadata({"a.key": value}), reader)("a.key", **options)
    assert message in caught.value.message


def test_what_is_accepted_beside_the_exact_type() -> None:
    metadata = Metadata({
        "a": 64.0, "b": Field(ValueType.UINT8, 3), "c": np.array([1, 9, 4], np.uint32), "d": 5,
        "e": b"x\xff".decode("utf-8", "surrogateescape"), "f": np.bool_(True), "g": np.float32(0.5),
    })  # fmt: skip
    assert (metadata.uint("a"), metadata.uint("b")) == (64, 3)
    assert (metadata.largest("c"), metadata.largest("d")) == (9, 5)
    assert metadata.text("e") == "x\N{REPLACEMENT CHARACTER}"
    assert (metadata.flag("f"), metadata.number("g"), metadata.number("d")) == (True, 0.5, 5.0)


def test_a_key_that_is_not_there() -> None:
    metadata = Metadata({})
    with pytest.raises(UnsupportedGgufError, match=r"metadata has no `a\.key`"):
        metadata.uint("a.key")
    assert (metadata.uint("a", 3), metadata.text("a", ""), metadata.flag("a", False)) == (
        3,
        "",
        False,
    )
    assert or_none(metadata.number, "a") is None
    with pytest.raises(KeyError):
        metadata["a"]


def test_texts_of_an_array_are_not_decoded_to_be_refused() -> None:
    class Bytes(bytes):
        def __getitem__(self, index: Any) -> Any:
            raise AssertionError("looked at")

    array = Field.of(["a"] * 5)
    array.value._buffer = Bytes()
    for reader in READERS:
        with pytest.raises(UnsupportedGgufError, match="an array of 5 text values"):
            getattr(Metadata({"a": array}), reader)("a")
