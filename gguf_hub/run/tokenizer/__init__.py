"""Text to token ids and back.

The vocabulary comes from GGUF metadata alone; this room knows nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gguf_hub.gguf.vocabulary import SPM, UGM, WPM, TokenType
from gguf_hub.run.tokenizer.bpe import BpeTokenizer
from gguf_hub.run.tokenizer.infill import encode_infill
from gguf_hub.run.tokenizer.interface import EDGE, LITERAL, Tokenizer
from gguf_hub.run.tokenizer.spm import SpmTokenizer
from gguf_hub.run.tokenizer.stream import StreamDecoder
from gguf_hub.run.tokenizer.ugm import UgmTokenizer
from gguf_hub.run.tokenizer.vocab import Vocab, read_vocab
from gguf_hub.run.tokenizer.wpm import WpmTokenizer

__all__ = [
    "EDGE",
    "LITERAL",
    "BpeTokenizer",
    "SpmTokenizer",
    "StreamDecoder",
    "TokenType",
    "Tokenizer",
    "UgmTokenizer",
    "Vocab",
    "WpmTokenizer",
    "encode_infill",
    "encode_unended",
    "load_tokenizer",
    "read_vocab",
]

_TOKENIZERS: Mapping[str, Callable[[Vocab], Tokenizer]] = {
    SPM: SpmTokenizer,
    WPM: WpmTokenizer,
    UGM: UgmTokenizer,
}


def encode_unended(tokenizer: Tokenizer, text: str, *, parse_special: bool = False) -> list[int]:
    """Return the ids of a text that goes on: as ``encode``, without what ends every text."""
    ids = tokenizer.encode(text, parse_special=parse_special)
    return ids if tokenizer.end_id is None else ids[:-1]


def load_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that GGUF metadata describes.

    Args:
        metadata: Keys and plain values; arrays may be lists or numpy arrays.

    Raises:
        UnsupportedGgufError: The file has no vocabulary, or one of a kind that is not supported.
        TokenizerError: The vocabulary contradicts itself; the message lists every problem.
    """
    vocab = read_vocab(metadata)
    return _TOKENIZERS.get(vocab.model, BpeTokenizer)(vocab)
