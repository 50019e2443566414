"""WordPiece: words, the longest tokens in them, and what is done to letters before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import TokenizerError
from gguf_hub.gguf.vocabulary import vocabulary_problems
from gguf_hub.run.tokenizer import LITERAL, Tokenizer, WpmTokenizer, load_tokenizer, read_vocab
from tests.run.tokenizer.small import FEW, wordpiece, wordpiece_metadata

CONTROL, USER_DEFINED = 3, 4


def written(tokenizer: Tokenizer, text: str, **options: bool) -> list[str]:
    ids = tokenizer.encode(text, **{"add_bos": False, **options})
    return [tokenizer.vocab.tokens[i] for i in ids]


def test_a_word_is_cut_into_the_longest_tokens_from_the_left() -> None:
    tokenizer = wordpiece("▁un ▁unaff aff able ▁a b le")
    assert written(tokenizer, "unaffable  unable") == ["▁unaff", "able", "▁un", "able"]


def test_a_long_token_costs_no_time_in_words_that_are_not_like_it() -> None:
    tokenizer = wordpiece(f"▁ab ab {'b' * 50_000}")
    assert len(written(tokenizer, "ab" * 50_000)) == 50_000


def test_a_word_that_cannot_be_cut_to_its_end_is_unknown_as_a_whole() -> None:
    tokenizer = wordpiece("▁ab cd ▁x")
    assert written(tokenizer, "abcde x abcd e") == ["[UNK]", "▁x", "▁ab", "cd", "[UNK]"]
    assert written(tokenizer, "ab" * 500) == ["[UNK]"]
    assert written(wordpiece("▁ab ab"), "ab" * 500) == ["▁ab", *["ab"] * 499]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b", "a , b"),
        ("a漢字b", "a 漢 字 b"),
        ("a\u2003b\x85c\u3000d", "a b c d"),
        ("a\x1cb\x00\u200b\ufffdc", "abc"),
        ("1$2~3£4", "1 $ 2 ~ 3£4"),
        ("x—y。z", "x — y 。 z"),
    ],
)
def test_what_parts_words(text: str, words: str) -> None:
    tokenizer = wordpiece(" ".join(f"▁{word}" for word in words.split()))
    assert written(tokenizer, text) == [f"▁{word}" for word in words.split()]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "ecole"),
        ({"normalizer.lowercase": True}, "ecole"),
        ({"normalizer.lowercase": False}, "École"),
        ({"normalizer.strip_accents": False}, "école"),
        ({"normalizer.lowercase": False, "normalizer.strip_accents": True}, "Ecole"),
    ],
)
def test_letters_lose_case_and_accents_as_the_file_says(
    keys: dict[str, bool], expected: str
) -> None:
    tokenizer = wordpiece("▁ecole ▁École ▁école ▁Ecole ▁İ ▁i", **keys)
    assert written(tokenizer, "École") == [f"▁{expected}"]


def test_of_a_decomposed_character_the_first_part_is_left() -> None:
    tokenizer = wordpiece("▁ᄒ ▁i ▁ss")
    assert written(tokenizer, "한 İ ị̈") == ["▁ᄒ", "▁i", "▁i"]


def test_every_text_begins_and_ends_whatever_the_file_says() -> None:
    for keys in ({}, {"add_bos_token": False, "add_eos_token": True, "eos_token_id": 0}):
        tokenizer = wordpiece("▁a", **keys)
        assert written(tokenizer, "a", add_bos=True) == ["[CLS]", "▁a", "[SEP]"]
        assert written(tokenizer, "", add_bos=True) == ["[CLS]", "[SEP]"]


def test_special_tokens_lie_where_bert_has_them_and_part_pairs() -> None:
    tokens = [f"▁{i}" for i in range(104)]
    vocab = read_vocab({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": tokens})
    assert (vocab.pad_id, vocab.unk_id, vocab.bos_id, vocab.sep_id) == (0, 100, 101, 102)
    assert (vocab.eos_id, vocab.add_bos, vocab.add_eos, vocab.add_sep) == (None, True, False, True)
    assert not read_vocab(wordpiece_metadata("▁a", add_sep_token=False)).add_sep


@pytest.mark.parametrize("name", ["unknown", "bos", "seperator"])
def test_a_vocabulary_without_a_token_that_every_text_needs_is_refused(name: str) -> None:
    metadata = wordpiece_metadata("▁a")
    del metadata[f"tokenizer.ggml.{name}_token_id"]
    problems = vocabulary_problems(metadata)
    assert len(problems) == 1
    assert f"`tokenizer.ggml.{name}_token_id`: expected one of 4 tokens, found none" in problems[0]
    with pytest.raises(TokenizerError, match=f"{name}_token_id"):
        load_tokenizer(metadata)


def test_plain_text_never_becomes_a_control_token() -> None:
    tokenizer = wordpiece("▁a", {"▁mask": CONTROL, "[MASK]": CONTROL, "▁[": 1, "▁]": 1})
    assert written(tokenizer, "mask [MASK]") == ["[UNK]", "▁[", "[UNK]", "▁]"]
    assert written(tokenizer, "[MASK]a", parse_special=True) == ["[MASK]", "▁a"]
    literal = f"[{LITERAL}MASK]"
    assert written(tokenizer, literal, parse_special=True) == ["▁[", "[UNK]", "▁]"]


def test_user_defined_tokens_are_cut_out_as_they_are() -> None:
    tokenizer = wordpiece("▁a ▁b", {"<Tag É>": USER_DEFINED})
    assert written(tokenizer, "A<Tag É>b <tag é>") == [
        "▁a", "<Tag É>", "▁b", "[UNK]", "[UNK]", "[UNK]", "[UNK]",
    ]  # fmt: skip


@FEW
@given(
    pieces=st.lists(st.text(alphabet="▁ab", min_size=1, max_size=4), max_size=12),
    text=st.text(alphabet="abAB ", max_size=60),
)
def test_cutting_equals_an_oracle(pieces: list[str], text: str) -> None:
    tokenizer = wordpiece(" ".join(pieces))
    expected: list[str] = []
    for word in text.lower().split():
        expected += _cut(f"▁{word}", set(pieces))
    assert written(tokenizer, text) == expected


def _cut(word: str, pieces: set[str]) -> list[str]:
    """Take the longest beginning that is a piece, again and again."""
    found: list[str] = []
    while word:
        beginnings = [piece for piece in pieces if word.startswith(piece)]
        if not beginnings:
            return ["[UNK]"]
        found.append(max(beginnings, key=len))
        word = word[len(found[-1]) :]
    return found


def test_loading_makes_the_tokenizer_of_the_vocabulary() -> None:
    tokenizer = wordpiece("▁hello ▁world")
    assert isinstance(tokenizer, WpmTokenizer)
    assert tokenizer.decode(tokenizer.encode("Hello world")) == " hello world"
    assert tokenizer.least_tokens(1000) == 0
