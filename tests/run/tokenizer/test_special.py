"""Tokens known by their texts: what ends a turn, gaps in code, and blanks that tokens take."""

from __future__ import annotations

import pytest

from gguf_hub.gguf.vocabulary import TokenType
from gguf_hub.run.tokenizer import load_tokenizer, read_vocab
from tests.run.tokenizer.small import bpe_metadata

NORMAL, CONTROL, USER_DEFINED = TokenType.NORMAL, TokenType.CONTROL, TokenType.USER_DEFINED
FIRST = 256


@pytest.mark.parametrize(
    ("texts", "ends", "types"),
    [
        (["<|fim_prefix|>", "<|fim_pad|>"], {257}, [CONTROL, CONTROL]),
        (["<|repo_name|>", "<|file_sep|>"], {256, 257}, [CONTROL, CONTROL]),
        (["<PRE>", "<SUF>", "<MID>"], set(), [CONTROL] * 3),
        (["<|start|>", "<|channel|>"], set(), [USER_DEFINED] * 2),
        (["<|end|>", "<|return|>", "<|call|>"], {257, 258}, [USER_DEFINED, CONTROL, CONTROL]),
        (["</s>", "<|tool_response>"], {257}, [NORMAL, CONTROL]),
        (["</s>", "<s>"], {256}, [CONTROL, NORMAL]),
    ],
)
def test_texts_decide_what_ends_and_what_prints(
    texts: list[str], ends: set[int], types: list[TokenType]
) -> None:
    vocab = read_vocab(bpe_metadata(special=dict.fromkeys(texts, 1)))
    assert (vocab.eog_ids, vocab.types[FIRST:]) == (ends, types)


def test_a_gap_has_the_token_that_the_file_names() -> None:
    special = {"<|fim_pad|>": 1, "other": 1}
    vocab = read_vocab(bpe_metadata(special=special, fim_pad_token_id=257))
    assert (vocab.eog_ids, vocab.types[FIRST:]) == ({257}, [NORMAL, NORMAL])


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        ({}, ["Ġ", "<|end|>", "Ġ", "a", "Ġ", "<s>", "Ġ", "b"]),
        ({"general.name": "Phi-3 mini"}, ["Ġ", "<|end|>", "a", "Ġ", "<s>", "Ġ", "b"]),
    ],
)
def test_special_tokens_of_phi_3_take_the_blanks_after_them(
    keys: dict[str, str], ids: list[str]
) -> None:
    metadata = bpe_metadata(special={"<|end|>": CONTROL, "<s>": CONTROL}) | keys
    tokenizer = load_tokenizer(metadata)
    found = tokenizer.encode(" <|end|> a <s> b", parse_special=True)
    assert [tokenizer.vocab.tokens[i] for i in found] == ids
    assert tokenizer.least_tokens(10) == (0 if keys else 2)


def test_a_name_that_is_no_text_says_nothing() -> None:
    assert load_tokenizer(bpe_metadata() | {"general.name": ["phi-3"]}).encode("a") == [64]


def test_a_mask_takes_the_blanks_before_it() -> None:
    tokenizer = load_tokenizer(bpe_metadata(special={"<mask>": CONTROL}, pre="jina-v2-es"))
    found = tokenizer.encode("a \t<mask> b", parse_special=True)
    assert [tokenizer.vocab.tokens[i] for i in found] == ["a", "<mask>", "Ġ", "b"]
