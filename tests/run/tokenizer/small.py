"""Small vocabularies made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, settings

from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer

# The environment is cleaned once for a test, not for each example: examples leave it alone.
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]
"""GPT-2's characters for bytes; the last 68 are those of blanks and controls."""


def small_metadata(
    pieces: dict[str, float] | None = None,
    special: dict[str, int] | None = None,
    *,
    bytes_too: bool = True,
    **keys: Any,
) -> dict[str, Any]:
    """Metadata of ``<unk> <s> </s>``, byte tokens, pieces by score, special tokens by type."""
    pieces = {"▁": -5.0, "a": -6.0, "b": -7.0, "ab": -1.0} if pieces is None else pieces
    special = special or {}
    fallback = BYTES if bytes_too else []
    tokens = ["<unk>", "<s>", "</s>", *fallback, *pieces, *special]
    scores = [0.0] * (3 + len(fallback)) + list(pieces.values()) + [0.0] * len(special)
    types = [2, 3, 3] + [6] * len(fallback) + [1] * len(pieces) + list(special.values())
    arrays = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types}
    return {f"tokenizer.ggml.{key}": value for key, value in {**arrays, **keys}.items()}


def small_tokenizer(*args: Any, **keys: Any) -> Tokenizer:
    return load_tokenizer(small_metadata(*args, **keys))


def bpe_metadata(
    merges: Sequence[str] = (),
    special: Mapping[str, int] | None = None,
    *,
    model: str = "gpt2",
    **keys: Any,
) -> dict[str, Any]:
    """Metadata of bytes, the results of merges and special tokens by type; ``pre`` is ``gpt-2``."""
    special = special or {}
    letters = BYTES if model == "gemma4" else list(map(chr, ALPHABET))
    results = list(dict.fromkeys(merge.replace(" ", "") for merge in merges))
    letters = [letter for letter in letters if letter not in results]
    tokens = [*letters, *results, *special]
    letter_type = 6 if model == "gemma4" else 1
    types = [letter_type] * len(letters) + [1] * len(results) + list(special.values())
    arrays = {"model": model, "pre": "gpt-2", "tokens": tokens, "token_type": types,
              "merges": list(merges)}  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in {**arrays, **keys}.items()}


def bpe_tokenizer(*args: Any, **keys: Any) -> Tokenizer:
    return load_tokenizer(bpe_metadata(*args, **keys))


def wordpiece_metadata(
    pieces: str, special: Mapping[str, int] | None = None, **keys: Any
) -> dict[str, Any]:
    """Metadata of ``[UNK] [CLS] [SEP]``, pieces between blanks, and special tokens by type."""
    types = {"[UNK]": 2, "[CLS]": 3, "[SEP]": 3, **dict.fromkeys(pieces.split(), 1)}
    types |= special or {}
    arrays = {"model": "bert", "tokens": list(types), "token_type": list(types.values()),
              "unknown_token_id": 0, "bos_token_id": 1, "seperator_token_id": 2}  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in {**arrays, **keys}.items()}


def wordpiece(*args: Any, **keys: Any) -> Tokenizer:
    return load_tokenizer(wordpiece_metadata(*args, **keys))


def unigram_metadata(
    pieces: Mapping[str, float], special: Mapping[str, int] | None = None, **keys: Any
) -> dict[str, Any]:
    """Metadata of ``<pad> </s> <unk>``, pieces by score, and special tokens by type."""
    types = {"<pad>": 3, "</s>": 3, "<unk>": 2, **dict.fromkeys(pieces, 1), **(special or {})}
    arrays = {"model": "t5", "tokens": list(types), "token_type": list(types.values()),
              "scores": [pieces.get(token, 0.0) for token in types]}  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in {**arrays, **keys}.items()}


def unigram(*args: Any, **keys: Any) -> Tokenizer:
    return load_tokenizer(unigram_metadata(*args, **keys))
