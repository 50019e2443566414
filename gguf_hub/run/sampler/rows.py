"""Tokens of several samplers with the same settings, drawn together.

With a small vocabulary a sampler spends its time between numpy's calls, some thirty a token. Here
each call is made once for all rows of logits. Tokens are those that each sampler would choose by
itself: what it draws from is the same to the last bit, and so is its random number.

Shapes: R rows, one for each sampler, V vocabulary, K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gguf_hub.run.sampler.chain import Sampler
from gguf_hub.run.sampler.config import SamplerConfig
from gguf_hub.run.sampler.filters import Doubles, Floats, Ints, likely_columns, tame_factor

_AT_ONCE = 1 << 16  # logits: 256 KB, which stay in a core's cache
_MAX_K = 256  # as far as ``filters.top_p`` looks at first
_STEPS = ("top_k", "top_p", "min_p", "temperature")


class SharedSettings(NamedTuple):
    """What samplers have in common that draw together; a step that is off has no effect.

    Attributes:
        top_k: How many candidates there are; 1 where the likeliest token is always taken.
    """

    top_k: int
    top_p: float = 1.0
    min_p: float = 0.0
    temp: float = 1.0
    min_keep: int = 0


def shared_settings(sampler: Sampler) -> SharedSettings | None:
    """Return by which settings a sampler may draw with others that have the same, or None."""
    c, names = sampler.config, sampler.step_names
    if sampler.has_constraint or c.logit_bias or c.mirostat or c.dynatemp_range > 0:
        return None
    if c.is_greedy:
        return None if names else SharedSettings(1)
    is_in_order = list(names) == [name for name in _STEPS if name in names]
    if not is_in_order or not names or names[0] != "top_k" or c.top_k > _MAX_K:
        return None
    return SharedSettings(c.top_k, *_values(c, names), c.min_keep)


def _values(c: SamplerConfig, names: Sequence[str]) -> tuple[float, float, float]:
    return (
        c.top_p if "top_p" in names else 1.0,
        c.min_p if "min_p" in names else 0.0,
        c.temp if "temperature" in names else 1.0,
    )


def choose_rows(
    samplers: Sequence[Sampler], settings: SharedSettings, logits: Floats
) -> list[int | None]:
    """Return the next token of each sampler; None where the logits are no finite numbers.

    Args:
        samplers: At least one; ``settings`` are those of all.
        settings: As ``shared_settings`` returns them.
        logits: float32 [R, V]; left as they are.
    """
    for sampler in samplers:
        sampler.drawn = None
    n_rows, n_vocab = logits.shape
    size = max(1, _AT_ONCE // n_vocab)
    blocks = [logits[at : at + size] for at in range(0, n_rows, size)]
    is_finite = np.isfinite(np.concatenate([block.max(axis=1) for block in blocks]))
    if settings.top_k == 1:
        ids = logits.argmax(axis=1)
    else:
        with np.errstate(invalid="ignore"):  # rows that are no finite numbers
            parts = [_best(block, min(settings.top_k, n_vocab)) for block in blocks]
            columns, best = (np.concatenate(part) for part in zip(*parts, strict=True))
            ids = _draw(samplers, settings, columns, best)
    return [
        token_id if is_valid else None
        for token_id, is_valid in zip(ids.tolist(), is_finite.tolist(), strict=True)
    ]


def _best(logits: Floats, k: int) -> tuple[Ints, Floats]:
    """Return the ``k`` largest logits of each row and their ids, equal ones by id: [R, k] each."""
    n_rows, n_vocab = logits.shape
    flat = np.flatnonzero(likely_columns(logits, k))
    rows, at = np.divmod(flat, n_vocab)
    counts = np.bincount(rows, minlength=n_rows)
    column = np.arange(len(flat)) - (counts.cumsum() - counts)[rows]
    keys = np.full((n_rows, max(k, int(counts.max()))), np.iinfo(np.int64).max)
    keys[rows, column] = _keys(logits.ravel()[flat]) | at
    keys.sort(axis=1)
    ids = np.minimum(keys[:, :k] & 0xFFFFFFFF, n_vocab - 1)
    return ids, np.take_along_axis(logits, ids, 1)


def _keys(logits: Floats) -> Ints:
    """Return what larger logits have less of, in the upper halves: sorting it is five times faster.

    A float's bits as an integer rise with it; those below 0 fall, all but the sign.
    """
    bits = (logits + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0, its equal
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    keys: Ints = (~rising).astype(np.int64) << 32
    return keys


def _draw(samplers: Sequence[Sampler], settings: SharedSettings, ids: Ints, best: Floats) -> Ints:
    """Return the token that each sampler draws from its candidates, best first; both [R, K]."""
    counts = _count(best, settings)
    scaled = best
    if settings.temp != 1.0:
        scaled = best / np.float32(tame_factor(settings.temp))
    powers = np.exp(scaled.astype(np.float64) - scaled[:, :1].astype(np.float64))
    powers[np.arange(powers.shape[1]) >= counts[:, None]] = 0
    reach = powers.cumsum(axis=1)
    targets = np.array([sampler.draw() for sampler in samplers]) * reach[:, -1]
    index = np.minimum((reach < targets[:, None]).sum(axis=1), counts - 1)
    chosen: Ints = ids[np.arange(len(ids)), index]
    return chosen


def _count(best: Floats, settings: SharedSettings) -> npt.NDArray[np.int64]:
    """Return how many of its candidates, best first, each row keeps by top-p and min-p: [R]."""
    n_rows, k = best.shape
    counts = np.full(n_rows, k)
    below = best - best[:, :1]
    if settings.top_p < 1:
        powers = np.exp(below)
        total: Doubles = powers.sum(axis=1, dtype=np.float64)
        reach = powers.cumsum(axis=1, dtype=np.float64) / total[:, None]
        counts = np.maximum((reach < settings.top_p).sum(axis=1) + 1, settings.min_keep)
    if settings.min_p > 0:
        lowest = best[:, :1] + np.float32(math.log(settings.min_p))
        likely = np.minimum((best >= lowest).sum(axis=1), counts)
        fewest = np.minimum(counts, settings.min_keep)
        counts = np.where(likely >= settings.min_keep, likely, fewest)
    clipped: npt.NDArray[np.int64] = counts.clip(1, k)
    return clipped
