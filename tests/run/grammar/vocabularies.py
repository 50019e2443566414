"""Small vocabularies for grammars."""

from __future__ import annotations


class Words:
    """Tokens given as bytes; the last one ends a generation and prints nothing."""

    def __init__(self, *words: str | bytes) -> None:
        self.words = [w.encode() if isinstance(w, str) else w for w in words] + [b""]
        self.n_vocab = len(self.words)
        self.eog_ids = frozenset({self.n_vocab - 1})

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        return self.words[token_id]

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Whole words only; anything else letter by letter."""
        data = text.encode()
        return [self.words.index(data)] if data in self.words else [0] * len(data)
