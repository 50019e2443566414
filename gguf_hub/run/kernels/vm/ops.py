"""The steps that a program is made of: their names, their arguments, and the memory they share.

Pure Python: a program is built without numba. A step computes on all worker threads at once, each
on its own share of rows; ``machine`` runs step after step with a barrier in between.

Memory, shared by all steps (offsets count elements):

==== ======= ==========================================================================
name element what
==== ======= ==========================================================================
n    int64   counts and indices of this call: the header below, token ids, routing
f    float32 activations, norms, constants
q    int8    quantised activations
kv   uint16  the K/V cache, [layer, K or V, head_kv, as ``cache`` says]
w    uint8   the model file, mapped
==== ======= ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

N_TOKENS, POSITION, N_OUTPUTS, N_PAIRS, N_OUTPUT_PAIRS = range(5)
"""Indices of the header in ``n``: tokens in this call, cache position of the first one, how many of
them want logits, and (token, expert) pairs of all and of those."""

CHUNK_ROWS, CHUNK_OFFSET, CHUNK_BAD_ROW = 6, 7, 16
"""Indices in ``n`` for the quantiser: rows of the chunk, the byte of its file where it starts, and
for each thread the first row with a number that is too large or none at all, or -1."""

SCRATCH = ("packed", "packed_stride", "partial", "partial_stride")
"""Arguments of matrix products: offsets of the first thread's weight tile in ``q`` and of its sums
of 32 rows for each token in ``f``, and the strides from thread to thread (``tile_steps``)."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    # the embeddings of the call's tokens, as floats
    "get_rows": ("w0", "row_bytes", "n_in", "ids", "y"),
    # how many tokens, and the position of the first, for the steps that follow
    "set_row": ("at",),
    # the rows that want logits, one after another
    "copy_rows": ("x", "width", "rows", "y", "count"),
    # cosine and sine of every (token, frequency), from frequencies as sums of two floats
    "rope_table": ("frequencies", "half", "factor", "table"),
    # each row divided by its root mean square, times the gain
    "rms_norm": ("x", "gain", "width", "epsilon", "y", "count"),
    # activation rows in the form that a weight type is multiplied with
    "quantize_q8_0": ("x", "width", "xq", "xf", "count"),
    "quantize_q8_k": ("x", "width", "xq", "xf", "count"),
    # y[t, r] (+)= dot(weight row r, activation row t)
    "matmul": (
        "w0", "row_bytes", "n_in", "n_out", "xq", "xq_stride", "xf", "xf_stride",
        "y", "y_stride", "is_added", "count", *SCRATCH,
    ),
    # rotate q and k by position; put k and v into the cache
    "rope_store": (
        "q0", "k0", "v0", "n_head", "n_head_kv", "head_dim", "n_rot", "table",
        "k_cache", "v_cache", "n_ctx",
    ),
    # softmax(q k^T / sqrt(head_dim)) v, causal
    "attention": (
        "q0", "n_head", "n_head_kv", "head_dim", "k_cache", "v_cache", "n_ctx", "scratch", "y",
    ),
    # router logits -> expert ids and weights of each token, and (token, expert) pairs by expert
    "top_k_gate": (
        "logits", "n_expert", "n_expert_used", "expert_ids", "weights", "expert_starts",
        "assignments", "count",
    ),
    # prefetch the matrices of the chosen experts, for a file larger than memory
    "prefetch_experts": ("experts", "n_expert", "size", "expert_starts"),
    # matmul of each (token, expert) pair with that expert's matrix
    "expert_matmul": (
        "experts", "n_expert", "row_bytes", "n_in", "n_out", "expert_starts", "assignments",
        "pairs_per_x", "xq", "xq_stride", "xf", "xf_stride", "y", "y_stride", *SCRATCH,
    ),
    # rows of the quantiser's chunk: weights to floats, floats to blocks
    "decode": ("first", "rows", "row_bytes", "n_in", "x", "x_stride", "largest"),
    "encode": ("first", "rows", "row_bytes", "n_in", "x", "x_stride", "scratch"),
    # SwiGLU, written over gate
    "silu_mul": ("gate", "up", "width", "count"),
    # x[t] += sum over its pairs of weight * y[pair]
    "combine": ("y", "weights", "n_expert_used", "width", "x", "count"),
    # read bytes of the file and do nothing with them: how fast memory is
    "read_bytes": ("first", "size", "results"),
}  # fmt: skip
"""Step -> the names of its arguments, in order. ``epsilon``, ``factor``, ``gain`` and
``frequencies`` are offsets in ``f``; ``count`` is an index of the header of ``n``."""


ROW = 24
"""int64 elements of a program row: kernel address, barrier flag, file, arguments."""


@dataclass(frozen=True)
class Step:
    """One step of a program.

    Attributes:
        kernel: ``matmul.Q4_K``: the step and, where it reads weights, their type.
        file: Which mapped file holds the weights.
        arguments: As ``ARGUMENTS`` names them, in that order.
        is_barrier_after: Whether the next step needs this one's results.
    """

    kernel: str
    file: int
    arguments: tuple[int, ...]
    is_barrier_after: bool


def step(kernel: str, *, file: int = 0, barrier: bool = True, **arguments: int) -> Step:
    """Return a step, its arguments given by name."""
    names = ARGUMENTS[kernel.partition(".")[0]]
    assert arguments.keys() == set(names), f"{kernel}: {set(names) ^ arguments.keys()}"
    return Step(kernel, file, tuple(int(arguments[name]) for name in names), barrier)
