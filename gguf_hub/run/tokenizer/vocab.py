"""The vocabulary of a GGUF file: tokens, scores, types and special ids, checked once.

Source: the ``tokenizer.ggml.*`` keys of ggml/docs/gguf.md; defaults of a ``llama`` (SentencePiece)
vocabulary as in llama.cpp, src/llama-vocab.cpp, ``llama_vocab::impl::load``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import compress
from typing import Any

import numpy as np

from gguf_hub.errors import TokenizerError, UnsupportedGgufError
from gguf_hub.gguf.keys import OTHER_IDS
from gguf_hub.gguf.metadata import Metadata, describe
from gguf_hub.gguf.strings import shown

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

# Texts that end a turn where the file names no id for it; llama.cpp stops at the same ones.
_END_TEXTS = (
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<end_of_turn>",
    "<EOT>", "< EOT >", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
)  # fmt: skip

# Texts of the tokens before the prefix, the suffix and the middle, where the file names no ids for
# them: those of llama.cpp that are names of a role and not of a model's own use.
_INFILL_TEXTS = tuple(
    (f"<|fim_{name}|>", f"<fim-{name}>", f"<fim_{name}>", f"<｜fim▁{deepseek}｜>", f"<{short}>",
     f"▁<{short}>")
    for name, deepseek, short in (
        ("prefix", "begin", "PRE"), ("suffix", "hole", "SUF"), ("middle", "end", "MID"),
    )
)  # fmt: skip


class TokenType(IntEnum):
    """What a token is, as stored in ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocab:
    """A checked SentencePiece vocabulary; the three sequences have one entry per token."""

    tokens: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    byte_ids: Mapping[int, int]
    """Value of a byte -> id of its token ``<0xNN>``; empty where there is no byte fallback."""
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    pad_id: int | None
    eog_ids: frozenset[int]
    """Every id that ends a generation."""
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    infill_ids: tuple[int, int, int] | None = None
    """Ids before the prefix, the suffix and the middle that the model fills in, if it has them."""

    def __len__(self) -> int:
        return len(self.tokens)

    def ids_of(self, *types: TokenType) -> list[int]:
        """Return the ids of the tokens of these types, in order."""
        values = set(map(int, types))
        return list(compress(range(len(self)), map(values.__contains__, self.types)))


def read_vocab(metadata: Mapping[str, Any]) -> Vocab:
    """Return the vocabulary of GGUF metadata.

    Args:
        metadata: Keys and plain values; arrays may be lists or numpy arrays.

    Raises:
        UnsupportedGgufError: No vocabulary, or one of another kind than ``llama``.
        TokenizerError: The vocabulary contradicts itself; the message lists every problem.
    """
    metadata = Metadata.of(metadata)
    _check_model(metadata)
    reader = _Reader(metadata)
    tokens = reader.tokens()
    types = reader.numbers("token_type", "integer", len(tokens))
    scores = reader.numbers("scores", "floating", len(tokens))
    byte_ids = reader.byte_ids(tokens, types)
    bos_id, eos_id = reader.id("bos_token_id", 1), reader.id("eos_token_id", 2)
    unk_id, pad_id = reader.id("unknown_token_id", 0), reader.id("padding_token_id", None)
    ends = {eos_id, reader.id("eot_token_id", None), reader.id("eom_token_id", None)}
    infill = [reader.id(f"fim_{name[:3]}_token_id", reader.id(f"{name}_token_id", None))
              for name in ("prefix", "suffix", "middle")]  # fmt: skip
    flags = [reader.flag("add_bos_token", True), reader.flag("add_eos_token", False)]
    space_prefix = reader.flag("add_space_prefix", True)
    reader.finish()
    return Vocab(
        tokens=tokens, scores=scores.tolist(), types=types.tolist(), byte_ids=byte_ids,
        bos_id=bos_id, eos_id=eos_id, unk_id=unk_id, pad_id=pad_id,
        eog_ids=frozenset(i for i in ends if i is not None) | _end_ids(tokens, types),
        add_bos=flags[0], add_eos=flags[1], add_space_prefix=space_prefix,
        infill_ids=_infill_ids(infill, tokens, types),
    )  # fmt: skip


def _check_model(metadata: Metadata) -> None:
    """Raise unless the vocabulary is a SentencePiece one."""
    if "tokenizer.ggml.model" not in metadata:
        raise UnsupportedGgufError(
            "the file holds no vocabulary: no key `tokenizer.ggml.model`",
            hint="text needs a vocabulary; token ids work without one",
        )
    model = metadata.text("tokenizer.ggml.model")
    if model != "llama":
        raise UnsupportedGgufError(
            f"tokenizer `{shown(model)}` is not supported: expected `llama` (SentencePiece), "
            "the kind that Mixtral, Mistral and Llama 2 use"
        )


def _end_ids(tokens: Sequence[str], types: np.ndarray) -> frozenset[int]:
    """Return the ids of special tokens whose text ends a turn."""
    special = np.flatnonzero((types == TokenType.CONTROL) | (types == TokenType.USER_DEFINED))
    return frozenset(i for i in special.tolist() if tokens[i] in _END_TEXTS)


def _infill_ids(
    named: Sequence[int | None], tokens: Sequence[str], types: np.ndarray
) -> tuple[int, int, int] | None:
    """Return the ids for filling in the middle: those that the file names, else by their texts."""
    special = np.flatnonzero((types == TokenType.CONTROL) | (types == TokenType.USER_DEFINED))
    ids = {tokens[i]: i for i in special.tolist()}
    found = [
        next((ids[text] for text in texts if text in ids), None) if i is None else i
        for i, texts in zip(named, _INFILL_TEXTS, strict=True)
    ]
    prefix, suffix, middle = found
    if prefix is None or suffix is None or middle is None:
        return None
    return prefix, suffix, middle


class _Reader:
    """Takes values out of metadata and collects every problem on the way."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._issues: list[str] = []
        self._n_vocab = 0

    def _get(self, name: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{name}")

    def tokens(self) -> list[str]:
        """Return the texts of all tokens."""
        texts = self._get("tokens")
        if not isinstance(texts, (list, tuple, np.ndarray)) or len(texts) == 0:
            raise TokenizerError("the vocabulary is empty: `tokenizer.ggml.tokens` has no token")
        tokens = list(texts)
        if set(map(type, tokens)) != {str}:  # ten times as fast as one by one
            for i, token in enumerate(tokens):
                if not isinstance(token, str):
                    raise TokenizerError(f"`tokenizer.ggml.tokens` entry {i} is not a text")
        self._n_vocab = len(tokens)
        return tokens

    def numbers(self, name: str, kind: str, count: int) -> np.ndarray:
        """Return a numeric array with one entry per token; zeros where it is unusable."""
        value = self._get(name)
        array = np.asarray([] if value is None else value)
        if value is None:
            self._issues.append(f"`tokenizer.ggml.{name}` is missing")
        elif array.ndim != 1 or len(array) != count:
            self._issues.append(f"`tokenizer.ggml.{name}`: expected {count} entries, one for each "
                                f"token, found {array.size}")  # fmt: skip
        elif not np.issubdtype(array.dtype, getattr(np, kind)):
            self._issues.append(f"`tokenizer.ggml.{name}`: expected {kind} numbers, "
                                f"found {array.dtype}")  # fmt: skip
        elif kind == "floating" and np.isnan(array).any():
            self._issues.append(f"`tokenizer.ggml.{name}` entry {int(np.isnan(array).argmax())} "
                                "is not a number (NaN)")  # fmt: skip
        else:
            return array
        return np.zeros(count, dtype=np.float32 if kind == "floating" else np.int32)

    def byte_ids(self, tokens: Sequence[str], types: np.ndarray) -> dict[int, int]:
        """Return byte value -> id; a byte token must be written ``<0xNN>``."""
        ids: dict[int, int] = {}
        for i in np.flatnonzero(types == TokenType.BYTE).tolist():
            match = _BYTE.fullmatch(tokens[i])
            if match is None:
                self._issues.append(
                    f"token {i} is a byte token but reads `{shown(tokens[i])}`, not `<0xNN>`"
                )
            else:
                ids[int(match[1], 16)] = i
        if ids and len(ids) < 256:
            absent = next(byte for byte in range(256) if byte not in ids)
            self._issues.append(f"byte tokens: expected all 256, found {len(ids)}; "
                                f"`<0x{absent:02X}>` is missing")  # fmt: skip
        return ids

    def id(self, name: str, default: int | None) -> int | None:
        """Return a special token's id: the file's, else the default where it exists."""
        value = self._get(name)
        if value is None:
            return default if default is None or default < self._n_vocab else None
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            self._issues.append(
                f"`tokenizer.ggml.{name}`: expected a token id, found {describe(value)}"
            )
        elif not 0 <= int(value) < self._n_vocab:
            if name.removesuffix("_token_id") in OTHER_IDS:  # loaders do without these
                return default
            self._issues.append(f"`tokenizer.ggml.{name}`: expected an id in "
                                f"[0, {self._n_vocab - 1}], found {value}")  # fmt: skip
        else:
            return int(value)
        return None

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean; the default where it is unusable."""
        try:
            return self._metadata.flag(f"tokenizer.ggml.{name}", default)
        except UnsupportedGgufError as error:
            self._issues.append(error.message)
            return default

    def finish(self) -> None:
        """Raise if anything was wrong."""
        if self._issues:
            count = "1 problem" if len(self._issues) == 1 else f"{len(self._issues)} problems"
            lines = "\n".join(f"  {issue}" for issue in self._issues)
            raise TokenizerError(
                f"the vocabulary cannot be used: {count}\n{lines}",
                hint="the file is damaged or badly converted; `gguf-hub verify` tells more",
            )
