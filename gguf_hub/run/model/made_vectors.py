"""Vectors that steps read and no file has: they are made of a model's keys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.hparams import GraphHyperParameters

ONES = "ones"
"""What norms without weights multiply by, [d]."""
SLOPES = "slopes"
"""By how much scores of each head fall with the distance, [H]."""
XIELU = "xielu"
"""The numbers of a layer's activation, as the step of this name reads them, [4]."""


def alibi_slopes(n_head: int, largest: float) -> NDArray[np.float32]:
    """Return the slope of each head.

    Of 8 heads with a ``largest`` of 8 these are 1/2, 1/4, ... 1/256; of 12 heads those of 8, then
    every other one of 16: 1/sqrt(2), 1/sqrt(8), ... (arXiv 2108.12409, section 3; ggml as well).
    """
    power = 2 ** (n_head.bit_length() - 1)
    heads = np.arange(n_head)
    exponents = np.where(heads < power, heads + 1, (2 * (heads - power) + 1) / 2)
    slopes: NDArray[np.float32] = np.exp2(-largest / power * exponents).astype(np.float32)
    return slopes


def xielu_numbers(hparams: GraphHyperParameters, i: int) -> NDArray[np.float32]:
    """Return alpha_n, alpha_p, beta and eps of layer ``i`` as xIELU multiplies by them.

    The first two are made of what the file says: beta + softplus(alpha_n), softplus(alpha_p).
    """
    H = GraphHyperParameters
    alpha_n, alpha_p, beta, eps = (
        np.float64(hparams.numbers(hparam, i + 1)[i])
        for hparam in (H.xielu_alpha_n, H.xielu_alpha_p, H.xielu_beta, H.xielu_eps)
    )
    softplus = np.logaddexp(0, [alpha_n, alpha_p])
    return np.array([beta + softplus[0], softplus[1], beta, eps], np.float32)
