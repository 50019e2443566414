"""Speed of the matrix products on a GPU, type by type.

    python benchmarks/gpu_products.py [-t Q4_K,Q8_0] [--adapter 0] [--n-in 4096] [--n-out 14336]

Prints for each type how fast its weights went to the GPU (of this thread's time), GB/s of weights
with one token and with four, and G multiply-adds/s with 256. Weights are random; one product after
another takes other ones, ``--mb`` in all, so that they come from the GPU's memory and not from a
cache. The numbers are those of the fastest of some runs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.memory.activations import ACTIVATION_OF, activation_bytes, activation_floats
from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.gguf.types import RUNNABLE_TYPES, QuantType
from gguf_hub.run.gpu.bandwidth import SPARE_ROWS, product
from gguf_hub.run.gpu.part import GpuCode, GpuPart
from gguf_hub.run.gpu.weights import WeightStore
from gguf_hub.run.gpu.wgpu_device import WgpuDevice, list_adapters
from gguf_hub.run.kernels.vm.ops import N_TOKENS, SLOT
from tests.synth import random_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-t", "--types", default=",".join(t.name for t in sorted(RUNNABLE_TYPES)))
    parser.add_argument("--adapter", type=int, default=0, help="number of the GPU")
    parser.add_argument("--n-in", type=int, default=4096)
    parser.add_argument("--n-out", type=int, default=14336)
    parser.add_argument("--mb", type=int, default=600, help="weights of each type on the GPU")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each cell")
    args = parser.parse_args()
    info, adapter = list_adapters()[args.adapter]
    print(f"{info.name} ({info.backend}, {info.driver}), {args.n_in} x {args.n_out}")
    device = WgpuDevice(adapter)
    print(f"{'':8}{'upload':>10}{'1 token':>12}{'4 tokens':>12}{'256 tokens':>16}")
    print(f"{'':8}{'GB/s':>10}{'GB/s':>12}{'GB/s':>12}{'G mul-adds/s':>16}")
    for name in args.types.split(","):
        bench = Bench(device, QuantType[name], args.n_in, args.n_out, args.mb << 20)
        one, four = (bench.bytes_per_s(n, args.seconds) / 1e9 for n in (1, 4))
        many = bench.mul_adds_per_s(256, args.seconds) / 1e9
        print(f"{name:8}{bench.upload / 1e9:10.2f}{one:12.1f}{four:12.1f}{many:16.0f}", flush=True)


class Bench:
    """Some matrices of one type on a GPU, and activations for 256 tokens.

    Attributes:
        upload: Bytes a second of this thread that went to the GPU.
    """

    def __init__(self, device: WgpuDevice, type_: QuantType, n_in: int, n_out: int, size: int):
        self.n_in, self.n_out = n_in, n_out
        self.matrix_bytes = type_.row_bytes(n_in) * n_out
        n_matrices = min(SPARE_ROWS, max(1, size // self.matrix_bytes))
        kind, rng = ACTIVATION_OF[type_], np.random.default_rng(0)
        n_bytes, n_floats = activation_bytes(kind, n_in), activation_floats(kind, n_in)
        self.y = -(-256 * n_floats // 64) * 64
        spec = TensorSpec("w", (n_in, n_out + SPARE_ROWS), type_)
        file = random_blocks(spec, n_in * (n_out + SPARE_ROWS) // type_.block_size, rng)
        sizes = {"n": HEADER, "f": self.y + 256 * n_out, "q": max(64, 256 * n_bytes), "kv": 0}
        self.part = GpuPart(WeightStore(device, file), sizes, [], 1, {})  # type: ignore[arg-type]
        self.part.write("f", 0, rng.standard_normal(self.y))
        if n_bytes:
            self.part.write("q", 0, rng.integers(-127, 128, 256 * n_bytes))
        how = {"n_in": n_in, "n_out": n_out, "y": self.y}
        self.part.load([product(type_, SPARE_ROWS, **how)])  # compiles kernels
        start = time.thread_time()
        self.code = self.part.load([product(type_, i, **how) for i in range(n_matrices)])
        self.part.read([("f", 0, 1)])
        self.upload = n_matrices * self.matrix_bytes / (time.thread_time() - start)

    def bytes_per_s(self, n_tokens: int, seconds: float) -> float:
        """Return bytes of weights a second; a token more than the kernel takes reads them again."""
        n_products = len(self.code.operations) // 3
        return n_products * self.matrix_bytes / self._fastest(self.code, n_tokens, seconds)

    def mul_adds_per_s(self, n_tokens: int, seconds: float) -> float:
        """Return multiply-adds a second of one product."""
        code = GpuCode(self.code.operations[:3])
        return n_tokens * self.n_in * self.n_out / self._fastest(code, n_tokens, seconds)

    def _fastest(self, code: GpuCode, n_tokens: int, seconds: float) -> float:
        """Return the least seconds of a run, after one that warms up."""
        header = np.zeros(SLOT + 1, np.int64)
        header[N_TOKENS] = n_tokens
        self.part.begin(header)
        times, end = [], 0.0
        while len(times) < 2 or time.perf_counter() < end:
            start = time.perf_counter()
            end = end or start + seconds
            self.part.run(code)
            self.part.read([("f", self.y, 1)])
            times.append(time.perf_counter() - start)
        return min(times[1:])


if __name__ == "__main__":
    main()
