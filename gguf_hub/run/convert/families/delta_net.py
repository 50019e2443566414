"""Where the tensors of gated delta nets come from: Qwen3-Next's and Qwen3.5's.

Shape letters: K heads of keys, R heads of values for each, d and v the lengths of their heads.
GGUF's ``qwen3next`` has value heads in blocks, those of a key head one after another; ``qwen35``
has them in turns, the first of each key head, then the second (tiled).
"""

from __future__ import annotations

import numpy as np

from gguf_hub.run.convert.families.family import Names, Source, whole
from gguf_hub.run.convert.families.makes import (
    DECAY,
    H,
    Make,
    Order,
    Shape,
    by_columns,
    by_rows,
)
from gguf_hub.run.convert.stored.derived import Computed, Reordered
from gguf_hub.run.convert.stored.matrix import Matrix


def _heads(h: H) -> tuple[int, int, int, int]:
    """Return K, R, d, v."""
    n_key = h.ssm_n_group
    return n_key, h.ssm_dt_rank // n_key, h.ssm_d_state, h.ssm_d_inner // h.ssm_dt_rank


# -- Qwen3-Next: one matrix holds q, k, v and z of each key head, [K (2 d + 2 R v), D] -------------


def _joint_rows(h: H) -> Order:
    n_key, n_times, d, v = _heads(h)
    return np.arange(n_key * 2 * (d + n_times * v), dtype=np.int64).reshape(n_key, -1)


def _expects_joint(shape: Shape, h: H) -> Shape:
    return (_joint_rows(h).size, shape[-1])


def _qkv(matrix: Matrix, shape: Shape, h: H) -> Matrix:
    _, n_times, d, v = _heads(h)
    rows = _joint_rows(h)
    parts = (rows[:, :d], rows[:, d : 2 * d], rows[:, 2 * d : 2 * d + n_times * v])
    return Reordered.of(matrix, np.concatenate([part.reshape(-1) for part in parts]), shape)


def _gate(matrix: Matrix, shape: Shape, h: H) -> Matrix:
    _, n_times, d, v = _heads(h)
    return Reordered.of(matrix, _joint_rows(h)[:, 2 * d + n_times * v :].reshape(-1), shape)


QWEN_NEXT_STATES: Names = {
    "attn_qkv": Source("linear_attn.in_proj_qkvz", Make(_expects_joint, _qkv)),
    "attn_gate": Source("linear_attn.in_proj_qkvz", Make(_expects_joint, _gate)),
    "ssm_ba": "linear_attn.in_proj_ba",
    "ssm_a": whole("linear_attn.A_log", DECAY),
    "ssm_dt.bias": whole("linear_attn.dt_bias"),
    "ssm_out": "linear_attn.out_proj",
}

# -- Qwen3.5 ---------------------------------------------------------------------------------------


def _tiled(h: H, length: int) -> Order:
    """Return the order that puts value heads, each of some rows, in turns."""
    n_key, n_times, _, _ = _heads(h)
    rows = np.arange(n_key * n_times * length, dtype=np.int64).reshape(n_key, n_times, length)
    return np.ascontiguousarray(rows.swapaxes(0, 1)).reshape(-1)


def _of_heads(shape: Shape, h: H) -> Order:
    return _tiled(h, shape[0] // h.ssm_dt_rank)


def _behind_keys(shape: Shape, h: H) -> Order:
    """Queries and keys stay, [2 K d]; values behind them are put in turns."""
    n_key, _, d, v = _heads(h)
    first = 2 * n_key * d
    return np.concatenate([np.arange(first, dtype=np.int64), first + _tiled(h, v)])


def _columns(shape: Shape, h: H) -> Order:
    return _tiled(h, shape[1] // h.ssm_dt_rank)


_KERNEL_BEHIND_KEYS = Make(
    lambda shape, h: (shape[0], 1, shape[1]),
    lambda matrix, shape, h: Computed.of(
        matrix, shape, lambda values: values[_behind_keys(shape, h), 0]
    ),
)
_TILED = by_rows(_of_heads)

QWEN35_STATES: Names = {
    "attn_qkv": Source("linear_attn.in_proj_qkv", by_rows(_behind_keys)),
    "attn_gate": Source("linear_attn.in_proj_z", _TILED),
    "ssm_beta": Source("linear_attn.in_proj_b", _TILED),
    "ssm_alpha": Source("linear_attn.in_proj_a", _TILED),
    "ssm_a": whole("linear_attn.A_log", DECAY.then(_TILED)),
    "ssm_dt.bias": whole("linear_attn.dt_bias", _TILED),
    "ssm_conv1d": Source("linear_attn.conv1d", _KERNEL_BEHIND_KEYS),
    "ssm_out": Source("linear_attn.out_proj", by_columns(_columns)),
}
