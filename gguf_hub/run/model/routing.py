"""Which experts the layers of a pass gave their tokens to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.memory.layout import MemoryLayout
from gguf_hub.run.kernels.vm.machine import Machine
from gguf_hub.run.model.config import ModelConfig


@dataclass(frozen=True)
class Routing:
    """Which experts a layer gave its tokens to.

    Attributes:
        experts: [T, A] int64, largest weight first.
        weights: [T, A] float32, each row sums to 1.
    """

    experts: NDArray[np.int64]
    weights: NDArray[np.float32]


def read_routing(
    machine: Machine, layout: MemoryLayout, config: ModelConfig, n_tokens: int
) -> list[Routing]:
    """Return the routing of the last pass, of ``n_tokens``, for each layer with experts."""
    n, f, size = machine.memory.n, machine.memory.f, n_tokens * config.n_expert_used
    found = []
    for at, layer in zip(layout.layers, config.layers, strict=True):
        if layer.has_experts:
            ids, weights = n[at.expert_ids :][:size], f[at.expert_weights :][:size]
            machine.pull(ids, weights)
            shape = (n_tokens, config.n_expert_used)
            found.append(Routing(ids.reshape(shape).copy(), weights.reshape(shape).copy()))
    return found
