"""What a GGUF says of its vocabulary, as llama.cpp reads it: scores, types and special tokens.

The one judgement of whether a vocabulary can be used: ``runnable`` asks for its problems, and the
tokenizer is made of what this reads. The texts of tokens are not decoded here.

Source: the ``tokenizer.ggml.*`` keys of ggml/docs/gguf.md; ``llama_vocab::impl::load`` in
src/llama-vocab.cpp of llama.cpp, of which llama-cpp-python 0.3.36 was tried on each rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.keys import OTHER_IDS, SPECIAL_IDS
from gguf_hub.gguf.metadata import Metadata, describe
from gguf_hub.gguf.pre_tokenizers import PRE_TOKENIZERS
from gguf_hub.gguf.strings import StringArray, shown

PREFIX = "tokenizer.ggml."
SPM, GPT2, GEMMA4 = "llama", "gpt2", "gemma4"
"""Values of ``tokenizer.ggml.model`` that are supported: SentencePiece and byte-pair encoding."""
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
        """The kind of vocabulary: ``SPM``, ``GPT2`` or ``GEMMA4``, if it is supported."""
        return self._text("model")

    @cached_property
    def pre(self) -> str:
        """The name of the pre-tokenizer, which is in ``PRE_TOKENIZERS`` if it is supported.

        Empty for SentencePiece, which has none, and where the file names none.
        """
        return {SPM: "", GEMMA4: "gemma4"}.get(self.model) or self._text("pre")

    def _text(self, name: str) -> str:
        try:
            return self._metadata.text(PREFIX + name, "")
        except UnsupportedGgufError as error:
            self.problems.append(error.message)
            return ""

    @cached_property
    def merges(self) -> Any:
        """The merges of a byte-pair vocabulary, the best first, decoded or not: ``left right``."""
        if self.model == SPM:
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
    if model not in (SPM, GPT2, GEMMA4):
        return f"tokenizer `{shown(model)}`, expected `{SPM}`, `{GPT2}` or `{GEMMA4}`"
    if model == SPM or pre in PRE_TOKENIZERS:
        return ""
    key = f"key `{PREFIX}pre`"
    return f"{key} is the unknown pre-tokenizer `{shown(pre)}`" if pre else f"missing {key}"


def vocabulary_problems(fields: Mapping[str, Any]) -> list[str]:
    """Return why the vocabulary of a file cannot be used; empty where it can."""
    if obstacle := unsupported_kind(fields):
        return [obstacle]
    reader = VocabularyReader(fields)
    _ = reader.texts, reader.scores, reader.types, reader.byte_ids, reader.merges
    for name in (*SPECIAL_IDS, *OTHER_IDS):
        reader.id(name)
    for name in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        reader.flag(name, True)
    return reader.problems
