"""How much worse than the unquantised model a file predicts text: published, or else estimated.

The estimate: each tensor adds the loss of its type in proportion to its weights,

::

    loss = sum over tensors of (share of all weights) x (loss of the type)

where the loss of a type is that of the nearly pure files of Mixtral-8x7B-v0.1 (experts are 97 % of
their weights) against Q8_0, as published; for types between them the logarithm of the loss is taken
to fall evenly with the bits of a weight. Dense models lose more and importance matrices win some
back: take an estimate for an order of files, good to a factor of two, not for a measurement.

Sources: ikawrakow's model card of Mixtral-8x7B, column PPL(llama.cpp); Q6_K and Q8_0 from the
comments of llama.cpp pull request 4406; Q2_K as of llama.cpp pull request 4872 (its files before
were worse, and the catalog has their own figure).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.fit.facts import FileFacts, TensorShare

T = QuantType

LOSS_OF_TYPE = {
    T.F32: 0.0, T.F16: 0.0, T.BF16: 0.0,
    T.Q8_0: 0.0005, T.Q6_K: 0.0034, T.Q5_K: 0.0084, T.Q5_1: 0.0084, T.Q5_0: 0.0092,
    T.Q4_K: 0.0359, T.Q4_1: 0.0359, T.Q4_0: 0.0359, T.IQ4_NL: 0.0359, T.Q3_K: 0.0766, T.Q2_K: 0.352,
}  # fmt: skip
"""Added perplexity over that of the plain model. Q4_0 measured 0.7 % better than Q4_K on Mixtral
and worse on every dense model published: taken as equal. Q8_0 against F16: hardly measurable."""

_CURVE = [
    (type_.bits_per_weight, LOSS_OF_TYPE[type_])
    for type_ in (T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.Q8_0)
]


@dataclass(frozen=True)
class Loss:
    """Added perplexity, 0.036 for 3.6 %.

    Against the best published figure of the files compared, or the plain model where there is none.
    """

    share: float
    is_estimated: bool


def loss_of_type(type_: QuantType) -> float:
    """Return the loss of a model whose tensors are all of one type."""
    if type_ in LOSS_OF_TYPE:
        return LOSS_OF_TYPE[type_]
    bits = type_.bits_per_weight
    pairs = list(pairwise(_CURVE))
    # beyond the ends the last slope goes on
    (x0, y0), (x1, y1) = next((p for p in pairs if bits <= p[1][0]), pairs[-1])
    slope = (math.log(y1) - math.log(y0)) / (x1 - x0)
    return math.exp(math.log(y0) + slope * (bits - x0))


def estimated_loss(file: FileFacts) -> float | None:
    """Return the loss against the plain model by the mix of types; None without a mix."""
    n_weights = sum(share.n_weights for share in file.tensors)
    if file.are_parts_estimated or not n_weights or file.unknown:
        return None
    return sum(_losses(file.tensors)) / n_weights


def _losses(shares: Iterable[TensorShare]) -> Iterator[float]:
    for share in shares:
        if isinstance(share.type, QuantType):
            yield share.n_weights * loss_of_type(share.type)


def losses_of(files: Sequence[FileFacts]) -> list[Loss | None]:
    """Return the loss of each file.

    Published perplexities are compared as they are, with the best of them. A file without one gets
    an estimate, against the plain model; beside published ones it is set in proportion to the best
    of those.
    """
    published = [f for f in files if f.perplexity is not None]
    anchor = min(published, key=lambda f: f.perplexity or 0.0, default=None)
    values: list[tuple[float, bool] | None] = []
    for file in files:
        if file.perplexity is not None:
            values.append((file.perplexity, file.is_perplexity_estimated))
        else:
            estimate = estimated_loss(file)
            values.append(None if estimate is None else (_beside(estimate, anchor), True))
    reference = min(value for value, _ in _known(values)) if anchor else 1.0
    return [None if value is None else Loss(value[0] / reference - 1, value[1]) for value in values]


def _beside(estimate: float, anchor: FileFacts | None) -> float:
    """Return what the perplexity would be; without a published one, in units of the plain model."""
    if anchor is None or anchor.perplexity is None:
        return 1 + estimate
    return anchor.perplexity / (1 + (estimated_loss(anchor) or 0.0)) * (1 + estimate)


def _known(values: Iterable[tuple[float, bool] | None]) -> list[tuple[float, bool]]:
    return [value for value in values if value is not None]
