"""Keys: where they come from and what they may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gguf_hub.api.server.api_keys import VARIABLE, ApiKeys, read_keys
from gguf_hub.errors import UsageError


def test_keys_come_from_options_files_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("three\r\n\n four \n")
    environment = {VARIABLE: "five, six"}
    assert read_keys(["one", "two,2"], file, environment) == ("one", "two", "2", "three", "four")
    assert read_keys([], None, environment) == ("five", "six")
    assert read_keys([], None, {}) == ()


@pytest.mark.parametrize("value", ["", " ", ",", "a,", ",a", "a,,b", "\t", "correct horse", "a\tb",
                                   "a\nb", "a\0b", "a\x7fb", "a\u00a0b", "a\u200bb"])  # fmt: skip
def test_what_can_be_no_key_is_refused_and_not_repeated(value: str, tmp_path: Path) -> None:
    for options, environment in (([value], {}), ([], {VARIABLE: value})):
        with pytest.raises(UsageError) as caught:
            read_keys(options, None, environment)
        assert ("--api-key" if options else VARIABLE) in caught.value.message
        assert "horse" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize("text", ["", "\n \n", "one\ntwo words\n", "a\0b"])
def test_a_file_without_keys_or_with_wrong_ones_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(UsageError, match="--api-key-file") as caught:
        read_keys([], file, {VARIABLE: "fine"})
    assert "two words" not in caught.value.message


def test_comments_and_blank_lines_of_a_file_are_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\none\n\n  # old\n two#2 \n")
    assert read_keys([], file, {}) == ("one", "two#2")


def test_llama_servers_variable_counts_after_ours() -> None:
    assert read_keys([], None, {"LLAMA_API_KEY": "a,b"}) == ("a", "b")
    assert read_keys([], None, {"LLAMA_API_KEY": "a", VARIABLE: "c"}) == ("c",)
    assert read_keys(["d"], None, {"LLAMA_API_KEY": "a"}) == ("d",)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: no such file"):
        read_keys([], tmp_path / "none", {})
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read: not UTF-8"):
        read_keys([], tmp_path / "bytes", {})


@pytest.mark.parametrize("keys", [("",), ("a", "")])
def test_a_server_cannot_be_made_with_an_empty_key(keys: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="empty"):
        ApiKeys(keys)


KEY = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(st.lists(KEY, max_size=3), KEY)
@example(["\u0105"], "\u0105")  # its last byte is a blank of Latin-1
def test_a_key_opens_if_and_only_if_it_is_one(keys: list[str], given_key: str) -> None:
    found, sent = ApiKeys(keys), given_key.encode().decode("latin-1")
    assert found.has(f"Bearer {sent}", "") is (given_key in keys)
    assert found.has("", sent) is (given_key in keys)
    assert bool(found) is bool(keys)
    assert not found.has("", "") and not found.has("Bearer ", "") and not found.has("Basic x", "")
