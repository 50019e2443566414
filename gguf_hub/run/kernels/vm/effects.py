"""What a step reads and what it writes, of all that ``extents`` says it can touch.

Who shares a program among devices asks it, to know what must be moved where.
"""

from __future__ import annotations

from typing import NamedTuple

from gguf_hub.run.kernels.vm.bounds import Call, Extent
from gguf_hub.run.kernels.vm.extents import extents_of
from gguf_hub.run.kernels.vm.ops import Step

_ACTIVATION = {"gate": "updated"}

_OUTPUTS: dict[str, dict[str, str]] = {
    "get_rows": {"y": "written"},
    "get_position_rows": {"y": "written"},
    "copy_rows": {"y": "written"},
    "copy_parts": {"y": "updated"},  # there may be gaps between the parts
    "rope_table": {"table": "written"},
    "rms_norm": {"y": "written"},
    "group_norm": {"x": "updated"},
    "l2_norm": {"x": "updated"},
    "layer_norm": {"y": "written"},
    "add_bias": {"y": "updated"},
    "add_expert_bias": {"y": "updated"},
    "scale_by_expert": {"y": "updated"},
    "scale_rows": {"x": "updated"},
    "add_rows": {"x": "updated"},
    "soft_cap": {"x": "updated"},
    "clamp_rows": {"x": "updated"},
    "sigmoid_scale": {"y": "updated"},
    "sigmoid_gate": {"y": "updated"},
    "silu_gate": {"y": "updated"},
    "mul_rows": {"y": "updated"},
    "match_lengths": {"y": "updated"},
    "sparsify": {"x": "updated"},
    "altup_predict": {"y": "updated"},  # there may be gaps between the streams
    "altup_correct": {"y": "updated"},
    "scale_by_position": {"x": "updated"},
    "quantize_q8_0": {"xq": "written", "xf": "written"},
    "quantize_q8_k": {"xq": "written", "xf": "written"},
    "matmul": {"y": "written"},
    "head_matmul": {"y": "updated"},
    "rotate": {"x": "updated"},
    "rope_store": {"q0": "updated", "k0": "updated", "k_cache": "updated", "v_cache": "updated"},
    "attention": {"y": "written"},
    "text_attention": {"y": "written"},
    "causal_conv": {"y": "written", "state": "updated"},
    "mamba2_scan": {"y": "written", "state": "updated"},
    "mamba_scan": {"y": "written", "state": "updated", "dt": "updated"},
    "delta_scan": {"y": "written", "state": "updated"},
    "top_k_gate": {
        "logits": "updated", "expert_ids": "written", "weights": "written",
        "expert_starts": "written", "assignments": "written",
    },
    "scale_pairs": {"y": "written"},
    "prefetch_experts": {},
    "expert_matmul": {"y": "written"},  # those of all types together
    "decode": {"x": "written"},
    "encode": {"x": "updated"},
    "encode_weighted": {"x": "updated"},
    "silu_mul": _ACTIVATION,
    "gelu_mul": _ACTIVATION,
    "swiglu_clamp": _ACTIVATION,
    "relu_mul": _ACTIVATION,
    "swiglu_oai": _ACTIVATION,
    "relu2": _ACTIVATION,
    "gelu": _ACTIVATION,
    "xielu": _ACTIVATION,
    "combine": {"x": "written"},
    "read_bytes": {"results": "written"},
}  # fmt: skip
"""Step -> argument -> whether all of what begins there is ``written``, or parts are ``updated``."""

_SCRATCH = ("packed", "partial", "scratch")
"""Arguments where a step keeps what no other step reads."""

_POINTERS = {
    "n": {"at", "ids", "rows", "experts", "expert_ids", "expert_starts", "assignments"},
    "q": {"xq", "packed"},
    "kv": {"k_cache", "v_cache"},
    "f": {
        "x", "y", "xf", "q0", "k0", "v0", "gate", "up", "table", "state", "logits", "weights",
        "partial", "scratch", "results", "gain", "bias", "biases", "scales", "scale", "factor",
        "importance", "cap", "sinks", "slopes", "epsilon", "frequencies", "taps", "dt", "dt_bias",
        "a", "d", "beta", "alpha",
    },
}  # fmt: skip
"""Array -> arguments that are offsets in it; sizes may be equal to one by chance."""


class Effects(NamedTuple):
    """What a step reads and writes, scratch memory and weights aside.

    Attributes:
        reads: What must be there before; of what is updated, all of it.
        writes: What is there afterwards.
    """

    reads: tuple[Extent, ...]
    writes: tuple[Extent, ...]


def effects_of(step: Step, call: Call) -> Effects:
    """Return what a step reads and writes, for as many tokens as a call brings."""
    at = step.named
    outputs, is_added = _OUTPUTS[step.name], bool(at.get("is_added"))
    reads, writes = [], []
    for extent in extents_of(step, call):
        if extent.array == "w" or extent.size <= 0:
            continue
        names = [name for name in _POINTERS[extent.array] & at.keys() if at[name] == extent.first]
        if any(name in _SCRATCH for name in names):
            continue
        hows = {outputs.get(name, "read") for name in names}
        if hows - {"read"}:
            writes.append(extent)
        if hows != {"written"} or is_added:
            reads.append(extent)
    return Effects(tuple(reads), tuple(writes))
