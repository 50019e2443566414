"""Encoding and decoding: published vectors, a slow oracle, and what must hold for any text."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gguf_hub.errors import TokenizerError
from gguf_hub.run.tokenizer import SpmTokenizer, Tokenizer
from tests.run.tokenizer.small import FEW, small_tokenizer

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5


# Vectors


@pytest.mark.parametrize("name", ["llama2", "mixtral"])
def test_published_cases_encode_and_decode(
    name: str, data: Path, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    file = {"llama2": "llama2.cases.json", "mixtral": "mixtral-v1.cases.json"}[name]
    cases = json.loads((data / "vocab" / file).read_text(encoding="utf-8"))["cases"]
    assert len(cases) == 450
    wrong = [c["text"] for c in cases if tokenizer.encode(c["text"], add_bos=False) != c["ids"]]
    assert wrong == []
    assert [c["ids"] for c in cases if tokenizer.decode(c["ids"]) != c["decoded"]] == []


def test_llama_cpp_vocabulary_vectors(llama2: Tokenizer, data: Path) -> None:
    stem = data / "vocab" / "ggml-vocab-llama-spm.gguf"
    texts = Path(f"{stem}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")[:46]
    rows = Path(f"{stem}.out").read_text().split("\n")[:46]
    assert [llama2.encode(text, add_bos=False) for text in texts] == [
        [int(word) for word in row.split()] for row in rows
    ]


@pytest.mark.slow
def test_a_megabyte_of_text_comes_back(mixtral: Tokenizer, data: Path) -> None:
    text = (data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    assert mixtral.decode(mixtral.encode(text)) == text


# Merging against an oracle without queue, cuts or cache


def naive_pieces(text: str, scores: dict[str, float]) -> list[str]:
    """Merge by looking at every pair of neighbours again and again."""
    pieces = list(text)
    while True:
        found = [
            (-scores[a + b], i)
            for i, (a, b) in enumerate(itertools.pairwise(pieces))
            if a + b in scores
        ]
        if not found:
            return pieces
        _, i = min(found)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def naive_encode(text: str, tokenizer: Tokenizer) -> list[int]:
    vocab = tokenizer.vocab
    ids = {t: i for i, t in enumerate(vocab.tokens) if vocab.types[i] == 1}
    out: list[int] = []
    for piece in naive_pieces(text.replace(" ", "▁"), {t: vocab.scores[i] for t, i in ids.items()}):
        out += [ids[piece]] if piece in ids else [vocab.byte_ids[b] for b in piece.encode()]
    return out


@FEW
@given(
    pieces=st.dictionaries(
        st.text("ab▁é\n", min_size=1, max_size=5), st.integers(-9, 0).map(float), max_size=25
    ),
    text=st.text("ab é\n", max_size=60),
)
def test_cutting_text_never_changes_the_result(pieces: dict[str, float], text: str) -> None:
    tokenizer = small_tokenizer(pieces)
    assert tokenizer.encode(text, add_bos=False) == (
        naive_encode(" " + text, tokenizer) if text else []
    )


@pytest.mark.parametrize("name", ["llama2", "mixtral"])
def test_cutting_real_text_never_changes_the_result(
    name: str, data: Path, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    text = (data / "text" / "botchan.txt").read_text(encoding="utf-8")[:1500]
    assert tokenizer.encode(text, add_bos=False) == naive_encode(" " + text, tokenizer)


def test_of_equal_scores_the_leftmost_pair_merges_first() -> None:
    tokenizer = small_tokenizer({"▁": -9.0, "a": -9.0, "aa": -1.0})
    names = [tokenizer.vocab.tokens[i] for i in tokenizer.encode("aaa", add_bos=False)]
    assert names == ["▁", "aa", "a"]


def test_of_twin_tokens_the_last_counts() -> None:
    metadata = {"a": -1.0}, {"a": 1}
    tokenizer = small_tokenizer(*metadata, add_space_prefix=False)
    assert tokenizer.encode("a", add_bos=False) == [tokenizer.n_vocab - 1]


# What holds for any text


@FEW
@given(
    pieces=st.dictionaries(st.text("ab▁é", min_size=1, max_size=6), st.just(-1.0), max_size=8),
    special=st.dictionaries(st.text("<ab>", min_size=1, max_size=9), st.sampled_from((3, 4))),
    bytes_too=st.booleans(),
    unk=st.sampled_from((0, None)),
    text=st.text("ab▁ é<>\ud800", max_size=60),
)
def test_a_text_never_has_fewer_tokens_than_its_length_tells(
    pieces: dict[str, float], special: dict[str, int], bytes_too: bool, unk: int | None, text: str
) -> None:
    tokenizer = small_tokenizer(pieces, special, bytes_too=bytes_too)
    if unk is None:
        tokenizer = SpmTokenizer(replace(tokenizer.vocab, unk_id=None))
    least = tokenizer.least_tokens(len(text))
    for parse_special in (False, True):
        assert len(tokenizer.encode(text, add_bos=False, parse_special=parse_special)) >= least


def test_how_few_tokens_a_text_can_have() -> None:
    tokenizer = small_tokenizer({"▁": -5.0, "abc": -1.0, "a": -2.0}, {"<long>": 3})
    assert [tokenizer.least_tokens(n) for n in (0, 1, 6, 7, 600)] == [0, 1, 1, 2, 100]


@FEW
@given(text=st.text(max_size=40))
def test_any_text_comes_back(mixtral: Tokenizer, text: str) -> None:
    expected = text.replace("▁", " ")  # the escape itself cannot be told from a space
    assert mixtral.decode(mixtral.encode(text)) == expected
    assume(not any(token in text for token in ("<s>", "</s>", "<unk>")))  # these print nothing
    assert mixtral.decode(mixtral.encode(text, parse_special=True)) == expected


def test_lone_surrogates_read_as_replacement_characters(mixtral: Tokenizer) -> None:
    assert mixtral.decode(mixtral.encode("a\ud800b")) == "a\ufffdb"


@FEW
@given(ids=st.lists(st.integers(0, 31_999), max_size=30))
def test_any_ids_decode(mixtral: Tokenizer, ids: list[int]) -> None:
    raw = b"".join(mixtral.token_bytes(i) for i in ids)
    assert mixtral.decode(ids) == raw.removeprefix(b" ").decode("utf-8", "replace")


# Special tokens


def test_control_tokens_in_text_are_plain_text_unless_asked(llama2: Tokenizer) -> None:
    plain = llama2.encode("</s>", add_bos=False)
    assert llama2.eos_id not in plain and llama2.decode(plain) == "</s>"
    assert llama2.encode("</s>", parse_special=True) == [1, 2]


def test_merging_never_forges_a_control_token() -> None:
    pieces = {"▁": -9.0, "<": -9.0, "s": -9.0, ">": -9.0, "s>": -2.0}
    tokenizer = small_tokenizer(pieces, add_space_prefix=False)
    assert tokenizer.bos_id not in tokenizer.encode("<s>", add_bos=False)


def test_user_defined_tokens_always_match_the_longest_first() -> None:
    special = {"<x>": USER_DEFINED, "<x><x>": USER_DEFINED}
    tokenizer = small_tokenizer(special=special, add_space_prefix=False)
    one, two = tokenizer.n_vocab - 2, tokenizer.n_vocab - 1
    a = tokenizer.vocab.tokens.index("a")
    assert tokenizer.encode("<x><x><x>a<x>", add_bos=False) == [two, one, a, one]
    assert tokenizer.decode([one, a]) == "<x>a"


def test_plain_text_after_a_special_token_gets_its_space(llama2: Tokenizer) -> None:
    ids = llama2.encode("a</s>a", add_bos=False, parse_special=True)
    assert ids == [ids[0], 2, ids[0]] and llama2.vocab.tokens[ids[0]] == "▁a"


def test_begin_and_end_ids_are_those_that_the_vocabulary_asks_for() -> None:
    both = small_tokenizer(add_bos_token=True, add_eos_token=True)
    none = small_tokenizer(add_bos_token=False)
    assert both.encode("") == [1, 2] and both.encode("", add_bos=False) == []
    assert none.encode("") == []


def test_control_tokens_print_only_when_asked(llama2: Tokenizer) -> None:
    ids = [1, *llama2.encode("hi", add_bos=False), 2]
    assert llama2.decode(ids) == "hi"
    assert llama2.decode(ids, special=True) == "<s> hi</s>"
    assert llama2.is_control(1) and not llama2.is_control(ids[1])


def test_unused_tokens_print_nothing() -> None:
    tokenizer = small_tokenizer(special={"[spare]": UNUSED})
    assert tokenizer.token_bytes(tokenizer.n_vocab - 1) == b""


# Vocabularies of other kinds


def test_no_space_prefix_means_none_added_and_none_taken_off() -> None:
    tokenizer = small_tokenizer(add_space_prefix=False)
    assert tokenizer.vocab.tokens[tokenizer.encode("ab", add_bos=False)[0]] == "ab"
    assert tokenizer.decode(tokenizer.encode(" ab")) == " ab"


def test_without_byte_tokens_unknown_characters_are_the_unknown_token() -> None:
    tokenizer = small_tokenizer(bytes_too=False, add_space_prefix=False)
    assert tokenizer.encode("aé", add_bos=False) == [tokenizer.vocab.tokens.index("a"), 0]


@pytest.mark.parametrize("token_id", [-1, 263, 10**9])
def test_an_id_outside_the_vocabulary_is_named(token_id: int) -> None:
    with pytest.raises(TokenizerError, match=rf"expected \[0, 262\], found {token_id}"):
        small_tokenizer().decode([token_id])
