"""What is asked for of GPUs, in llama.cpp's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gguf_hub.errors import UsageError

SplitMode = Literal["none", "layer", "row"]


@dataclass(frozen=True)
class OffloadRequest:
    """What is asked for, under llama.cpp's names.

    Attributes:
        n_layers: How many of the last layers GPUs compute, the output layer counted last; None for
            as many as fit, where there is a GPU.
        n_cpu_moe: Of how many of the first layers the experts stay in RAM.
        cpu_patterns: Patterns of tensors that stay in RAM: ``exps=CPU``.
        devices: Numbers or names of the GPUs to use; None for the usual ones, empty for none.
        split: Shares of the layers that each of them gets; empty for shares by free memory.
        mode: Whether one GPU is used or all; ``row`` is taken as ``layer``.
        main_gpu: Which of them is used alone, if one is.
        label: What the user wrote, for notes: ``-ngl 35``.
        is_quiet: Whether to say nothing where what was asked for is done.
    """

    n_layers: int | None = None
    n_cpu_moe: int = 0
    cpu_patterns: tuple[str, ...] = ()
    devices: tuple[str, ...] | None = None
    split: tuple[float, ...] = ()
    mode: SplitMode = "layer"
    main_gpu: int = 0
    label: str = ""
    is_quiet: bool = False

    @property
    def is_explicit(self) -> bool:
        """Whether GPUs were asked for; else nothing need be said where there is none."""
        return self.n_layers is not None or bool(self.devices)

    def check(self) -> None:
        """Refuse values that can never be right.

        Raises:
            UsageError: Names the value and what is expected.
        """
        from gguf_hub.api.offload.patterns import parse_patterns

        for name, value in (("n_gpu_layers", self.n_layers or 0), ("n_cpu_moe", self.n_cpu_moe),
                            ("main_gpu", self.main_gpu)):  # fmt: skip
            if value < 0:
                raise UsageError(f"{name} {value}: expected 0 or more")
        if any(share < 0 for share in self.split):
            shares = ", ".join(f"{share:g}" for share in self.split)
            raise UsageError(f"shares of GPUs: expected numbers of 0 or more, found {shares}")
        parse_patterns(self.cpu_patterns)


CPU_ONLY = OffloadRequest(n_layers=0)
"""No GPU, whatever there is."""
