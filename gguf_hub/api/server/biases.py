"""``logit_bias``: what requests write, as the bias of each token."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gguf_hub.errors import UsageError
from gguf_hub.run.tokenizer import Tokenizer

Bias = dict[str, float | bool] | list[tuple[int | str, float | bool]]
"""Token ids, or texts, and biases; ``false`` bans. Keys of an object that are numbers are ids."""

MAX_TEXTS = 1024
MAX_CHARACTERS = 2**14
_ID = re.compile(r"-?\d+", re.ASCII)


def token_biases(biases: Bias, tokenizer: Tokenizer) -> dict[int, float]:
    """Return the bias of each token: the sum, where several name it.

    A text stands for the tokens that it is read as, without control tokens.

    Source: llama.cpp, tools/server/README.md, ``logit_bias``.

    Raises:
        UsageError: There are too many texts.
    """
    pairs = biases if isinstance(biases, list) else [(_key(k), v) for k, v in biases.items()]
    _check_texts([key for key, _ in pairs if isinstance(key, str)])
    found: dict[int, float] = {}
    for key, value in pairs:
        bias = float("-inf") if value is False else float(value)
        for token_id in _tokens(key, tokenizer):
            found[token_id] = found.get(token_id, 0.0) + bias
    return found


def _key(key: str) -> int | str:
    return int(key) if _ID.fullmatch(key) and len(key) < 20 else key


def _tokens(key: int | str, tokenizer: Tokenizer) -> Iterable[int]:
    return (key,) if isinstance(key, int) else tokenizer.encode(key, add_bos=False)


def _check_texts(texts: list[str]) -> None:
    n_characters = sum(map(len, texts))
    if len(texts) > MAX_TEXTS or n_characters > MAX_CHARACTERS:
        raise UsageError(
            f"logit_bias: expected at most {MAX_TEXTS:,} texts of {MAX_CHARACTERS:,} characters in "
            f"all, found {len(texts):,} of {n_characters:,}", hint="write token ids",
        )  # fmt: skip
