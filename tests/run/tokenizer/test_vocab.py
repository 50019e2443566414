"""Reading a vocabulary: real files, defaults, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import TokenizerError, UnsupportedGgufError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.tokenizer import load_tokenizer, read_vocab
from tests.run.tokenizer.small import small_metadata

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
    "no scores": ({"scores": None}, "`tokenizer.ggml.scores` is missing"),
    "scores a number": ({"scores": 1.0}, "expected 263 entries, one for each token, found 1"),
    "integer scores": ({"scores": [0] * N}, "expected floating numbers, found int64"),
    "NaN score": ({"scores": [0.0] * 7 + [float("nan")] * (N - 7)}, "entry 7 is not a number"),
    "float types": ({"token_type": [1.0] * N}, "expected integer numbers, found float64"),
    "bos too big": ({"bos_token_id": 2**31 - 1}, r"bos_token_id`: expected an id in \[0, 262\]"),
    "unk too big": ({"unknown_token_id": N}, "unknown_token_id`: expected an id in.*found 263"),
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
        read_vocab(with_keys(scores=[0.0], eos_token_id=-1))
    assert "scores" in str(caught.value) and "eos_token_id" in str(caught.value)
    assert caught.value.hint and caught.value.exit_code == 1


def test_byte_tokens_must_be_well_formed_and_complete() -> None:
    metadata = small_metadata()
    metadata["tokenizer.ggml.tokens"][3] = "<0x-1>"
    with pytest.raises(
        TokenizerError, match="token 3 is a byte token but reads `<0x-1>`"
    ) as caught:
        read_vocab(metadata)
    assert "expected all 256, found 255; `<0x00>` is missing" in str(caught.value)


@pytest.mark.parametrize("model", ["gpt2", "bert", "bogus"])
def test_another_kind_of_tokenizer_is_named(model: str) -> None:
    with pytest.raises(UnsupportedGgufError, match=f"tokenizer `{model}` is not supported"):
        read_vocab(with_keys(model=model))


def test_a_file_without_vocabulary_says_so() -> None:
    with pytest.raises(UnsupportedGgufError, match="no vocabulary") as caught:
        read_vocab({"general.architecture": "llama"})
    assert caught.value.hint


BAD_FILES = ["scores_i8", "scores_short", "scores_missing", "scores_nan", "bos_id_oob",
             "unknown_id_oob", "bos_id_string", "byte_token_negative", "no_tokens"]  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_malformed_files_are_refused(name: str, data: Path) -> None:
    with (
        GgufFile.open(data / "malformed" / f"vocab_{name}.gguf") as file,
        pytest.raises(TokenizerError),
    ):
        load_tokenizer(file.metadata)


@pytest.mark.parametrize("name", ["ok", "empty_token", "huge_token"])
def test_odd_but_sound_files_work(name: str, data: Path) -> None:
    with GgufFile.open(data / "malformed" / f"vocab_{name}.gguf") as file:
        tokenizer = load_tokenizer(file.metadata)
    assert tokenizer.decode(tokenizer.encode("ab é")) == "ab é"
