"""The two layouts of a mixture of experts: one tensor per expert, or all in one.

Until April 2024 llama.cpp wrote ``blk.N.ffn_gate.E.weight``, one tensor for each expert E; since
then ``blk.N.ffn_gate_exps.weight`` holds the experts one after another, ``ne = [in, out, E]``.
October 2024 was the last month in which it could read the first kind.

Source: LLM_TENSOR_FFN_*_EXP and _EXPS in llama.cpp; pull requests #6387 and #10026.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from gguf_hub.gguf.format import AnyTensor

Layout = Literal["dense", "split", "merged", "mixed"]
PARTS = ("gate", "down", "up")
MAX_EXPERTS = 1024
FUSED_EXPERTS = "ffn_gate_up_exps"
"""What holds gate and up of each expert, in files that have them in one tensor."""
_SPLIT = re.compile(r"blk\.(\d{1,6})\.ffn_(gate|down|up)\.(\d{1,6})\.weight")
_MERGED = re.compile(r"blk\.(\d{1,6})\.ffn_(gate|down|up)_exps\.weight")

_FUSED = re.compile(r"blk\.\d{1,6}\.ffn_gate_up_exps\.weight")


@dataclass(frozen=True)
class Expert:
    """Which expert a split tensor belongs to."""

    block: int
    part: str
    expert: int

    @property
    def merged_name(self) -> str:
        """Name of the tensor that holds it in the merged layout."""
        return f"blk.{self.block}.ffn_{self.part}_exps.weight"


def parse_split(name: str) -> Expert | None:
    """Return which expert the tensor ``name`` holds; None when it is no split expert."""
    match = _SPLIT.fullmatch(name)
    return Expert(int(match[1]), match[2], int(match[3])) if match else None


def is_merged(name: str) -> bool:
    """Return whether a tensor holds merged experts."""
    return _MERGED.fullmatch(name) is not None


def holds_experts(name: str) -> bool:
    """Return whether a tensor holds an expert, or all of them; gate and up may be in one."""
    return parse_split(name) is not None or _FUSED.fullmatch(name) is not None or is_merged(name)


def split_name(block: int, part: str, expert: int) -> str:
    """Return the name of one expert's tensor in the split layout."""
    return f"blk.{block}.ffn_{part}.{expert}.weight"


def layout(names: Iterable[str]) -> Layout:
    """Return how a file holds its experts."""
    kinds = {
        "split" if parse_split(name) else "merged"
        for name in names
        if parse_split(name) or is_merged(name)
    }
    if not kinds:
        return "dense"
    return "mixed" if len(kinds) > 1 else ("split" if "split" in kinds else "merged")


def group_split(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Return merged name -> {expert: its tensor} for all split experts, in file order."""
    groups: dict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        expert = parse_split(name)
        if expert:
            groups[expert.merged_name][expert.expert] = name
    return dict(groups)


def wanted_experts(stem: str, n_expert: int, there: Mapping[int, str]) -> Iterator[str]:
    """Yield the names of the experts that are there, and of those that are not the first."""
    absent = next((expert for expert in range(n_expert) if expert not in there), n_expert)
    experts = [expert for expert in there if expert < n_expert] + [absent] * (absent < n_expert)
    for expert in experts:
        yield f"{stem}.{expert}.weight"


def shared_width(tensors: Mapping[str, AnyTensor]) -> int:
    """Return how wide shared experts are; 0 without one."""
    widths = (info.shape[1] for name, info in tensors.items()
              if name.endswith(".ffn_up_shexp.weight") and len(info.shape) > 1)  # fmt: skip
    return max(widths, default=0)


def has_fused_experts(b: str, there: Container[str]) -> bool:
    """Tell whether one tensor of a block holds the gate's rows of each expert, then those of up."""
    return f"{b}{FUSED_EXPERTS}.weight" in there and f"{b}ffn_up_exps.weight" not in there
