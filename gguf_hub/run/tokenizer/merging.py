"""Merging the characters of a word into tokens, the best pair first, the leftmost among equals.

Source: llama.cpp, src/llama-vocab.cpp, ``llm_tokenizer_spm_session`` and
``llm_tokenizer_bpe_session``; Sennrich et al. 2016; Kudo and Richardson 2018.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush

SPACE = "▁"
LONG = 256  # characters; shorter text is not worth building a table of cuts


def merge(text: str, ranks: Mapping[str, float], joint: str = "") -> list[str]:
    """Return the pieces that the characters of a text become.

    Args:
        text: A word, or what merges cannot be cut at.
        ranks: ``left + joint + right`` -> rank; the least is merged first.
        joint: Between the two parts of a pair.
    """
    # 1) a chain of characters, and every pair of neighbours that can be merged
    pieces = list(text)
    end = len(pieces)
    following, preceding = list(range(1, end + 1)), list(range(-1, end - 1))
    queue: list[tuple[float, int, int, int]] = []

    def offer(i: int, j: int) -> None:
        left, right = pieces[i], pieces[j]
        rank = ranks.get(left + joint + right)
        if rank is not None:
            heappush(queue, (rank, i, j, len(left) + len(right)))

    for j in range(1, end):
        offer(j - 1, j)
    # 2) merge the best; an entry whose pieces have changed since is out of date
    while queue:
        _, i, j, length = heappop(queue)
        if not pieces[i] or len(pieces[i]) + len(pieces[j]) != length:
            continue
        pieces[i] += pieces[j]
        pieces[j] = ""
        after = following[i] = following[j]
        if after < end:
            preceding[after] = i
            offer(i, after)
        if preceding[i] >= 0:
            offer(preceding[i], i)
    return [piece for piece in pieces if piece]


def harmless_cuts(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return where text with ``SPACE`` can be cut before merging without changing any result.

    A merge spans two neighbours only if some token holds them side by side. So text may be cut
    before a ``▁`` unless a token has that ``▁`` after the same character, and on both sides of
    an ASCII character that is in no longer token, such as a line break.

    Args:
        tokens: All that merging can give.
    """
    tokens = [token for token in tokens if len(token) > 1]
    glue = {SPACE} | {
        token[k - 1]
        for token in tokens
        if token.rfind(SPACE) > 0 and SPACE in token.lstrip(SPACE)
        for k in range(1, len(token))
        if token[k] == SPACE
    }
    in_tokens = set("".join(tokens))
    alone = _charset({chr(c) for c in range(128)} - in_tokens)
    before = f"(?<!{_charset(glue)})(?={SPACE})"
    return re.compile(f"{before}|(?<={alone})|(?={alone})" if alone else before)


def _charset(characters: set[str]) -> str:
    return "[" + "".join(map(re.escape, sorted(characters))) + "]" if characters else ""
