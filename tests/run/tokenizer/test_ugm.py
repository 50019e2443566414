"""Unigram: the best way to cut a text, unknown characters, spaces and replacements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import TokenizerError
from gguf_hub.gguf.vocabulary import vocabulary_problems
from gguf_hub.run.tokenizer import LITERAL, Tokenizer, UgmTokenizer, load_tokenizer, read_vocab
from gguf_hub.run.tokenizer.merging import LONG
from tests.gguf.charsmaps import charsmap
from tests.run.tokenizer.small import FEW, unigram, unigram_metadata

CONTROL, USER_DEFINED, UNUSED, BYTE = 3, 4, 5, 6


def written(tokenizer: Tokenizer, text: str, **options: bool) -> list[str]:
    ids = tokenizer.encode(text, **{"add_bos": False, **options})
    return [tokenizer.vocab.tokens[i] for i in ids]


# The best way to cut a text


def cuts(text: str) -> Iterator[list[str]]:
    """Yield every way to cut a text."""
    if not text:
        yield []
    for n in range(1, len(text) + 1):
        for rest in cuts(text[n:]):
            yield [text[:n], *rest]


def total(cut: list[str], pieces: dict[str, float]) -> float:
    unknown = min(pieces.values(), default=0) - 10
    return sum(pieces.get(piece, unknown if len(piece) == 1 else -np.inf) for piece in cut)


@FEW
@given(
    pieces=st.dictionaries(
        st.text("abé", min_size=1, max_size=4), st.integers(-9, 0).map(float), min_size=1,
        max_size=9,
    ),
    text=st.text("abé", max_size=9),
)  # fmt: skip
def test_no_way_to_cut_a_text_has_a_larger_sum(pieces: dict[str, float], text: str) -> None:
    tokenizer = unigram(pieces)
    starts = tokenizer._best_starts(text)  # type: ignore[attr-defined]
    found: list[str] = []
    end = len(text)
    while end:
        found.append(text[starts[end] : end])
        end = starts[end]
    assert total(found, pieces) == max(total(cut, pieces) for cut in cuts(text))
    # what is written is this way, with one unknown token for each run
    names = [piece if piece in pieces else "<unk>" for piece in reversed(found)]
    runs = [b for a, b in zip(["", *names], names, strict=False) if not a == b == "<unk>"]
    assert written(tokenizer, text) == runs


def test_of_equal_sums_the_longest_last_token_counts() -> None:
    assert written(unigram({"a": -1.0, "b": -1.0, "ab": -2.0}), "ab") == ["ab"]
    assert written(unigram({"a": -1.0, "ab": -2.0, "bc": -2.0, "c": -1.0}), "abc") == ["a", "bc"]


def test_scores_are_halves_of_the_precision_that_sums_have() -> None:
    # the float32 next to -0.3, three times, is less than the one next to -0.9
    tokenizer = unigram({"a": -0.3, "aaa": float(np.float32(-0.9))})
    assert written(tokenizer, "aaa") == ["aaa"]


@pytest.mark.parametrize("unit", ["ab a", "éa ", "  b", "é", "é a"])
@pytest.mark.parametrize("merges", [True, False])
def test_a_long_text_is_encoded_as_a_short_one(unit: str, merges: bool) -> None:
    pieces = {"▁": -2.0, "▁a": -3.0, "a": -4.0, "b": -4.0, "ab": -5.0, "▁▁": -1.0}
    tokenizer = unigram(pieces, remove_extra_whitespaces=merges, add_space_prefix=True)
    text = unit * LONG
    whole = tokenizer._encode_chunk(tokenizer._normalize(text))  # type: ignore[attr-defined]
    assert tokenizer.encode(text, add_bos=False) == list(whole)


# Unknown characters


def test_a_run_of_unknown_characters_is_one_token() -> None:
    tokenizer = unigram({"a": -1.0, "▁": -2.0})
    assert written(tokenizer, "é漢a字a") == ["<unk>", "a", "<unk>", "a"]
    assert written(tokenizer, "漢" * 2000) == ["<unk>"]
    assert written(tokenizer, "漢 " * 2000) == ["<unk>", "▁"] * 2000
    assert written(unigram({"a": -1.0}), "漢 " * 2000) == ["<unk>"]


def test_byte_tokens_stand_for_nothing_and_print_their_byte() -> None:
    tokenizer = unigram({"a": -1.0}, {"<0xC3>": BYTE, "<0xA9>": BYTE})
    assert written(tokenizer, "é") == ["<unk>"]
    assert tokenizer.decode([4, 5]) == "é"


def test_a_vocabulary_without_unknown_token_is_refused() -> None:
    metadata = {"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": ["a", "b"]}
    assert "unknown_token_id`: expected one of 2 tokens" in vocabulary_problems(metadata)[0]
    with pytest.raises(TokenizerError, match="unknown_token_id"):
        load_tokenizer(metadata)


# Spaces


@pytest.mark.parametrize(
    ("text", "bare", "prefix", "merged"),
    [
        ("a b", "a▁b", "▁a▁b", "▁a▁b"),
        ("  a  b ", "▁▁a▁▁b▁", "▁▁▁a▁▁b▁", "▁a▁b"),
        ("   ", "▁▁▁", "▁▁▁", ""),
        ("", "", "", ""),
    ],
)
def test_spaces(text: str, bare: str, prefix: str, merged: str) -> None:
    pieces = {"▁": -1.0, "a": -1.0, "b": -1.0}
    asked = [
        {}, {"add_space_prefix": True}, {"remove_extra_whitespaces": True},
        {"remove_extra_whitespaces": True, "add_space_prefix": True},
    ]  # fmt: skip
    found = ["".join(written(unigram(pieces, **keys), text)) for keys in asked]
    assert found == [bare, prefix, merged, merged]


def test_a_text_gets_a_space_after_each_special_token_and_loses_the_first_one() -> None:
    tokenizer = unigram({"▁": -1.0, "a": -1.0}, {"<x>": CONTROL}, add_space_prefix=True)
    ids = tokenizer.encode("a<x>a", parse_special=True, add_bos=False)
    assert [tokenizer.vocab.tokens[i] for i in ids] == ["▁", "a", "<x>", "▁", "a"]
    assert tokenizer.decode(ids) == "a a"


# Replacements


def test_the_longest_key_is_replaced_and_what_is_put_there_is_not() -> None:
    pieces = dict.fromkeys("abcdx▁", -1.0)
    rules = {"é": "a", "aa": "b", "aab": "c", "b": "a b", "\u200b": "", "x": "▁x"}
    tokenizer = unigram(pieces, precompiled_charsmap=list(charsmap(rules)))
    for text, expected in (
        ("é", "a"), ("aaa", "ba"), ("aabaa", "cb"), ("aac", "bc"), ("b", "a▁b"),
        ("a\u200ba", "aa"), ("ab", "aa▁b"), ("x", "▁x"), ("\0a", "<unk>a"), ("éaa", "ab"),
    ):  # fmt: skip
        assert "".join(written(tokenizer, text)) == expected, text


def test_spaces_that_come_from_replacements_are_spaces() -> None:
    tokenizer = unigram(
        {"▁": -1.0, "a": -1.0}, precompiled_charsmap=np.frombuffer(charsmap({"\t": " "}), np.int8),
        remove_extra_whitespaces=True,
    )  # fmt: skip
    assert written(tokenizer, "\ta \t a\t") == ["▁", "a", "▁", "a"]


def test_what_begins_a_user_defined_token_is_not_replaced() -> None:
    keys = {"precompiled_charsmap": list(charsmap({"é": "e", "è": "e", "X": "x"}))}
    pieces = dict.fromkeys("<éeèxX>y", -1.0)
    tokenizer = unigram(pieces, {"éX>": USER_DEFINED}, **keys)
    assert written(tokenizer, "éX>X") == ["éX>", "x"]
    assert written(tokenizer, "éXy") == ["é", "X", "y"]
    assert written(tokenizer, "éy") == ["é", "y"]
    assert written(tokenizer, "è") == ["e"]  # shares its first byte with é


DAMAGED = {
    "short": (b"\4\0\0", "expected at least 4 bytes, found 3"),
    "no array": (b"\0\0\0\0\0", "expected an array of 4 to 0 bytes, in fours, found 0"),
    "all array": (b"\4\0\0\0abcd", "expected an array of 4 to 3 bytes, in fours, found 4"),
    "uneven": (b"\6\0\0\0abcdefgh\0", "found 6"),
    "large": (b"\xff\xff\xff\xffabcdefgh\0", "found 4,294,967,295"),
    "no end": (b"\4\0\0\0abcdx", "the last replacement does not end in a zero byte"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_map_is_refused(data: bytes, message: str) -> None:
    metadata = unigram_metadata({"a": -1.0}, precompiled_charsmap=np.frombuffer(data, np.uint8))
    assert vocabulary_problems(metadata)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(metadata)


@pytest.mark.parametrize("value", ["abc", 5, [1.5, 2.0], [[1], [2]]])
def test_a_map_is_an_array_of_bytes(value: Any) -> None:
    (problem,) = vocabulary_problems(unigram_metadata({"a": -1.0}, precompiled_charsmap=value))
    assert "precompiled_charsmap`: expected an array of bytes, found" in problem


def test_no_map_and_an_empty_one_replace_nothing() -> None:
    for keys in ({}, {"precompiled_charsmap": []}):
        assert written(unigram({"é": -1.0}, **keys), "é") == ["é"]


# Special tokens


def test_plain_text_never_becomes_a_control_token_and_unused_ones_are_tokens() -> None:
    tokenizer = unigram(dict.fromkeys("a<x>", -1.0), {"<x>": CONTROL, "ax": UNUSED})
    assert written(tokenizer, "<x>") == ["<", "x", ">"]
    assert written(tokenizer, "<x>", parse_special=True) == ["<x>"]
    assert written(tokenizer, f"<{LITERAL}x>", parse_special=True) == ["<", "x", ">"]
    assert written(tokenizer, "ax") == ["ax"]
    assert tokenizer.token_bytes(tokenizer.n_vocab - 1) == b""


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ["a", "</s>"]),
        ({"add_eos_token": False}, ["a"]),
        ({"add_bos_token": True}, ["a", "</s>"]),
        ({"add_bos_token": True, "bos_token_id": 0, "eos_token_id": 3}, ["<pad>", "a", "a"]),
    ],
)
def test_a_text_begins_and_ends_as_the_file_says(keys: dict[str, Any], expected: list[str]) -> None:
    assert written(unigram({"a": -1.0}, **keys), "a", add_bos=True) == expected


def test_special_tokens_lie_where_t5_has_them() -> None:
    vocab = read_vocab(unigram_metadata({"a": -1.0}))
    assert (vocab.pad_id, vocab.eos_id, vocab.unk_id, vocab.bos_id) == (0, 1, 2, None)
    assert (vocab.add_bos, vocab.add_eos, vocab.add_sep) == (False, True, False)
    assert (vocab.add_space_prefix, vocab.remove_extra_whitespaces) == (False, False)


@pytest.mark.parametrize("arch", ["nomic-bert-moe", "jina-bert-v3", "bert"])
def test_a_mask_takes_the_blanks_before_it_where_its_architecture_says_so(arch: str) -> None:
    metadata = unigram_metadata({"▁": -1.0, "a": -1.0}, {"<mask>": CONTROL})
    tokenizer = load_tokenizer(metadata | {"general.architecture": arch})
    blank = [] if arch != "bert" else ["▁"]
    found = written(tokenizer, "a <mask> a", parse_special=True)
    assert found == ["a", *blank, "<mask>", "▁", "a"]


def test_loading_makes_the_tokenizer_of_the_vocabulary() -> None:
    assert isinstance(unigram({"a": -1.0}), UgmTokenizer)
    assert unigram({"a": -1.0}).least_tokens(1000) == 0
