"""Sizes of what a layer carries from token to token: inputs of a convolution, heads of a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StateKind = Literal["short_conv", "mamba", "mamba2", "delta_net"]
"""A short convolution; Mamba, Mamba-2 and the gated delta rule, all behind a convolution."""

_ALIGN = 64  # elements: cache lines are shared with nothing else
N_CHECKPOINTS = 4
"""Most copies of a slot's state that are kept, of where the last prompts ended."""


@dataclass(frozen=True)
class StateSizes:
    """What a layer with a state is laid out by.

    Attributes:
        kind: What it computes in place of attention.
        n_taps: Inputs of a channel that the convolution sums up.
        n_channels: Channels of the convolution.
        n_inner: Numbers of a token's result.
        n_head: Heads of the scan; 0 for a convolution alone.
        n_group: Heads or groups of heads that what they share is computed for.
        head_dim: Numbers of a head's result.
        n_state: Rows of a head's state, ``head_dim`` numbers each.
        n_rank: Numbers that the rates of a Mamba's channels are made of; else 0.
    """

    kind: StateKind
    n_taps: int
    n_channels: int
    n_inner: int
    n_head: int = 0
    n_group: int = 0
    head_dim: int = 0
    n_state: int = 0
    n_rank: int = 0

    @property
    def n_in(self) -> int:
        """Numbers that a token is projected to at once."""
        if self.kind == "short_conv":
            return 3 * self.n_inner
        if self.kind == "mamba":
            return 2 * self.n_inner
        return self.n_channels + (self.n_inner + self.n_head) * (self.kind == "mamba2")

    @property
    def n_convolved(self) -> int:
        """Numbers that the convolution gives to a scan."""
        return self.n_channels if self.n_head else 0

    @property
    def n_gates(self) -> tuple[int, int]:
        """Gates that a token is projected to besides: of results, and two of each head."""
        return (self.n_inner, 2 * self.n_head) if self.kind == "delta_net" else (0, 0)

    @property
    def conv_elements(self) -> int:
        """Floats of the convolution's state."""
        return (self.n_taps - 1) * self.n_channels

    @property
    def scan_elements(self) -> int:
        """Floats of the scan's state."""
        return self.n_head * self.n_state * self.head_dim


def state_stride(n_elements: int) -> int:
    """Return how far the states of two slots lie apart."""
    return -(-n_elements // _ALIGN) * _ALIGN


def state_elements(sizes: StateSizes) -> int:
    """Return the floats that a layer's state takes, with the most copies that are kept."""
    own = state_stride(sizes.conv_elements) + state_stride(sizes.scan_elements)
    return (1 + N_CHECKPOINTS) * own
