"""Inputs of steps that are tested on the CPU against numpy, and on a GPU against the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_hub.run.kernels.vm.ops import SIGMOID, SIGMOID_OF_CHOSEN, SOFTMAX, SOFTMAX_OF_CHOSEN

ROUTES: dict[str, dict[str, Any]] = {
    "chosen": {"function": SOFTMAX_OF_CHOSEN},
    "chosen, with a bias": {"function": SOFTMAX_OF_CHOSEN, "has_bias": 1, "scale": 2.5},
    "softmax": {"function": SOFTMAX},
    "softmax, normalised": {"function": SOFTMAX, "is_normalized": 1, "scale": 0.5},
    "softmax, bias": {"function": SOFTMAX, "has_bias": 1},
    "softmax, groups": {"function": SOFTMAX, "n_group": 4, "n_group_used": 2},
    "sigmoid": {"function": SIGMOID, "scale": 1.8},
    "sigmoid, normalised": {"function": SIGMOID, "is_normalized": 1},
    "deepseek": {"function": SIGMOID, "has_bias": 1, "n_group": 6, "n_group_used": 3,
                 "is_normalized": 1, "scale": 2.5},
    "groups of one": {"function": SIGMOID, "n_group": 24, "n_group_used": 9},
    "llama4": {"function": SIGMOID_OF_CHOSEN},
    "sigmoid of chosen, bias, groups": {"function": SIGMOID_OF_CHOSEN, "has_bias": 1, "n_group": 3,
                                        "n_group_used": 1},
}  # fmt: skip
"""Ways to choose among 24 experts; what is left out is 0, but scale and numbers of groups are 1."""


def floats(*shape: int, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return normally distributed numbers, the same for each shape and seed."""
    rng = np.random.default_rng([seed, *shape])
    return (spread * rng.standard_normal(shape)).astype(np.float32)


@dataclass(frozen=True)
class StateStep:
    """A step that carries a state from token to token.

    Attributes:
        kernel: Its name.
        rows: Array -> width of a token's row, spread of its numbers.
        shared: What all tokens share.
        state: Shape of a state.
        width: Of a row of results.
        numbers: The other arguments.
    """

    kernel: str
    rows: Mapping[str, tuple[int, float]]
    shared: Mapping[str, np.ndarray]
    state: tuple[int, ...]
    width: int
    numbers: Mapping[str, int]

    @property
    def state_size(self) -> int:
        """Elements of a state."""
        return int(np.prod(self.state))

    def rows_of(self, n_tokens: int) -> dict[str, np.ndarray]:
        """Return the arrays of which each token has a row."""
        return {
            name: floats(n_tokens, width, spread=spread, seed=i)
            for i, (name, (width, spread)) in enumerate(self.rows.items())
        }


def delta(key_heads: int, heads: int, d: int, gates: tuple[int, int, int], tiled: int) -> StateStep:
    """Return a gated delta net: group, group stride and stride of its rates."""
    group, group_stride, stride = gates
    rows = {"x": ((2 * key_heads + heads) * d, d**-0.5), "beta": (stride, 1.0),
            "alpha": (stride, 4.0)}  # fmt: skip
    shared = {"dt_bias": floats(heads), "a": -np.exp(floats(heads, seed=1))}
    numbers = {"stride": stride, "group": group, "group_stride": group_stride,
               "n_head_k": key_heads, "n_head": heads, "head_dim": d,
               "is_tiled": tiled}  # fmt: skip
    return StateStep("delta_scan", rows, shared, (heads, d, d), heads * d, numbers)


def mamba(heads: int, groups: int, head_dim: int, n_state: int) -> StateStep:
    """Return a scan of Mamba-2."""
    rows = {"x": (heads * head_dim + 2 * groups * n_state, 1.0), "dt": (heads + 3, 4.0)}
    shared = {"dt_bias": floats(heads), "a": -np.exp(floats(heads, seed=1)),
              "d": floats(heads, seed=2)}  # fmt: skip
    numbers = {"dt_stride": heads + 3, "n_head": heads, "n_group": groups, "head_dim": head_dim,
               "n_state": n_state}  # fmt: skip
    state = (heads, n_state, head_dim)
    return StateStep("mamba2_scan", rows, shared, state, heads * head_dim, numbers)


def mamba1(width: int, n_state: int) -> StateStep:
    """Return a scan of Mamba's first version."""
    rows = {"x": (width, 1.0), "dt": (width, 4.0), "b": (n_state, 1.0), "c": (n_state, 1.0)}
    shared = {"dt_bias": floats(width), "a": -np.exp(floats(n_state, width, seed=1)),
              "d": floats(width, seed=2)}  # fmt: skip
    numbers = {"width": width, "n_state": n_state}
    return StateStep("mamba_scan", rows, shared, (n_state, width), width, numbers)


def convolution(width: int, stride: int, taps: int, *, is_silu: int, has_bias: int) -> StateStep:
    """Return a causal convolution of the first channels of rows."""
    shared = {"taps": floats(taps, width)} | ({"bias": floats(width)} if has_bias else {})
    numbers = {"stride": stride, "n_taps": taps, "has_bias": has_bias, "is_silu": is_silu,
               "width": width} | ({} if has_bias else {"bias": 0})  # fmt: skip
    rows = {"x": (stride, 1.0)}
    return StateStep("causal_conv", rows, shared, (taps - 1, width), width, numbers)


STATE_STEPS = {
    "short convolution": convolution(37, 3 * 37, 3, is_silu=0, has_bias=0),
    "convolution": convolution(100, 100, 4, is_silu=1, has_bias=1),
    "a convolution longer than the text": convolution(5, 6, 11, is_silu=1, has_bias=0),
    "mamba2": mamba(6, 2, 5, 9),
    "mamba2, vectors": mamba(4, 1, 64, 16),
    "mamba": mamba1(37, 5),
    "mamba, vectors": mamba1(300, 16),
    "delta net, in blocks": delta(2, 4, 10, (2, 4, 8), 0),
    "delta net, tiled": delta(2, 6, 10, (6, 6, 6), 1),
    "delta net, columns": delta(1, 2, 70, (2, 2, 3), 1),
}
