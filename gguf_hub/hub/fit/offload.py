"""The VRAM that our own runner takes, part by part, and how many layers find room in it.

::

    each GPU  = activations + scratch of attention + arguments of steps + what its driver takes
    layer     = weights as planes + keys and values of all slots
    output    = output matrix and norm

Source: ``run.gpu.part``, whose buffers are these; a test holds both equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from gguf_hub.gguf.gpu_memory import attention_scratch_floats
from gguf_hub.gguf.memory.layout import Array, Limits, MemoryLayout, layer_cache_bytes
from gguf_hub.hub.catalog import ModelShape
from gguf_hub.hub.fit.facts import FileFacts, LayerWeights

GPU_CONTEXT_BYTES = 260_000_000  # what a GPU's driver takes for a program
GPU_MARGIN_BYTES = 2**30  # what llama.cpp leaves free on each GPU (`--fit-target`)
GPU_HOST_BYTES = 350_000_000
"""RAM for wgpu, 27 MB, and for weights on their way to the GPU: 256 MB that wait, and a piece of
64 MB that is packed."""
_ARGUMENT_BYTES, _STEPS = 256, 24  # of a step; steps of a layer at most
_ELEMENT_BYTES: dict[Array, int] = {"n": 4, "f": 4, "q": 1}


@dataclass(frozen=True)
class LayerNeed:
    """What one layer takes of VRAM."""

    dense_bytes: int
    expert_bytes: int
    kv_bytes: int

    def total_bytes(self, *, with_experts: bool = True) -> int:
        """The sum, with or without the experts."""
        return self.dense_bytes + self.kv_bytes + (self.expert_bytes if with_experts else 0)


@dataclass(frozen=True)
class GpuNeed:
    """What our runner takes of VRAM.

    Attributes:
        own_bytes: On each GPU, whatever it computes.
        layers: Of each layer.
        head_bytes: The output layer.
    """

    own_bytes: int
    layers: tuple[LayerNeed, ...]
    head_bytes: int

    def parts(self, n_gpu_layers: int, n_cpu_moe: int = 0) -> list[int]:
        """Return the bytes of the last layers in order, of the output layer at the end.

        Args:
            n_gpu_layers: How many, the output layer counted last: of 32, 33 are all.
            n_cpu_moe: Of how many of the first layers the experts stay in RAM.
        """
        n_layer = len(self.layers)
        first = max(0, n_layer - n_gpu_layers)
        sizes = [
            layer.total_bytes(with_experts=i >= n_cpu_moe)
            for i, layer in enumerate(self.layers[first:], first)
        ]
        return sizes + [self.head_bytes] * (n_gpu_layers > n_layer)

    def most_layers(self, room_bytes: int, n_cpu_moe: int = 0) -> int:
        """Return how many layers find room in one GPU's memory, ``own_bytes`` among it."""
        n_layer, total = len(self.layers), self.own_bytes
        for n in range(1, n_layer + 2):
            at = n_layer - n
            total += (
                self.layers[at].total_bytes(with_experts=at >= n_cpu_moe)
                if at >= 0
                else self.head_bytes
            )
            if total > room_bytes:
                return n - 1
        return n_layer + 1


def gpu_need(file: FileFacts, limits: Limits) -> GpuNeed:
    """Return what a file takes of VRAM.

    Args:
        file: The file.
        limits: The largest calls that the model is opened for.
    """
    n_steps = _STEPS * file.shape.n_layer
    layers = zip(file.layer_weights, file.shape.layer_sizes, strict=False)
    return GpuNeed(
        own_bytes=_area_bytes(file.shape, replace(limits, n_ctx=limits.n_batch))
        + _scratch_bytes(file.shape)
        + _ARGUMENT_BYTES * n_steps
        + GPU_CONTEXT_BYTES,
        layers=tuple(
            LayerNeed(
                weights.gpu_dense_bytes,
                weights.gpu_expert_bytes,
                layer_cache_bytes(sizes, limits),
            )
            for weights, sizes in layers
        ),
        head_bytes=file.head_bytes,
    )


def host_bytes_saved(weights: Sequence[LayerWeights], n_gpu_layers: int, n_cpu_moe: int) -> int:
    """Return the bytes of the file that RAM need not hold: of the layers that GPUs compute."""
    first = max(0, len(weights) - n_gpu_layers)
    return sum(
        layer.dense_bytes + (layer.expert_bytes if i >= n_cpu_moe else 0)
        for i, layer in enumerate(weights[first:], first)
    )


def _scratch_bytes(shape: ModelShape) -> int:
    """Return what attention keeps of its parts."""
    heads = ((s.n_head, s.n_embd_head_v) for s in shape.layer_sizes if s.n_head_kv)
    return 4 * max((attention_scratch_floats(*each) for each in heads), default=0)


@lru_cache
def _area_bytes(shape: ModelShape, limits: Limits) -> int:
    """Return the activations on a GPU: all areas, whatever kinds the weights need of them."""
    sizes = MemoryLayout(shape, limits).sizes
    return sum(sizes[array] * size for array, size in _ELEMENT_BYTES.items())
