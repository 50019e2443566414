"""What all tokenizers of a vocabulary do alike: special tokens, begin and end, ids to text.

Special tokens are cut out of a text before all else: user-defined ones always, control ones
(``<s>``) only on request, so that text from outside cannot forge them.

Source: llama.cpp, src/llama-vocab.cpp, ``tokenizer_st_partition`` and ``token_to_piece``. One
difference: control, unknown and byte tokens never come out of plain text, whatever it merges to.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from itertools import chain

from gguf_hub.errors import TokenizerError
from gguf_hub.gguf.vocabulary import TokenType
from gguf_hub.run.tokenizer.interface import LITERAL
from gguf_hub.run.tokenizer.merging import SPACE
from gguf_hub.run.tokenizer.vocab import SPECIAL_TYPES, Vocab

CACHED_WORDS = 2**16
CACHED_LENGTH = 48  # characters; longer words seldom come twice
_BLANKS = " \t\n\v\f\r"
_SURROGATES = re.compile("[\ud800-\udfff]")
_SILENT = frozenset({TokenType.CONTROL, TokenType.UNKNOWN})


class VocabTokenizer(ABC):
    """A ``Tokenizer``; tables are built at first use."""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab

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
        ids: list[int] = [self.begin_id] if add_bos and self.begin_id is not None else []
        for part in self._cut_specials(_SURROGATES.sub("�", text), parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                self._encode_stretch(part.replace(LITERAL, ""), ids)
        if add_bos and self.end_id is not None:
            ids.append(self.end_id)
        return ids

    @property
    def begin_id(self) -> int | None:
        """What begins a text on request."""
        return self.vocab.bos_id if self.vocab.add_bos else None

    @property
    def end_id(self) -> int | None:
        """What ends a text on request."""
        return self.vocab.eos_id if self.vocab.add_eos else None

    @abstractmethod
    def _encode_stretch(self, text: str, ids: list[int]) -> None:
        """Append the ids of text that begins at the start or after a special token."""

    def least_tokens(self, n_characters: int) -> int:
        """Return a lower bound on the number of tokens of any text of that length."""
        vocab = self.vocab
        if not self._keeps_all or vocab.lstrip_ids or vocab.rstrip_ids:
            return 0  # characters may leave no trace
        return -(-n_characters // self._longest)

    @property
    def _keeps_all(self) -> bool:
        """Whether every character becomes part of some token."""
        return False

    @property
    def _longest(self) -> int:
        """No token stands for more characters than that, where every one is kept."""
        return 1

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Return the text of token ids; see ``Tokenizer``."""
        data = b"".join(self.token_bytes(i, special) for i in ids)
        return self.strip_prefix(data).decode("utf-8", errors="replace")

    def strip_prefix(self, data: bytes) -> bytes:
        """Take off the space that encoding puts in front of a text, where it puts one."""
        return data[1:] if self.vocab.add_space_prefix and data.startswith(b" ") else data

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        """Return the bytes that a token prints; of control and unknown tokens only on request."""
        if self.is_control(token_id) and special:
            return self.vocab.tokens[token_id].encode("utf-8", errors="replace")
        return self._pieces[token_id]

    def is_control(self, token_id: int) -> bool:
        """Return whether a token steers the model and prints nothing."""
        if not 0 <= token_id < len(self.vocab.tokens):
            raise TokenizerError(f"token id: expected [0, {self.n_vocab - 1}], found {token_id}")
        return self.vocab.types[token_id] in _SILENT

    @cached_property
    def _unknown(self) -> tuple[int, ...]:
        """The unknown token, where there is one."""
        return () if self.vocab.unk_id is None else (self.vocab.unk_id,)

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Token that text can become -> id; of twins the last one counts, as in llama.cpp."""
        vocab = self.vocab
        ids = vocab.ids_of(TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
        return dict(zip(map(vocab.tokens.__getitem__, ids), ids, strict=True))

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """First two characters -> how long the tokens are that begin with them, the longest first.

        A long token costs time only where a text looks like it.
        """
        lengths: dict[str, set[int]] = {}
        for token in self._ids:
            lengths.setdefault(token[:2], set()).add(len(token))
        return {start: sorted(found, reverse=True) for start, found in lengths.items()}

    @cached_property
    def _pieces(self) -> list[bytes]:
        """What each token prints where none is asked for that is silent."""
        vocab = self.vocab
        pieces = list(map(self._piece, vocab.tokens))
        for i in vocab.ids_of(*_SILENT, TokenType.UNUSED):
            pieces[i] = b""
        for i in vocab.ids_of(TokenType.USER_DEFINED):
            pieces[i] = vocab.tokens[i].encode("utf-8", "replace")
        for byte, i in vocab.byte_ids.items():
            if vocab.types[i] == TokenType.BYTE:  # else it prints as it is written
                pieces[i] = bytes([byte])
        return pieces

    def _piece(self, token: str) -> bytes:
        """Return the bytes of a token of plain text."""
        return token.replace(SPACE, " ").encode("utf-8", "replace")

    @cached_property
    def _specials(self) -> dict[str, list[tuple[int, str, int]]]:
        """First character -> (rank, text, id) of the tokens that are cut out, longest first."""
        tokens = self.vocab.tokens
        ids = [i for i in self.vocab.ids_of(*SPECIAL_TYPES) if tokens[i]]
        ids.sort(key=lambda i: -len(tokens[i].encode("utf-8", "replace")))
        specials: dict[str, list[tuple[int, str, int]]] = {}
        for rank, i in enumerate(ids):
            specials.setdefault(tokens[i][0], []).append((rank, tokens[i], i))
        return specials

    def _cut_specials(self, text: str, parse_special: bool) -> list[str | int]:
        """Return the text's stretches, and in their place the ids of special tokens."""
        vocab = self.vocab
        parts: list[str | int] = [text] if text else []
        # most vocabularies have thousands, and most texts have none of their first characters
        firsts = self._specials.keys() & set(text)
        for _, token, i in sorted(chain.from_iterable(self._specials[c] for c in firsts)):
            if (vocab.types[i] in _SILENT and not parse_special) or token not in text:
                continue
            cut: list[str | int] = []
            for part in parts:
                cut += [part] if isinstance(part, int) else self._cut(part, token, i)
            parts = cut
        return parts

    def _cut(self, text: str, token: str, token_id: int) -> list[str | int]:
        """Return a stretch cut at one special token, without the blanks that this takes."""
        parts: list[str | int] = []
        stretches = text.split(token)
        for k, stretch in enumerate(stretches):
            if k and token_id in self.vocab.rstrip_ids:
                stretch = stretch.lstrip(_BLANKS)
            if k < len(stretches) - 1 and token_id in self.vocab.lstrip_ids:
                stretch = stretch.rstrip(_BLANKS)
            parts += [stretch, token_id] if stretch else [token_id]
        return parts[:-1]  # one id less than stretches
