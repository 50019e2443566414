"""What the steps of layers with a state can touch (see ``extents``)."""

from __future__ import annotations

from collections.abc import Callable

from gguf_hub.run.kernels.vm.bounds import Call, Extent, Extents, require


def _parts(x: int, count: int, stride: int, width: int) -> Extent:
    """Return what ``count`` parts touch that lie ``stride`` apart."""
    return Extent("f", x, stride * (count - 1) + width if count > 0 else 0)


def _mul_rows(
    call: Call, y: int, y_stride: int, x: int, x_stride: int, width: int, count: int
) -> Extents:
    yield _parts(y, call.count(count), y_stride, width)
    yield _parts(x, call.count(count), x_stride, width)


def _sigmoid_gate(
    call: Call, y: int, gate: int, stride: int, width: int, per_row: int, count: int
) -> Extents:
    rows = per_row * call.count(count)
    yield _parts(gate, rows, stride, width)
    yield Extent("f", y, width * rows)


def _silu_gate(call: Call, y: int, gate: int, stride: int, width: int, count: int) -> Extents:
    return _sigmoid_gate(call, y, gate, stride, width, 1, count)


def _group_norm(
    call: Call, x: int, gain: int, width: int, n_group: int, epsilon: int, count: int
) -> Extents:
    require(n_group > 0, "no groups")
    yield Extent("f", x, width * n_group * call.count(count))
    yield Extent("f", gain, width * n_group)
    yield Extent("f", epsilon, 1)


def _l2_norm(
    call: Call, x: int, stride: int, width: int, per_row: int, epsilon: int, count: int
) -> Extents:
    require(0 < per_row and width * per_row <= stride, "{} parts of {}", per_row, stride)
    yield _parts(x, call.count(count), stride, width * per_row)
    yield Extent("f", epsilon, 1)


def _states(call: Call, state: int, stride: int, size: int) -> Extents:
    """Yield the states of all slots."""
    slots = call.bounds.n_slots
    require(slots == 1 or stride >= size, "states of {} lie {} apart", size, stride)
    yield call.sequences()
    yield _parts(state, slots, stride, size)


def _causal_conv(
    call: Call, x: int, stride: int, taps: int, n_taps: int, bias: int, has_bias: int,
    is_silu: int, state: int, state_stride: int, width: int, y: int,
) -> Extents:  # fmt: skip
    tokens = call.span.n_tokens
    require(n_taps > 0, "no taps")
    require(stride >= width, "rows of {} lie {} apart", width, stride)
    yield _parts(x, tokens, stride, width)
    yield Extent("f", taps, n_taps * width)
    yield Extent("f", bias, width if has_bias else 0)
    yield from _states(call, state, state_stride, (n_taps - 1) * width)
    yield Extent("f", y, width * tokens)


def _mamba2_scan(
    call: Call, x: int, dt: int, dt_stride: int, dt_bias: int, a: int, d: int, state: int,
    state_stride: int, n_head: int, n_group: int, head_dim: int, n_state: int, y: int,
) -> Extents:  # fmt: skip
    tokens, inner = call.span.n_tokens, n_head * head_dim
    require(0 < n_group <= n_head and n_head % n_group == 0, "{} heads, {} groups", n_head, n_group)
    yield Extent("f", x, (inner + 2 * n_group * n_state) * tokens)
    yield _parts(dt, tokens, dt_stride, n_head)
    for each in (dt_bias, a, d):
        yield Extent("f", each, n_head)
    yield from _states(call, state, state_stride, inner * n_state)
    yield Extent("f", y, inner * tokens)


def _mamba_scan(
    call: Call, x: int, dt: int, dt_bias: int, b: int, c: int, a: int, d: int, state: int,
    state_stride: int, width: int, n_state: int, y: int,
) -> Extents:  # fmt: skip
    tokens = call.span.n_tokens
    for each in (x, dt, y):
        yield Extent("f", each, width * tokens)
    for each in (b, c):
        yield Extent("f", each, n_state * tokens)
    for each in (dt_bias, d):
        yield Extent("f", each, width)
    yield Extent("f", a, width * n_state)
    yield from _states(call, state, state_stride, width * n_state)


def _delta_scan(
    call: Call, x: int, beta: int, alpha: int, stride: int, group: int, group_stride: int,
    dt_bias: int, a: int, state: int, state_stride: int, n_head_k: int, n_head: int,
    head_dim: int, is_tiled: int, y: int,
) -> Extents:  # fmt: skip
    tokens = call.span.n_tokens
    require(0 < n_head_k <= n_head and n_head % n_head_k == 0, "{} on {}", n_head, n_head_k)
    require(0 < group <= n_head and n_head % group == 0, "{} heads in {}s", n_head, group)
    gates = group_stride * (n_head // group - 1) + group
    yield Extent("f", x, (2 * n_head_k + n_head) * head_dim * tokens)
    yield _parts(beta, tokens, stride, gates)
    yield _parts(alpha, tokens, stride, gates)
    yield Extent("f", dt_bias, n_head)
    yield Extent("f", a, n_head)
    yield from _states(call, state, state_stride, n_head * head_dim * head_dim)
    yield Extent("f", y, n_head * head_dim * tokens)


STATE_EXTENTS: dict[str, Callable[..., Extents]] = {
    "mul_rows": _mul_rows,
    "sigmoid_gate": _sigmoid_gate,
    "silu_gate": _silu_gate,
    "group_norm": _group_norm,
    "l2_norm": _l2_norm,
    "causal_conv": _causal_conv,
    "mamba2_scan": _mamba2_scan,
    "mamba_scan": _mamba_scan,
    "delta_scan": _delta_scan,
}
"""Step -> what it can touch."""
