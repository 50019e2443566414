"""What a GGUF says of its vocabulary, as llama.cpp reads it: scores, types and special tokens.

The one judgement of whether a vocabulary can be used: ``runnable`` asks for its problems, and the
tokenizer is made of what this reads. The texts of tokens are not decoded here.

Source: the ``tokenizer.ggml.*`` keys of ggml/docs/gguf.md; ``llama_vocab::impl::load`` in
src/llama-vocab.cpp of llama.cpp, of which llama-cpp-python 0.3.36 was tried on each rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.charsmap import charsmap_problem
from gguf_hub.gguf.keys import FLAGS, OTHER_IDS, SPECIAL_IDS
from gguf_hub.gguf.metadata import Metadata, describe
from gguf_hub.gguf.pre_tokenizers import PRE_TOKENIZERS
from gguf_hub.gguf.strings import StringArray, shown

PREFIX = "tokenizer.ggml."
SPM, GPT2, GEMMA4, WHITESPACE, WPM, UGM = "llama", "gpt2", "gemma4", "whitespace", "bert", "t5"
"""Values of ``tokenizer.ggml.model`` that are supported: SentencePiece's merging, three kinds of
byte-pair encoding, WordPiece and SentencePiece's Unigram."""
BYTE_PAIR = (GPT2, GEMMA4, WHITESPACE)
_KINDS = (SPM, *BYTE_PAIR, WPM, UGM)
DEFAULT_IDS: Mapping[str, Mapping[str, int]] = {
    SPM: {"unknown": 0, "bos": 1, "eos": 2},
    WPM: {"padding": 0, "unknown": 100, "bos": 101, "seperator": 102},
    UGM: {"padding": 0, "eos": 1, "unknown": 2},
}
"""Kind of vocabulary -> special tokens that its files need not name."""
_NEEDED_IDS: Mapping[str, Sequence[str]] = {
    WPM: ("unknown", "bos", "seperator"), UGM: ("unknown",),
}  # fmt: skip
"""Kind of vocabulary -> special tokens without which some text has no ids."""
NO_VOCABULARY = ("no_vocab", "none", "")
"""Values of files whose models take and give token ids."""
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = sorted(set(range(256)).difference(_PRINTABLE))
ALPHABET = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + n) for n, byte in enumerate(_OTHERS)
}
"""Byte -> the character that stands for it: itself, or for blanks and controls one from U+0100.

Source: Radford et al. 2019 (GPT-2), ``bytes_to_unicode``.
"""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenType(IntEnum):
    """What a token is, as stored in ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class VocabularyReader:
    """Takes values out of metadata and collects every problem on the way.

    Args:
        fields: Metadata as ``Field`` or plain values; arrays may be lists or numpy arrays.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._metadata = Metadata.of(fields)
        self.problems: list[str] = []

    @cached_property
    def texts(self) -> Any:
        """The texts of all tokens as the file has them, decoded or not; none where there are none.

        Text of an array is checked by whoever decodes it.
        """
        texts = self._metadata.raw(f"{PREFIX}tokens")
        if not isinstance(texts, (list, tuple, np.ndarray, StringArray)) or len(texts) == 0:
            self.problems.append("the vocabulary is empty: `tokenizer.ggml.tokens` has no token")
            return ()
        return texts

    @property
    def n_tokens(self) -> int:
        """How many tokens there are."""
        return len(self.texts)

    @cached_property
    def model(self) -> str:
        """The kind of vocabulary: ``SPM`` or another of these, if it is supported."""
        return self._text("model")

    @cached_property
    def pre(self) -> str:
        """The name of the pre-tokenizer, which is in ``PRE_TOKENIZERS`` if it is supported.

        Empty where the file names none; only byte-pair encoding has one.
        """
        return "gemma4" if self.model == GEMMA4 else self._text("pre")

    def _text(self, name: str) -> str:
        try:
            return self._metadata.text(PREFIX + name, "")
        except UnsupportedGgufError as error:
            self.problems.append(error.message)
            return ""

    @cached_property
    def merges(self) -> Any:
        """The merges of a byte-pair vocabulary, the best first, decoded or not: ``left right``."""
        if self.model not in BYTE_PAIR:
            return ()
        merges = self._metadata.raw(f"{PREFIX}merges")
        if isinstance(merges, (list, tuple, StringArray)):
            return merges
        found = "none" if merges is None else describe(merges)
        self.problems.append(f"`{PREFIX}merges`: expected an array of texts, found {found}")
        return ()

    @cached_property
    def scores(self) -> np.ndarray:
        """The score of each token; 0 where the file has none."""
        return self._numbers("scores", "iuf", 0).astype(np.float64)

    @cached_property
    def types(self) -> np.ndarray:
        """The type of each token: ``NORMAL`` where the file has none, or one that nobody knows."""
        types = self._numbers("token_type", "iu", TokenType.NORMAL).astype(np.int32)
        return np.where((types < 1) | (types > max(TokenType)), np.int32(TokenType.NORMAL), types)

    def _numbers(self, name: str, kinds: str, default: int) -> np.ndarray:
        """Return a number for each token; those behind the last token are not looked at."""
        value = self._metadata.raw(PREFIX + name)
        usual = np.full(self.n_tokens, default)
        if value is None:
            return usual
        key = f"`{PREFIX}{name}`"
        is_array = isinstance(value, (list, tuple, np.ndarray)) and np.asarray(value).ndim == 1
        array = np.asarray(value) if is_array else usual
        if not is_array:
            self.problems.append(f"{key}: expected an array of numbers, found {describe(value)}")
        elif len(array) < self.n_tokens:
            self.problems.append(
                f"{key}: expected {self.n_tokens} entries, one for each token, found {array.size}"
            )
        elif array.dtype.kind not in kinds:
            kind = "floating" if "f" in kinds else "integer"
            self.problems.append(f"{key}: expected {kind} numbers, found {array.dtype}")
        elif np.isnan(array).any():
            at = int(np.isnan(array).argmax())
            self.problems.append(f"{key} entry {at} is not a number (NaN)")
        else:
            return array[: self.n_tokens]
        return usual

    @cached_property
    def byte_ids(self) -> dict[int, int]:
        """Value of a byte -> id of its token ``<0xNN>``, of whatever type; empty for no bytes."""
        ids: dict[int, int] = {}
        for i in np.flatnonzero(self.types == TokenType.BYTE).tolist():
            match = _BYTE.fullmatch(str(self.texts[i]))
            if match is None:
                self.problems.append(
                    f"token {i} is a byte token but reads `{shown(self.texts[i])}`, not `<0xNN>`"
                )
            else:
                ids[int(match[1], 16)] = i
        if len(ids) < 256:
            names = {f"<0x{byte:02X}>": byte for byte in range(256) if byte not in ids}
            found = ((text, i) for i, text in enumerate(self.texts) if text in names)
            ids |= {names[text]: i for text, i in found}
        return ids

    def id(self, name: str, default: int | None = None) -> int | None:
        """Return a special token's id: the file's where it is a token, else the default's.

        Args:
            name: E.g. ``bos``, for the key ``tokenizer.ggml.bos_token_id``.
            default: Taken where it is a token.
        """
        key = f"{PREFIX}{name}_token_id"
        value = self._metadata.raw(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, np.integer))
        ):
            self.problems.append(f"`{key}`: expected a token id, found {describe(value)}")
        elif value is not None and 0 <= int(value) < self.n_tokens:
            return int(value)
        return default if default is not None and default < self.n_tokens else None

    def special_id(self, name: str) -> int | None:
        """Return a special token's id: the file's where it is a token, else the usual one."""
        token_id = self.id(name, DEFAULT_IDS.get(self.model, {}).get(name))
        if token_id is None and name in _NEEDED_IDS.get(self.model, ()):
            usual = DEFAULT_IDS[self.model][name]
            self.problems.append(
                f"`{PREFIX}{name}_token_id`: expected one of {self.n_tokens} tokens, found none "
                f"(usually {usual})"
            )
        return token_id

    @cached_property
    def charsmap(self) -> bytes:
        """What Unigram replaces in a text before all else (``gguf/charsmap.py``); often nothing."""
        key = f"{PREFIX}precompiled_charsmap"
        value = self._metadata.raw(key)
        if value is None or self.model != UGM:
            return b""
        array = np.asarray(value)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            self.problems.append(f"`{key}`: expected an array of bytes, found {describe(value)}")
            return b""
        data = array.astype(np.uint8).tobytes()
        if problem := charsmap_problem(data):
            self.problems.append(f"`{key}`: {problem}")
        return data

    def flag(self, name: str, default: bool) -> bool:
        """Return a truth value; the default where it is unusable."""
        try:
            return self._metadata.flag(PREFIX + name, default)
        except UnsupportedGgufError as error:
            self.problems.append(error.message)
            return default


def unsupported_kind(fields: Mapping[str, Any]) -> str:
    """Return why a kind of vocabulary is not supported: its model or pre-tokenizer; empty if it is.

    A file without pre-tokenizer is not read as llama.cpp does, by an expression that fits no model:
    its ids would be wrong.
    """
    reader = VocabularyReader(fields)
    model, pre = reader.model, reader.pre
    if reader.problems:
        return reader.problems[0]
    if model not in _KINDS:
        *kinds, last = (f"`{kind}`" for kind in _KINDS)
        return f"tokenizer `{shown(model)}`, expected {', '.join(kinds)} or {last}"
    if model not in BYTE_PAIR:
        return ""
    key = f"key `{PREFIX}pre`"
    if pre and (pre == WHITESPACE) != (model == WHITESPACE):
        return f"{key} is `{shown(pre)}`, which does not go with tokenizer `{model}`"
    if pre in PRE_TOKENIZERS:
        return ""
    return f"{key} is the unknown pre-tokenizer `{shown(pre)}`" if pre else f"missing {key}"


def vocabulary_problems(fields: Mapping[str, Any]) -> list[str]:
    """Return why the vocabulary of a file cannot be used; empty where it can."""
    if obstacle := unsupported_kind(fields):
        return [obstacle]
    reader = VocabularyReader(fields)
    _ = reader.texts, reader.scores, reader.types, reader.byte_ids, reader.merges
    _ = reader.charsmap
    for name in (*SPECIAL_IDS, *OTHER_IDS):
        reader.special_id(name)
    for name in FLAGS:
        reader.flag(name, True)
    return reader.problems
