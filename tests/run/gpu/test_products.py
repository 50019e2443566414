"""Matrix products on a GPU, for every type that the runner knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wgpu", reason="wgpu is not installed: `pip install gguf-hub[gpu]`")

from gguf_hub.errors import GpuError
from gguf_hub.gguf.memory.activations import ACTIVATION_OF
from gguf_hub.gguf.types import COMMON_TYPES, RUNNABLE_TYPES, QuantType
from gguf_hub.run.gpu import layouts
from gguf_hub.run.gpu.device import MAX_GROUPS
from gguf_hub.run.gpu.kernels import WeightPart
from gguf_hub.run.gpu.lowering import lower
from gguf_hub.run.kernels.vm.ops import N_TOKENS, step
from tests import naive
from tests.run.gpu.products import (
    NO_SCRATCH,
    Bench,
    Experts,
    expected,
    random_rows,
    rows_of,
    tokens,
)
from tests.synth import SCALES, store_other_factors

T = QuantType
TYPES = sorted(RUNNABLE_TYPES)
# integer products are exact; n/8 float32 sums err by half units of the largest partial sum
TOLERANCE = 1e-6
each_type = pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.name)


def product(
    device: Any, type_: QuantType, weights: np.ndarray, x: np.ndarray,
    added_to: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Activations [T, n_in] times rows of weights: [T, n_out], results three floats apart."""
    rows, (n_tokens, n_in), n_out = rows_of(type_, x), x.shape, len(weights)
    bench = Bench(device, rows, weights.reshape(-1), n_tokens, n_tokens * (n_out + 3))
    before = np.full((n_tokens, n_out + 3), 7, np.float32)
    if added_to is not None:
        before[:, :n_out] = added_to
    matmul = step(
        f"matmul.{type_.name}", w0=0, row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out,
        xq=0, xf=0, **rows.strides, y=bench.y, y_stride=n_out + 3,
        is_added=added_to is not None, count=N_TOKENS, **NO_SCRATCH,
    )  # fmt: skip
    found = bench.run(matmul, before).reshape(n_tokens, -1)
    assert (found[:, n_out:] == 7).all()
    return found[:, :n_out]


def assert_near(type_: QuantType, found: np.ndarray, weights: np.ndarray, x: np.ndarray) -> None:
    """Compare products with the oracle's."""
    values, magnitude = expected(type_, weights, rows_of(type_, x))
    error = np.abs(found - values) / magnitude
    print(f"{type_.name}: worst error {error.max():.1e} of the sum of magnitudes")
    assert error.max() <= TOLERANCE


def row_lengths(type_: QuantType) -> list[int]:
    """Whole lanes and not, rows of models, and lengths that are no whole vectors."""
    small = {1: 43, 32: 288, 64: 320, 128: 384, 256: 256}[type_.block_size]
    return [small, 4096, 14336]


WIDTHS = [(type_, n_in) for type_ in TYPES for n_in in row_lengths(type_)]


@pytest.mark.parametrize(
    ("type_", "n_in"), WIDTHS, ids=[f"{type_.name}-{n_in}" for type_, n_in in WIDTHS]
)
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_matmul_equals_the_oracle(device: Any, type_: QuantType, n_in: int, n_tokens: int) -> None:
    weights, x = random_rows(type_, 9, n_in), tokens(n_tokens, n_in)
    assert_near(type_, product(device, type_, weights, x), weights, x)


@pytest.mark.slow
@each_type
def test_a_sum_does_not_depend_on_its_company(device: Any, type_: QuantType) -> None:
    """One token at a time or more than a tile of them, added or not."""
    n_in = 11 * 256
    weights, x = random_rows(type_, 67, n_in), tokens(33, n_in)
    together = product(device, type_, weights, x)
    assert_near(type_, together, weights, x)
    before = tokens(33, 67)
    np.testing.assert_array_equal(
        product(device, type_, weights, x, added_to=before), before + together
    )
    for first, last in [(0, 1), (27, 33)]:
        some = product(device, type_, weights, x[first:last])
        if type_.block_size > 1:
            np.testing.assert_array_equal(some, together[first:last])
        assert_near(type_, some, weights, x[first:last])


def ordered_dot(type_: QuantType, row: np.ndarray, x: np.ndarray, *, is_fused: bool) -> np.float32:
    """The product of a row of weights with a token as the CPU has it."""
    q, f = naive.activations(ACTIVATION_OF[type_], x)
    if type_ not in COMMON_TYPES:
        return naive.ordered_code_dot(type_, row, q, f, is_fused=is_fused)
    scales = dict(zip(("scale", "minimum"), (at for at, _ in SCALES[type_]), strict=False))
    return naive.ordered_dot(type_, row, scales, q, f, is_fused=is_fused)


@pytest.mark.parametrize(
    "type_", [type_ for type_ in TYPES if type_.block_size > 1], ids=lambda type_: type_.name
)
def test_quantised_sums_are_those_of_the_cpu(device: Any, type_: QuantType) -> None:
    """To the last bit, but for a GPU's ``fma`` that multiplies and adds."""
    weights, x = random_rows(type_, 8, 11 * 256), tokens(1, 11 * 256)
    found = product(device, type_, weights, x)[0]
    sums = [
        [ordered_dot(type_, row, x[0], is_fused=is_fused) for row in weights]
        for is_fused in (True, False)
    ]
    assert any(np.array_equal(found, each) for each in np.array(sums))


@each_type
@pytest.mark.parametrize("n_tokens", [1, 5, 33])
def test_largest_weights_and_activations_do_not_overflow(
    device: Any, type_: QuantType, n_tokens: int
) -> None:
    weights = random_rows(type_, 9, 8 * 256)
    if type_.block_size > 1:
        blocks = weights.reshape(-1, type_.type_size)
        blocks[:], blocks[::2] = 0xFF, 0x80
        set_factors(type_, blocks)
        if type_ == T.Q6_K:
            blocks[:, 192:208] = 0x80  # scales of -128
    x = np.full((n_tokens, 8 * 256), 127, np.float32)
    x[:, ::3] = -127
    assert_near(type_, product(device, type_, weights, x), weights, x)


def set_factors(type_: QuantType, blocks: np.ndarray) -> None:
    """Let halves be 1, and other factors about that."""
    for at, _ in SCALES[type_]:
        blocks[:, at : at + 2] = 0x00, 0x3C
    store_other_factors(type_, blocks, 0)


@pytest.mark.parametrize("n_tokens", [1, 5, 33])
@pytest.mark.parametrize("type_", [T.F16, T.Q4_0, T.Q4_K, T.IQ2_XS], ids=lambda type_: type_.name)
def test_a_nan_does_not_pass_unseen(device: Any, type_: QuantType, n_tokens: int) -> None:
    """In weights it is the row's, in activations the token's."""
    weights, x = random_rows(type_, 9, 512), tokens(n_tokens, 512)
    weights[4, :2] = 0x00, 0x7E  # a factor, or a weight
    x[0, 300] = np.inf
    found = product(device, type_, weights, x)
    expected_nan = np.zeros((n_tokens, 9), bool)
    expected_nan[:, 4] = expected_nan[0] = True
    np.testing.assert_array_equal(~np.isfinite(found), expected_nan)


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_kernel_that_is_wrong_is_an_error_of_ours(device: Any, is_checked: bool) -> None:
    source = "@compute @workgroup_size(1) fn main() { let x: u32 = 1.5; }"
    with pytest.raises(GpuError, match="refuses a kernel"):
        device.kernel(source, is_checked=is_checked)


# -- experts ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("n_tokens", [1, 5, 33, 90])
@pytest.mark.parametrize("pairs_per_x", [1, 2], ids=["a row each", "a row for two"])
@pytest.mark.parametrize("type_", [T.F16, T.Q8_0, T.Q4_K, T.IQ2_XS], ids=lambda type_: type_.name)
def test_pairs_meet_their_experts(
    device: Any, type_: QuantType, pairs_per_x: int, n_tokens: int
) -> None:
    """Of six experts one is of another type, and one has no pairs."""
    experts = Experts(type_, n_tokens, pairs_per_x, missing=2, unused=4)
    experts.check(experts.run(device), TOLERANCE)


def test_experts_of_one_tensor_are_those_of_many(device: Any) -> None:
    experts = Experts(T.Q4_K, 5, 2)
    merged = Experts(T.Q4_K, 5, 2, gap=0)
    np.testing.assert_array_equal(experts.run(device), merged.run(device))
    assert not layouts_of(experts) ^ layouts_of(merged)


def layouts_of(experts: Experts) -> set[bytes]:
    """What experts send to a GPU."""
    (part,) = {each.weights for each in lower(experts.step, 1 << 30, experts.tables)}
    assert part is not None
    return {b"".join(words.tobytes() for _, words in layouts.pack(part, experts.file))}


# -- heads -----------------------------------------------------------------------------------------


def head_product(device: Any, type_: QuantType, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Activations [T, H, n_in] times rows of each head [H, n_out, bytes]: [T, H, n_out]."""
    n_tokens, n_head, n_in = x.shape
    n_out = weights.shape[1]
    rows = rows_of(type_, x.reshape(-1, n_in))
    bench = Bench(device, rows, weights.reshape(-1), n_tokens, n_tokens * n_head * (n_out + 2))
    strides = {f"x{name}_stride": n_head * rows.strides[f"x{name}_stride"] for name in "qf"}
    multiply = step(
        f"head_matmul.{type_.name}", w0=0, head_bytes=n_out * type_.row_bytes(n_in),
        n_head=n_head, row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out, xq=0, xf=0,
        **strides, xq_step=rows.strides["xq_stride"], xf_step=rows.strides["xf_stride"],
        y=bench.y, y_stride=n_head * (n_out + 2), y_step=n_out + 2, count=N_TOKENS, **NO_SCRATCH,
    )  # fmt: skip
    found = bench.run(multiply, np.zeros(bench.n_results)).reshape(n_tokens, n_head, -1)
    assert not found[..., n_out:].any()
    return found[..., :n_out]


@pytest.mark.parametrize("n_tokens", [1, 5])
@pytest.mark.parametrize("type_", [T.F16, T.Q8_0, T.Q4_K], ids=lambda type_: type_.name)
def test_a_head_is_multiplied_as_any_row(device: Any, type_: QuantType, n_tokens: int) -> None:
    check_heads(device, device, type_, n_tokens)


def check_heads(device: Any, other: Any, type_: QuantType, n_tokens: int) -> None:
    """Compare heads on one device with products on another."""
    weights = random_rows(type_, 3 * 40, 256).reshape(3, 40, -1)
    x = tokens(3 * n_tokens, 256).reshape(n_tokens, 3, 256)
    found = head_product(device, type_, weights, x)
    for head, own in enumerate(weights):
        alone = product(other, type_, own, np.ascontiguousarray(x[:, head]))
        np.testing.assert_array_equal(found[:, head], alone)


# -- no larger than a binding ----------------------------------------------------------------------

LIMIT = 1 << 15


@pytest.fixture(scope="module")
def narrow(adapter: Any) -> Iterator[Any]:
    """A device whose kernels see no more than 32 KB of weights."""
    from gguf_hub.run.gpu.wgpu_device import WgpuDevice

    opened = WgpuDevice(adapter, max_binding=LIMIT)
    yield opened
    opened.close()


@pytest.mark.parametrize("n_tokens", [1, 5])
@pytest.mark.parametrize("type_", [T.F16, T.Q4_0, T.Q6_K, T.IQ3_S], ids=lambda type_: type_.name)
def test_a_large_matrix_is_cut(device: Any, narrow: Any, type_: QuantType, n_tokens: int) -> None:
    weights, x = random_rows(type_, 75, 1024), tokens(n_tokens, 1024)
    assert weights.size > LIMIT
    found = product(narrow, type_, weights, x)
    np.testing.assert_array_equal(found, product(device, type_, weights, x))


@pytest.mark.slow
@pytest.mark.parametrize("n_out", [40, 150], ids=["groups of experts", "parts of experts"])
@pytest.mark.parametrize("n_tokens", [1, 33])
def test_large_experts_are_cut(device: Any, narrow: Any, n_out: int, n_tokens: int) -> None:
    experts = Experts(T.Q4_K, n_tokens, 2, n_out=n_out, missing=1, unused=4)
    parts = {each.weights for each in lower(experts.step, LIMIT, experts.tables)}
    assert len(parts) == (3 if n_out == 40 else 10)
    np.testing.assert_array_equal(experts.run(narrow), experts.run(device))


def test_large_heads_are_cut(device: Any, narrow: Any) -> None:
    check_heads(narrow, device, T.F16, 5)


@pytest.mark.parametrize("limit", [1 << 15, 100_000, (128 << 20) - 1, 1 << 31])
@each_type
def test_no_part_is_larger_than_a_binding_or_a_grid(type_: QuantType, limit: int) -> None:
    n_in, n_out = 256 * 3, 3000 if limit < 1 << 20 else 600_000
    whole = step(
        f"matmul.{type_.name}", w0=0, row_bytes=type_.row_bytes(n_in), n_in=n_in, n_out=n_out,
        xq=0, xf=0, xq_stride=0, xf_stride=0, y=0, y_stride=0, is_added=0, count=N_TOKENS,
        **NO_SCRATCH,
    )  # fmt: skip
    operations = lower(whole, limit, {})
    parts = [part for operation in operations[::3] if (part := operation.weights)]
    assert all(layouts.size_bytes(part) <= limit for part in parts)
    for n_tokens in (1, 8, 512):
        grids = [operation.grid([n_tokens] * 6) for operation in operations]
        assert max(max(grid) for grid in grids) <= MAX_GROUPS
        assert sum(min(grid) > 0 for grid in grids) == len(parts)
    ends = [part.offsets[0] + part.n_out * type_.row_bytes(n_in) for part in parts]
    assert [part.offsets[0] for part in parts] == [0, *ends[:-1]]
    assert ends[-1] == n_out * type_.row_bytes(n_in)


# -- layouts ---------------------------------------------------------------------------------------


@each_type
@pytest.mark.parametrize("n_blocks", [3, 8, 19])
def test_planes_have_each_byte_of_the_file_once(type_: QuantType, n_blocks: int) -> None:
    n_in = n_blocks * type_.block_size
    file = random_rows(type_, 40, n_in).reshape(-1)
    part = WeightPart(type_, n_in, 20, (0, file.size // 2))
    buffer = np.zeros(layouts.size_bytes(part), np.uint8)
    times = np.zeros(len(buffer), np.int64)
    for offset, words in layouts.pack(part, file):
        bytes_ = words.view(np.uint8)
        buffer[offset : offset + len(bytes_)] = bytes_
        times[offset : offset + len(bytes_)] += 1
    assert (times == 1).all()
    tables = layouts.tables_bytes(type_)
    found = np.bincount(buffer[tables:], minlength=256)
    assert found.sum() % 16 == 0
    np.testing.assert_array_equal(found[1:], np.bincount(file, minlength=256)[1:])
