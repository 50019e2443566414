"""The vocabulary of a GGUF file as the tokenizer uses it: texts, scores, types and ends of turns.

What is in the file, and whether it can be used, ``gguf/vocabulary.py`` reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np

from gguf_hub.errors import TokenizerError, UnsupportedGgufError
from gguf_hub.gguf.metadata import Metadata
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.vocabulary import TokenType, VocabularyReader

_END_TEXTS = frozenset({
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
    "<end_of_turn>", "<EOT>", "< EOT >", "_<EOT>", "[EOT]", "[EOS]", "</s>", "<eos>", "<turn|>",
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>", "<end_of_utterance>",
    "<\N{FULLWIDTH VERTICAL LINE}end\N{LOWER ONE EIGHTH BLOCK}of\N{LOWER ONE EIGHTH BLOCK}sentence"
    "\N{FULLWIDTH VERTICAL LINE}>",
    "[e~[",
})  # fmt: skip
"""Texts that end a turn, whatever type and ids the file gives them (llama.cpp, src/llama-vocab.cpp:
``special_eog_ids``)."""

_INFILL = ("prefix", "suffix", "middle")
_INFILL_TEXTS = tuple(
    (f"<|fim_{name}|>", f"<fim-{name}>", f"<fim_{name}>", f"<｜fim▁{deepseek}｜>", f"<{short}>",
     f"▁<{short}>")
    for name, deepseek, short in (
        ("prefix", "begin", "PRE"), ("suffix", "hole", "SUF"), ("middle", "end", "MID"),
    )
)  # fmt: skip
"""Texts of the tokens before the prefix, the suffix and the middle, where the file names no ids for
them: those of llama.cpp that are names of a role and not of a model's own use."""


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

    @cached_property
    def control_texts(self) -> re.Pattern[str] | None:
        """What the texts of control tokens look like, the longest first; None without any."""
        ids = self.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
        texts = sorted({self.tokens[i] for i in ids if len(self.tokens[i]) > 1}, key=len)
        return re.compile("|".join(map(re.escape, reversed(texts)))) if texts else None

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
    reader = VocabularyReader(metadata)
    tokens = _texts(reader)
    ids = {name: reader.id(name) for name in ("eot", "eom", "padding")}
    ids |= {name: reader.id(name, i) for i, name in enumerate(("unknown", "bos", "eos"))}
    ends = _end_ids(tokens)
    infill = [reader.id(f"fim_{name[:3]}", reader.id(name)) for name in _INFILL]
    vocab = Vocab(
        tokens=tokens, scores=reader.scores.tolist(), types=_types(reader.types, ends),
        byte_ids=reader.byte_ids, bos_id=ids["bos"], eos_id=ids["eos"], unk_id=ids["unknown"],
        pad_id=ids["padding"],
        eog_ids=ends | {i for i in (ids["eos"], ids["eot"], ids["eom"]) if i is not None},
        add_bos=reader.flag("add_bos_token", True), add_eos=reader.flag("add_eos_token", False),
        add_space_prefix=reader.flag("add_space_prefix", True),
        infill_ids=_infill_ids(infill, tokens, reader.types),
    )  # fmt: skip
    _raise(reader.problems)
    return vocab


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


def _texts(reader: VocabularyReader) -> list[str]:
    """Return the texts of all tokens."""
    tokens = list(reader.texts)
    if set(map(type, tokens)) != {str}:  # ten times as fast as one by one
        tokens = [str(token) if isinstance(token, np.str_) else token for token in tokens]
        wrong = next((i for i, token in enumerate(tokens) if not isinstance(token, str)), None)
        if wrong is not None:
            reader.problems.append(f"`tokenizer.ggml.tokens` entry {wrong} is not a text")
    if reader.problems:
        _raise(reader.problems)
    return tokens


def _end_ids(tokens: Sequence[str]) -> frozenset[int]:
    """Return the ids of the tokens whose text ends a turn.

    Where tokens of newer formats stand beside them, ``<|end|>`` closes a part of an answer, and
    ``</s>`` is a word like others.
    """
    ids = {tokens[i]: i for i in compress(range(len(tokens)), map(_END_TEXTS.__contains__, tokens))}
    if "<|end|>" in ids and (
        {"<|return|>", "<|call|>"} <= ids.keys() or {"<|calls|>", "<|flush|>"} <= ids.keys()
    ):
        del ids["<|end|>"]
    if "<|tool_response>" in ids:
        ids.pop("</s>", None)
    return frozenset(ids.values())


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


def _types(types: np.ndarray, ends: frozenset[int]) -> list[int]:
    """Return the types, those of tokens that end a turn mended: they print nothing."""
    types[list(ends)] = TokenType.CONTROL
    return [int(type_) for type_ in types.tolist()]


def _raise(problems: Sequence[str]) -> None:
    """Raise if anything was wrong."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise TokenizerError(
            f"the vocabulary cannot be used: {count}\n{lines}",
            hint="the file is damaged or badly converted; `gguf-hub verify` tells more",
        )
