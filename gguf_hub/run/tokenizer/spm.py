"""SentencePiece BPE, as llama.cpp tokenizes a ``llama`` vocabulary.

1. Special tokens are cut out of the text first: user-defined ones always, control ones (``<s>``)
   only on request, so that text from outside cannot forge them.
2. Each stretch of plain text gets a space in front (if the vocabulary says so), and every space
   becomes ``▁``.
3. Characters are merged pairwise, the pair with the best score first, the leftmost among equals.
4. Characters that are no token in the end are written as UTF-8 bytes, one byte token each.

Source: llama.cpp, src/llama-vocab.cpp, ``llm_tokenizer_spm_session``, ``tokenizer_st_partition``
and ``token_to_piece``; Kudo and Richardson 2018, SentencePiece. One difference: control, unknown
and byte tokens never come out of merging, as in SentencePiece itself.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from itertools import chain
from operator import neg

from gguf_hub.errors import TokenizerError
from gguf_hub.gguf.vocabulary import TokenType
from gguf_hub.run.tokenizer.interface import LITERAL
from gguf_hub.run.tokenizer.vocab import Vocab

SPACE = "▁"
_CACHED_CHUNKS = 2**15
_CACHED_LENGTH = 48  # characters; longer chunks seldom come twice
_SHORT = 256  # characters
_SURROGATES = re.compile("[\ud800-\udfff]")


class SpmTokenizer:
    """A ``Tokenizer`` of such a vocabulary; tables are built at first use."""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self._encode_short = lru_cache(_CACHED_CHUNKS)(self._encode_chunk)

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return len(self.vocab)

    @property
    def bos_id(self) -> int | None:
        """Id that begins a text."""
        return self.vocab.bos_id

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text."""
        return self.vocab.eos_id

    @property
    def eog_ids(self) -> frozenset[int]:
        """Every id that ends a generation: end of text, of turn, of message."""
        return self.vocab.eog_ids

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Return the token ids of ``text``; see ``Tokenizer``."""
        vocab = self.vocab
        ids: list[int] = []
        if add_bos and vocab.add_bos and vocab.bos_id is not None:
            ids.append(vocab.bos_id)
        for part in self._cut_specials(_SURROGATES.sub("�", text), parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                # Every stretch stands at the start or after a special token.
                part = part.replace(LITERAL, "")
                plain = " " + part if vocab.add_space_prefix else part
                self._encode_plain(plain.replace(" ", SPACE), ids)
        if add_bos and vocab.add_eos and vocab.eos_id is not None:
            ids.append(vocab.eos_id)
        return ids

    def least_tokens(self, n_characters: int) -> int:
        """Return a lower bound on the number of tokens of any text of that length."""
        if not self.vocab.byte_ids and self.vocab.unk_id is None:
            return 0  # unknown characters are dropped
        return -(-n_characters // self._longest)

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Return the text of token ids, without the space that encoding puts in front."""
        data = b"".join(self.token_bytes(i, special) for i in ids)
        return self.strip_prefix(data).decode("utf-8", errors="replace")

    def strip_prefix(self, data: bytes) -> bytes:
        """Take off the space that encoding puts in front of a text."""
        return data[1:] if self.vocab.add_space_prefix and data.startswith(b" ") else data

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        """Return the bytes that a token prints; of control and unknown tokens only on request."""
        self._check(token_id)
        if special and self.vocab.types[token_id] in (TokenType.CONTROL, TokenType.UNKNOWN):
            return self.vocab.tokens[token_id].encode("utf-8", errors="replace")
        return self._pieces[token_id]

    def is_control(self, token_id: int) -> bool:
        """Return whether a token steers the model and prints nothing."""
        self._check(token_id)
        return self.vocab.types[token_id] in (TokenType.CONTROL, TokenType.UNKNOWN)

    def _check(self, token_id: int) -> None:
        if not 0 <= token_id < len(self.vocab.tokens):
            raise TokenizerError(f"token id: expected [0, {self.n_vocab - 1}], found {token_id}")

    # Tables

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Token that text can become -> id; of twins the last one counts, as in llama.cpp."""
        vocab = self.vocab
        ids = vocab.ids_of(TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
        return dict(zip(map(vocab.tokens.__getitem__, ids), ids, strict=True))

    @cached_property
    def _longest(self) -> int:
        """Maximum number of characters that one token stands for."""
        specials = (token for token, *_ in self._specials)
        return max(map(len, chain(self._ids, specials)), default=1) or 1

    @cached_property
    def _ranks(self) -> dict[str, float]:
        """Token -> minus its score: the least is merged first."""
        scores = map(self.vocab.scores.__getitem__, self._ids.values())
        return dict(zip(self._ids, map(neg, scores), strict=True))

    @cached_property
    def _pieces(self) -> list[bytes]:
        pieces = [t.replace(SPACE, " ").encode("utf-8", "replace") for t in self.vocab.tokens]
        for i in self.vocab.ids_of(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED):
            pieces[i] = b""
        for i in self.vocab.ids_of(TokenType.USER_DEFINED):
            pieces[i] = self.vocab.tokens[i].encode("utf-8", "replace")
        for byte, i in self.vocab.byte_ids.items():
            if self.vocab.types[i] == TokenType.BYTE:  # else it prints as it is written
                pieces[i] = bytes([byte])
        return pieces

    @cached_property
    def _specials(self) -> list[tuple[str, int, bool]]:
        """(text, id, whether only on request) of the tokens that are cut out, longest first."""
        vocab = self.vocab
        ids = vocab.ids_of(TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNKNOWN)
        specials = [
            (vocab.tokens[i], i, vocab.types[i] != TokenType.USER_DEFINED)
            for i in ids
            if vocab.tokens[i]
        ]
        return sorted(specials, key=lambda entry: -len(entry[0].encode("utf-8", "replace")))

    @cached_property
    def _cuts(self) -> re.Pattern[str]:
        """Where escaped text can be cut without changing any result.

        A merge spans two neighbours only if some token holds them side by side. So text may be cut
        before a ``▁`` unless a token has that ``▁`` after the same character, and on both sides of
        an ASCII character that is in no longer token, such as a line break.
        """
        tokens = [token for token in self._ids if len(token) > 1]
        glue = {SPACE} | {
            token[k - 1]
            for token in tokens
            if token.rfind(SPACE) > 0 and SPACE in token.lstrip(SPACE)
            for k in range(1, len(token))
            if token[k] == SPACE
        }
        in_tokens = set("".join(tokens))
        alone = _charset({chr(c) for c in range(128)} - in_tokens)
        before = f"(?<!{_charset(glue)})(?={SPACE})"
        return re.compile(f"{before}|(?<={alone})|(?={alone})" if alone else before)

    # Encoding

    def _cut_specials(self, text: str, parse_special: bool) -> list[str | int]:
        """Return the text's stretches, and in their place the ids of special tokens."""
        parts: list[str | int] = [text] if text else []
        for token, token_id, is_optional in self._specials:
            if (is_optional and not parse_special) or token not in text:
                continue
            cut: list[str | int] = []
            for part in parts:
                if isinstance(part, str):
                    for stretch in part.split(token):
                        cut += [stretch, token_id] if stretch else [token_id]
                    cut.pop()  # one id less than stretches
                else:
                    cut.append(part)
            parts = cut
        return parts

    def _encode_plain(self, escaped: str, ids: list[int]) -> None:
        """Append the ids of text without special tokens, its spaces escaped."""
        # short text is not worth building the table of cuts
        for chunk in self._cuts.split(escaped) if len(escaped) > _SHORT else (escaped,):
            if len(chunk) > _CACHED_LENGTH:
                ids += self._encode_chunk(chunk)
            elif chunk:
                ids += self._encode_short(chunk)

    def _encode_chunk(self, chunk: str) -> tuple[int, ...]:
        """Return the ids of a chunk: merged pieces, and bytes for what is no token."""
        ids: list[int] = []
        for piece in self._merge(chunk):
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
            return [] if unk_id is None else [unk_id]
        ids = (byte_ids.get(byte, unk_id) for byte in character.encode("utf-8"))
        return [i for i in ids if i is not None]

    def _merge(self, chunk: str) -> list[str]:
        """Merge characters into tokens, best score first, the leftmost among equals."""
        # 1) a chain of characters, and every pair of neighbours that is a token
        pieces = list(chunk)
        ranks, end = self._ranks, len(pieces)
        following, preceding = list(range(1, end + 1)), list(range(-1, end - 1))
        queue: list[tuple[float, int, int, int]] = []

        def offer(i: int, j: int) -> None:
            pair = pieces[i] + pieces[j]
            rank = ranks.get(pair)
            if rank is not None:
                heapq.heappush(queue, (rank, i, j, len(pair)))

        for j in range(1, end):
            offer(j - 1, j)
        # 2) merge the best; an entry whose pieces have changed since is out of date
        while queue:
            _, i, j, length = heapq.heappop(queue)
            if not pieces[i] or len(pieces[i]) + len(pieces[j]) != length:
                continue
            pieces[i] += pieces[j]
            pieces[j] = ""
            after = following[i] = following[j]
            if after < end:
                preceding[after] = i
                offer(i, after)
            if preceding[i] >= 0:
                offer(preceding[i], i)
        return [piece for piece in pieces if piece]


def _charset(characters: set[str]) -> str:
    return "[" + "".join(map(re.escape, sorted(characters))) + "]" if characters else ""
