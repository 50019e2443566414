"""SentencePiece's Unigram, as llama.cpp tokenizes a ``t5`` vocabulary.

1. The vocabulary's map replaces characters (``gguf/charsmap.py``): most often compatible ones by
   their usual form (NFKC).
2. Spaces become ``▁``. Text at the start and after special tokens gets one in front (if the
   vocabulary says so); or each word gets one, and other spaces are dropped (if it says that).
3. Of all ways to cut the text into tokens, the one is taken whose scores have the largest sum
   (Viterbi). A character that is no token counts ten less than the worst token; a run of such
   characters is one unknown token. There are no byte tokens.

Source: llama.cpp, src/llama-vocab.cpp, ``llm_tokenizer_ugm_session``; Kudo 2018, Subword
Regularization. As there, and other than in SentencePiece: where spaces are dropped, the first word
gets its ``▁`` whatever ``add_space_prefix`` says; and the map leaves alone what begins as a
user-defined token does, even if it goes on in another way (llama.cpp: even within a character).
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache

import numpy as np

from gguf_hub.gguf.charsmap import Charsmap
from gguf_hub.gguf.vocabulary import TokenType
from gguf_hub.run.tokenizer.base import CACHED_LENGTH, CACHED_WORDS, VocabTokenizer
from gguf_hub.run.tokenizer.merging import LONG, SPACE, harmless_cuts
from gguf_hub.run.tokenizer.vocab import Vocab

_UNKNOWN_PENALTY = np.float32(10)


class UgmTokenizer(VocabTokenizer):
    """A ``Tokenizer`` of such a vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        super().__init__(vocab)
        self._charsmap = Charsmap(vocab.charsmap)
        self._encode_short = lru_cache(CACHED_WORDS)(self._encode_chunk)

    def _encode_stretch(self, text: str, ids: list[int]) -> None:
        normalized = self._normalize(text)
        last: tuple[int, ...] = ()
        for chunk in self._cuts.split(normalized) if len(normalized) > LONG else (normalized,):
            encode = self._encode_chunk if len(chunk) > CACHED_LENGTH else self._encode_short
            found = encode(chunk)
            ids += found[1:] if last == found[:1] == self._unknown else found
            last = found[-1:] or last

    # -- what a text becomes before it is cut ------------------------------------------------

    def _normalize(self, text: str) -> str:
        """Return a text as tokens have it."""
        text = self._replace(text.encode()).decode("utf-8", "replace")
        if self.vocab.remove_extra_whitespaces:
            return "".join(SPACE + word for word in text.split(" ") if word)
        has_prefix = self.vocab.add_space_prefix and text.strip(" ")
        return (SPACE if has_prefix else "") + text.replace(" ", SPACE)

    def _replace(self, text: bytes) -> bytes:
        """Replace what the map has, the longest keys first, from the left."""
        parts: list[bytes] = []
        start = 0
        while start < len(text):
            length = self._kept_length(text, start)
            n_replaced, part = (0, b"") if length else self._charsmap.find(text, start)
            if not n_replaced:
                length = length or _utf8_length(text[start])
                part = text[start : start + length]
            parts.append(part)
            start += n_replaced or length
        return b"".join(parts)

    def _kept_length(self, text: bytes, start: int) -> int:
        """Return how many bytes begin a user-defined token."""
        found = self._beginnings.get(text[start], ())
        return next((len(each) for each in found if text.startswith(each, start)), 0)

    @cached_property
    def _beginnings(self) -> dict[int, list[bytes]]:
        """First byte -> what user-defined tokens begin with, the longest first."""
        tokens = map(self.vocab.tokens.__getitem__, self.vocab.ids_of(TokenType.USER_DEFINED))
        texts = {token[:n].encode("utf-8", "replace")
                 for token in tokens for n in range(1, len(token) + 1)}  # fmt: skip
        beginnings: dict[int, list[bytes]] = {}
        for text in sorted(texts, key=len, reverse=True):
            beginnings.setdefault(text[0], []).append(text)
        return beginnings

    # -- cutting -----------------------------------------------------------------------------

    @cached_property
    def _cuts(self) -> re.Pattern[str]:
        """Where a normalised text can be cut without changing any result but runs of unknowns."""
        return harmless_cuts(self._ids)

    @cached_property
    def _scores(self) -> dict[str, float]:
        """Token -> its score, which is 0 for user-defined ones."""
        vocab = self.vocab
        user_defined = TokenType.USER_DEFINED
        return {
            token: 0.0 if vocab.types[i] == user_defined else vocab.scores[i]
            for token, i in self._ids.items()
        }

    @cached_property
    def _unknown_score(self) -> float:
        scores = np.array(self.vocab.scores, np.float32)
        normal = scores[np.array(self.vocab.types) == TokenType.NORMAL]
        return float(normal.min(initial=np.finfo(np.float32).max) - _UNKNOWN_PENALTY)

    def _encode_chunk(self, chunk: str) -> tuple[int, ...]:
        """Return the ids of the best way to cut a text, with one for each run of unknowns."""
        starts = self._best_starts(chunk)
        ids: list[int] = []
        end = len(chunk)
        while end:
            token_id = self._ids.get(chunk[starts[end] : end])
            found = self._unknown if token_id is None else (token_id,)
            if found != self._unknown or tuple(ids[-1:]) != found:
                ids += found
            end = starts[end]
        return tuple(reversed(ids))

    def _best_starts(self, chunk: str) -> list[int]:
        """Return where the last token begins in the best way to cut each beginning of a text."""
        scores, lengths = self._scores, self._lengths
        best = [0.0] + [-np.inf] * len(chunk)
        starts = [0] * len(best)

        def offer(start: int, end: int, score: float) -> None:
            score += best[start]
            if score > best[end]:
                best[end], starts[end] = score, start

        for start, character in enumerate(chunk):
            offer(start, start + 1, scores.get(character, self._unknown_score))
            for length in lengths.get(chunk[start : start + 2], ()):
                piece = chunk[start : start + length]  # at the end of the text a shorter one
                if piece in scores:
                    offer(start, start + len(piece), scores[piece])
        return starts


def _utf8_length(lead: int) -> int:
    """Return how many bytes a character has that begins with this one; 1 for any other byte."""
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
