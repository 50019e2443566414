"""The vocabulary of a GGUF file as the tokenizer uses it: texts, types, merges and ends of turns.

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
from gguf_hub.gguf.pre_tokenizers import NO_PRE_TOKENIZER, PRE_TOKENIZERS, PreTokenizer
from gguf_hub.gguf.vocabulary import (
    BYTE_PAIR,
    GPT2,
    PREFIX,
    SPM,
    UGM,
    WHITESPACE,
    WPM,
    TokenType,
    VocabularyReader,
    unsupported_kind,
)
from gguf_hub.run.tokenizer.special import find_special

SPECIAL_TYPES = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
"""Types of the tokens that are cut out of a text before all else."""
_PHI_3_KEEPS = ("<unk>", "<s>", "<|endoftext|>")
_MASKED = ("jina-v2-de", "jina-v2-es", "jina-v2-code", "nomic-bert-moe", "jina-bert-v3")
"""Pre-tokenizers and architectures."""


@dataclass(frozen=True)
class Vocab:
    """A checked vocabulary; its texts, scores and types have one entry per token."""

    model: str
    """``SPM`` or another kind of ``gguf/vocabulary.py``."""
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
    merges: Sequence[str] = ()
    """Of byte-pair encoding, the best first: ``left right``."""
    pre_tokenizer: PreTokenizer = NO_PRE_TOKENIZER
    """How byte-pair encoding cuts a text into words."""
    lstrip_ids: frozenset[int] = frozenset()
    """Special tokens that take the blanks before them with them."""
    rstrip_ids: frozenset[int] = frozenset()
    """Special tokens that take the blanks after them with them."""
    sep_id: int | None = None
    """Id between the two texts of a pair."""
    add_sep: bool = False
    """Whether a pair has one there."""
    lowercase: bool = True
    """WordPiece, and ``whitespace``: letters become small ones."""
    strip_accents: bool = True
    """WordPiece: letters lose their accents."""
    remove_extra_whitespaces: bool = False
    """Unigram: of spaces, only one before each word is left."""
    charsmap: bytes = b""
    """Unigram: what is replaced before all else (``gguf/charsmap.py``)."""

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def control_texts(self) -> re.Pattern[str] | None:
        """What the texts of control tokens look like, the longest first; None without any."""
        ids = self.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
        texts = sorted({self.tokens[i] for i in ids if len(self.tokens[i]) > 1}, key=len)
        return re.compile("|".join(map(re.escape, reversed(texts)))) if texts else None

    @cached_property
    def control_ids(self) -> Mapping[str, int]:
        """Text of a control token -> its id; of twins the last one counts."""
        return {self.tokens[i]: i for i in self.ids_of(TokenType.CONTROL)}

    def ids_of(self, *types: TokenType) -> list[int]:
        """Return the ids of the tokens of these types, in order."""
        values = set(map(int, types))
        return list(compress(range(len(self)), map(values.__contains__, self.types)))


def read_vocab(metadata: Mapping[str, Any]) -> Vocab:
    """Return the vocabulary of GGUF metadata.

    Args:
        metadata: Keys and plain values; arrays may be lists or numpy arrays.

    Raises:
        UnsupportedGgufError: No vocabulary, or one of a kind that is not supported.
        TokenizerError: The vocabulary contradicts itself; the message lists every problem.
    """
    metadata = Metadata.of(metadata)
    _check_kind(metadata)
    reader = VocabularyReader(metadata)
    tokens = _texts(reader.texts, "tokens", reader.problems)
    model, is_byte_pair = reader.model, reader.model in BYTE_PAIR
    pre = PRE_TOKENIZERS[reader.pre] if is_byte_pair else NO_PRE_TOKENIZER
    ids = {name: reader.special_id(name)
           for name in ("unknown", "bos", "eos", "padding", "seperator")}  # fmt: skip
    lowercase = reader.flag("normalizer.lowercase", model != WHITESPACE)
    special = find_special(reader, tokens)
    types = _types(reader.types, special.types)
    before, after = _strips(metadata, reader.pre, tokens, types)
    vocab = Vocab(
        model=model, tokens=tokens, scores=reader.scores.tolist(),
        types=types, byte_ids=reader.byte_ids, bos_id=ids["bos"],
        eos_id=ids["eos"], unk_id=ids["unknown"], pad_id=ids["padding"],
        eog_ids=special.end_ids | ({ids["eos"]} if ids["eos"] is not None else set()),
        add_bos=reader.flag("add_bos_token", model in (SPM, WPM) or pre.add_bos)
        or pre.must_add_bos,
        add_eos=reader.flag("add_eos_token", model == UGM),
        add_space_prefix=reader.flag("add_space_prefix", model == SPM) and not is_byte_pair,
        merges=_texts(reader.merges, "merges", reader.problems), pre_tokenizer=pre,
        lstrip_ids=before, rstrip_ids=after, infill_ids=special.infill_ids,
        sep_id=ids["seperator"],
        add_sep=reader.flag("add_sep_token", model == WPM or pre.add_sep), lowercase=lowercase,
        strip_accents=reader.flag("normalizer.strip_accents", lowercase),
        remove_extra_whitespaces=reader.flag("remove_extra_whitespaces", False),
        charsmap=reader.charsmap,
    )  # fmt: skip
    _raise(reader.problems)
    return vocab


def _check_kind(metadata: Metadata) -> None:
    """Raise unless the kind of vocabulary is supported."""
    if f"{PREFIX}model" not in metadata:
        raise UnsupportedGgufError(
            f"the file holds no vocabulary: no key `{PREFIX}model`",
            hint="text needs a vocabulary; token ids work without one",
        )
    if obstacle := unsupported_kind(metadata):
        hint = (
            f"`--override-kv {PREFIX}pre=str:NAME` gives the one of the model's tokenizer: "
            "`llama-bpe` for Llama 3, `qwen2` for Qwen 2 and 3, `tekken` for Mistral"
        )
        is_bpe = VocabularyReader(metadata).model == GPT2
        raise UnsupportedGgufError(obstacle, hint=hint if is_bpe else None)


def _texts(texts: Any, name: str, problems: list[str]) -> list[str]:
    """Return an array of texts, decoded.

    Raises:
        TokenizerError: An entry is no text, or there were problems before.
    """
    decoded = list(texts)
    if not set(map(type, decoded)) <= {str}:  # ten times as fast as one by one
        decoded = [str(text) if isinstance(text, np.str_) else text for text in decoded]
        wrong = next((i for i, text in enumerate(decoded) if not isinstance(text, str)), None)
        if wrong is not None:
            problems.append(f"`{PREFIX}{name}` entry {wrong} is not a text")
    _raise(problems)
    return decoded


def _types(types: np.ndarray, others: Mapping[int, TokenType]) -> list[int]:
    """Return the types, those of tokens that are known by their texts put right."""
    types[list(others)] = list(others.values())
    numbers: list[int] = types.tolist()
    return numbers


def _strips(
    metadata: Metadata, pre: str, tokens: Sequence[str], types: Sequence[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """Return which special tokens take blanks before and after them; files do not say it.

    Source: "Handle per token attributes" in llama.cpp's ``llama_vocab::impl::load``.
    """
    model_name, arch = metadata.raw("general.name"), metadata.raw("general.architecture")
    name = model_name.lower() if isinstance(model_name, str) else ""
    is_masked = pre in _MASKED or (isinstance(arch, str) and arch in _MASKED)
    if not is_masked and ("phi-3" in name or "phi3" in name):
        special = (i for i, type_ in enumerate(types) if type_ in SPECIAL_TYPES)
        return frozenset(), frozenset(i for i in special if tokens[i] not in _PHI_3_KEEPS)
    mask = "<mask>" if is_masked else "[MASK]" if "modern-bert" in name else None
    return frozenset(i for i, text in enumerate(tokens) if text == mask), frozenset()


def _raise(problems: Sequence[str]) -> None:
    """Raise if anything was wrong."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise TokenizerError(
            f"the vocabulary cannot be used: {count}\n{lines}",
            hint="the file is damaged or badly converted; `gguf-hub verify` tells more",
        )
