"""SentencePiece BPE, as llama.cpp tokenizes a ``llama`` vocabulary.

1. Text at the start and after special tokens gets a space in front (if the vocabulary says so),
   and every space becomes ``▁``.
2. Characters are merged pairwise, the pair with the best score first.
3. Characters that are no token in the end are written as UTF-8 bytes, one byte token each.

Source: llama.cpp, src/llama-vocab.cpp, ``llm_tokenizer_spm_session``; Kudo and Richardson 2018,
SentencePiece.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from itertools import chain
from operator import neg

from gguf_hub.run.tokenizer.base import CACHED_LENGTH, CACHED_WORDS, VocabTokenizer
from gguf_hub.run.tokenizer.merging import LONG, SPACE, harmless_cuts, merge
from gguf_hub.run.tokenizer.vocab import Vocab


class SpmTokenizer(VocabTokenizer):
    """A ``Tokenizer`` of such a vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        super().__init__(vocab)
        self._encode_short = lru_cache(CACHED_WORDS)(self._encode_chunk)

    @property
    def _keeps_all(self) -> bool:
        return self.vocab.unk_id is not None or len(self.vocab.byte_ids) == 256

    @cached_property
    def _longest(self) -> int:
        """Maximum number of characters that one token stands for."""
        specials = (token for found in self._specials.values() for _, token, _ in found)
        return max(map(len, chain(self._ids, specials)), default=1) or 1

    @cached_property
    def _ranks(self) -> dict[str, float]:
        """Token -> minus its score: the least is merged first."""
        scores = map(self.vocab.scores.__getitem__, self._ids.values())
        return dict(zip(self._ids, map(neg, scores), strict=True))

    @cached_property
    def _cuts(self) -> re.Pattern[str]:
        """Where escaped text can be cut without changing any result."""
        return harmless_cuts(self._ids)

    def _encode_stretch(self, text: str, ids: list[int]) -> None:
        escaped = (" " + text if self.vocab.add_space_prefix else text).replace(" ", SPACE)
        for chunk in self._cuts.split(escaped) if len(escaped) > LONG else (escaped,):
            if len(chunk) > CACHED_LENGTH:
                ids += self._encode_chunk(chunk)
            elif chunk:
                ids += self._encode_short(chunk)

    def _encode_chunk(self, chunk: str) -> tuple[int, ...]:
        """Return the ids of a chunk: merged pieces, and bytes for what is no token."""
        ids: list[int] = []
        for piece in merge(chunk, self._ranks):
            token_id = self._ids.get(piece)
            if token_id is not None:
                ids.append(token_id)
            else:
                ids += self._fallback(piece)
        return tuple(ids)

    def _fallback(self, character: str) -> list[int]:
        """Return the byte tokens of a character, or the unknown token where there are none."""
        byte_ids, unk_id = self.vocab.byte_ids, self.vocab.unk_id
        if not byte_ids:
            return list(self._unknown)
        ids = (byte_ids.get(byte, unk_id) for byte in character.encode("utf-8"))
        return [i for i in ids if i is not None]
