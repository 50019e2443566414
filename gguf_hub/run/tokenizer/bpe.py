"""Byte-pair encoding, as ``gpt2``, ``gemma4`` and ``whitespace`` vocabularies have it.

1. The pre-tokenizer's expressions cut a text into words (``gguf/pre_tokenizers.py``).
2. The bytes of a word become characters of GPT-2's alphabet; where the vocabulary is raw, spaces
   become ``▁`` before all, and characters stay what they are.
   In a ``whitespace`` vocabulary, blanks part words and are lost.
3. Neighbours are merged, the pair that comes first among the merges first.
4. A piece that is no token in the end is written as its bytes; a byte without a token is lost, as
   with llama.cpp (no vocabulary of a model lacks one that occurs in UTF-8).

Source: llama.cpp, src/llama-vocab.cpp, ``llm_tokenizer_bpe_session``. Two differences: words are
cut as the model's own tokenizer cuts them, and a piece that is no token gives the tokens of all its
bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache

from gguf_hub.gguf.vocabulary import ALPHABET
from gguf_hub.run.tokenizer.base import CACHED_LENGTH, CACHED_WORDS, VocabTokenizer
from gguf_hub.run.tokenizer.merging import LONG, SPACE, harmless_cuts, merge
from gguf_hub.run.tokenizer.vocab import Vocab
from gguf_hub.run.tokenizer.words import WordSplitter, is_blank, lowered

_NO_BYTE = 0x10FFFF
_BYTES = {ord(character): byte for byte, character in ALPHABET.items()}
_DECODING = {
    byte: _NO_BYTE for byte, character in ALPHABET.items() if ord(character) != byte
} | _BYTES
_UTF8 = frozenset(range(0xF5)) - {0xC0, 0xC1}
"""Bytes that occur in UTF-8."""


class BpeTokenizer(VocabTokenizer):
    """A ``Tokenizer`` of such a vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        super().__init__(vocab)
        self._is_raw = vocab.pre_tokenizer.is_raw
        self._drops_blanks = vocab.pre_tokenizer.drops_blanks
        self._encode_short = lru_cache(CACHED_WORDS)(self._encode_word)

    @property
    def _keeps_all(self) -> bool:
        if self._drops_blanks:
            return False
        if self._is_raw:
            return self.vocab.unk_id is not None or self.vocab.byte_ids.keys() >= _UTF8
        return all(ALPHABET[byte] in self._ids for byte in _UTF8)

    @cached_property
    def _longest(self) -> int:
        """Maximum number of characters, or of bytes, that one token stands for."""
        return max(map(len, self.vocab.tokens), default=1) or 1

    def _piece(self, token: str) -> bytes:
        if self._drops_blanks:
            return token.encode("utf-8", "replace")
        if self._is_raw:
            return super()._piece(token)
        try:
            return token.translate(_DECODING).encode("latin-1")
        except UnicodeEncodeError:  # written as it is
            return token.encode("utf-8", "replace")

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """``left right`` -> place among the merges; of twins the first one counts.

        No piece holds a space, so that the text of a merge is one pair's alone.
        """
        merges = self.vocab.merges
        return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))

    @cached_property
    def _splitter(self) -> WordSplitter:
        return WordSplitter(self.vocab.pre_tokenizer.expressions)

    @cached_property
    def _cuts(self) -> re.Pattern[str]:
        """Where a raw line, which is a word, can be cut without changing any result."""
        return harmless_cuts(merge.replace(" ", "") for merge in self.vocab.merges)

    def _split(self, text: str) -> Sequence[str]:
        """Return the words of a text, and of a long line its parts."""
        if self._drops_blanks:
            text = lowered(text) if self.vocab.lowercase else text
            return [word for word in self._splitter.split(text) if not is_blank(word[0])]
        words = self._splitter.split(text.replace(" ", SPACE) if self._is_raw else text)
        if self._is_raw and len(text) > LONG:
            return [part for word in words for part in self._cuts.split(word) if part]
        return words

    def _encode_stretch(self, text: str, ids: list[int]) -> None:
        for word in self._split(text):
            if len(word) > CACHED_LENGTH:
                ids += self._encode_word(word)
            else:
                ids += self._encode_short(word)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word: itself, or merged pieces, or bytes for what is no token."""
        pre = self.vocab.pre_tokenizer
        is_whole = pre.ignore_merges or (pre.keeps_line_feeds and not word.strip("\n"))
        if not self._is_raw:
            word = word.encode().decode("latin-1").translate(ALPHABET)
        if is_whole and word in self._ids:
            return (self._ids[word],)
        ids: list[int] = []
        for piece in merge(word, self._ranks, " "):
            token_id = self._ids.get(piece)
            ids += self._fallback(piece) if token_id is None else (token_id,)
        return tuple(ids)

    def _fallback(self, piece: str) -> list[int]:
        """Return the ids of a piece's bytes."""
        vocab = self.vocab
        if self._is_raw:
            unk_id = None if self._drops_blanks else vocab.unk_id
            found = [vocab.byte_ids.get(byte, unk_id) for byte in piece.encode()]
        else:
            found = list(map(self._ids.get, piece))
        return [i for i in found if i is not None]
