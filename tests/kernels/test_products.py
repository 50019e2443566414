"""Matrix products as a program runs them, for every type and instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_hub.gguf.format import TensorSpec
from gguf_hub.kernels.activations import ACTIVATION_OF, activation_floats
from gguf_hub.kernels.build import KernelBuilder
from gguf_hub.kernels.cpu import ISAS, detect_cpu
from gguf_hub.kernels.machine import Machine, Memory
from gguf_hub.kernels.ops import N_TOKENS, step
from gguf_hub.quants.types import RUNNABLE_TYPES, QuantType
from tests import naive
from tests.conftest import ROOT
from tests.synth import random_blocks

T = QuantType
TYPES = sorted(RUNNABLE_TYPES)
# float32 sums of n products err by some n/2 half-units of the largest partial sum; integer products
# are exact, so that blocks of 256 have few sums
TOLERANCE = 2e-6


@pytest.fixture(scope="module", params=ISAS)
def builder(request: pytest.FixtureRequest) -> KernelBuilder:
    """A builder for one instruction set, its kernels compiled in one go."""
    if ISAS.index(request.param) > ISAS.index(detect_cpu().isa):
        pytest.skip(f"this CPU has no {request.param}")
    folder = ROOT / ".pytest_cache" / "kernels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_ISA", request.param)
        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(folder))
        builder = KernelBuilder()
    matmuls = [f"matmul.{type_.name}" for type_ in types_of(request.param)]
    builder.addresses(["run_program", "quantize_q8_0", "quantize_q8_k", *matmuls])
    return builder


def types_of(isa: str) -> list[QuantType]:
    """Which types are compiled for an instruction set: all for the best, a choice for others.

    The loops of the generic path are tested by themselves, type by type; AVX2 differs from VNNI in
    blocks of 32.
    """
    if isa == detect_cpu().isa:
        return TYPES
    if isa == "generic":
        return [T.F16, T.Q5_0, T.Q4_K]
    return [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q6_K]


def random_rows(type_: QuantType, n_rows: int, n_in: int) -> np.ndarray:
    """Valid rows of a type: random bits, with finite scales where the type has halves."""
    spec = TensorSpec("w", (n_in, n_rows), type_)
    return random_blocks(spec, n_rows * n_in // type_.block_size, np.random.default_rng(type_))


@pytest.mark.parametrize("type_", TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("n_in", [256 + 32, 512], ids=lambda n: f"rows of {n}")
def test_matmul_equals_the_oracle(type_: QuantType, n_in: int, builder: KernelBuilder) -> None:
    if type_ not in types_of(builder.cpu.isa):
        pytest.skip(f"not compiled for {builder.cpu.isa}")
    if n_in % type_.block_size:
        pytest.skip(f"{n_in} weights do not fill blocks of {type_.block_size}")
    n_out, n_tokens = 24, 6  # four at a time, then one at a time
    blocks = random_rows(type_, n_out, n_in)
    x = np.random.default_rng(7).standard_normal((n_tokens, n_in)).astype(np.float32)
    kind = ACTIVATION_OF[type_]
    rows = [naive.activations(kind, row) for row in x]
    floats = activation_floats(kind, n_in)
    memory = Memory.allocate(
        n=0, f=n_tokens * floats + n_tokens * n_out, q=n_tokens * n_in, kv=1, files=[blocks]
    )
    memory.n[N_TOKENS] = n_tokens
    for t, (q, f) in enumerate(rows):
        memory.q[t * n_in : t * n_in + len(q)] = q
        memory.f[t * floats : (t + 1) * floats] = f
    y = n_tokens * floats
    product = step(
        f"matmul.{type_.name}", w0=0, row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out,
        xq=0, xq_stride=n_in, xf=0, xf_stride=floats, y=y, y_stride=n_out, is_added=0,
        count=N_TOKENS,
    )  # fmt: skip
    with Machine(builder, memory, n_threads=2) as machine:
        machine.run(machine.load([product]))
    found = memory.f[y:].reshape(n_tokens, n_out)
    for t, (q, f) in enumerate(rows):
        values = naive.activation_values(kind, q, f)
        for r in range(n_out):
            row = blocks[r * type_.row_bytes(n_in) : (r + 1) * type_.row_bytes(n_in)]
            expected, magnitude = naive.dot(type_, row, values)
            assert abs(found[t, r] - expected) <= TOLERANCE * magnitude


@pytest.mark.parametrize("kind", ["q8_0", "q8_k"])
@pytest.mark.parametrize("what", ["random", "zeros", "tiny", "one huge", "not finite"])
def test_activations_are_quantised_within_a_step_of_the_oracle(
    kind: str, what: str, builder: KernelBuilder
) -> None:
    n = 512
    x = np.random.default_rng(3).standard_normal(n).astype(np.float32)
    if what == "zeros":
        x[:] = 0
    elif what == "tiny":
        x *= np.float32(1e-30)
    elif what == "one huge":
        x[300] = 1e6
    elif what == "not finite":
        x[300] = np.nan
        x[5] = np.inf  # blocks of 256: none is left finite
    floats = activation_floats(kind, n)
    memory = Memory.allocate(n=0, f=n + floats, q=n, kv=1, files=[np.zeros(1, np.uint8)])
    memory.n[N_TOKENS] = 1
    memory.f[:n] = x
    quantize = step(f"quantize_{kind}", x=0, width=n, xq=0, xf=n, count=N_TOKENS)
    with Machine(builder, memory, n_threads=1) as machine:
        machine.run(machine.load([quantize]))
    q, f = naive.activations(kind, x)
    block = 32 if kind == "q8_0" else 256
    scales = memory.f[n : n + n // block]
    np.testing.assert_allclose(scales, f[: n // block], rtol=1e-6)
    finite = np.repeat(np.isfinite(scales), block)
    # ties may be rounded either way
    assert np.abs(memory.q.astype(int) - q)[finite].max(initial=0) <= 1
    assert (memory.q != q)[finite].sum() <= 0.02 * n
    # the sums are of the very steps that were written
    values = naive.activation_values(kind, memory.q, memory.f[n:])
    group = 32 if kind == "q8_0" else 16
    start = n + n // block
    sums = memory.f[start : start + n // group]
    expected = values.reshape(-1, group).sum(axis=1, where=finite.reshape(-1, group))
    sums = np.where(finite.reshape(-1, group)[:, 0], sums, 0)
    largest = np.abs(x[np.isfinite(x)]).max()
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5 * largest)
