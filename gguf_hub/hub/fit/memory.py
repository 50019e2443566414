"""The memory that running a file takes, term by term, for our runner and for llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gguf_hub.gguf.memory.activations import KIND_OF_BLOCK, ActivationKind
from gguf_hub.gguf.memory.layout import (
    HEADER,
    N_BATCH,
    STATES,
    Limits,
    MemoryLayout,
    cache_bytes,
)
from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.catalog import ModelShape
from gguf_hub.hub.fit.facts import FileFacts, Role
from gguf_hub.hub.fit.llama_cpp import compute_bytes, layer_cache_bytes
from gguf_hub.hub.fit.machine import Constraints

RUNNER_BYTES = 22_000_000
"""What our process takes besides: interpreter, numpy, llvmlite, linked kernels. Measured as memory
of its own (RssAnon), see docs/fit.md."""
RUNNER_VOCAB_BYTES = 530
"""And for each word of the vocabulary: tokenizer and sampler."""

# activations of the runner -> the roles of the weights that read them
_READERS: dict[str, tuple[Role, ...]] = {
    "normed": ("attn", "router", "ffn", "other"),
    "attn_out": ("attn_output",),
    "gate": ("ffn_down",),
    "hidden": ("output", "other"),
    "between dense layers": ("other",),
    "shared gate": ("other",),
    "weighted": ("ffn",),
    "latent of queries": ("other",),
    "latent of keys and values": ("other",),
    "part of queries that is not rotated [T, H]": ("other",),
    "latent result of attention [T, H]": ("other",),
    "gate of a layer's embeddings": ("other",),
}


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory that running a file takes, by what takes it.

    Attributes:
        weights_bytes: All tensors, as the mapped file must stay in memory to be fast.
        kv_bytes: Keys and values of the whole context, and recurrent states; of our runner also
            the copies of these that it keeps.
        scratch_bytes: What a batch of the prompt computes in.
        overhead_bytes: The program itself.
        layer_kv_bytes: ``kv_bytes`` layer by layer; empty for our runner, which never splits them.
    """

    weights_bytes: int
    kv_bytes: int
    scratch_bytes: int
    overhead_bytes: int
    layer_kv_bytes: tuple[int, ...] = ()

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return self.weights_bytes + self.own_bytes

    @property
    def own_bytes(self) -> int:
        """All but the weights: memory that cannot be read again from the file."""
        return self.kv_bytes + self.scratch_bytes + self.overhead_bytes


def need_of(
    file: FileFacts, constraints: Constraints, *, n_threads: int = 1, n_batch: int = N_BATCH
) -> MemoryEstimate:
    """Return the memory that the file takes.

    Args:
        file: The file.
        constraints: Context, K/V type and engine.
        n_threads: Threads that compute.
        n_batch: Most tokens of one pass of our runner.
    """
    if constraints.engine == "llama.cpp":
        return _llama_cpp(file, constraints)
    return _runner(file, constraints, n_threads, n_batch)


def _runner(
    file: FileFacts, constraints: Constraints, n_threads: int, n_batch: int
) -> MemoryEstimate:
    cached = runner_limits(constraints, 1, n_batch)
    if file.shape.is_encoder:
        cached = cached.of_encoder(file.shape.n_ctx_train)
    kinds = frozenset(
        (name, _kind_of(share.type))
        for name, roles in _READERS.items()
        for share in file.tensors
        if share.role in roles
    )
    return MemoryEstimate(
        weights_bytes=file.weights_bytes,
        kv_bytes=cache_bytes(file.shape, cached),
        scratch_bytes=_scratch_bytes(file.shape, cached.n_batch, n_threads, kinds),
        overhead_bytes=RUNNER_BYTES + RUNNER_VOCAB_BYTES * file.shape.n_vocab,
    )


def runner_limits(constraints: Constraints, n_threads: int, n_batch: int = N_BATCH) -> Limits:
    """Return the largest calls that our runner is opened for by default."""
    type_ = constraints.kv_type.upper()
    n_batch = min(n_batch, constraints.n_ctx)
    return Limits(constraints.n_ctx, n_batch, 1, n_threads, key_type=type_, value_type=type_)


@lru_cache
def _scratch_bytes(
    shape: ModelShape, n_batch: int, n_threads: int, kinds: frozenset[tuple[str, ActivationKind]]
) -> int:
    """Return what takes memory besides the cache: of activations only the forms that are read."""
    limits = Limits(n_batch, n_batch, n_outputs=1, n_threads=n_threads)
    if shape.is_encoder:
        limits = limits.of_encoder(n_batch)
    return 8 * HEADER + sum(
        area.size_bytes
        for area in MemoryLayout(shape, limits).areas
        if area.array != "kv"
        and area.name != STATES
        and (area.kind is None or (area.name, area.kind) in kinds)
    )


def _kind_of(type_: QuantType | int) -> ActivationKind:
    """Return the activations that weights meet; those of a type that does not run, presumably."""
    return KIND_OF_BLOCK.get(type_.block_size if isinstance(type_, QuantType) else 0, "q8_k")


def _llama_cpp(file: FileFacts, constraints: Constraints) -> MemoryEstimate:
    """llama.cpp: caches and the compute buffer as it lays them out, see ``fit.llama_cpp``.

    ::

        overhead = 9 MiB + n_vocab x 100: scheduler, context, vocabulary, one row of logits

    E.g. Mixtral-8x7B at 4096 tokens: 537 MB of K/V and 214 MB of scratch beside the weights.

    Source: the overhead as gguf-parser-go estimates it (5 MiB + vocab x (4 + 4 + 32 + 56), 4 MiB
    for the scheduler, 4 bytes of logits a word).
    """
    layer_kv_bytes = layer_cache_bytes(file, constraints)
    return MemoryEstimate(
        weights_bytes=file.weights_bytes,
        kv_bytes=sum(layer_kv_bytes),
        scratch_bytes=compute_bytes(file, constraints),
        overhead_bytes=9 * 2**20 + 100 * file.shape.n_vocab,
        layer_kv_bytes=layer_kv_bytes,
    )
