"""DRY: a token that would go on repeating an earlier sequence is penalised by the length so far.

Source: llama.cpp, src/llama-sampler.cpp, ``llama_sampler_dry_apply`` and
``get_overlapping_token_sequences``; Weidmann 2024 (oobabooga/text-generation-webui #5677).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gguf_hub.run.sampler.config import SamplerConfig

_MAX_BREAKER_BYTES = 40
_MAX_TAIL_TOKENS = 20
_MAX_PENALTY = 1e18  # see filters: sums and products with it stay within float32

Breakers = Mapping[int, Sequence[tuple[int, ...]]]
"""First token of a sequence breaker -> the tokens after it, one entry for each way to write it."""


class BreakerVocab(Protocol):
    """What finding the tokens of sequence breakers needs of a tokenizer."""

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        """Return the bytes of a token."""

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Return the ids of a text."""


def find_breakers(texts: Sequence[str], vocab: BreakerVocab) -> dict[int, list[tuple[int, ...]]]:
    """Return the token sequences that spell a breaker, whatever stands around it.

    A token that holds the whole text is a breaker by itself; one that ends with its beginning is
    one together with the tokens of the rest.
    """
    encoded = [text.encode()[:_MAX_BREAKER_BYTES] for text in texts if text]
    breakers: dict[int, list[tuple[int, ...]]] = {}
    for token_id in range(vocab.n_vocab):
        word = vocab.token_bytes(token_id, special=True)
        for breaker in encoded:
            if breaker[0] not in word:
                continue
            for tail in _tails(word, breaker, vocab):
                tails = breakers.setdefault(token_id, [])
                if tail not in tails:
                    tails.append(tail)
    return breakers


def _tails(word: bytes, breaker: bytes, vocab: BreakerVocab) -> list[tuple[int, ...]]:
    """Return what must follow a token for ``breaker`` to be complete; empty for a whole one."""
    if breaker in word:
        return [()]
    heads = [n for n in range(1, min(len(word) + 1, len(breaker))) if word.endswith(breaker[:n])]
    rests = [breaker[n:].decode("utf-8", errors="replace") for n in heads]
    return [tuple(vocab.encode(rest, add_bos=False))[:_MAX_TAIL_TOKENS] for rest in rests]


def dry_penalties(
    recent: Sequence[int], config: SamplerConfig, breakers: Breakers
) -> dict[int, float]:
    """Return how much to take off the logits of tokens that would prolong a repetition.

    Args:
        recent: Ids so far, the newest last.
        config: Multiplier, base, allowed length and how far to look back.
        breakers: Sequences over which no repetition reaches.
    """
    look_back, allowed = config.dry_penalty_last_n, config.dry_allowed_length
    newest_first = list(reversed(recent if look_back < 0 else recent[-look_back:]))
    if len(newest_first) <= allowed:
        return {}
    limit = _tokens_since_breaker(newest_first, breakers)
    if limit < allowed:
        return {}
    # The z-th value says how much of the end of the text also ends k tokens before the end; the
    # token that came next back then would prolong the repetition.
    longest: dict[int, int] = {}
    for k, length in enumerate(z_lengths(newest_first)):
        length = min(length, limit)
        if k > 0 and length >= allowed:
            token = newest_first[k - 1]
            longest[token] = max(longest.get(token, 0), length)
    return {
        token: _penalty(config, length - allowed)
        for token, length in longest.items()
        if () not in breakers.get(token, ())
    }


def _penalty(config: SamplerConfig, excess: int) -> float:
    """Return multiplier * base ** excess, bounded."""
    try:
        return min(config.dry_multiplier * config.dry_base**excess, _MAX_PENALTY)
    except OverflowError:
        return _MAX_PENALTY


def _tokens_since_breaker(newest_first: Sequence[int], breakers: Breakers) -> int:
    """Return how many tokens came after the last sequence breaker; all where there was none."""
    for i, token in enumerate(newest_first):
        fitting = [
            len(tail)
            for tail in breakers.get(token, ())
            if len(tail) <= i and tuple(newest_first[i - 1 - j] for j in range(len(tail))) == tail
        ]
        if fitting:
            return i - max(fitting)
    return len(newest_first)


def z_lengths(tokens: Sequence[int]) -> list[int]:
    """Return for each k how many tokens from k on equal those from the start, in linear time.

    ``[1, 2, 1, 2, 3]`` gives ``[5, 0, 2, 0, 0]``. Source: Gusfield 1997, the Z algorithm.
    """
    n = len(tokens)
    z = [n] + [0] * (n - 1)
    start = end = 0  # the match that reaches furthest is tokens[start:end]
    for k in range(1, n):
        length = min(end - k, z[k - start]) if k < end else 0
        while k + length < n and tokens[length] == tokens[k + length]:
            length += 1
        z[k] = length
        if k + length > end:
            start, end = k, k + length
    return z
