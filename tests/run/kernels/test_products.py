"""Matrix products as a program runs them, for every type and instruction set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.memory.activations import (
    ACTIVATION_OF,
    activation_bytes,
    activation_floats,
)
from gguf_hub.gguf.memory.scratch import partial_floats, tile_bytes
from gguf_hub.gguf.types import COMMON_TYPES, QuantType
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.build.cpu import ISAS, detect_cpu, usable_isas
from gguf_hub.run.kernels.vm.machine import CompiledMachine, Memory
from gguf_hub.run.kernels.vm.ops import N_TOKENS, step
from tests import naive
from tests.conftest import KERNELS
from tests.selection import types_taken
from tests.synth import SCALES, random_blocks, store_other_factors

T = QuantType
CODED = [T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.IQ4_NL, T.IQ4_XS, T.MXFP4, T.NVFP4,
         T.Q2_0]  # fmt: skip
CODED_SIGNED = [T.IQ2_XS, T.IQ3_S, T.IQ4_NL, T.IQ4_XS, T.NVFP4]
"""Types that are multiplied with their signs, where bytes of any size may not be, and two grids."""
HEAD_TYPES = [T.F16, T.Q8_0, T.Q4_K]
"""Types for the products of heads, which are those of ``matmul`` at other places."""
# float32 sums of n products err by some n/2 half-units of the largest partial sum; integer products
# are exact, so that blocks of 256 have few sums
TOLERANCE = 2e-6


@pytest.fixture(scope="module", params=usable_isas())
def builder(request: pytest.FixtureRequest) -> KernelBuilder:
    """A builder for one instruction set, its kernels compiled in one go."""
    isa = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_ISA", isa)
        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
        builder = KernelBuilder()
    builder.addresses(kernels_of(isa, types_taken(request.config, types_of(isa))))
    return builder


def kernels_of(isa: str, types: Iterable[T] | None = None) -> list[str]:
    """What is run here on an instruction set; all types, or only some of them."""
    types = types_of(isa) if types is None else types
    matmuls = [f"matmul.{type_.name}" for type_ in {*types, *HEAD_TYPES}]
    matmuls += [f"head_matmul.{type_.name}" for type_ in HEAD_TYPES]
    return ["run_program", "quantize_q8_0", "quantize_q8_k", *matmuls]


@pytest.mark.parametrize("isa", sorted(set(ISAS) - set(usable_isas())))
def test_other_instruction_sets(isa: str) -> None:
    pytest.skip(f"this CPU has no {isa}: its products are not tested here")


def types_of(isa: str) -> list[QuantType]:
    """Which types are compiled for an instruction set: all, but for a choice of the others' code.

    The loops of the generic path are tested by themselves, type by type. AVX-VNNI has its own
    operations for weight tiles only, and multiplies as AVX-512 VNNI does. Of types whose weights
    are codes there is one for each way that they are read or multiplied.
    """
    if isa == "generic":
        return [T.F16, T.Q5_0, T.Q4_K]
    if isa == "avxvnni" and detect_cpu().isa != isa:
        return [T.Q4_1, T.Q8_0, T.Q3_K, T.Q4_K, T.Q6_K]
    return [*sorted(COMMON_TYPES), *(CODED if detect_cpu().isa == isa else CODED_SIGNED)]


def each_type(isas: Sequence[str]) -> pytest.MarkDecorator:
    """Pair instruction sets of this CPU with the types that are compiled for them."""
    pairs = [(isa, type_) for isa in isas for type_ in types_of(isa)]
    names = [f"{isa}-{type_.name}" for isa, type_ in pairs]
    return pytest.mark.parametrize(("builder", "type_"), pairs, indirect=["builder"], ids=names)


on_every_isa = each_type(usable_isas())


def row_length(type_: QuantType, n_blocks: int) -> int:
    """So many times 256 weights; a single 256 and a bit more where blocks are small."""
    return 256 * n_blocks + (32 if n_blocks == 1 and type_.block_size <= 32 else 0)


def random_rows(type_: QuantType, n_rows: int, n_in: int) -> np.ndarray:
    """Valid rows of a type: random bits, with finite scales where the type has halves."""
    spec = TensorSpec("w", (n_in, n_rows), type_)
    return random_blocks(spec, n_rows * n_in // type_.block_size, np.random.default_rng(type_))


def product(
    builder: KernelBuilder,
    type_: QuantType,
    weights: np.ndarray,
    x: np.ndarray,
    *,
    added_to: np.ndarray | None = None,
    n_threads: int = 2,
    n_runs: int = 1,
) -> np.ndarray:
    """Activations [T, n_in] times rows of weights as bytes: [T, n_out], by the compiled step."""
    kind, (n_tokens, n_in) = ACTIVATION_OF[type_], x.shape
    n_out = len(weights) // type_.row_bytes(n_in)
    n_bytes, n_floats = activation_bytes(kind, n_in), activation_floats(kind, n_in)
    packed = -(-n_tokens * n_bytes // 64) * 64
    y = n_tokens * n_floats
    partial = y + n_tokens * n_out
    memory = Memory.allocate(
        n=0, f=partial + n_threads * partial_floats(n_tokens),
        q=packed + n_threads * tile_bytes(n_in), kv=1, files=[weights],
    )  # fmt: skip
    memory.n[N_TOKENS] = n_tokens
    for t, row in enumerate(x):
        q, f = naive.activations(kind, row)
        memory.q[t * n_bytes : (t + 1) * n_bytes] = q
        memory.f[t * n_floats : (t + 1) * n_floats] = f
    found = memory.f[y:partial].reshape(n_tokens, n_out)
    found[:] = 7 if added_to is None else added_to
    matmul = step(
        f"matmul.{type_.name}", w0=0, row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out,
        xq=0, xq_stride=n_bytes, xf=0, xf_stride=n_floats, y=y, y_stride=n_out,
        is_added=added_to is not None, count=N_TOKENS, packed=packed,
        packed_stride=tile_bytes(n_in), partial=partial, partial_stride=partial_floats(n_tokens),
    )  # fmt: skip
    with CompiledMachine(builder, memory, n_threads) as machine:
        code = machine.load([matmul])
        for _ in range(n_runs):
            machine.run(code)
    return found.copy()


@pytest.mark.slow
@pytest.mark.parametrize("type_", HEAD_TYPES, ids=lambda type_: type_.name)
@pytest.mark.parametrize("n_tokens", [1, 7])
def test_a_head_is_multiplied_as_any_row(
    type_: QuantType, n_tokens: int, builder: KernelBuilder
) -> None:
    n_head, n_in, n_out, kind = 3, 256, 40, ACTIVATION_OF[type_]
    weights = random_rows(type_, n_head * n_out, n_in)
    x = tokens(n_tokens * n_head, n_in).reshape(n_tokens, n_head, n_in)
    n_bytes, n_floats = activation_bytes(kind, n_in), activation_floats(kind, n_in)
    quants, floats = (n_tokens * n_head * n for n in (n_bytes, n_floats))
    packed, y = -(-quants // 64) * 64, x.size + floats
    y_stride = n_head * (n_out + 5) + 2  # results may lie apart
    partial = y + n_tokens * y_stride
    memory = Memory.allocate(
        n=0, f=partial + 2 * partial_floats(n_tokens), q=packed + 2 * tile_bytes(n_in), kv=1,
        files=[weights],
    )  # fmt: skip
    memory.n[N_TOKENS], memory.f[: x.size] = n_tokens, x.reshape(-1)
    xf = 0 if kind == "f32" else x.size
    multiply = step(
        f"head_matmul.{type_.name}", w0=0, head_bytes=n_out * type_.row_bytes(n_in),
        n_head=n_head, row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out, xq=0,
        xq_stride=n_head * n_bytes, xq_step=n_bytes, xf=xf, xf_stride=n_head * n_floats,
        xf_step=n_floats, y=y, y_stride=y_stride, y_step=n_out + 5, count=N_TOKENS, packed=packed,
        packed_stride=tile_bytes(n_in), partial=partial, partial_stride=partial_floats(n_tokens),
    )  # fmt: skip
    quantize = [] if kind == "f32" else [
        step(f"quantize_{kind}", x=0, width=n_in, xq=0, xf=xf, count=N_TOKENS, per_row=n_head)
    ]  # fmt: skip
    with CompiledMachine(builder, memory, 2) as machine:
        machine.run(machine.load([*quantize, multiply]))
    rows = memory.f[y:partial].reshape(n_tokens, y_stride)[:, : n_head * (n_out + 5)]
    found = rows.reshape(n_tokens, n_head, n_out + 5)
    assert not found[..., n_out:].any()
    for head, own in enumerate(weights.reshape(n_head, -1)):
        part = np.ascontiguousarray(x[:, head])
        np.testing.assert_array_equal(found[:, head, :n_out], product(builder, type_, own, part))


def tokens(n_tokens: int, n_in: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((n_tokens, n_in)).astype(np.float32)


@on_every_isa
@pytest.mark.parametrize("n_tokens", [1, 7], ids=["one token", "seven tokens"])
@pytest.mark.parametrize("n_blocks", [1, 2, 11], ids=lambda n: f"rows of {n} * 256")
def test_matmul_equals_the_oracle(
    type_: QuantType, n_blocks: int, n_tokens: int, builder: KernelBuilder
) -> None:
    n_in = row_length(type_, n_blocks)
    weights = random_rows(type_, 40, n_in)  # a weight tile of 32 and some more
    x = tokens(n_tokens, n_in)
    assert_near_the_oracle(type_, product(builder, type_, weights, x), weights, x)


def assert_near_the_oracle(
    type_: QuantType, found: np.ndarray, weights: np.ndarray, x: np.ndarray
) -> None:
    kind, n_in = ACTIVATION_OF[type_], x.shape[1]
    for t, row in enumerate(x):
        values = naive.activation_values(kind, *naive.activations(kind, row))
        for r, bytes_ in enumerate(weights.reshape(-1, type_.row_bytes(n_in))):
            expected, magnitude = naive.dot(type_, bytes_, values)
            assert abs(found[t, r] - expected) <= TOLERANCE * magnitude + 1e-30


@on_every_isa
@pytest.mark.parametrize("n_blocks", [1, 9], ids=lambda n: f"rows of {n} * 256")
@pytest.mark.parametrize("is_added", [False, True], ids=["stored", "added"])
def test_a_sum_does_not_depend_on_its_company(
    type_: QuantType, n_blocks: int, is_added: bool, builder: KernelBuilder
) -> None:
    """One token at a time, any number together, on one thread or three: not a bit differs."""
    n_in = row_length(type_, n_blocks)
    weights = random_rows(type_, 72, n_in)
    x = tokens(15, n_in)
    before = tokens(15, 72) if is_added else None
    together = product(builder, type_, weights, x, added_to=before, n_threads=1)
    threads = product(builder, type_, weights, x, added_to=before, n_threads=3)
    np.testing.assert_array_equal(threads, together)
    for first, last in [(0, 1), (1, 3), (3, 8), (8, 15), (4, 12)]:
        added_to = None if before is None else before[first:last]
        some = product(builder, type_, weights, x[first:last], added_to=added_to)
        np.testing.assert_array_equal(some, together[first:last])


@pytest.mark.parametrize("type_", HEAD_TYPES, ids=lambda type_: type_.name)
@pytest.mark.parametrize("builder", usable_isas(), indirect=True)
@pytest.mark.parametrize("n_tokens", [1, 7])
def test_it_does_not_depend_on_which_thread_computes_a_row(
    type_: QuantType, n_tokens: int, builder: KernelBuilder
) -> None:
    """In a matrix so large that threads take rows as they become free, time after time."""
    n_in, n_out = 1024, 2099
    weights, x = random_rows(type_, n_out, n_in), tokens(n_tokens, n_in)
    before = tokens(n_tokens, n_out)
    once, *others = (
        product(builder, type_, weights, x, added_to=before, n_threads=n_threads, n_runs=5)
        for n_threads in (1, 2, 4)
    )
    for found in others:
        np.testing.assert_array_equal(found, once)


# plain loops add in an order of their own
@each_type([isa for isa in usable_isas() if isa != "generic"])
@pytest.mark.parametrize("n_tokens", [1, 5], ids=["one token", "five tokens"])
def test_instruction_sets_agree(type_: QuantType, n_tokens: int, builder: KernelBuilder) -> None:
    """Integer sums are exact and floats are added in one order: no CPU differs in a bit."""
    n_in = 9 * 256 + 24 * (type_.block_size == 1)
    weights, x = random_rows(type_, 40, n_in), tokens(n_tokens, n_in)
    found = product(builder, type_, weights, x)
    for t, row in enumerate(x):
        expected = [ordered_dot(type_, one, row) for one in weights.reshape(40, -1)]
        np.testing.assert_array_equal(found[t], expected)


def ordered_dot(type_: QuantType, weights: np.ndarray, row: np.ndarray) -> np.float32:
    """The product of a row of weights with a token as every instruction set has it."""
    if type_.block_size == 1:
        return naive.ordered_float_dot(naive.dequantize(type_, weights), row)
    if type_ not in COMMON_TYPES:
        return naive.ordered_code_dot(type_, weights, *naive.activations(ACTIVATION_OF[type_], row))
    scales = dict(zip(("scale", "minimum"), (at for at, _ in SCALES[type_]), strict=False))
    return naive.ordered_dot(type_, weights, scales, *naive.activations(ACTIVATION_OF[type_], row))


@on_every_isa
def test_largest_weights_and_activations_do_not_overflow(
    type_: QuantType, builder: KernelBuilder
) -> None:
    n_in = 8 * 256
    weights = random_rows(type_, 32, n_in)
    if type_.block_size > 1:
        offsets = [at for at, _ in SCALES[type_]]
        blocks = weights.reshape(-1, type_.type_size)
        blocks[:] = 0xFF
        blocks[::2] = 0x80
        for at in offsets:
            blocks[:, at : at + 2] = 0x00, 0x3C  # 1.0
        store_other_factors(type_, blocks, 0)
        if type_ == T.Q6_K:
            blocks[:, 192:208] = 0x80  # scales of -128
    x = np.full((3, n_in), 127, np.float32)
    x[1] *= -1
    found = product(builder, type_, weights, x)
    assert_near_the_oracle(type_, found, weights, x)
    np.testing.assert_array_equal(product(builder, type_, weights, x[:1]), found[:1])


@on_every_isa
def test_zeros_make_zero_and_what_is_not_finite_makes_nan(
    type_: QuantType, builder: KernelBuilder
) -> None:
    n_in = 512
    x = tokens(4, n_in)
    x[1] = 0
    x[2, 300] = np.nan
    found = product(builder, type_, random_rows(type_, 32, n_in), x)
    assert (found[1] == 0).all()
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[[0, 3]]).all()
    for t in (1, 2):
        np.testing.assert_array_equal(
            product(builder, type_, random_rows(type_, 32, n_in), x[t : t + 1])[0], found[t]
        )
    nothing = np.zeros(32 * type_.row_bytes(n_in), np.uint8)
    assert (product(builder, type_, nothing, x[:2]) == 0).all()


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
    floats, n_bytes = activation_floats(kind, n), activation_bytes(kind, n)
    memory = Memory.allocate(n=0, f=n + floats, q=n_bytes, kv=1, files=[np.zeros(1, np.uint8)])
    memory.n[N_TOKENS] = 1
    memory.f[:n] = x
    quantize = step(f"quantize_{kind}", x=0, width=n, xq=0, xf=n, count=N_TOKENS, per_row=1)
    with CompiledMachine(builder, memory, n_threads=1) as machine:
        machine.run(machine.load([quantize]))
    q, f = naive.activations(kind, x)
    block = 32 if kind == "q8_0" else 256
    scales = memory.f[n : n + n // block]
    np.testing.assert_allclose(scales, f[: n // block], rtol=1e-6)
    finite = np.repeat(np.isfinite(scales), block)
    # ties may be rounded either way
    assert np.abs(memory.q.astype(int) - q)[:n][finite].max(initial=0) <= 1
    assert (memory.q != q)[:n][finite].sum() <= 0.02 * n
    # the sums are of the very steps that were written
    group = 32 if kind == "q8_0" else 16
    integers = memory.q[n:].view("<i4" if kind == "q8_0" else "<i2")
    expected = memory.q[:n].reshape(-1, group).sum(axis=1, dtype=int)
    is_finite = finite.reshape(-1, group)[:, 0]
    np.testing.assert_array_equal(integers[: n // group][is_finite], expected[is_finite])
    if kind == "q8_k":
        expected, is_finite = expected[::2] + expected[1::2], is_finite[::2]
        np.testing.assert_array_equal(integers[n // group :][is_finite], expected[is_finite])
    values = naive.activation_values(kind, memory.q, memory.f[n:])
    start = n + n // block
    sums = memory.f[start : start + n // group]
    expected = values.reshape(-1, group).sum(axis=1, where=finite.reshape(-1, group))
    sums = np.where(finite.reshape(-1, group)[:, 0], sums, 0)
    largest = np.abs(x[np.isfinite(x)]).max()
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5 * largest)
