"""Text in parts: never half a character, and the parts join to the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import TokenizerError
from gguf_hub.run.tokenizer import StreamDecoder, Tokenizer
from tests.run.tokenizer.small import FEW, small_tokenizer


def stream(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    decoder = StreamDecoder(tokenizer, **options)
    return [decoder.feed(i) for i in ids] + [decoder.flush()]


@FEW
@given(text=st.text(max_size=30))
def test_parts_of_a_text_join_to_it_and_each_is_whole(mixtral: Tokenizer, text: str) -> None:
    ids = mixtral.encode(text)
    parts = stream(mixtral, ids, at_start=True)
    assert "".join(parts) == mixtral.decode(ids)
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text
    assert parts[-1] == ""


@FEW
@given(ids=st.lists(st.integers(0, 262), max_size=30), special=st.booleans())
def test_any_ids_join_to_what_decode_gives(ids: list[int], special: bool) -> None:
    tokenizer = small_tokenizer()
    parts = stream(tokenizer, ids, at_start=True, special=special)
    assert "".join(parts) == tokenizer.decode(ids, special=special)


def test_a_character_waits_for_its_last_byte(llama2: Tokenizer) -> None:
    ids = llama2.encode("🦙", add_bos=False)
    assert stream(llama2, ids, at_start=True) == ["", "", "", "", "🦙", ""]


def test_an_unfinished_character_becomes_a_replacement_at_the_end(llama2: Tokenizer) -> None:
    ids = llama2.encode("🦙", add_bos=False)[:-1]
    assert stream(llama2, ids)[-1] == "\ufffd"


def test_what_goes_on_from_a_prompt_keeps_its_space(llama2: Tokenizer) -> None:
    (world,) = llama2.encode("world", add_bos=False)
    assert stream(llama2, [world]) == [" world", ""]
    assert stream(llama2, [1, world, world], at_start=True) == ["", "world", " world", ""]


def test_an_id_outside_the_vocabulary_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="found 999"):
        StreamDecoder(small_tokenizer()).feed(999)
