"""Which device computes which layer, as llama.cpp deals them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from gguf_hub.run.kernels.vm.ops import Step

CPU = -1
"""Stands for the CPU where GPUs are counted from 0."""


@dataclass(frozen=True)
class Placement:
    """Where each part of a model is computed.

    Attributes:
        layers: Device of each layer.
        experts: Device of the experts of each layer.
        head: Device of the output layer.
    """

    layers: tuple[int, ...]
    experts: tuple[int, ...]
    head: int

    def device_of(self, step: Step) -> int:
        """Return where a step runs; what comes before the layers does on the CPU."""
        if step.layer < 0:
            return CPU
        if step.layer >= len(self.layers):
            return self.head
        return (self.experts if step.of_experts else self.layers)[step.layer]

    @property
    def n_gpu_layers(self) -> int:
        """How many layers GPUs compute, the output layer among them."""
        return sum(device != CPU for device in (*self.layers, self.head))


def place_layers(
    n_layer: int,
    n_gpu_layers: int,
    *,
    shares: Sequence[float] = (1.0,),
    n_cpu_moe: int = 0,
    sources: Sequence[int] = (),
) -> Placement:
    """Return which device computes which layer.

    GPUs get the last layers, and the output layer when they have all: of 32 layers ``-ngl 35``
    puts everything on GPUs, ``-ngl 32`` all but the output, ``-ngl 10`` layers 22 to 31. Several
    GPUs get neighbouring layers, as many as their shares.

    Args:
        n_layer: Layers of the model, the output layer not counted.
        n_gpu_layers: How many GPUs are to compute, the output layer counted last.
        shares: Of each GPU, in any unit.
        n_cpu_moe: Of how many of the first layers the experts stay on the CPU.
        sources: For each layer the one whose cache it reads, itself as a rule; both are computed
            by the same device.
    """
    first = max(0, n_layer - n_gpu_layers)
    n_placed = min(n_gpu_layers, n_layer + 1)
    dealt = [CPU] * first + _deal(n_placed, shares)
    dealt += [CPU] * (n_layer + 1 - len(dealt))
    layers = [dealt[source] for source in sources] if sources else dealt[:n_layer]
    experts = [CPU if i < n_cpu_moe else device for i, device in enumerate(layers)]
    return Placement(tuple(layers), tuple(experts), dealt[n_layer])


def _deal(n: int, shares: Sequence[float]) -> list[int]:
    """Return a GPU for each of ``n`` layers, in order, by shares.

    As llama.cpp: with shares (3, 1) of 9 layers, 0 to 6 are on the first, 7 and 8 on the second.
    """
    total = sum(shares)
    ends = [end / total for end in accumulate(shares)]
    return [next(i for i, end in enumerate(ends) if k / n < end or i == len(ends) - 1)
            for k in range(n)]  # fmt: skip
