"""What the steps between matrix products can touch (see ``extents``)."""

from __future__ import annotations

from collections.abc import Callable

from gguf_hub.gguf.memory import cache
from gguf_hub.run.kernels.vm.bounds import Call, Extent, Extents, require
from gguf_hub.run.kernels.vm.ops import N_PAIRS, SIGMOID_OF_CHOSEN

# -- rows ------------------------------------------------------------------------------------------


def _rms_norm(
    call: Call, x: int, gain: int, width: int, epsilon: int, y: int, count: int, per_row: int
) -> Extents:
    size = width * per_row * call.count(count)
    yield Extent("f", x, size)
    yield Extent("f", gain, width)
    yield Extent("f", epsilon, 1)
    yield Extent("f", y, size)


def _layer_norm(
    call: Call, x: int, gain: int, bias: int, width: int, epsilon: int, y: int, count: int,
    per_row: int, step: int,
) -> Extents:  # fmt: skip
    require(per_row > 0, "{} parts", per_row)
    yield from _rms_norm(call, x, gain, width, epsilon, y, count, per_row)
    yield Extent("f", gain, step * (per_row - 1) + width)
    yield Extent("f", bias, step * (per_row - 1) + width)


def _add_bias(call: Call, y: int, bias: int, width: int, count: int) -> Extents:
    yield Extent("f", y, width * call.count(count))
    yield Extent("f", bias, width)


def _scale_rows(call: Call, x: int, width: int, factor: int, count: int) -> Extents:
    yield Extent("f", x, width * call.count(count))
    yield Extent("f", factor, 1)


def _add_rows(call: Call, x: int, y: int, width: int, factor: int, count: int) -> Extents:
    yield from _scale_rows(call, x, width, factor, count)
    yield Extent("f", y, width * call.count(count))


def _sigmoid_scale(call: Call, y: int, gate: int, width: int, per_row: int, count: int) -> Extents:
    yield Extent("f", y, width * per_row * call.count(count))
    yield Extent("f", gate, per_row * call.count(count))


def _two_rows(call: Call, x: int, y: int, width: int, count: int) -> Extents:
    yield Extent("f", x, width * call.count(count))
    yield Extent("f", y, width * call.count(count))


def _swiglu_clamp(call: Call, gate: int, up: int, width: int, limit: int, count: int) -> Extents:
    yield from _two_rows(call, gate, up, width, count)
    yield Extent("f", limit, 1)


def _in_place(call: Call, gate: int, width: int, count: int) -> Extents:
    yield Extent("f", gate, width * call.count(count))


def _xielu(call: Call, gate: int, a: int, width: int, count: int) -> Extents:
    yield from _in_place(call, gate, width, count)
    yield Extent("f", a, 4)


def _copy_parts(
    call: Call, x: int, x_stride: int, x_step: int, y: int, y_stride: int, y_step: int, width: int,
    per_row: int, count: int,
) -> Extents:  # fmt: skip
    n_rows = call.count(count)
    require(n_rows > 0 and per_row > 0, "{} rows of {} parts", n_rows, per_row)
    yield Extent("f", x, x_stride * (n_rows - 1) + x_step * (per_row - 1) + width)
    yield Extent("f", y, y_stride * (n_rows - 1) + y_step * (per_row - 1) + width)


def _altup_predict(
    call: Call, x: int, stride: int, gates: int, weights: int, n_stream: int, width: int, y: int,
    count: int,
) -> Extents:  # fmt: skip
    yield from _streams(call, x, stride, gates, n_stream, width, count)
    yield from _streams(call, y, stride, gates, n_stream, width, count)
    yield Extent("f", weights, n_stream**3)


def _altup_correct(
    call: Call, x: int, predicted: int, stride: int, gates: int, weights: int, n_stream: int,
    width: int, y: int, count: int,
) -> Extents:  # fmt: skip
    yield Extent("f", x, width * call.count(count))
    yield from _streams(call, predicted, stride, gates, n_stream, width, count)
    yield from _streams(call, y, stride, gates, n_stream, width, count)
    yield Extent("f", weights, n_stream**2)


def _streams(
    call: Call, x: int, stride: int, gates: int, n_stream: int, width: int, count: int
) -> Extents:
    n_rows = call.count(count)
    require(n_stream > 0 and stride >= width * n_rows, "{} streams {} apart", n_stream, stride)
    for i in range(n_stream):
        yield Extent("f", x + stride * i, width * n_rows)
    yield Extent("f", gates, n_stream * n_rows)


# -- positions -------------------------------------------------------------------------------------


def _scale_by_position(
    call: Call, x: int, width: int, scale: int, length: int, offset: int
) -> Extents:
    require(length > 0, "positions are divided by {}", length)
    yield call.sequences()
    yield Extent("f", x, width * call.span.n_tokens)
    yield Extent("f", scale, 1)


def _rope_table(call: Call, frequencies: int, half: int, factor: int, table: int) -> Extents:
    yield call.sequences()
    yield Extent("f", frequencies, 2 * half)
    yield Extent("f", factor, 1)
    yield Extent("f", table, 2 * half * call.span.n_tokens)


def _rotate(
    call: Call, x: int, n_head: int, head_dim: int, n_rot: int, is_neox: int, table: int
) -> Extents:
    require(n_rot <= head_dim and n_rot % 2 == 0, "{} of {} dimensions", n_rot, head_dim)
    yield Extent("f", x, head_dim * n_head * call.span.n_tokens)
    yield Extent("f", table, n_rot * call.span.n_tokens)


def _cache(
    call: Call, n_head: int, n_head_kv: int, head_dim: int, value_dim: int, k_cache: int,
    v_cache: int, n_ctx: int,
) -> Extents:  # fmt: skip
    # of slot 0: those of the others lie behind one another, where the table of sequences says
    yield call.sequences()
    key_type, value_type = call.type.split(".")
    require(n_head_kv > 0 and n_head % n_head_kv == 0, "{} heads on {}", n_head, n_head_kv)
    require(n_ctx % cache.LANES == 0, "a cache of {} positions", n_ctx)
    is_whole = call.span.end <= n_ctx or (n_ctx > 0 and n_ctx % cache.CHUNK == 0)
    require(is_whole, "position {} in a cache of {}", call.span.end - 1, n_ctx)
    yield Extent("kv", k_cache, n_head_kv * cache.key_elements(key_type, head_dim, n_ctx))
    yield Extent("kv", v_cache, n_head_kv * cache.value_elements(value_type, value_dim, n_ctx))


def _rope_store(
    call: Call, q0: int, k0: int, v0: int, n_head: int, n_head_kv: int, head_dim: int,
    value_dim: int, n_rot: int, is_neox: int, table: int, k_cache: int, v_cache: int, n_ctx: int,
) -> Extents:  # fmt: skip
    yield from _rotate(call, q0, n_head, head_dim, n_rot, is_neox, table)
    yield Extent("f", k0, head_dim * n_head_kv * call.span.n_tokens)
    yield Extent("f", v0, value_dim * n_head_kv * call.span.n_tokens)
    yield from _cache(call, n_head, n_head_kv, head_dim, value_dim, k_cache, v_cache, n_ctx)


def _attention(
    call: Call, q0: int, n_head: int, n_head_kv: int, head_dim: int, value_dim: int, k_cache: int,
    v_cache: int, n_ctx: int, scratch: int, y: int, scale: int, window: int, chunk: int, cap: int,
    sinks: int, has_sinks: int, slopes: int, has_slopes: int,
) -> Extents:  # fmt: skip
    yield from _cache(call, n_head, n_head_kv, head_dim, value_dim, k_cache, v_cache, n_ctx)
    # what a token sees must not have been replaced by what those behind it have stored
    n_kept = (window or chunk or call.span.end) + call.span.n_tokens - 1
    require(call.span.end <= n_ctx or n_kept <= n_ctx, "{} of a cache of {}", n_kept, n_ctx)
    floats = cache.scratch_floats(n_head // n_head_kv, value_dim)
    yield Extent("f", q0, head_dim * n_head * call.span.n_tokens)
    yield Extent("f", scratch, floats * call.bounds.n_threads)
    yield Extent("f", y, value_dim * n_head * call.span.n_tokens)
    yield Extent("f", scale, 1)
    yield Extent("f", cap, 1)
    yield Extent("f", sinks, n_head if has_sinks else 0)
    yield Extent("f", slopes, n_head if has_slopes else 0)


def _text_attention(
    call: Call, q0: int, n_head: int, n_head_kv: int, head_dim: int, value_dim: int, k_cache: int,
    v_cache: int, n_ctx: int, scratch: int, y: int, scale: int, window: int, slopes: int,
    has_slopes: int,
) -> Extents:  # fmt: skip
    require(call.span.end <= n_ctx, "position {} in a cache of {}", call.span.end - 1, n_ctx)
    yield from _attention(
        call, q0, n_head, n_head_kv, head_dim, value_dim, k_cache, v_cache, n_ctx, scratch, y,
        scale, window, 0, scale, 0, 0, slopes, has_slopes,
    )  # fmt: skip


# -- experts ---------------------------------------------------------------------------------------


def _expert_ids(expert_ids: int, n_pairs: int, n_expert: int) -> Extent:
    """Return ids that the gate wrote; a reader with fewer experts would leave its own tables."""
    return Extent("n", expert_ids, n_pairs, f"expert ids of {n_expert}")


def _top_k_gate(
    call: Call, logits: int, n_expert: int, n_expert_used: int, expert_ids: int, weights: int,
    expert_starts: int, assignments: int, count: int, function: int, bias: int, has_bias: int,
    n_group: int, n_group_used: int, is_normalized: int, scale: int,
) -> Extents:  # fmt: skip
    tokens = call.count(count)
    require(function <= SIGMOID_OF_CHOSEN, "no function {}", function)
    require(0 < n_group_used <= n_group, "{} of {} groups", n_group_used, n_group)
    require(n_expert % n_group == 0, "{} experts in {} groups", n_expert, n_group)
    most = n_expert // n_group * n_group_used
    require(n_expert_used <= most, "{} of {} experts", n_expert_used, most)
    require(tokens * n_expert_used <= call.count(N_PAIRS), "more pairs than the header allows")
    yield Extent("f", logits, n_expert * tokens)
    yield Extent("f", weights, n_expert_used * tokens)
    yield Extent("f", bias, n_expert if has_bias else 0)
    yield Extent("f", scale, 1)
    yield _expert_ids(expert_ids, n_expert_used * tokens, n_expert)
    yield Extent("n", expert_starts, n_expert + 1, "expert starts")
    yield Extent("n", assignments, n_expert_used * tokens, "assignments")


def _add_expert_bias(
    call: Call, y: int, biases: int, width: int, n_expert: int, expert_ids: int, count: int
) -> Extents:
    yield Extent("f", y, width * call.count(count))
    yield Extent("f", biases, width * n_expert)
    yield _expert_ids(expert_ids, call.count(count), n_expert)


def _scale_by_expert(
    call: Call, y: int, scales: int, width: int, n_expert: int, expert_ids: int, count: int
) -> Extents:
    yield Extent("f", y, width * call.count(count))
    yield Extent("f", scales, n_expert)
    yield _expert_ids(expert_ids, call.count(count), n_expert)


def _scale_pairs(
    call: Call, x: int, weights: int, n_expert_used: int, width: int, y: int, count: int
) -> Extents:
    pairs = n_expert_used * call.count(count)
    yield Extent("f", x, width * call.count(count))
    yield Extent("f", weights, pairs)
    yield Extent("f", y, width * pairs)


def _combine(
    call: Call, y: int, weights: int, n_expert_used: int, width: int, x: int, count: int,
    is_added: int, is_weighted: int,
) -> Extents:  # fmt: skip
    pairs = n_expert_used * call.count(count)
    yield Extent("f", y, width * pairs)
    yield Extent("f", weights, pairs if is_weighted else 0)
    yield Extent("f", x, width * call.count(count))


GRAPH_EXTENTS: dict[str, Callable[..., Extents]] = {
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "add_bias": _add_bias,
    "add_expert_bias": _add_expert_bias,
    "scale_by_expert": _scale_by_expert,
    "copy_parts": _copy_parts,
    "scale_rows": _scale_rows,
    "add_rows": _add_rows,
    "soft_cap": _scale_rows,
    "clamp_rows": _scale_rows,
    "sparsify": _scale_rows,
    "match_lengths": _two_rows,
    "altup_predict": _altup_predict,
    "altup_correct": _altup_correct,
    "sigmoid_scale": _sigmoid_scale,
    "scale_by_position": _scale_by_position,
    "rope_table": _rope_table,
    "rotate": _rotate,
    "rope_store": _rope_store,
    "attention": _attention,
    "text_attention": _text_attention,
    "top_k_gate": _top_k_gate,
    "scale_pairs": _scale_pairs,
    "silu_mul": _two_rows,
    "gelu_mul": _two_rows,
    "swiglu_clamp": _swiglu_clamp,
    "relu_mul": _two_rows,
    "swiglu_oai": _two_rows,
    "relu2": _in_place,
    "gelu": _in_place,
    "xielu": _xielu,
    "combine": _combine,
}
"""Step -> what it can touch."""
