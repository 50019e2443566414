"""Reading a vocabulary: real files, defaults, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import TokenizerError, UnsupportedGgufError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.vocabulary import TokenType, vocabulary_problems
from gguf_hub.run.tokenizer import load_tokenizer, read_vocab
from tests.run.tokenizer.small import bpe_metadata, small_metadata

N = 263  # tokens of the small vocabulary


def with_keys(**keys: Any) -> dict[str, Any]:
    return small_metadata(**keys)


def test_special_ids_default_as_the_format_says() -> None:
    vocab = read_vocab(small_metadata())
    assert (vocab.bos_id, vocab.eos_id, vocab.unk_id, vocab.pad_id) == (1, 2, 0, None)
    assert (vocab.add_bos, vocab.add_eos, vocab.add_space_prefix) == (True, False, True)
    assert len(vocab) == N and vocab.byte_ids[0] == 3


def test_arrays_may_be_lists_or_numpy() -> None:
    lists = small_metadata()
    arrays = dict(lists)
    arrays["tokenizer.ggml.scores"] = np.array(lists["tokenizer.ggml.scores"], dtype=np.float32)
    arrays["tokenizer.ggml.token_type"] = np.array(lists["tokenizer.ggml.token_type"], np.int32)
    arrays["tokenizer.ggml.bos_token_id"] = np.uint32(1)
    assert read_vocab(arrays) == read_vocab(lists)


def test_strings_may_be_numpys() -> None:
    metadata = small_metadata()
    texts = np.array(metadata["tokenizer.ggml.tokens"])
    vocab = read_vocab(metadata | {"tokenizer.ggml.tokens": texts})
    assert vocab.tokens == read_vocab(metadata).tokens


@pytest.mark.parametrize("kind", [3, 4], ids=["control", "user-defined"])
def test_a_turn_ends_at_tokens_that_say_so(kind: int) -> None:
    vocab = read_vocab(small_metadata(special={"<|im_end|>": kind, "<other>": kind}))
    assert vocab.eog_ids == {2, N}


def test_a_turn_ends_at_the_ids_that_the_file_names() -> None:
    assert read_vocab(with_keys(eot_token_id=5, eom_token_id=6)).eog_ids == {2, 5, 6}


WRONG = {
    "scores short": ({"scores": [0.0] * 5}, "`tokenizer.ggml.scores`: expected 263.*found 5"),
    "types short": ({"token_type": [1] * 9}, "`tokenizer.ggml.token_type`: expected 263.*found 9"),
    "scores a number": ({"scores": 1.0}, "scores`: expected an array of numbers, found 1.0"),
    "scores texts": ({"scores": ["a"] * N}, "expected floating numbers, found"),
    "types a text": ({"token_type": "x"}, "token_type`: expected an array of numbers, found 'x'"),
    "NaN score": ({"scores": [0.0] * 7 + [float("nan")] * (N - 7)}, "entry 7 is not a number"),
    "float types": ({"token_type": [1.0] * N}, "expected integer numbers, found float64"),
    "bos a text": ({"bos_token_id": "<s>"}, "bos_token_id`: expected a token id, found '<s>'"),
    "flag a number": ({"add_bos_token": 1}, "add_bos_token`: expected true or false, found 1"),
    "flag an array": ({"add_bos_token": np.array([1, 2])}, "true or false, found an array of 2"),
    "flag no array": ({"add_space_prefix": np.array([])}, "true or false, found an array of 0"),
    "no tokens": ({"tokens": []}, "the vocabulary is empty"),
    "tokens missing": ({"tokens": None}, "the vocabulary is empty"),
    "token no text": ({"tokens": ["a", 5]}, "entry 1 is not a text"),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "message"), WRONG.values(), ids=WRONG)
def test_a_vocabulary_that_contradicts_itself_is_refused(keys: dict, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(with_keys(**keys))


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(TokenizerError, match="2 problems") as caught:
        read_vocab(with_keys(scores=[0.0], eos_token_id="</s>"))
    assert "scores" in str(caught.value) and "eos_token_id" in str(caught.value)
    assert caught.value.hint and caught.value.exit_code == 1


def test_byte_tokens_must_be_well_formed() -> None:
    metadata = small_metadata()
    metadata["tokenizer.ggml.tokens"][3] = "<0x-1>"
    with pytest.raises(TokenizerError, match="token 3 is a byte token but reads `<0x-1>`"):
        read_vocab(metadata)


def test_a_byte_without_a_token_is_unknown() -> None:
    metadata = small_metadata()
    i = metadata["tokenizer.ggml.tokens"].index("<0x7F>")
    metadata["tokenizer.ggml.tokens"][i] = "zq"
    metadata["tokenizer.ggml.token_type"][i] = 1
    tokenizer = load_tokenizer(metadata)
    assert tokenizer.encode("\x7f", add_bos=False)[-1] == tokenizer.vocab.unk_id
    assert tokenizer.encode("\x7e", add_bos=False)[-1] != tokenizer.vocab.unk_id


@pytest.mark.parametrize("value", [N, 2**31 - 1, 2**32 - 1, -1])
def test_special_tokens_that_are_none_are_the_usual_ones(value: int) -> None:
    names = ("bos", "eos", "unknown", "padding", "eot", "eom")
    vocab = read_vocab(with_keys(**{f"{name}_token_id": value for name in names}))
    assert (vocab.bos_id, vocab.eos_id, vocab.unk_id, vocab.pad_id) == (1, 2, 0, None)
    assert vocab.eog_ids == {2}


def test_a_vocabulary_may_lack_scores_and_types() -> None:
    full = read_vocab(small_metadata())
    bare = read_vocab(with_keys(scores=None, token_type=None))
    assert bare.byte_ids == full.byte_ids  # known by their texts
    assert (set(bare.scores), bare.eog_ids) == ({0}, full.eog_ids)
    assert bare.types[5] == TokenType.NORMAL
    assert bare.types[2] == TokenType.CONTROL  # </s> ends a text and prints nothing
    assert load_tokenizer(with_keys(token_type=None)).encode("\n", add_bos=False)[-1] == 3 + 10


def test_arrays_may_be_longer_than_the_vocabulary_and_scores_whole_numbers() -> None:
    metadata = small_metadata()
    scores, types = metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"]
    longer = with_keys(scores=[*scores, 9.0], token_type=[*types, 1])
    assert read_vocab(longer) == read_vocab(metadata)
    assert read_vocab(with_keys(scores=np.arange(N, dtype=np.int32))).scores[5] == 5
    odd = read_vocab(with_keys(token_type=np.where(np.array(types) == 1, 99, types)))
    assert list(odd.types) == types  # nobody knows type 99: text as any other


ENDS = ["<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<turn|>", "[EOS]"]


@pytest.mark.parametrize("text", ENDS)
@pytest.mark.parametrize("kind", TokenType)
def test_a_text_that_ends_a_turn_does_so_whatever_its_type(text: str, kind: TokenType) -> None:
    if kind is TokenType.BYTE:
        return
    vocab = read_vocab(small_metadata(special={text: int(kind)}))
    assert vocab.eog_ids == {2, N}
    assert vocab.types[N] == TokenType.CONTROL


@pytest.mark.parametrize(
    ("texts", "ends"),
    [
        (["<|end|>"], {2, N}),
        (["<|end|>", "<|return|>"], {2, N, N + 1}),
        (["<|end|>", "<|return|>", "<|call|>"], {2, N + 1, N + 2}),
        (["<|end|>", "<|calls|>", "<|flush|>"], {2, N + 1, N + 2}),
    ],
)
def test_the_end_of_a_part_ends_no_turn(texts: list[str], ends: set[int]) -> None:
    vocab = read_vocab(small_metadata(special=dict.fromkeys(texts, 3)))
    assert vocab.eog_ids == ends


@pytest.mark.parametrize("model", ["rwkv", "bogus", "no_vocab"])
def test_another_kind_of_tokenizer_is_named(model: str) -> None:
    expected = (
        f"tokenizer `{model}`, expected `llama`, `gpt2`, `gemma4`, `whitespace`, `bert` or `t5`"
    )
    with pytest.raises(UnsupportedGgufError, match=expected) as caught:
        read_vocab(with_keys(model=model))
    assert caught.value.hint is None


def test_a_file_without_vocabulary_says_so() -> None:
    with pytest.raises(UnsupportedGgufError, match="no vocabulary") as caught:
        read_vocab({"general.architecture": "llama"})
    assert caught.value.hint


BAD_FILES = ["scores_short", "scores_nan", "bos_id_string", "byte_token_negative", "no_tokens"]


@pytest.mark.parametrize("name", BAD_FILES)
def test_malformed_files_are_refused(name: str, data: Path) -> None:
    with (
        GgufFile.open(data / "malformed" / f"vocab_{name}.gguf") as file,
        pytest.raises(TokenizerError),
    ):
        load_tokenizer(file.metadata)


@pytest.mark.parametrize(
    "name", ["ok", "empty_token", "huge_token", "scores_missing", "bos_id_oob", "unknown_id_oob"]
)
def test_odd_but_sound_files_work(name: str, data: Path) -> None:
    with GgufFile.open(data / "malformed" / f"vocab_{name}.gguf") as file:
        tokenizer = load_tokenizer(file.metadata)
    assert tokenizer.decode(tokenizer.encode("ab é")) == "ab é"


WRONG_BPE = {
    "no merges": ({"merges": None}, "merges`: expected an array of texts, found none"),
    "merges a text": ({"merges": "a b"}, "merges`: expected an array of texts, found 'a b'"),
    "merge no text": ({"merges": ["a b", 5]}, "`tokenizer.ggml.merges` entry 1 is not a text"),
    "no tokens": ({"tokens": []}, "the vocabulary is empty"),
    "fill id a text": ({"fim_pad_token_id": "x"}, "fim_pad_token_id`: expected a token id"),
}


@pytest.mark.parametrize(("keys", "message"), WRONG_BPE.values(), ids=WRONG_BPE)
def test_a_byte_pair_vocabulary_that_lacks_something_is_refused(keys: dict, message: str) -> None:
    metadata = bpe_metadata() | {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(metadata)


def test_a_byte_pair_vocabulary_needs_no_scores() -> None:
    metadata = bpe_metadata(["a b"])
    assert "tokenizer.ggml.scores" not in metadata
    assert vocabulary_problems(metadata) == []


@pytest.mark.parametrize(
    ("pre", "message"),
    [
        ("llama-9", "key `tokenizer.ggml.pre` is the unknown pre-tokenizer `llama-9`"),
        (
            "whitespace",
            "key `tokenizer.ggml.pre` is `whitespace`, which does not go with tokenizer `gpt2`",
        ),
        (None, "missing key `tokenizer.ggml.pre`"),
        (7, "metadata `tokenizer.ggml.pre`: expected a text, found 7"),
    ],
)
def test_a_pre_tokenizer_is_never_guessed(pre: Any, message: str) -> None:
    metadata = bpe_metadata(pre=pre)
    assert vocabulary_problems(metadata) == [message]
    with pytest.raises(UnsupportedGgufError, match=message) as caught:
        load_tokenizer(metadata)
    assert "--override-kv tokenizer.ggml.pre=str:NAME" in str(caught.value.hint)


def test_the_default_pre_tokenizer_is_one_that_a_file_may_name() -> None:
    assert load_tokenizer(bpe_metadata(pre="default")).encode("a") == [64]
