"""llama.cpp's functions about contexts: batches, logits, and the cache.

A context has one sequence, 0, and a cache that grows and is cut at its end. What else a batch or
the memory is asked for is refused. Source: include/llama.h of llama.cpp as bundled with
llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NewType

from gguf_hub.api.compat.llama_cpp import constants as c
from gguf_hub.api.compat.llama_cpp.c_model import llama_model_p
from gguf_hub.api.compat.llama_cpp.handles import find, handle_of, number, release
from gguf_hub.api.compat.llama_cpp.opened import Context, ModelFile
from gguf_hub.api.compat.llama_cpp.unavailable import refuse
from gguf_hub.api.llama import Llama
from gguf_hub.errors import ContextFullError, TokenIdError

llama_context_p = NewType("llama_context_p", int)
llama_memory_t = NewType("llama_memory_t", int)
llama_context_p_ctypes = llama_memory_t_ctypes = ctypes.c_void_p
llama_pos = llama_seq_id = ctypes.c_int32

_ALL = 2**31 - 1


@dataclass
class llama_context_params:
    """How to compute; what has no meaning here is kept and ignored."""

    n_ctx: int = 512
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    n_threads: int = 0
    n_threads_batch: int = 0
    rope_scaling_type: int = c.LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED
    pooling_type: int = c.LLAMA_POOLING_TYPE_UNSPECIFIED
    attention_type: int = c.LLAMA_ATTENTION_TYPE_UNSPECIFIED
    flash_attn_type: int = c.LLAMA_FLASH_ATTN_TYPE_AUTO
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0
    yarn_orig_ctx: int = 0
    defrag_thold: float = -1.0
    type_k: int = c.GGML_TYPE_F16
    type_v: int = c.GGML_TYPE_F16
    embeddings: bool = False
    offload_kqv: bool = True
    no_perf: bool = True
    op_offload: bool = True
    swa_full: bool = True
    kv_unified: bool = False


def llama_context_default_params() -> llama_context_params:
    """Return the default parameters."""
    return llama_context_params()


def llama_init_from_model(
    model: llama_model_p, params: llama_context_params, /
) -> llama_context_p | None:
    """Open a context of a file; free it with ``llama_free``.

    Raises:
        GgufHubError: The file holds no model that runs here.
    """
    context = open_context(find(ModelFile, model), params)
    return llama_context_p(handle_of(context, is_owned=True))


llama_new_context_with_model = llama_init_from_model


def open_context(file: ModelFile, params: llama_context_params) -> Context:
    """Open the model of a file with these parameters (see ``llama_init_from_model``)."""
    given = ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
    options: dict[str, Any] = {name: getattr(params, name) for name in given}
    options = {name: value for name, value in options.items() if value >= 0}
    if file.is_vocab_only:
        return Context(Llama(file.path, vocab_only=True, verbose=False), file)
    llama = Llama(
        file.path, n_ctx=params.n_ctx, n_batch=params.n_batch, n_threads=params.n_threads or None,
        rope_scaling_type=params.rope_scaling_type, pooling_type=params.pooling_type,
        rope_freq_base=params.rope_freq_base, rope_freq_scale=params.rope_freq_scale,
        yarn_ext_factor=params.yarn_ext_factor, yarn_orig_ctx=params.yarn_orig_ctx,
        type_k=params.type_k, type_v=params.type_v, swa_full=params.swa_full,
        embedding=params.embeddings, verbose=False, **options,
    )  # fmt: skip
    return Context(llama, file)


def llama_free(ctx: llama_context_p, /) -> None:
    """Close a context of ``llama_init_from_model``."""
    context = release(ctx)
    if isinstance(context, Context):
        context.llama.close()


def llama_n_ctx(ctx: llama_context_p, /) -> int:
    """Return the number of positions."""
    return find(Context, ctx).llama.n_ctx()


def llama_n_batch(ctx: llama_context_p, /) -> int:
    """Return the maximum batch size in tokens."""
    return find(Context, ctx).llama.n_batch


def llama_n_seq_max(ctx: llama_context_p, /) -> int:
    """Return the number of sequences."""
    find(Context, ctx)
    return 1


def llama_n_threads(ctx: llama_context_p, /) -> int:
    """Return the number of threads."""
    return find(Context, ctx).llama.n_threads


llama_n_ubatch, llama_n_ctx_seq, llama_n_threads_batch = llama_n_batch, llama_n_ctx, llama_n_threads


def llama_pooling_type(ctx: llama_context_p, /) -> int:
    """Return the pooling type."""
    return find(Context, ctx).llama.pooling_type()


def llama_get_model(ctx: llama_context_p, /) -> llama_model_p:
    """Return the model of a context."""
    return llama_model_p(handle_of(find(Context, ctx).file))


def llama_synchronize(ctx: llama_context_p, /) -> None:
    """Wait for nothing: whatever computes has ended when it returns."""
    find(Context, ctx)


# -- batches -------------------------------------------------------------------------------------


class _SequenceIds(dict[int, Any]):
    """Index of a token -> the ids of its sequences; made when it is asked for."""

    def __init__(self, n_seq_max: int) -> None:
        super().__init__()
        self._type = ctypes.c_int32 * max(1, n_seq_max)

    def __missing__(self, i: int) -> Any:
        ids = self[i] = self._type()
        return ids


class llama_batch:
    """Tokens with their positions, sequences and whether their logits are wanted.

    Attributes:
        pos: None: they follow those in the cache.
        logits: None: those of the last one.
    """

    def __init__(self, n_tokens: int, n_seq_max: int = 1) -> None:
        self.n_tokens = 0
        self.token: Any = (ctypes.c_int32 * n_tokens)()
        self.pos: Any = (ctypes.c_int32 * n_tokens)()
        self.n_seq_id: Any = (ctypes.c_int32 * n_tokens)()
        self.seq_id: Any = _SequenceIds(n_seq_max)
        self.logits: Any = (ctypes.c_int8 * n_tokens)()
        self.embd = None


def llama_batch_init(n_tokens: Any, embd: Any, n_seq_max: Any, /) -> llama_batch:
    """Return a batch with room for ``n_tokens``.

    Raises:
        UnavailableError: Of embeddings.
    """
    if number(embd):
        refuse("llama_batch_init", f"batches of embeddings (embd={number(embd)}) are not computed")
    return llama_batch(number(n_tokens), number(n_seq_max))


def llama_batch_get_one(tokens: Any, n_tokens: Any, /) -> llama_batch:
    """Return a batch of tokens that follow those in the cache, for the logits of the last one."""
    batch = llama_batch(0)
    batch.n_tokens, batch.token, batch.pos, batch.logits = number(n_tokens), tokens, None, None
    return batch


def llama_batch_free(batch: llama_batch, /) -> None:
    """Forget a batch."""
    batch.n_tokens = 0


def llama_decode(ctx: llama_context_p, batch: llama_batch, /) -> int:
    """Compute a batch.

    Returns:
        0, 1 where it does not fit into the context, -1 where it is empty, has ids that the model
        does not have, or positions that do not follow those in the cache.

    Raises:
        UnavailableError: It has several sequences.
    """
    context, n_tokens = find(Context, ctx), batch.n_tokens
    n_cached = context.llama.n_tokens
    position = n_cached if batch.pos is None else batch.pos[0] if n_tokens else -1
    is_row = batch.pos is None or all(batch.pos[i] == position + i for i in range(n_tokens))
    if not n_tokens or not is_row or not 0 <= position <= n_cached:
        return -1
    if batch.pos is not None and any(batch.seq_id[i][0] for i in range(n_tokens)):
        refuse("llama_decode", "a context has one sequence, 0, and the batch has others",
               "open a context for each of them")  # fmt: skip
    try:
        context.decode([batch.token[i] for i in range(n_tokens)], position, _wanted(batch))
    except ContextFullError:
        return 1
    except TokenIdError:
        return -1
    return 0


def _wanted(batch: llama_batch) -> Sequence[bool]:
    if batch.logits is None:
        return [i == batch.n_tokens - 1 for i in range(batch.n_tokens)]
    return [bool(batch.logits[i]) for i in range(batch.n_tokens)]


def llama_get_logits(ctx: llama_context_p, /) -> Any:
    """Return a pointer to the logits of the last batch, [n, V] of the tokens that want them."""
    return _pointer(find(Context, ctx).logits)


def llama_get_logits_ith(ctx: llama_context_p, i: Any, /) -> Any:
    """Return a pointer to the logits after token ``i`` of the last batch, [V]; None without any.

    Below 0 it counts from the last token that wanted logits.
    """
    row = find(Context, ctx).row(number(i))
    return None if row is None else _pointer(row)


# -- embeddings ----------------------------------------------------------------------------------


def llama_set_embeddings(ctx: llama_context_p, embeddings: bool, /) -> None:
    """Compute embeddings with the next batches, or logits alone.

    Raises:
        UnavailableError: The context was opened without ``embeddings``.
    """
    context = find(Context, ctx)
    if embeddings and not context.llama.has_embeddings:
        refuse("llama_set_embeddings", "the context was opened without embeddings",
               "set `embeddings` of its parameters, or `Llama(embedding=True)`")  # fmt: skip
    context.has_embeddings = bool(embeddings)


def llama_get_embeddings(ctx: llama_context_p, /) -> Any:
    """Return a pointer to the vectors of the last batch's tokens, [n, D]; None if pooled."""
    hidden = find(Context, ctx).hidden
    return None if hidden is None else _pointer(hidden)


def llama_get_embeddings_ith(ctx: llama_context_p, i: Any, /) -> Any:
    """Return a pointer to the vector of token ``i`` of the last batch, [D]; None without any.

    Below 0 it counts from the last token.
    """
    hidden, at = find(Context, ctx).hidden, number(i)
    if hidden is None or not -len(hidden) <= at < len(hidden):
        return None
    return _pointer(hidden[at])


def llama_get_embeddings_seq(ctx: llama_context_p, seq_id: Any, /) -> Any:
    """Return a pointer to a sequence's vector, [D], or scores of a reranker, [C].

    None without pooling, or of another sequence than 0.
    """
    pooled = find(Context, ctx).pooled
    return None if pooled is None or number(seq_id) else _pointer(pooled)


def _pointer(numbers: Any) -> Any:
    return numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


# -- the cache -----------------------------------------------------------------------------------


def llama_get_memory(ctx: llama_context_p, /) -> llama_memory_t:
    """Return the cache of a context."""
    return llama_memory_t(handle_of(find(Context, ctx)))


def llama_memory_clear(mem: llama_memory_t, data: bool, /) -> None:
    """Clear the cache."""
    find(Context, mem).truncate(0)


def llama_memory_seq_rm(mem: llama_memory_t, seq_id: Any, p0: Any, p1: Any, /) -> bool:
    """Remove positions [p0, p1) of a sequence, -1 for the first and the last.

    Returns:
        Whether they are removed: they must be the last ones.
    """
    context, start, end = find(Context, mem), max(0, number(p0)), number(p1)
    n_cached = context.llama.n_tokens
    if number(seq_id) > 0 or start >= n_cached:
        return True
    if 0 <= end < n_cached:
        return end <= start
    context.truncate(start)
    return True


def llama_memory_seq_pos_min(mem: llama_memory_t, seq_id: Any, /) -> int:
    """Return the first position of a sequence; -1 where it is empty."""
    return 0 if llama_memory_seq_pos_max(mem, seq_id) >= 0 else -1


def llama_memory_seq_pos_max(mem: llama_memory_t, seq_id: Any, /) -> int:
    """Return the last position of a sequence; -1 where it is empty."""
    n_cached = find(Context, mem).llama.n_tokens
    return n_cached - 1 if number(seq_id) == 0 else -1


def llama_memory_can_shift(mem: llama_memory_t, /) -> bool:
    """Return whether positions can be moved: they cannot."""
    find(Context, mem)
    return False
