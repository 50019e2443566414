"""Byte-pair encoding: ids of real vocabularies, a slow oracle, and what must hold for any text."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf.pre_tokenizers import PRE_TOKENIZERS
from gguf_hub.gguf.vocabulary import vocabulary_problems
from gguf_hub.run.tokenizer import LITERAL, BpeTokenizer, StreamDecoder, Tokenizer, load_tokenizer
from gguf_hub.run.tokenizer.merging import LONG, harmless_cuts, merge
from tests.run.tokenizer.small import FEW, bpe_metadata, bpe_tokenizer

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
Cases = list[dict[str, Any]]


def plain(tokenizer: Tokenizer, text: str, parse_special: bool = False) -> list[int]:
    return tokenizer.encode(text, add_bos=False, parse_special=parse_special)


def written(tokenizer: Tokenizer, text: str, **options: bool) -> list[str]:
    return [tokenizer.vocab.tokens[i] for i in tokenizer.encode(text, **options)]


# Real vocabularies


def test_ids_are_those_of_the_models_tokenizer(bpe: tuple[Tokenizer, Cases]) -> None:
    tokenizer, cases = bpe
    assert len(cases) == 262
    wrong = [case["text"] for case in cases if plain(tokenizer, case["text"]) != case["ids"]]
    assert wrong == []


def test_special_tokens_are_read_on_request_and_texts_come_back(
    bpe: tuple[Tokenizer, Cases],
) -> None:
    tokenizer, cases = bpe
    for case in cases:
        ids = plain(tokenizer, case["text"], parse_special=True)
        assert ids == case.get("special", case["ids"]), case["text"]
        assert tokenizer.decode(ids, special=True) == case["text"]


def test_marks_are_not_cut_as_llama_cpp_cuts_them(bpe: tuple[Tokenizer, Cases]) -> None:
    tokenizer, cases = bpe
    others = [case for case in cases if "llama_cpp" in case]
    has_case = tokenizer.vocab.pre_tokenizer in (PRE_TOKENIZERS["gpt-4o"], PRE_TOKENIZERS["tekken"])
    assert (len(others) > 10) == has_case
    for case in others:
        assert tokenizer.decode(case["llama_cpp"]) == case["text"]


@FEW
@given(text=st.text(max_size=30), other=st.text(alphabet="aZ1 \n'é漢", max_size=30))
def test_any_text_comes_back_whole_and_streamed(
    bpe: tuple[Tokenizer, Cases], text: str, other: str
) -> None:
    tokenizer, _ = bpe
    if tokenizer.vocab.model == "gemma4":
        text = text.replace("▁", "")  # is how a space is written
    ids = plain(tokenizer, text + other)
    assert tokenizer.decode(ids) == text + other
    decoder = StreamDecoder(tokenizer)
    parts = [decoder.feed(i) for i in ids] + [decoder.flush()]
    assert "".join(parts) == text + other
    assert len(ids) >= tokenizer.least_tokens(len(text + other))


# Merging


def naive_merge(word: str, ranks: dict[str, int]) -> list[str]:
    """Merge by looking at every pair of neighbours again and again."""
    pieces = list(word)
    while True:
        pairs = (f"{a} {b}" for a, b in itertools.pairwise(pieces))
        found = [(ranks[pair], i) for i, pair in enumerate(pairs) if pair in ranks]
        if not found:
            return pieces
        _, i = min(found)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


parts = st.text(alphabet="abc", min_size=1, max_size=3)
merges = st.lists(st.tuples(parts, parts).map(" ".join), max_size=12)


@FEW
@given(merges=merges, word=st.text(alphabet="abc", max_size=20))
def test_merging_equals_the_oracle(merges: list[str], word: str) -> None:
    tokenizer = bpe_tokenizer(merges)
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    assert written(tokenizer, word) == naive_merge(word, ranks)
    assert merge(word, ranks, " ") == naive_merge(word, ranks)


def test_of_merges_twice_over_the_first_one_counts() -> None:
    assert written(bpe_tokenizer(["a b", "b c", "a b"]), "abc") == ["ab", "c"]
    assert written(bpe_tokenizer(["b c", "a b", "b c"]), "abc") == ["a", "bc"]


def test_a_word_that_is_a_token_is_that_token_where_merges_are_ignored() -> None:
    # no merge leads to abc
    metadata = bpe_metadata(["b c"], {"abc": 1})
    assert written(load_tokenizer(metadata), "abc") == ["a", "bc"]
    metadata["tokenizer.ggml.pre"] = "llama-bpe"
    assert written(load_tokenizer(metadata), "abc") == ["abc"]


def test_a_merge_into_what_is_no_token_gives_its_bytes() -> None:
    metadata = bpe_metadata(["a b"])
    metadata["tokenizer.ggml.tokens"].remove("ab")
    metadata["tokenizer.ggml.token_type"].pop()
    assert written(load_tokenizer(metadata), "ab") == ["a", "b"]


line_parts = st.text(alphabet="a▁.", min_size=1, max_size=2)
lines = st.text(alphabet="a▁.", max_size=40)


@FEW
@given(merges=st.lists(st.tuples(line_parts, line_parts).map(" ".join), max_size=8), line=lines)
def test_cuts_change_no_merge(merges: list[str], line: str) -> None:
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    cuts = harmless_cuts(pair.replace(" ", "") for pair in merges)
    pieces = [piece for part in cuts.split(line) for piece in merge(part, ranks, " ")]
    assert pieces == merge(line, ranks, " ")


# Vocabularies of characters, as Gemma 4 has them


def test_raw_characters_are_merged_and_the_rest_is_written_in_bytes() -> None:
    tokenizer = bpe_tokenizer(["▁ a", "\n \n"], model="gemma4")
    assert written(tokenizer, "a a\n\né") == ["<0x61>", "▁a", "\n\n", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(plain(tokenizer, "a a\n\né")) == "a a\n\né"


def test_a_long_line_is_encoded_as_its_parts_are() -> None:
    tokenizer = bpe_tokenizer(["▁ ▁", "▁ a", "▁a b", ". ▁"], model="gemma4")
    assert plain(tokenizer, " ab  a" * LONG) == plain(tokenizer, " ab  a") * LONG


# Vocabularies of characters whose words blanks part


def whitespace(merges: list[str], **keys: Any) -> Tokenizer:
    tokens = list(dict.fromkeys([*"abcéÉ", *(merge.replace(" ", "") for merge in merges)]))
    return bpe_tokenizer(merges, model="whitespace", pre="whitespace", tokens=tokens,
                         token_type=None, **keys)  # fmt: skip


def test_blanks_part_words_and_are_lost() -> None:
    tokenizer = whitespace(["a b", "b c"])
    assert written(tokenizer, " ab\u3000\tabc\n") == ["ab", "ab", "c"]
    assert written(tokenizer, "a\x1cb \x85c") == ["a", "b", "c"]  # U+001C is none
    assert tokenizer.decode(plain(tokenizer, "ab É")) == "abÉ"


def test_a_character_without_token_is_lost_and_the_bound_knows() -> None:
    tokenizer = whitespace([], unknown_token_id=0)
    assert written(tokenizer, "a漢b") == ["a", "b"]
    assert tokenizer.least_tokens(100) == 0


def test_letters_of_such_words_become_small_on_request() -> None:
    assert written(whitespace([]), "aÉ") == ["a", "É"]
    assert written(whitespace([], **{"normalizer.lowercase": True}), "AÉ") == ["a", "é"]


def test_such_a_vocabulary_has_its_own_pre_tokenizer() -> None:
    metadata = bpe_metadata(model="whitespace", pre="gpt-2")
    assert vocabulary_problems(metadata) == [
        "key `tokenizer.ggml.pre` is `gpt-2`, which does not go with tokenizer `whitespace`"
    ]


# Special tokens


@FEW
@given(a=st.text(alphabet="ab <|x", max_size=8), b=st.text(alphabet="ab <|x", max_size=8))
def test_a_special_token_parts_a_text(a: str, b: str) -> None:
    tokenizer = bpe_tokenizer(["a b", "Ġ a"], {"[C]": CONTROL, "[U]": USER_DEFINED})
    for text, parse_special in (("[C]", True), ("[U]", False), ("[U]", True)):
        token_id = tokenizer.vocab.tokens.index(text)
        whole = plain(tokenizer, a + text + b, parse_special)
        assert whole == [*plain(tokenizer, a), token_id, *plain(tokenizer, b)]


@pytest.mark.parametrize("model", ["gpt2", "gemma4"])
def test_a_text_can_be_kept_from_being_a_token_and_is_the_same_text(model: str) -> None:
    tokenizer = load_tokenizer(bpe_metadata(special={"<|x|>": 3}, model=model))
    ids = tokenizer.encode(f"a<{LITERAL}|x|>b", parse_special=True)
    assert ids == tokenizer.encode("a<|x|>b", parse_special=False)
    assert tokenizer.decode(ids) == "a<|x|>b"


def test_plain_text_never_becomes_a_control_token() -> None:
    metadata = bpe_metadata(["a b"], pre="llama-bpe")
    metadata["tokenizer.ggml.token_type"][-1] = CONTROL
    tokenizer = load_tokenizer(metadata)
    assert written(tokenizer, "ab") == ["a", "b"]
    assert written(tokenizer, "ab", parse_special=True) == ["ab"]
    assert plain(load_tokenizer(bpe_metadata(special={"<|im_end|>": CONTROL})), "<|im_end|>")[1:]


def test_special_tokens_print_as_they_are_written() -> None:
    special = {"<|tool Ġ|>": USER_DEFINED, "<unused>": UNUSED, "<|x|>": CONTROL, "two words": 1}
    tokenizer = bpe_tokenizer(special=special)
    n = tokenizer.n_vocab
    printed = [tokenizer.token_bytes(i) for i in range(n - 4, n)]
    assert printed == ["<|tool Ġ|>".encode(), b"", b"", b"two words"]
    assert tokenizer.token_bytes(n - 2, special=True) == b"<|x|>"


# Begin and end


@pytest.mark.parametrize(
    ("pre", "keys", "begins"),
    [
        ("llama-bpe", {}, True),
        ("tekken", {}, True),
        ("qwen2", {}, False),
        ("qwen2", {"add_bos_token": True}, True),
        ("llama-bpe", {"add_bos_token": False}, False),
        ("granite-embed-multi-311m", {"add_bos_token": False}, True),
    ],
)
def test_a_text_begins_as_the_file_says_or_its_pre_tokenizer(
    pre: str, keys: dict[str, bool], begins: bool
) -> None:
    tokenizer = bpe_tokenizer(special={"<s>": CONTROL}, pre=pre, bos_token_id=256, **keys)
    assert (tokenizer.encode("")[:1] == [256]) == begins
    assert tokenizer.encode("", add_bos=False) == []


def test_no_token_begins_or_ends_a_text_that_the_file_does_not_name() -> None:
    tokenizer = bpe_tokenizer(add_bos_token=True, add_eos_token=True)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.eog_ids) == (None, None, frozenset())
    assert written(tokenizer, "a") == ["a"]


# Bytes without tokens


def test_a_byte_without_a_token_is_lost_and_the_bound_knows() -> None:
    metadata = bpe_metadata()
    metadata["tokenizer.ggml.tokens"][0] = "xy"  # was "!"
    tokenizer = load_tokenizer(metadata)
    assert written(tokenizer, "a!b") == ["a", "b"]
    assert tokenizer.least_tokens(100) == 0
    assert bpe_tokenizer(["a b"]).least_tokens(100) == 50


def test_loading_makes_the_tokenizer_of_the_vocabulary() -> None:
    assert isinstance(bpe_tokenizer(), BpeTokenizer)
    assert isinstance(bpe_tokenizer(model="gemma4"), BpeTokenizer)
