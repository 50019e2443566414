"""The steps of a sampler chain: pure functions from candidates to fewer, or rescored, candidates.

Shapes: V vocabulary, C candidates. Candidates are sorted by falling logit, equal ones by id, as
soon as a step needs it; nothing here draws random numbers.

Source: llama.cpp, src/llama-sampler.cpp, the ``_apply`` function of each step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


_MAX = 1e18
"""Logits and factors are kept within this and its inverse: no product of two leaves float32."""


def tame(value: float, low: float = -_MAX) -> float:
    """Return a setting clipped to what float32 can bear; ``low`` for NaN."""
    return max(low, min(value, _MAX))


def tame_factor(value: float) -> float:
    """Return a positive factor or divisor clipped to what float32 can bear."""
    return tame(value, 1 / _MAX)


class Candidates(NamedTuple):
    """Tokens that may still be drawn.

    Attributes:
        ids: Token ids, int64 [C].
        logits: Their logits, float32 [C].
        is_sorted: By falling logit; otherwise ids rise.
    """

    ids: Ints
    logits: Floats
    is_sorted: bool = False

    def top(self) -> np.float32:
        """Return the largest logit."""
        return largest(self.logits[:1] if self.is_sorted else self.logits)

    def sorted(self) -> Candidates:
        """Return the candidates by falling logit, equal ones by id."""
        return self if self.is_sorted else self.take((-self.logits).argsort(kind="stable"))

    def take(self, where: npt.NDArray[np.int64] | slice) -> Candidates:
        """Return the candidates at ``where``, which must sort them."""
        return Candidates(self.ids[where], self.logits[where], True)

    def keep(self, mask: npt.NDArray[np.bool_]) -> Candidates:
        """Return the candidates that ``mask`` marks, in the order that they have."""
        return Candidates(self.ids[mask], self.logits[mask], self.is_sorted)

    def probs(self) -> Doubles:
        """Return their probabilities, float64 [C]."""
        powers = self.powers()
        powers /= powers.sum()
        return powers

    def powers(self) -> Doubles:
        """Return how likely they are compared with the likeliest, float64 [C]."""
        powers: Doubles = np.exp(self.logits.astype(np.float64) - float(self.top()))
        return powers


def largest(logits: Floats) -> np.float32:
    """Return the largest of some logits, NaN if there is one; four times faster than ``max``."""
    top: np.float32 = logits[logits.argmax()]
    return top


def log_softmax(logits: Floats) -> Floats:
    """Return the logarithm of the probabilities of logits.

    Args:
        logits: float32 [V].

    Returns:
        float32 [V].
    """
    below: Floats = logits - logits.max()
    below -= np.float32(math.log(np.exp(below).sum(dtype=np.float64)))
    return below


def log_prob(logits: Floats, token_id: int) -> float:
    """Return one entry of ``log_softmax``, in double precision."""
    top = largest(logits)
    total = float(np.exp(logits - top).sum(dtype=np.float64))
    return float(logits[token_id]) - float(top) - math.log(total)


def penalties(
    c: Candidates, recent: Sequence[int], repeat: float, frequency: float, presence: float
) -> Candidates:
    """Make recent tokens less likely.

    A positive logit is divided by ``repeat``, a negative one multiplied; then ``frequency`` is
    taken off once for each time that the token came, and ``presence`` once.

    Args:
        c: Candidates.
        recent: Ids of the tokens to look at.
        repeat: 1 leaves logits alone.
        frequency: 0 leaves logits alone.
        presence: 0 leaves logits alone.
    """
    ids, times = np.unique(np.asarray(recent, dtype=np.int64), return_counts=True)
    where, at = _find(c, ids)
    hit, repeat = c.logits[where], tame(repeat, 1 / _MAX)
    hit = np.where(hit <= 0, hit * np.float32(repeat), hit / np.float32(repeat))
    amounts = times[at] * tame(frequency) + tame(presence)
    hit -= amounts.clip(-_MAX, _MAX).astype(np.float32)
    return _rescore(c, where, hit)


def subtract(c: Candidates, amounts: Mapping[int, float]) -> Candidates:
    """Take the amount of each token id off its logit."""
    ids = np.array(sorted(amounts), dtype=np.int64)
    where, at = _find(c, ids)
    by_id = np.array([amounts[i] for i in ids.tolist()], dtype=np.float32)
    return _rescore(c, where, c.logits[where] - by_id[at])


def _find(c: Candidates, ids: Ints) -> tuple[Ints, Ints]:
    """Return (positions in candidates, positions in ``ids``) of the ids that both hold."""
    order = np.argsort(c.ids) if c.is_sorted else None
    at = np.searchsorted(c.ids, ids, sorter=order)
    inside = np.flatnonzero(at < len(c.ids))
    where = at[inside] if order is None else order[at[inside]]
    is_match = c.ids[where] == ids[inside]
    return where[is_match], inside[is_match]


def _rescore(c: Candidates, where: Ints, logits: Floats) -> Candidates:
    rescored = c.logits.copy()
    rescored[where] = logits
    if not c.is_sorted:
        return Candidates(c.ids, rescored)
    by_id = np.argsort(c.ids)
    return Candidates(c.ids[by_id], rescored[by_id])


def top_k(c: Candidates, k: int) -> Candidates:
    """Keep the ``k`` most likely, all where ``k`` is 0 or less."""
    n = len(c.ids)
    if k <= 0 or (c.is_sorted and k >= n):
        return c
    if not c.is_sorted and 8 * k < n:
        c = _at_least_the_kth(c, k)
    return c.sorted().take(slice(0, k))


def _at_least_the_kth(c: Candidates, k: int) -> Candidates:
    """Drop most of what cannot be among the best ``k``, ten times faster than a partition.

    Cut into blocks, more than ``k``; the k-th largest of the blocks' maxima is no larger than the
    k-th largest of all: e.g. for k = 2 and blocks [9 1] [8 7] [2 0], maxima 9 8 2, everything
    from 8 on stays. A block is a column of a table, so that whole rows are compared at once.
    """
    return c.keep(likely_columns(c.logits[None], k)[0])


def likely_columns(logits: Floats, k: int) -> npt.NDArray[np.bool_]:
    """Mark what may be among the best ``k`` of each row, [R, V]; see ``_at_least_the_kth``."""
    n_rows, n_vocab = logits.shape
    n_blocks = min(max(4 * k, 128), n_vocab)
    depth = n_vocab // n_blocks
    maxima = logits[:, : n_blocks * depth].reshape(n_rows, depth, n_blocks).max(axis=1)
    marked: npt.NDArray[np.bool_] = logits >= np.partition(maxima, -k, axis=1)[:, -k, None]
    return marked


def top_p(c: Candidates, p: float, min_keep: int = 0) -> Candidates:
    """Keep the most likely until their probabilities reach ``p`` together; at least one."""
    if p >= 1:
        return c
    top = c.top()
    total = float(np.exp(c.logits - top).sum(dtype=np.float64))
    n = len(c.ids)
    head = c
    for k in (
        max(256, min_keep),
        n,
    ):  # the few that matter, seldom all: sorting a whole vocabulary costs 3 ms
        head = top_k(c, k)
        reach = np.exp(head.logits - top).cumsum(dtype=np.float64) / total
        if reach[-1] >= p:
            break
    n_kept = max(int(reach.searchsorted(p, side="left")) + 1, min_keep)
    return head.take(slice(0, n_kept))


def min_p(c: Candidates, p: float, min_keep: int = 0) -> Candidates:
    """Keep those at least ``p`` times as likely as the likeliest."""
    if p <= 0:
        return c
    kept = c.keep(c.logits >= c.top() + np.float32(math.log(p)))
    return kept if len(kept.ids) >= min_keep else top_k(c, min_keep)


def typical(c: Candidates, p: float, min_keep: int = 0) -> Candidates:
    """Keep those whose surprise is nearest to the expected one, until ``p`` is passed together.

    Source: Meister et al. 2022, Locally Typical Sampling (arXiv 2202.00666).
    """
    if p >= 1:
        return c
    c = c.keep(c.logits > -np.inf).sorted()
    probs = c.probs()
    surprise = -np.log(np.maximum(probs, np.finfo(np.float64).tiny))
    nearest = np.argsort(np.abs(surprise - (probs * surprise).sum()), kind="stable")
    n = max(int(np.searchsorted(np.cumsum(probs[nearest]), p, side="right")) + 1, min_keep)
    return c.take(np.sort(nearest[:n]))


def top_n_sigma(c: Candidates, n: float) -> Candidates:
    """Keep logits at most ``n`` standard deviations under the largest.

    Source: Tang et al. 2024, Top-nσ (arXiv 2411.07641).
    """
    if n <= 0 or len(c.ids) <= 1:
        return c
    c = c.keep(c.logits > -np.inf)
    spread = float(np.std(c.logits, dtype=np.float64))
    return c.keep(c.logits >= np.float32(float(c.logits.max()) - tame(n) * spread))


def xtc(c: Candidates, threshold: float, min_keep: int = 0) -> Candidates:
    """Drop all but the least likely of those with probability ``threshold`` or more.

    Nothing is dropped if fewer than ``min_keep`` would stay.

    Source: Weidmann 2024, Exclude Top Choices (oobabooga/text-generation-webui #6335).
    """
    c = c.sorted()
    above = int((c.probs() >= threshold).sum())
    n_dropped = max(above - 1, 0)
    return c.take(slice(n_dropped, None)) if len(c.ids) - n_dropped >= min_keep else c


def temperature(c: Candidates, temp: float) -> Candidates:
    """Divide logits by ``temp``; at 0 or less only the likeliest stays."""
    if temp <= 0:
        best = int(c.logits.argmax())
        return c.take(slice(best, best + 1))
    return Candidates(c.ids, c.logits / np.float32(tame_factor(temp)), c.is_sorted)


def dynamic_temperature(c: Candidates, temp: float, reach: float, exponent: float) -> Candidates:
    """Scale by a temperature in ``temp ± reach``: low where the model is sure, high where not.

    The position in between is (entropy / largest possible entropy) ** exponent.
    """
    if len(c.ids) <= 1:
        return c
    probs = c.probs()
    sure = probs > 0
    entropy = -float((probs[sure] * np.log(probs[sure])).sum())
    low, high = max(0.0, temp - reach), temp + reach
    return temperature(c, low + (high - low) * (entropy / math.log(len(c.ids))) ** exponent)
