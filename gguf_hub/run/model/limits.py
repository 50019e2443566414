"""The largest calls of a model, by its settings, its sizes and this machine."""

from __future__ import annotations

from collections.abc import Iterable

from gguf_hub.errors import ContextFullError, UsageError
from gguf_hub.gguf.arch import Architecture
from gguf_hub.gguf.memory import cache
from gguf_hub.gguf.memory.layout import N_BATCH, Limits
from gguf_hub.gguf.memory.sizes import LayerSizes
from gguf_hub.run.model.settings import ModelSettings

_BYTES_WORTH_A_THREAD = 8 * 10**6  # of weights per token: some 0.4 ms of one core


def limits_of(
    n_ctx_train: int, settings: ModelSettings, n_threads: int, *, is_encoder: bool = False
) -> Limits:
    """Return the limits that a model is opened with.

    Args:
        n_ctx_train: Positions that the model was trained on.
        settings: How it is opened.
        n_threads: Threads where the settings name no number.
        is_encoder: Whether it reads whole texts: no more than it was trained on, in one batch.
    """
    n_ctx = settings.n_ctx or n_ctx_train
    n_batch = min(settings.n_batch or N_BATCH, n_ctx)
    n_logits = n_batch if settings.n_logits is None else settings.n_logits
    limits = Limits(
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_outputs=min(n_logits, n_batch),
        n_threads=settings.n_threads or n_threads,
        n_slots=settings.n_slots,
        key_type=settings.key_type,
        value_type=settings.value_type,
        swa_full=settings.swa_full,
    )
    return limits.of_encoder(n_ctx_train) if is_encoder else limits


def require_generation(arch: Architecture) -> None:
    """Refuse to generate with an encoder.

    Raises:
        UsageError: It is one.
    """
    if arch.is_encoder:
        raise UsageError(
            f"architecture `{arch.name}` makes embeddings and generates no text",
            hint="for embeddings: `/v1/embeddings` of `gguf-hub serve`, or in Python "
            "`Llama(path, embedding=True).embed(text)`",
        )


def check_text(n_tokens: int, n_ctx_train: int, limits: Limits) -> None:
    """Refuse a text that an encoder cannot read in one batch.

    Raises:
        ContextFullError: It is too long.
    """
    if n_tokens > limits.n_ctx:
        is_trained = limits.n_ctx >= n_ctx_train
        raise ContextFullError(
            f"a text of {n_tokens} tokens: expected at most {limits.n_ctx}, "
            + ("as many as the model was trained on" if is_trained else "the context"),
            n_tokens=n_tokens,
            n_ctx=limits.n_ctx,
            hint="embed it in parts" if is_trained else f"open it with `-c {n_ctx_train}`",
        )


def check_range(position: int, n_tokens: int, slot: int, limits: Limits) -> None:
    """Refuse tokens that do not fit a slot from a position on.

    Raises:
        UsageError: No tokens, no such position or slot.
        ContextFullError: They do not fit the cache.
    """
    if n_tokens < 1:
        raise UsageError("no tokens to compute: expected at least one")
    if position < 0:
        raise UsageError(f"position {position}: expected 0 or more")
    if position + n_tokens > limits.n_ctx:
        raise ContextFullError(
            f"{position + n_tokens} tokens do not fit a context of {limits.n_ctx}",
            hint="ask for a larger context with `-c`",
        )
    if not 0 <= slot < limits.n_slots:
        raise UsageError(f"slot {slot}: expected [0, {limits.n_slots - 1}]")


def check_outputs(n_rows: int, limits: Limits) -> None:
    """Refuse logits of more tokens than a model was opened for.

    Raises:
        UsageError: They are.
    """
    if n_rows > limits.n_outputs:
        raise UsageError(
            f"logits of {n_rows} tokens: the model was opened for {limits.n_outputs} at once",
            hint="open it with `n_logits=None`",
        )


def auto_threads(active_bytes: int, n_cores: int) -> int:
    """Return how many threads to compute with: no more than have work worth a barrier.

    A token of a small model takes less time than waking a thread on a busy machine.

    Args:
        active_bytes: Bytes of weights that one token reads.
        n_cores: Most threads there may be.
    """
    return max(1, min(n_cores, active_bytes // _BYTES_WORTH_A_THREAD))


def cache_read_bytes(
    layers: Iterable[LayerSizes], cache_types: tuple[str, str], n_positions: int
) -> int:
    """Return the bytes that a token at a position reads of the K/V cache of some layers."""
    keys, values = cache_types
    total = 0
    for layer in layers:
        n = min(n_positions, layer.window or layer.chunk or n_positions)
        each = cache.key_elements(keys, layer.head_dim, cache.LANES)
        each += cache.value_elements(values, layer.n_embd_head_v, cache.LANES)
        total += 2 * layer.n_head_kv * each * n // cache.LANES
    return total
