"""Speed of the matrix products, type by type, on one thread.

    python benchmarks/products.py [-t Q4_K,Q8_0] [--n-in 4096] [--n-out 1024] [--tokens 1,8,64,128]

Prints G multiply-adds/s: of the fastest run, and of the median one in brackets. Weights are random
and stay in the last cache; ``--n-out 14336`` gets them from memory.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.memory.activations import (
    ACTIVATION_OF,
    activation_bytes,
    activation_floats,
)
from gguf_hub.gguf.memory.scratch import partial_floats, tile_bytes
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.machine import CompiledMachine, Memory
from gguf_hub.run.kernels.vm.ops import N_TOKENS, step
from tests.synth import random_blocks

TYPES = "Q4_K,Q8_0,Q4_0,Q6_K,Q5_K,Q3_K,Q2_K,Q5_0,Q4_1,Q5_1,F16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-t", "--types", default=TYPES)
    parser.add_argument("--n-in", type=int, default=4096)
    parser.add_argument("--n-out", type=int, default=1024)
    parser.add_argument("--tokens", default="1,8,64,128")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each cell")
    args = parser.parse_args()
    counts = [int(n) for n in args.tokens.split(",")]
    types = [QuantType[name] for name in args.types.split(",")]
    builder = KernelBuilder()
    builder.addresses(["run_program", *(f"matmul.{type_.name}" for type_ in types)])
    print(f"{'':6}" + "".join(f"{n:>8} tokens" for n in counts))
    for type_ in types:
        cells = [measure(builder, type_, args.n_in, args.n_out, n, args.seconds) for n in counts]
        print(f"{type_.name:6}" + "".join(f"{best:8.1f} ({mid:4.0f})" for best, mid in cells))


def measure(
    builder: KernelBuilder, type_: QuantType, n_in: int, n_out: int, n_tokens: int, seconds: float
) -> tuple[float, float]:
    """Return the best and the median speed, G multiply-adds/s."""
    rng = np.random.default_rng(0)
    spec = TensorSpec("w", (n_in, n_out), type_)
    weights = random_blocks(spec, n_in * n_out // type_.block_size, rng)
    floats = activation_floats(ACTIVATION_OF[type_], n_in)
    row_bytes = activation_bytes(ACTIVATION_OF[type_], n_in)
    packed, partial = -(-n_tokens * row_bytes // 64) * 64, n_tokens * (floats + n_out)
    memory = Memory.allocate(
        n=0,
        f=partial + partial_floats(n_tokens),
        q=packed + tile_bytes(n_in),
        kv=1,
        files=[weights],
    )
    memory.n[N_TOKENS] = n_tokens
    memory.q[:] = rng.integers(-127, 128, len(memory.q))
    memory.f[:] = rng.standard_normal(len(memory.f))
    product = step(
        f"matmul.{type_.name}", w0=0, row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out,
        xq=0, xq_stride=row_bytes, xf=0, xf_stride=floats, y=n_tokens * floats, y_stride=n_out,
        is_added=0, count=N_TOKENS, packed=packed, packed_stride=0, partial=partial,
        partial_stride=0,
    )  # fmt: skip
    times = []
    with CompiledMachine(builder, memory, n_threads=1) as machine:
        program = machine.load([product])
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 5:
            start = time.perf_counter()
            machine.run(program)
            times.append(time.perf_counter() - start)
    work = n_in * n_out * n_tokens / 1e9
    return work / min(times), work / statistics.median(times)


if __name__ == "__main__":
    main()
