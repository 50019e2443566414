"""Cutting texts into words: what each pre-tokenizer does, and what all must do."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf.pre_tokenizers import PRE_TOKENIZERS
from gguf_hub.run.tokenizer.words import WordSplitter
from tests.run.tokenizer.small import FEW

SPLITTERS = {
    expressions: WordSplitter(expressions)
    for expressions in dict.fromkeys(p.expressions for p in PRE_TOKENIZERS.values())
}


def split(pre: str, text: str) -> str:
    return "|".join(SPLITTERS[PRE_TOKENIZERS[pre].expressions].split(text))


ENGLISH = "I'll PAY $12345.\n\n  Don'T"
ENGLISH_WORDS = {
    "gpt-2": "I|'ll| PAY| $|12345|.|\n\n | Don|'|T",
    "starcoder": "I|'ll| PAY| $|1|2|3|4|5|.|\n\n | Don|'|T",
    "llama-bpe": "I|'ll| PAY| $|123|45|.\n\n| | Don|'T",
    "glm4": "I|'ll| PAY| $|123|45|.\n\n| | Don|'T",
    "qwen2": "I|'ll| PAY| $|1|2|3|4|5|.\n\n| | Don|'T",
    "ufakzeka": "I|'ll| PAY| $|1|2|3|4|5|.\n\n| | Don|'T",
    "qwen35": "I|'ll| PAY| $|1|2|3|4|5|.\n\n| | Don|'T",
    "gpt-4o": "I'll| PAY| $|123|45|.\n\n| | Don'T",
    "tekken": "I|'ll| PAY| $|1|2|3|4|5|.\n\n| | Don|'T",
    "kimi-k2": "I'll| PAY| $|123|45|.\n\n| | Don'T",
    "youtu": "I'll| PAY| $|1|2|3|4|5|.\n\n| | Don'T",
    "deepseek-v3": "I|'ll| PAY| $|123|45|.\n\n| | Don|'T",
    "spark2_5": "I|'ll| PAY| $|1|2|3|4|5|.|\n|\n| | Don|'T",
    "deepseek-coder": "I|'|ll| PAY| $|1|2|3|4|5|.|\n|\n| | Don|'|T",
    "deepseek-llm": "I|'|ll| PAY| $|1|2|3|4|5|.|\n|\n| | Don|'|T",
    "seed-coder": "I|'ll| PAY| $|1|2|3|4|5|.|\n\n| | Don|'T",
    "bailingmoe": "I|'ll| PAY| $|1|2|3|4|5|.\n\n| | Don|'T",
    "exaone-moe": "I|'ll| PAY| $|1|2|3|4|5|.\n|\n| | Don|'T",
    "minicpm5": "I|'ll| PAY| $|123|45|.\n\n| | Don|'T",
    "tiny_aya": "I'll| PAY| $|12|345|.\n\n| | Don'T",
    "afmoe": "I|'ll| PAY| $|12|345|.\n\n| | Don|'T",
    "superbpe": "I'll PAY $|12|345|.\n\n  Don'T",
    "laguna": "I|'ll| PAY| $|1|2|3|4|5|.|\n\n| | Don|'T",
    "falcon": "I|'|ll| PAY| |$|123|45|.|\n\n | Don|'|T",
    "default": "I|'|ll| PAY| |$|123|45|.|\n\n | Don|'|T",
    "bloom": "I'll| PAY| $12345|.\n\n | Don'T",
    "viking": "I'll| PAY| $|1|2|3|4|5|.\n\n | Don'T",
    "chameleon": "I|'|ll| PAY| |$|1|2|3|4|5|.|\n|\n|  |Don|'|T",
    "gemma4": "I'll PAY $12345.|\n\n|  Don'T",
}


@pytest.mark.parametrize("pre", ENGLISH_WORDS)
def test_words_of_english(pre: str) -> None:
    assert split(pre, ENGLISH) == ENGLISH_WORDS[pre]


OTHERS = {
    "marks stay with letters": ("gpt-4o", "नमस्ते दुनिया", "नमस्ते| दुनिया"),
    "marks in tekken": ("tekken", "สวัสดี ครับ", "สวัสดี| ครับ"),
    "marks in qwen35": ("qwen35", "நன்றி", "நன்றி"),
    "marks apart in qwen2": ("qwen2", "नमस्ते", "नमस|्त|े"),
    "marks among capitals": ("gpt-4o", "A\u0301Bc", "A\u0301Bc"),
    "capitals within a word": ("gpt-4o", "iPhone HTTPServer", "i|Phone| HTTPServer"),
    "Chinese by itself": ("deepseek-v3", "abc漢字かな。x", "abc|漢字かな|。|x"),
    "Han by itself": ("kimi-k2", "abc漢字かな", "abc|漢字|かな"),
    "Korean by itself": ("youtu", "abc한국어", "abc|한국어"),
    "long blanks": ("jais-2", "a" + " " * 7 + "b", "a|    |  | b"),
    "paths": ("gpt-4o", "a ./\n/b", "a| ./\n/|b"),
    "phrases": ("exaone-moe", "a b c", "a b c"),
    "digits before a letter": ("tiny_aya", "a1234b 1234", "a|123|4|b| |1|234"),
    "long s is an s": ("llama-bpe", "'ſ", "'ſ"),
    "next line is a blank": ("llama-bpe", "a\x85\x85b", "a|\x85|\x85b"),
    "images": ("chameleon", "xIMGIMGABZy", "x|IMGIMGABZ|y"),
    "blanks at the end": ("deepseek-llm", "a  b  ", "a| | b|  "),
}


@pytest.mark.parametrize(("pre", "text", "words"), OTHERS.values(), ids=OTHERS)
def test_words_of_other_texts(pre: str, text: str, words: str) -> None:
    assert split(pre, text) == words


texts = st.text(max_size=12) | st.text(alphabet="aA1'  \n.e\u0301漢½s/", max_size=16)


@FEW
@given(text=texts)
def test_all_of_a_text_is_in_some_word(text: str) -> None:
    for splitter in SPLITTERS.values():
        words = splitter.split(text)
        assert "".join(words) == text
        assert all(words)


@FEW
@given(text=st.text(alphabet="123a _٣½.", max_size=14))
def test_digits_from_the_right_are_those_of_the_look_ahead(text: str) -> None:
    # the slow form, of the model's tokenizer.json
    slow = regex.compile(r"(\d{1,3}(?=(?:\d{3})*\b))")
    first = WordSplitter(PRE_TOKENIZERS["tiny_aya"].expressions[:1])
    assert first.split(text) == [word for word in slow.split(text) if word]


def test_names_of_one_model_family_mean_the_same() -> None:
    for names in (("llama-bpe", "llama3", "pixtral"), ("qwen2", "deepseek-r1-qwen")):
        assert len({PRE_TOKENIZERS[name] for name in names}) == 1
