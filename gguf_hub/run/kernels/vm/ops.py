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

from dataclasses import dataclass, replace

from gguf_hub.gguf.memory.layout import HEADER

N_TOKENS, POSITION, N_OUTPUTS, N_PAIRS, N_OUTPUT_PAIRS, SLOT = range(6)
"""Indices of the header in ``n``: tokens in this call, cache position of the first one, how many of
them want logits, (token, expert) pairs of all and of those, and the slot of the first one. Where
there are several sequences, steps read ``SEQUENCES`` for positions and slots."""

N_SEQUENCES, SEQUENCES, SEQUENCE_SIZE = 8, HEADER, 5
"""Index of the header: how many sequences the tokens of this call belong to. Where in ``n`` the
table of them begins, and how many numbers there are for each: its first token, its number of
tokens, the position of the first one, its slot, and the element of ``kv`` where the cache of that
slot begins. Tokens 0 to 2 at position 40 of slot 1 and token 3 at position 7 of slot 0:
(0, 3, 40, 1, size of a cache), (3, 1, 7, 0, 0)."""

CHUNK_ROWS, CHUNK_OFFSET, CHUNK_BAD_ROW = 6, 7, 16
"""Indices in ``n`` for the quantiser: rows of the chunk, the byte of its file where it starts, and
for each thread the first row with a number that is too large or none at all, or -1."""

SCRATCH = ("packed", "packed_stride", "partial", "partial_stride")
"""Arguments of matrix products: offsets of the first thread's weight tile in ``q`` and of its sums
of 32 rows for each token in ``f``, and the strides from thread to thread (``tile_steps``)."""

SOFTMAX_OF_CHOSEN, SOFTMAX, SIGMOID, SIGMOID_OF_CHOSEN = range(4)
"""What ``function`` of ``top_k_gate`` may be. Experts are chosen by logits, and weighted by the
softmax or the sigmoid of these; or chosen and weighted by the softmax or sigmoid of all."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    # the embeddings of the call's tokens, as floats
    "get_rows": ("w0", "row_bytes", "n_in", "ids", "y"),
    # the embeddings of their positions, of which there are n_rows
    "get_position_rows": ("w0", "row_bytes", "n_in", "n_rows", "y"),
    # the rows that want logits, one after another
    "copy_rows": ("x", "width", "rows", "y", "count"),
    # parts of rows to other places: y[t, p] = x[t, p], each row and part a stride and a step apart
    "copy_parts": (
        "x", "x_stride", "x_step", "y", "y_stride", "y_step", "width", "per_row", "count",
    ),
    # cosine and sine of every (token, frequency), from frequencies as sums of two floats
    "rope_table": ("frequencies", "half", "factor", "table"),
    # each part of a row divided by its root mean square, times the gain
    "rms_norm": ("x", "gain", "width", "epsilon", "y", "count", "per_row"),
    # in place: the same of groups with gains of their own; parts divided by their lengths
    "group_norm": ("x", "gain", "width", "n_group", "epsilon", "count"),
    "l2_norm": ("x", "stride", "width", "per_row", "epsilon", "count"),
    # each part of a row less its mean, divided by its standard deviation, times the gain, plus the
    # bias; those of parts are a step apart
    "layer_norm": (
        "x", "gain", "bias", "width", "epsilon", "y", "count", "per_row", "step",
    ),
    # y[t] += bias; y[pair] += the bias of its expert
    "add_bias": ("y", "bias", "width", "count"),
    "add_expert_bias": ("y", "biases", "width", "n_expert", "expert_ids", "count"),
    # y[pair] times the factor of its expert
    "scale_by_expert": ("y", "scales", "width", "n_expert", "expert_ids", "count"),
    # in place: x times factor; x plus factor * y; cap times tanh(x / cap); within -cap .. cap
    "scale_rows": ("x", "width", "factor", "count"),
    "add_rows": ("x", "y", "width", "factor", "count"),
    "soft_cap": ("x", "width", "cap", "count"),
    "clamp_rows": ("x", "width", "cap", "count"),
    # in place: parts of y[t] times the sigmoid of their gates; elements of y times sigmoid(gate)
    "sigmoid_scale": ("y", "gate", "width", "per_row", "count"),
    "sigmoid_gate": ("y", "gate", "stride", "width", "per_row", "count"),
    "silu_gate": ("y", "gate", "stride", "width", "count"),
    # in place: elements of y times those of x
    "mul_rows": ("y", "y_stride", "x", "x_stride", "width", "count"),
    # y[t] times the length of x[t], divided by that of y[t]; max(x - mean - factor deviations, 0)
    "match_lengths": ("y", "x", "width", "count"),
    "sparsify": ("x", "width", "factor", "count"),
    # streams, stride apart: x plus sums of them; predicted plus shares of what x changed
    "altup_predict": ("x", "stride", "gates", "weights", "n_stream", "width", "y", "count"),
    "altup_correct": (
        "x", "predicted", "stride", "gates", "weights", "n_stream", "width", "y", "count",
    ),
    # x[t] times 1 + scale * ln(floor((position + offset) / length) + 1)
    "scale_by_position": ("x", "width", "scale", "length", "offset"),
    # activation rows in the form that a weight type is multiplied with
    "quantize_q8_0": ("x", "width", "xq", "xf", "count", "per_row"),
    "quantize_q8_k": ("x", "width", "xq", "xf", "count", "per_row"),
    # y[t, r] (+)= dot(weight row r, activation row t)
    "matmul": (
        "w0", "row_bytes", "n_in", "n_out", "xq", "xq_stride", "xf", "xf_stride",
        "y", "y_stride", "is_added", "count", *SCRATCH,
    ),
    # y[t, h, r] = dot(row r of head h's matrix, activation row of t and h); heads are a step apart
    "head_matmul": (
        "w0", "head_bytes", "n_head", "row_bytes", "n_in", "n_out", "xq", "xq_stride", "xq_step",
        "xf", "xf_stride", "xf_step", "y", "y_stride", "y_step", "count", *SCRATCH,
    ),
    # rotate heads by position; the first n_rot dimensions of each
    "rotate": ("x", "n_head", "head_dim", "n_rot", "is_neox", "table"),
    # rotate q and k by position; put k and v into the cache
    "rope_store": (
        "q0", "k0", "v0", "n_head", "n_head_kv", "head_dim", "value_dim", "n_rot", "is_neox",
        "table", "k_cache", "v_cache", "n_ctx",
    ),
    # softmax(scale * q k^T) v, causal
    "attention": (
        "q0", "n_head", "n_head_kv", "head_dim", "value_dim", "k_cache", "v_cache", "n_ctx",
        "scratch", "y",
        "scale", "window", "chunk", "cap", "sinks", "has_sinks", "slopes", "has_slopes",
    ),
    # the same, not causal: of texts that the call brings whole; without caps and sinks
    "text_attention": (
        "q0", "n_head", "n_head_kv", "head_dim", "value_dim", "k_cache", "v_cache", "n_ctx",
        "scratch", "y", "scale", "window", "slopes", "has_slopes",
    ),
    # what carries a state from token to token: causal convolution, Mamba-2, gated delta net
    "causal_conv": (
        "x", "stride", "taps", "n_taps", "bias", "has_bias", "is_silu", "state", "state_stride",
        "width", "y",
    ),
    "mamba2_scan": (
        "x", "dt", "dt_stride", "dt_bias", "a", "d", "state", "state_stride", "n_head", "n_group",
        "head_dim", "n_state", "y",
    ),
    "mamba_scan": (
        "x", "dt", "dt_bias", "b", "c", "a", "d", "state", "state_stride", "width", "n_state", "y",
    ),
    "delta_scan": (
        "x", "beta", "alpha", "stride", "group", "group_stride", "dt_bias", "a", "state",
        "state_stride", "n_head_k", "n_head", "head_dim", "is_tiled", "y",
    ),
    # router logits -> expert ids and weights of each token, and (token, expert) pairs by expert
    "top_k_gate": (
        "logits", "n_expert", "n_expert_used", "expert_ids", "weights", "expert_starts",
        "assignments", "count", "function", "bias", "has_bias", "n_group", "n_group_used",
        "is_normalized", "scale",
    ),
    # y[pair] = weight of the pair * x[its token]
    "scale_pairs": ("x", "weights", "n_expert_used", "width", "y", "count"),
    # prefetch the matrices of the chosen experts, for a file larger than memory
    "prefetch_experts": ("experts", "n_expert", "size", "expert_starts"),
    # matmul of each (token, expert) pair with that expert's matrix
    "expert_matmul": (
        "experts", "n_expert", "row_bytes", "n_in", "n_out", "expert_starts", "assignments",
        "pairs_per_x", "xq", "xq_stride", "xf", "xf_stride", "y", "y_stride", *SCRATCH,
    ),
    # rows of the quantiser's chunk: weights to floats, floats to blocks; by an importance matrix
    "decode": ("first", "rows", "row_bytes", "n_in", "x", "x_stride", "largest"),
    "encode": ("first", "rows", "row_bytes", "n_in", "x", "x_stride", "scratch"),
    "encode_weighted": (
        "first", "rows", "row_bytes", "n_in", "x", "x_stride", "scratch", "importance",
    ),
    # SwiGLU, GEGLU, gpt-oss's clamped SwiGLU, squared ReLU, GELU and xIELU, written over gate; a
    # are the four numbers of the last one
    "silu_mul": ("gate", "up", "width", "count"),
    "gelu_mul": ("gate", "up", "width", "count"),
    "swiglu_clamp": ("gate", "up", "width", "limit", "count"),
    "relu_mul": ("gate", "up", "width", "count"),
    "swiglu_oai": ("gate", "up", "width", "count"),
    "relu2": ("gate", "width", "count"),
    "gelu": ("gate", "width", "count"),
    "xielu": ("gate", "a", "width", "count"),
    # x[t] (+)= sum over its pairs of (weight *) y[pair]
    "combine": ("y", "weights", "n_expert_used", "width", "x", "count", "is_added", "is_weighted"),
    # read bytes of the file and do nothing with them: how fast memory is
    "read_bytes": ("first", "size", "results"),
}  # fmt: skip
"""Step -> the names of its arguments, in order. ``epsilon``, ``factor``, ``scale``, ``cap``,
``sinks``, ``slopes``, ``gain``, ``bias`` and ``frequencies`` are offsets in ``f``; ``count`` is an
index of the header of ``n``; ``is_`` and ``has_`` are 0 or 1. Of ``attention``, a query at position
p sees positions > p - ``window`` and >= p // ``chunk`` * ``chunk``, where these are not 0; scores
are capped unless the float at ``cap`` is 0; a head's sink is a score whose value is 0; its slope
times the distance is taken off scores (ALiBi). Of
``text_attention`` a query sees positions less than ``window`` before and after p, or all."""


CACHED = ("rope_store", "attention", "text_attention")
"""Steps whose kernels differ by the types of keys and values in the cache."""

MEMORY = ("tid", "nth", "n", "f", "q", "kv", "w")
"""Parameters of every step before its own."""

QUEUE = "queue"
"""Last parameter of a step whose threads share work as they become free (see ``sharing``): the
address of a number, 0 before the first time, which no other step uses. One thread needs none."""

ROW = 24
"""int64 elements of a program row: kernel address, barrier flag, file, arguments; the last one is
the queue of a step that has one (``sharing``)."""


@dataclass(frozen=True)
class Step:
    """One step of a program.

    Attributes:
        kernel: ``matmul.Q4_K``: the step's name and, where there are any, types.
        file: Which mapped file holds the weights.
        arguments: As ``ARGUMENTS`` names them, in that order.
        is_barrier_after: Whether the next step needs this one's results.
        layer: Which layer it belongs to: -1 for what comes before them, the number of layers for
            the head.
        of_experts: Whether it computes a layer's experts, the router aside.
    """

    kernel: str
    file: int
    arguments: tuple[int, ...]
    is_barrier_after: bool
    layer: int = -1
    of_experts: bool = False

    @property
    def name(self) -> str:
        """A key of ``ARGUMENTS``."""
        return self.kernel.partition(".")[0]

    @property
    def types(self) -> str:
        """The type of the weights; of keys and of values in the cache, ``F16.Q8_0``; or none."""
        return self.kernel.partition(".")[2]

    @property
    def named(self) -> dict[str, int]:
        """The arguments by name, in order."""
        return dict(zip(ARGUMENTS[self.name], self.arguments, strict=True))

    def with_arguments(self, **changed: int) -> Step:
        """Return the step with other values of some arguments."""
        named = self.named
        assert changed.keys() <= named.keys(), f"{self.kernel}: {changed.keys() - named.keys()}"
        return replace(self, arguments=tuple((named | changed).values()))


def step(kernel: str, *, file: int = 0, barrier: bool = True, **arguments: int) -> Step:
    """Return a step, its arguments given by name."""
    names = ARGUMENTS[kernel.partition(".")[0]]
    assert arguments.keys() == set(names), f"{kernel}: {set(names) ^ arguments.keys()}"
    return Step(kernel, file, tuple(int(arguments[name]) for name in names), barrier)
