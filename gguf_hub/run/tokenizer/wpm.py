"""WordPiece, as llama.cpp tokenizes a ``bert`` vocabulary.

1. Accents are stripped and letters lower-cased, if the vocabulary says so; controls are dropped.
2. Blanks end a word; a punctuation mark or a Chinese character is a word.
3. A word gets a ``▁`` in front and is cut into the longest tokens, from the left. One that cannot
   be cut to its end is the unknown token. A file has tokens within words as they are, and ``▁``
   before others, where the model's own vocabulary has ``##`` before the former.

Every text begins and ends with a token on request, whatever ``add_bos_token`` says.

Source: llama.cpp, src/llama-vocab.cpp, ``llm_tokenizer_wpm_session``. As there, and other than in
BERT's own tokenizer: of a character that Unicode decomposes, only the first part is left, so that a
Hangul syllable is its first consonant; all marks are stripped with the accents (BERT: but spacing
ones); unassigned characters are kept; and a long word is tried, too (BERT: up to 100 characters).
What is a mark or a letter, Python's ``unicodedata`` knows (llama.cpp: Unicode 15.0).
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from gguf_hub.run.tokenizer.base import CACHED_LENGTH, CACHED_WORDS, VocabTokenizer
from gguf_hub.run.tokenizer.merging import SPACE
from gguf_hub.run.tokenizer.vocab import Vocab
from gguf_hub.run.tokenizer.words import is_blank, lowered

_DROPPED = ("Cc", "Cf", "Co", "Cs")
"""Categories of controls."""
_HAN = (
    range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xF900, 0xFB00), range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740), range(0x2B740, 0x2B820), range(0x2B920, 0x2CEB0),
    range(0x2F800, 0x2FA20),
)  # fmt: skip


class WpmTokenizer(VocabTokenizer):
    """A ``Tokenizer`` of such a vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        super().__init__(vocab)
        self._words = _Words(vocab.lowercase, vocab.strip_accents)
        self._encode_short = lru_cache(CACHED_WORDS)(self._encode_word)

    @property
    def begin_id(self) -> int | None:
        """What begins every text."""
        return self.vocab.bos_id

    @property
    def end_id(self) -> int | None:
        """What ends every text."""
        return self.vocab.sep_id

    def _encode_stretch(self, text: str, ids: list[int]) -> None:
        for word in text.translate(self._words).split():
            encode = self._encode_word if len(word) > CACHED_LENGTH else self._encode_short
            ids += encode(word)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word: the longest tokens from the left, or the unknown one."""
        word = SPACE + word
        ids: list[int] = []
        start = 0
        while start < len(word):
            piece = self._longest_at(word, start)
            if not piece:
                return self._unknown
            ids.append(self._ids[piece])
            start += len(piece)
        return tuple(ids)

    def _longest_at(self, word: str, start: int) -> str:
        """Return the longest token that a word has at a place; empty for none."""
        for length in (*self._lengths.get(word[start : start + 2], ()), 1):
            piece = word[start : start + length]
            if piece in self._ids:
                return piece
        return ""


class _Words(dict[int, str]):
    """Code point -> what stands for it in a text whose words are parted by spaces.

    Each is found at its first use: ``str.translate`` asks for it.
    """

    def __init__(self, lowercase: bool, strip_accents: bool) -> None:
        self._lowercase = lowercase
        self._strip_accents = strip_accents

    def __missing__(self, code: int) -> str:
        self[code] = text = self._replacement(chr(code))
        return text

    def _replacement(self, character: str) -> str:
        if self._strip_accents:
            character = unicodedata.normalize("NFD", character)[0]
        if is_blank(character):
            return " "
        category = unicodedata.category(character)
        is_accent = self._strip_accents and category[0] == "M"
        if category in _DROPPED or character == "\N{REPLACEMENT CHARACTER}" or is_accent:
            return ""
        written = lowered(character) if self._lowercase else character
        return f" {written} " if _is_word(character, category) else written


def _is_word(character: str, category: str) -> bool:
    """Tell whether a character is a word by itself."""
    is_symbol = category[0] == "S" and character.isascii()
    return category[0] == "P" or is_symbol or any(ord(character) in part for part in _HAN)
