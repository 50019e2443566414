"""What every tokenizer offers, whatever its vocabulary is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gguf_hub.run.tokenizer.vocab import Vocab

LITERAL = "\ufdd0"
"""A noncharacter of Unicode, which is in no text: within the text of a control token it keeps a
tokenizer from reading one there, and stands for nothing itself."""
EDGE = "\ufdd1"
"""Another one: in the text of an answer it stands before and after a control token that is printed
for its parser, and nowhere else."""


class Tokenizer(Protocol):
    """Text to token ids and back; safe to share between threads.

    Attributes:
        vocab: Texts, scores and types of all tokens.
    """

    vocab: Vocab

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Id that begins a text."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text."""
        ...

    @property
    def begin_id(self) -> int | None:
        """Id that ``encode`` begins every text with; None for none."""
        ...

    @property
    def end_id(self) -> int | None:
        """Id that ``encode`` ends every text with; None for none."""
        ...

    @property
    def eog_ids(self) -> frozenset[int]:
        """Every id that ends a generation: end of text, of turn, of message."""
        ...

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Return the token ids of ``text``.

        Args:
            text: Any string; lone surrogates, which have no UTF-8, are read as U+FFFD, and
                ``LITERAL`` as nothing.
            add_bos: Add the begin and end ids, as the vocabulary says.
            parse_special: Read control tokens written in the text (``</s>``) as such.
        """
        ...

    def least_tokens(self, n_characters: int) -> int:
        """Return a lower bound on the number of tokens of any text of that length."""
        ...

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Return the text of token ids; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: Token ids, from the start of a text.
            special: Print control and unknown tokens too.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        ...

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        """Return the bytes that a token prints, which may be part of a character.

        Raises:
            TokenizerError: The id is outside the vocabulary.
        """
        ...

    def strip_prefix(self, data: bytes) -> bytes:
        """Take off what encoding puts in front of a text."""
        ...

    def is_control(self, token_id: int) -> bool:
        """Return whether a token steers the model and prints nothing.

        Raises:
            TokenizerError: The id is outside the vocabulary.
        """
        ...
