"""Vocabularies of encoders: llama.cpp's ids of texts, and what it prints for tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.run.tokenizer import StreamDecoder, Tokenizer
from tests.run.tokenizer.small import FEW

CONTROL = 3
Recorded = tuple[Tokenizer, dict[str, Any]]

VOCABULARIES = [
    "wordpiece", "wordpiece-cased", "wordpiece-accents", "unigram", "unigram-spaces",
    "unigram-bare", "whitespace",
]  # fmt: skip
every = pytest.mark.parametrize("pieces", VOCABULARIES, indirect=True)


@every
def test_ids_are_llama_cpps(pieces: Recorded, piece_texts: list[str]) -> None:
    tokenizer, found = pieces
    assert len(piece_texts) == len(found["ids"]) == 320
    ids = [tokenizer.encode(text, add_bos=False) for text in piece_texts]
    assert _differences(piece_texts, ids, found["ids"]) == []


@every
def test_special_tokens_in_texts_are_read_on_request(
    pieces: Recorded, piece_texts: list[str]
) -> None:
    tokenizer, found = pieces
    ids = [tokenizer.encode(text, add_bos=False, parse_special=True) for text in piece_texts]
    asked = zip(found["special"], found["ids"], strict=True)
    expected = [plain if special is None else special for special, plain in asked]
    assert _differences(piece_texts, ids, expected) == []
    assert expected != found["ids"]


def _differences(texts: list[str], ids: list[Any], expected: list[Any]) -> list[tuple[Any, ...]]:
    return [row for row in zip(texts, ids, expected, strict=True) if row[1] != row[2]]


@every
def test_texts_begin_and_end_as_in_llama_cpp(pieces: Recorded) -> None:
    tokenizer, found = pieces
    for text in ("", "the café", "漢 <mask>"):
        plain = tokenizer.encode(text, add_bos=False)
        assert tokenizer.encode(text) == found["begin"] + plain + found["end"]


@every
def test_tokens_print_what_llama_cpp_prints(pieces: Recorded) -> None:
    tokenizer, found = pieces
    for special, name in ((False, "pieces"), (True, "special_pieces")):
        printed = [tokenizer.token_bytes(i, special) for i in range(tokenizer.n_vocab)]
        expected = [piece.encode("latin-1") for piece in found[name]]
        if tokenizer.vocab.model == "whitespace":  # llama.cpp prints them as if they were GPT-2's
            expected = [
                text.encode() if special or type_ != CONTROL else b""
                for text, type_ in zip(tokenizer.vocab.tokens, tokenizer.vocab.types, strict=True)
            ]
        assert printed == expected


@every
def test_a_streamed_text_is_the_whole_one(pieces: Recorded, piece_texts: list[str]) -> None:
    tokenizer, found = pieces
    for ids in found["ids"]:
        decoder = StreamDecoder(tokenizer, at_start=True)
        parts = [decoder.feed(i) for i in ids] + [decoder.flush()]
        assert "".join(parts) == tokenizer.decode(ids)


@every
@FEW
@given(text=st.text(max_size=30), other=st.text(alphabet="aé漢 <\n", max_size=30))
def test_no_text_is_refused_or_has_fewer_tokens_than_its_length_tells(
    pieces: Recorded, text: str, other: str
) -> None:
    tokenizer, _ = pieces
    ids = tokenizer.encode(text + other, add_bos=False)
    assert all(0 <= i < tokenizer.n_vocab for i in ids)
    assert len(ids) >= tokenizer.least_tokens(len(text + other))
