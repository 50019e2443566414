"""Prompts for filling in the middle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import UsageError
from gguf_hub.run.tokenizer import Tokenizer, encode_infill
from tests.run.tokenizer.small import small_tokenizer

CODE_LLAMA = {"▁<PRE>": 3, "▁<MID>": 3, "▁<SUF>": 3}
QWEN = {"<|fim_suffix|>": 4, "<|fim_prefix|>": 4, "<|fim_middle|>": 4}


def ids_of(tokenizer: Tokenizer, *texts: str) -> tuple[int, ...]:
    return tuple(tokenizer.vocab.tokens.index(text) for text in texts)


@pytest.mark.parametrize("special", [CODE_LLAMA, QWEN], ids=["Code Llama", "Qwen"])
@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("add_space", [True, False])
@given(prefix=st.text("ab \n<é"), suffix=st.text("ab \n<é"))
def test_the_parts_stand_where_the_model_was_trained_on_them(
    special: dict[str, int], add_bos: bool, add_space: bool, prefix: str, suffix: str
) -> None:
    tokenizer = small_tokenizer(
        special=special, add_bos_token=add_bos, add_space_prefix=add_space
    )  # fmt: skip
    before, after, middle = ids_of(tokenizer, *sorted(special, key=lambda t: "PSM".find(
        next(c for c in t.upper().removeprefix("<|FIM_") if c in "PSM"))))  # fmt: skip
    ids = encode_infill(tokenizer, prefix, suffix)
    begin = [1] if add_bos else []
    assert ids[: len(begin) + 1] == [*begin, before]
    assert ids[-1] == middle
    at = ids.index(after)
    assert tokenizer.decode(ids[len(begin) + 1 : at]) == prefix
    # no space stands in front of the suffix, whatever stands in front of other texts
    rest = b"".join(tokenizer.token_bytes(i) for i in ids[at + 1 : -1])
    assert rest.decode() == suffix


def test_the_files_ids_count_before_texts() -> None:
    keys: dict[str, Any] = {"prefix_token_id": 5, "suffix_token_id": 6, "middle_token_id": 7}
    assert small_tokenizer(special=QWEN, **keys).vocab.infill_ids == (5, 6, 7)
    keys |= {"fim_pre_token_id": 8, "fim_suf_token_id": 10**6}
    assert small_tokenizer(**keys).vocab.infill_ids == (8, 6, 7)


@pytest.mark.parametrize("special", [{}, {"▁<PRE>": 3, "▁<SUF>": 3}])
def test_a_vocabulary_without_them_is_named(special: dict[str, int]) -> None:
    tokenizer = small_tokenizer(special=special)
    with pytest.raises(UsageError, match="suffix: this model's vocabulary has no tokens"):
        encode_infill(tokenizer, "a", "b")
