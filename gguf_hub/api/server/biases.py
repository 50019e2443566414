"""``logit_bias``: what requests write, as the bias of each token."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gguf_hub.api.server.lists import Items
from gguf_hub.api.server.problems import kind_of
from gguf_hub.errors import UsageError
from gguf_hub.run.tokenizer import Tokenizer

Bias = dict[str, Any] | Items[tuple[int | str, Any]]
"""Token ids, or texts, and biases; ``false`` bans. Keys of an object that are numbers are ids."""

MAX_TEXTS = 1024
MAX_CHARACTERS = 2**14
_LIMIT = 1e30  # so that neither a float nor a sum of them overflows
_ID = re.compile(r"-?\d+", re.ASCII)


def token_biases(biases: Bias, tokenizer: Tokenizer) -> dict[int, float]:
    """Return the bias of each token: the sum, where several name it.

    A text stands for the tokens that it is read as, without control tokens.

    Source: llama.cpp, tools/server/README.md, ``logit_bias``.

    Raises:
        UsageError: There are too many texts, or a bias is none.
    """
    given: list[tuple[int | str, Any, str]] = (
        [(key, value, f"{i}.1") for i, (key, value) in enumerate(biases)]
        if isinstance(biases, list)
        else [(_key(key), value, key[:60]) for key, value in biases.items()]
    )
    _check_texts([key for key, _, _ in given if isinstance(key, str)])
    found: dict[int, float] = {}
    for key, value, place in given:
        bias = _bias(value, place)
        for token_id in _tokens(key, tokenizer):
            found[token_id] = found.get(token_id, 0.0) + bias
    return found


def _bias(value: Any, place: str) -> float:
    if value is False:
        return float("-inf")
    if isinstance(value, (int, float)) and value is not True and abs(value) < _LIMIT:
        return float(value)
    raise UsageError(f"logit_bias.{place}: expected a number, or false for a ban, found "
                     f"{kind_of(value)}")  # fmt: skip


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
