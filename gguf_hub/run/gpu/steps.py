"""All steps of a program but products, on a GPU: which kernel, and how many workgroups.

A kernel's file has its step's name. Attention, of several kernels, is in ``attention``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gguf_hub.run.gpu.attention import attention, rope_store
from gguf_hub.run.gpu.device import MAX_GROUPS, Grid
from gguf_hub.run.gpu.kernels import Header, Operation, module
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, N_TOKENS, Step

Arguments = Mapping[str, int]
Count = Callable[[Arguments], int]

_THREADS = 256


def fold(n_groups: int) -> Grid:
    """Return a grid of at least so many workgroups: those that x has no room for go on in y."""
    return min(n_groups, MAX_GROUPS), -(-n_groups // MAX_GROUPS), 1


# -- what a row is made of: so many units, and so many of these for each workgroup -----------------


def _width(at: Arguments) -> int:
    return at["width"]


def _part_elements(at: Arguments) -> int:
    return at["width"] * at["per_row"]


def _pair_elements(at: Arguments) -> int:
    return at["width"] * at["n_expert_used"]


def _by_row(units: Count, units_per_group: int) -> Callable[[Step], list[Operation]]:
    """Return the lowering of a step with ``units`` of work for each of its rows."""

    def lower(step: Step) -> list[Operation]:
        at, name = step.named, step.name
        n_units, count = units(at), at.get("count", N_TOKENS)

        def grid(header: Header) -> Grid:
            return fold(-(-n_units * header[count] // units_per_group))

        return [Operation(module(f"{name}.wgsl", ARGUMENTS[name]), step.arguments, grid)]

    return lower


# -- steps with a state ----------------------------------------------------------------------------


def _causal_conv(step: Step) -> list[Operation]:
    """Compute all tokens at once; then keep the last inputs, which one token does itself."""
    at, fields = step.named, ARGUMENTS["causal_conv"]
    channels = fold(-(-at["width"] // _THREADS))

    def outputs(header: Header) -> Grid:
        return fold(-(-at["width"] * header[N_TOKENS] // _THREADS))

    def state(header: Header) -> Grid:
        return channels if header[N_TOKENS] > 1 else (0, 0, 0)

    return [
        Operation(module("causal_conv.wgsl", fields), step.arguments, outputs),
        Operation(module("causal_conv_state.wgsl", fields), step.arguments, state),
    ]


def _mamba_scan(step: Step) -> list[Operation]:
    """Scan channels, a thread each, from a call's first token to its last."""
    groups = fold(-(-step.named["width"] // _THREADS))

    def grid(header: Header) -> Grid:
        return groups if header[N_TOKENS] else (0, 0, 0)

    return [Operation(module("mamba_scan.wgsl", ARGUMENTS["mamba_scan"]), step.arguments, grid)]


def _scan(rows: str) -> Callable[[Step], list[Operation]]:
    """Return the lowering of a scan; ``rows`` is the argument that counts those of its state."""

    def lower(step: Step) -> list[Operation]:
        at, name = step.named, step.name
        groups = fold(at["n_head"] * -(-at["head_dim"] // 16))

        def grid(header: Header) -> Grid:
            return groups if header[N_TOKENS] else (0, 0, 0)

        constants = (("OWN_ROWS", f"{-(-at[rows] // 16)}u"),)
        source = module(f"{name}.wgsl", ARGUMENTS[name], constants)
        return [Operation(source, step.arguments, grid, is_checked=False)]

    return lower


# -- steps of their own ----------------------------------------------------------------------------


def set_row(at: int) -> Operation:
    """Return what writes the header that operations behind it read (see ``rows``)."""
    return Operation(module("set_row.wgsl", ("at",)), (at,), lambda header: (1, 1, 1))


def _top_k_gate(step: Step) -> list[Operation]:
    """Choose experts, a token in each workgroup; then sort the pairs of several tokens."""
    at, fields = step.named, ARGUMENTS["top_k_gate"]
    count = at["count"]
    used = ("N_USED", f"{at['n_expert_used']}u"), ("N_GROUP", f"{at['n_group']}u")
    choose = module("top_k_gate.wgsl", fields, used)
    sort = module("sort_pairs.wgsl", fields, (("N_EXPERT", f"{at['n_expert']}u"),))
    return [
        Operation(choose, step.arguments, lambda header: (header[count], 1, 1)),
        Operation(sort, step.arguments, lambda header: (int(header[count] != 1), 1, 1)),
    ]


STEPS: dict[str, Callable[[Step], list[Operation]]] = {
    "copy_rows": _by_row(_width, _THREADS),
    "copy_parts": _by_row(_part_elements, _THREADS),
    "rms_norm": _by_row(lambda at: at["per_row"], 1),
    "group_norm": _by_row(lambda at: at["n_group"], 1),
    "l2_norm": _by_row(lambda at: at["per_row"], 1),
    "layer_norm": _by_row(lambda at: at["per_row"], 1),
    "add_bias": _by_row(_width, _THREADS),
    "add_expert_bias": _by_row(_width, _THREADS),
    "scale_by_expert": _by_row(_width, _THREADS),
    "scale_rows": _by_row(_width, _THREADS),
    "add_rows": _by_row(_width, _THREADS),
    "soft_cap": _by_row(_width, _THREADS),
    "clamp_rows": _by_row(_width, _THREADS),
    "sigmoid_scale": _by_row(_part_elements, _THREADS),
    "sigmoid_gate": _by_row(_part_elements, _THREADS),
    "silu_gate": _by_row(_width, _THREADS),
    "mul_rows": _by_row(_width, _THREADS),
    "match_lengths": _by_row(lambda at: 1, 1),
    "sparsify": _by_row(lambda at: 1, 1),
    "altup_predict": _by_row(_width, _THREADS),
    "altup_correct": _by_row(_width, _THREADS),
    "scale_by_position": _by_row(_width, _THREADS),
    "quantize_q8_0": _by_row(_part_elements, 4 * _THREADS),
    "quantize_q8_k": _by_row(_part_elements, 4 * _THREADS),
    "rotate": _by_row(lambda at: at["n_rot"] // 2 * at["n_head"], _THREADS),
    "rope_store": rope_store,
    "attention": attention,
    "causal_conv": _causal_conv,
    "mamba2_scan": _scan("n_state"),
    "mamba_scan": _mamba_scan,
    "delta_scan": _scan("head_dim"),
    "top_k_gate": _top_k_gate,
    "scale_pairs": _by_row(_pair_elements, _THREADS),
    "silu_mul": _by_row(_width, _THREADS),
    "gelu_mul": _by_row(_width, _THREADS),
    "swiglu_clamp": _by_row(_width, _THREADS),
    "relu_mul": _by_row(_width, _THREADS),
    "swiglu_oai": _by_row(_width, _THREADS),
    "relu2": _by_row(_width, _THREADS),
    "gelu": _by_row(_width, _THREADS),
    "xielu": _by_row(_width, _THREADS),
    "combine": _by_row(_width, _THREADS),
}
"""Step -> the operations that do it, in order."""

CPU_ONLY = (
    "get_rows",
    "get_position_rows",
    "rope_table",
    "text_attention",
    "prefetch_experts",
    "decode",
    "encode",
    "encode_weighted",
    "read_bytes",
)
"""Steps that stay on the CPU: they read rows of the file, compute in float64, or are of encoders
alone."""
