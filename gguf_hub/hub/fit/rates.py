"""How fast engines read weights, by instruction set and type.

``core`` is what one core computes when memory does not hold it up, in bytes of weights a second.
``share`` is how much of the measured bandwidth an engine gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gguf_hub.gguf.types import RUNNABLE_TYPES, QuantType
from gguf_hub.hub.fit.machine import EngineName

T = QuantType

TOKEN_S, WORD_S = 60e-6, 5e-9
"""What a token takes besides the model: the loop, and sampling for each word of the vocabulary."""

GPU_SHARE = 0.6
"""Of a GPU's bandwidth. Source: Mixtral on an M2 Max, llama.cpp pull request 4406: 0.45 to 0.77."""


RUNNER_GPU_SHARE = 0.4
"""Of a GPU's bandwidth, our own kernels, where `pick` has not measured them. A guess between what
is aimed at, 0.25 for data centres' cards and 0.5 for desktops'."""
RUNNER_GPU_LAYER_S = 70e-6
"""A layer on a GPU besides reading: some 14 kernels, one after another, at 5 microseconds."""
CROSSING_S = 500e-6
"""From the GPU's last kernel to its results in RAM: of logits on lavapipe 0.44 ms."""


@dataclass(frozen=True)
class Rates:
    """What an engine reaches; times are seconds.

    Attributes:
        share: Of the measured read bandwidth.
        core_bytes_per_s: Type of weights -> bytes a second of one core.
        core_kv_bytes_per_s: The same for the K/V cache where four queries share a key.
        layer_s: Time of a layer besides reading: norms, rotation, barriers.
        expert_s: Time of each expert that a token uses in a layer: routing and dealing out.
        gate_s: Time of one core for each element between up and down (the SwiGLU).
    """

    share: float
    core_bytes_per_s: Mapping[QuantType | int, float]
    core_kv_bytes_per_s: float
    layer_s: float
    expert_s: float = 0.0
    gate_s: float = 0.0

    def core_of(self, type_: QuantType | int) -> float:
        """Return the rate of a type; of an unknown one the slowest of the known."""
        return self.core_bytes_per_s.get(type_, min(self.core_bytes_per_s.values()))


def rates_of(engine: EngineName, isa: str) -> Rates:
    """Return what an engine reaches with an instruction set."""
    return LLAMA_CPP if engine == "llama.cpp" else RUNNER[isa]


def _gb(codes: float, **rates: float) -> dict[QuantType | int, float]:
    """Return rates; ``codes`` is that of every type which is not named, as a guess."""
    types = {type_: rates.get(type_.name, codes) for type_ in sorted(RUNNABLE_TYPES)}
    return {type_: rate * 1e9 for type_, rate in types.items()}


# avx512vnni and avx2: benchmarks/fit.py calibrate, see docs/fit.md for machine and date; those of
# Q4_1 and Q5_1 for avx2 are benchmarks/products.py's. Plain loops: guesses on the slow side. Those
# of dotprod are guesses, too, as nobody measured on ARM: what llvm-mca predicts of the loops for
# one token on a Cortex-A76 of 2.4 GHz (a Raspberry Pi 5); K/V and layers are guessed freely. Types
# of codes for avx512vnni: benchmarks/products.py, 2026-12-01, on a slower machine (Q4_K 19.5 GB/s),
# and so times 2; ``codes``, and those of avx2, are guesses on the slow side
_AVX2 = Rates(
    share=0.9,
    core_bytes_per_s=_gb(
        codes=1, IQ4_NL=15, IQ4_XS=10, MXFP4=10, IQ3_XXS=2.1, IQ3_S=1.7, IQ2_S=2.5, IQ2_XS=1.8,
        F32=36.9, F16=28.6, BF16=27.3, Q4_0=24.1, Q4_1=20.1, Q5_0=20.0, Q5_1=18.5, Q8_0=33.4,
        Q2_K=17.5, Q3_K=16.9, Q4_K=24.4, Q5_K=22.5, Q6_K=21.8,
    ),
    core_kv_bytes_per_s=14.2e9,
    layer_s=18e-6,
    expert_s=26e-6,
    gate_s=3.9e-9,
)  # fmt: skip
RUNNER: Mapping[str, Rates] = {
    "avx512vnni": Rates(
        share=0.95,
        core_bytes_per_s=_gb(
            codes=1.8, IQ4_NL=34, IQ4_XS=20, MXFP4=20, IQ3_XXS=4.3, IQ3_S=3.4, IQ2_S=5, IQ2_XS=3.7,
            F32=36.3, F16=27.4, BF16=27.6, Q4_0=41.4, Q4_1=41.4, Q5_0=32.1, Q5_1=32.1, Q8_0=38.1,
            Q2_K=25.0, Q3_K=25.2, Q4_K=39.4, Q5_K=38.4, Q6_K=40.2,
        ),
        core_kv_bytes_per_s=20.7e9,
        layer_s=14e-6,
        expert_s=13e-6,
    ),
    "avx2": _AVX2,
    "avxvnni": _AVX2,  # one token meets the same kernels
    "dotprod": Rates(
        share=0.9,
        core_bytes_per_s=_gb(
            codes=0.5,
            F32=9.9, F16=4.8, BF16=4.9, Q4_0=6.1, Q4_1=6.1, Q5_0=3.8, Q5_1=4.0, Q8_0=12.7,
            Q2_K=2.6, Q3_K=2.7, Q4_K=6.4, Q5_K=6.4, Q6_K=5.0,
        ),
        core_kv_bytes_per_s=3e9,
        layer_s=60e-6,
    ),
    "generic": Rates(
        share=0.9,
        core_bytes_per_s=_gb(
            codes=0.3,
            F32=4, F16=2, BF16=2, Q4_0=1, Q4_1=1, Q5_0=1, Q5_1=1, Q8_0=2,
            Q2_K=0.5, Q3_K=0.5, Q4_K=1, Q5_K=1, Q6_K=1,
        ),
        core_kv_bytes_per_s=1e9,
        layer_s=100e-6,
    ),
}  # fmt: skip

# LLaMA-3.1-8B on two threads of a Ryzen 7950X, tok/s x bytes of the file / 2.
# Source: ik_llama.cpp discussion 164, its column "llama.cpp"; IQ types are slower per byte.
LLAMA_CPP = Rates(
    share=0.9,
    core_bytes_per_s=_gb(
        codes=8,
        F32=20, F16=20, BF16=20, Q4_0=26, Q4_1=26, Q5_0=15, Q5_1=15, Q8_0=21,
        Q2_K=17, Q3_K=16, Q4_K=22, Q5_K=21, Q6_K=25, IQ4_NL=20, IQ4_XS=20, IQ3_S=10, IQ2_S=8,
    ),
    core_kv_bytes_per_s=10e9,
    layer_s=50e-6,
)  # fmt: skip
