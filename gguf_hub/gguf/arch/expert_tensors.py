"""How files hold the matrices of experts: gate and up in one or two, shared ones of any width."""

from __future__ import annotations

from collections.abc import Container, Mapping

from gguf_hub.gguf.format import AnyTensor

FUSED_EXPERTS = "ffn_gate_up_exps"
"""What holds gate and up of each expert, in files that have them in one tensor."""


def shared_width(tensors: Mapping[str, AnyTensor]) -> int:
    """Return how wide shared experts are; 0 without one."""
    widths = (info.shape[1] for name, info in tensors.items()
              if name.endswith(".ffn_up_shexp.weight") and len(info.shape) > 1)  # fmt: skip
    return max(widths, default=0)


def has_fused_experts(b: str, there: Container[str]) -> bool:
    """Tell whether one tensor of a block holds the gate's rows of each expert, then those of up."""
    return f"{b}{FUSED_EXPERTS}.weight" in there and f"{b}ffn_up_exps.weight" not in there
