"""Attention and the cache against a float64 oracle; the same bits however the work is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from gguf_hub.gguf.memory import cache
from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.build.cpu import ISAS, detect_cpu, usable_isas
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.vm.machine import CompiledMachine, Memory, PlainMachine
from gguf_hub.run.kernels.vm.ops import SEQUENCE_SIZE, step
from gguf_hub.run.kernels.vm.sequences import SequenceTokens, write_sequences
from gguf_hub.run.model.config import RopeConfig
from tests.conftest import KERNELS

TYPES = ("F16.F16", "Q8_0.Q8_0", "F32.F32", "F16.Q8_0", "Q8_0.F32", "F32.F16")
PLAIN_TYPES = TYPES[:3]

# Weights sum to 1, so an output errs by the error of a value plus what errors of the scores move.
# A half of numbers around 1 errs by 2**-11 of itself; a step of Q8_0 is a 127th of the largest of
# 32 numbers, some 2.5, and errs by half of itself. With F32 sums of float32 are all that errs.
TOLERANCE = {"F32": 5e-6, "F16": 2e-3, "Q8_0": 2e-2}


@dataclass(frozen=True)
class Heads:
    n_head: int
    n_head_kv: int
    head_dim: int
    value_dim: int = 0

    @property
    def length(self) -> int:
        """Of a head of values."""
        return self.value_dim or self.head_dim


@dataclass(frozen=True)
class Variant:
    """What attention may be asked for besides; by default nothing of it."""

    window: int = 0
    chunk: int = 0
    cap: float = 0.0
    has_sinks: bool = False
    has_slopes: bool = False
    scale: float = 0.0
    is_neox: bool = False
    n_rot: int = -1
    is_text: bool = False


PLAIN = Variant()
SHAPES = (Heads(8, 2, 128), Heads(3, 3, 8), Heads(4, 2, 80), Heads(5, 1, 40),
          Heads(24, 1, 72, 40), Heads(2, 2, 24, 60))  # fmt: skip


@pytest.fixture(scope="module", params=usable_isas())
def builder(request: pytest.FixtureRequest) -> KernelBuilder:
    """A builder for one instruction set, its kernels compiled in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_ISA", request.param)
        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
        builder = KernelBuilder()
    builder.addresses(kernels_of(request.param))
    return builder


def kernels_of(isa: str) -> list[str]:
    """What is run here on an instruction set."""
    names = [f"{step}.{types}" for step in ("attention", "rope_store") for types in types_of(isa)]
    return ["run_program", "rope_table", "text_attention.F32.F32", *names]


def types_of(isa: str) -> Sequence[str]:
    """Mixed types take their loops from the plain ones: the best instruction set is enough."""
    return TYPES if isa == detect_cpu().isa else PLAIN_TYPES


@pytest.mark.parametrize("isa", sorted(set(ISAS) - set(usable_isas())))
def test_other_instruction_sets(isa: str) -> None:
    pytest.skip(f"this CPU has no {isa}: its attention is not tested here")


class Layer:
    """Rope, store and attention of one layer as a program of its own."""

    def __init__(
        self, heads: Heads, types: str, n_ctx: int, n_threads: int = 1, variant: Variant = PLAIN,
        *, cache_length: int = 0,
    ) -> None:  # fmt: skip
        self.heads, self.n_ctx, self.variant = heads, n_ctx, variant
        h, k, d = heads.n_head, heads.n_head_kv, heads.head_dim
        key_type, value_type = types.split(".")
        padded = cache_length or cache.padded(n_ctx)
        k_size = k * cache.key_elements(key_type, d, padded)
        v_size = k * cache.value_elements(value_type, heads.length, padded)
        t = n_ctx
        sizes = {
            "frequencies": d, "factor": 1, "table": t * d, "q0": t * h * d, "k0": t * k * d,
            "v0": t * k * heads.length, "y": t * h * heads.length, "scale": 1, "cap": 1,
            "sinks": h, "slopes": h,
            "scratch": n_threads * cache.scratch_floats(h // k, heads.length),
        }  # fmt: skip
        ends = np.cumsum(list(sizes.values()))
        self.at = {name: int(end - size) for (name, size), end in zip(sizes.items(), ends,
                                                                       strict=True)}  # fmt: skip
        self.memory = Memory.allocate(
            n=SEQUENCE_SIZE, f=int(ends[-1]), q=0, kv=k_size + v_size, files=[np.zeros(8, np.uint8)]
        )
        at = self.at
        shared = {"n_head": h, "n_head_kv": k, "head_dim": d, "value_dim": heads.length,
                  "k_cache": 0, "v_cache": k_size}  # fmt: skip
        n_rot = d if variant.n_rot < 0 else variant.n_rot
        self.rope = RopeConfig(n_rot=n_rot, freq_base=10000.0)
        self.steps = [
            step("rope_table", frequencies=at["frequencies"], half=n_rot // 2, factor=at["factor"],
                 table=at["table"]),
            step(f"rope_store.{types}", q0=at["q0"], k0=at["k0"], v0=at["v0"], n_rot=n_rot,
                 is_neox=variant.is_neox, table=at["table"], n_ctx=padded, **shared),
            step(f"attention.{types}", q0=at["q0"], scratch=at["scratch"], y=at["y"],
                 n_ctx=padded, scale=at["scale"], window=variant.window, chunk=variant.chunk,
                 cap=at["cap"], sinks=at["sinks"], has_sinks=variant.has_sinks,
                 slopes=at["slopes"], has_slopes=variant.has_slopes, **shared),
        ]  # fmt: skip
        if variant.is_text:
            self.steps[-1] = step(
                f"text_attention.{types}", q0=at["q0"], scratch=at["scratch"], y=at["y"],
                n_ctx=padded, scale=at["scale"], window=variant.window, slopes=at["slopes"],
                has_slopes=variant.has_slopes, **shared)  # fmt: skip
        self.put("scale", np.array([variant.scale or d**-0.5]))
        self.put("cap", np.array([variant.cap]))
        self.put("sinks", sinks_of(heads))
        self.put("slopes", slopes_of(heads))

    def put(self, name: str, values: np.ndarray) -> None:
        self.memory.f[self.at[name] :][: values.size] = values.reshape(-1)

    def run(
        self, machine: CompiledMachine, q: np.ndarray, k: np.ndarray, v: np.ndarray, position: int
    ):
        """Attend from the tokens of q, [T, H, d], which stand at ``position`` and after."""
        exact = np.array(self.rope.frequencies() if self.rope.n_rot else ())
        rounded = exact.astype(np.float32)
        self.put("frequencies", np.concatenate((rounded, exact - rounded)))
        self.put("factor", np.array([self.rope.magnitude()], np.float32))
        for name, values in (("q0", q), ("k0", k), ("v0", v)):
            self.put(name, values)
        write_sequences(self.memory.n, [SequenceTokens(0, position, len(q))], 0)
        machine.run(machine.load(self.steps))
        shape = (*q.shape[:2], self.heads.length)
        return self.memory.f[self.at["y"] :][: np.prod(shape)].reshape(shape).copy()


def angles(rope: RopeConfig, position: int) -> tuple[np.ndarray, float]:
    """Angles of the rotated pairs at a position and the factor on them, as ggml's rope_yarn has it.

    Source: ggml/src/ggml-cpu/ops.cpp at ggml c2cdd2b2, in float64 and without its recurrence.
    """
    n, factor = rope.n_rot, rope.factor
    pairs = np.arange(n // 2)
    plain = position * rope.freq_base ** (-2.0 * pairs / n)
    if rope.scaling != "yarn":
        return plain / (factor if rope.scaling == "linear" else 1), 1.0
    low, high = (
        n * np.log(rope.n_ctx_orig / (turns * 2 * np.pi)) / (2 * np.log(rope.freq_base))
        for turns in (rope.beta_fast, rope.beta_slow)
    )
    low, high = max(0, np.floor(low)), min(n - 1, np.ceil(high))
    mix = 1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1)
    return plain / factor * (1 - mix) + plain * mix, 1 + 0.1 * np.log(factor)


def sinks_of(heads: Heads) -> np.ndarray:
    """Scores of sinks, some below and some above those of positions."""
    return np.linspace(-3, 6, heads.n_head).astype(np.float32)


def slopes_of(heads: Heads) -> np.ndarray:
    """What scores lose for each position between."""
    return np.linspace(0.5, 0.01, heads.n_head).astype(np.float32)


def rotated(
    x: np.ndarray, rope: RopeConfig, position: int = 0, *, is_neox: bool = False
) -> np.ndarray:
    """Rotate [T, heads, d], which stand at ``position`` and after, in float64."""
    n_rot = rope.n_rot
    if n_rot == 0:
        return x
    turns, factors = zip(*(angles(rope, position + t) for t in range(len(x))), strict=True)
    half = n_rot // 2
    first = np.arange(half) if is_neox else np.arange(0, n_rot, 2)
    second = first + (half if is_neox else 1)
    pairs = x[..., first] + 1j * x[..., second]
    turned = pairs * np.exp(1j * np.array(turns))[:, None] * factors[0]
    result = x.copy()
    result[..., first], result[..., second] = turned.real, turned.imag
    return result


def oracle(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, rope: RopeConfig, variant: Variant = PLAIN
) -> np.ndarray:
    """Attention of all tokens in float64, causal unless of a text: [T, H, d]."""
    heads = Heads(q.shape[1], k.shape[1], q.shape[2])
    q, k = (rotated(x.astype(float), rope, is_neox=variant.is_neox) for x in (q, k))
    group = heads.n_head // heads.n_head_kv
    k, v = np.repeat(k, group, axis=1), np.repeat(v.astype(float), group, axis=1)
    scores = np.einsum("thd,shd->hts", q, k) * (variant.scale or heads.head_dim**-0.5)
    if variant.cap:
        scores = variant.cap * np.tanh(scores / variant.cap)
    at = np.arange(len(q))
    if variant.has_slopes:
        scores -= slopes_of(heads)[:, None, None].astype(float) * abs(at[:, None] - at)
    hidden = at[:, None] < at
    if variant.is_text:
        hidden = abs(at[:, None] - at) >= (variant.window or len(q))
    elif variant.window:
        hidden |= at <= at[:, None] - variant.window
    if variant.chunk:
        hidden |= at < at[:, None] // variant.chunk * variant.chunk
    scores[:, hidden] = -np.inf
    sinks = sinks_of(heads).astype(float) if variant.has_sinks else np.full(len(scores), -np.inf)
    top = np.maximum(scores.max(axis=2), sinks[:, None])[..., None]
    weights = np.exp(scores - top)
    weights /= weights.sum(axis=2, keepdims=True) + np.exp(sinks[:, None, None] - top)
    return np.einsum("hts,shd->thd", weights, v)


def random_qkv(heads: Heads, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = ((n, heads.n_head, heads.head_dim), (n, heads.n_head_kv, heads.head_dim),
              (n, heads.n_head_kv, heads.length))  # fmt: skip
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return q, k, v


@pytest.mark.slow
@pytest.mark.parametrize("heads", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("builder", "types"),
    [(isa, types) for isa in usable_isas() for types in types_of(isa)],
    indirect=["builder"],
)
def test_equals_float64(heads: Heads, types: str, builder: KernelBuilder) -> None:
    n = 2 * cache.CHUNK + 37  # several chunks, the last one partly filled
    q, k, v = random_qkv(heads, n)
    layer = Layer(heads, types, n, n_threads=2)
    with CompiledMachine(builder, layer.memory, 2) as machine:
        found = layer.run(machine, q, k, v, 0)
    worst = np.abs(found - oracle(q, k, v, layer.rope)).max()
    assert worst < max(TOLERANCE[type_] for type_ in types.split("."))


@pytest.mark.parametrize("window", [0, 1, 65, 300])
@pytest.mark.parametrize("has_slopes", [False, True])
@pytest.mark.parametrize("heads", [SHAPES[1], SHAPES[2], SHAPES[3]], ids=str)
def test_of_a_text_equals_float64(
    heads: Heads, has_slopes: bool, window: int, builder: KernelBuilder
) -> None:
    variant = Variant(window=window, is_text=True, has_slopes=has_slopes)
    n, found = cache.CHUNK + 37, []
    q, k, v = random_qkv(heads, n)
    for n_threads in (1, 3):
        layer = Layer(heads, "F32.F32", n, n_threads, variant)
        with CompiledMachine(builder, layer.memory, n_threads) as machine:
            found.append(layer.run(machine, q, k, v, 0))
    expected = oracle(q, k, v, layer.rope, variant)
    np.testing.assert_allclose(found[0], expected, atol=TOLERANCE["F32"])
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("types", PLAIN_TYPES)
@pytest.mark.parametrize("heads", [SHAPES[0], SHAPES[4]], ids=str)
def test_bits_do_not_depend_on_batches_or_threads(
    heads: Heads, types: str, builder: KernelBuilder
) -> None:
    n = cache.CHUNK + 45
    q, k, v = random_qkv(heads, n, seed=1)
    whole = Layer(heads, types, n)
    with CompiledMachine(builder, whole.memory, 1) as machine:
        expected = whole.run(machine, q, k, v, 0)
    for n_threads, cuts in ((3, [0, n]), (2, [0, 1, 18, n - 20, n - 1, n]), (1, range(n + 1))):
        layer = Layer(heads, types, n, n_threads)
        with CompiledMachine(builder, layer.memory, n_threads) as machine:
            found = [
                layer.run(machine, q[a:b], k[a:b], v[a:b], a)
                for a, b in zip(cuts, [*cuts][1:], strict=False)
            ]
        np.testing.assert_array_equal(np.concatenate(found), expected)


VARIANTS = {
    "window within a tile": (SHAPES[2], Variant(window=7)),
    "window of tiles": (SHAPES[2], Variant(window=128, has_sinks=True)),
    "window that ends a chunk": (SHAPES[3], Variant(window=cache.CHUNK, cap=2.0)),
    "window over chunks": (SHAPES[1], Variant(window=300)),
    "window of one": (SHAPES[2], Variant(window=1, has_sinks=True)),
    "chunks": (SHAPES[3], Variant(chunk=192)),
    "chunks that end together": (SHAPES[2], Variant(chunk=cache.CHUNK)),
    "cap": (SHAPES[2], Variant(cap=0.7, scale=0.3)),
    "sinks": (SHAPES[3], Variant(has_sinks=True)),
    "sinks of groups": (SHAPES[4], Variant(window=40, has_sinks=True)),
    "all": (SHAPES[3], Variant(100, 240, 1.5, has_sinks=True, scale=0.5, is_neox=True, n_rot=12)),
    "slopes": (SHAPES[0], Variant(n_rot=0, has_slopes=True)),
    "slopes of groups": (SHAPES[4], Variant(n_rot=0, has_slopes=True, cap=2.0, window=200)),
    "neox": (SHAPES[2], Variant(is_neox=True)),
    "part of a head": (SHAPES[2], Variant(n_rot=34)),
    "no rope": (SHAPES[1], Variant(n_rot=0)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "variant"), VARIANTS.values(), ids=list(VARIANTS))
@pytest.mark.parametrize("types", PLAIN_TYPES)
def test_variants_equal_float64(
    heads: Heads, variant: Variant, types: str, builder: KernelBuilder
) -> None:
    n = cache.CHUNK + 60
    q, k, v = random_qkv(heads, n, seed=4)
    layer = Layer(heads, types, n, 2, variant)
    with CompiledMachine(builder, layer.memory, 2) as machine:
        found = layer.run(machine, q, k, v, 0)
    # few positions average little, and errors of scores grow with their scale
    tolerance = TOLERANCE[types.partition(".")[0]] * (2 + variant.scale * heads.head_dim**0.5)
    assert np.abs(found - oracle(q, k, v, layer.rope, variant)).max() < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("types", PLAIN_TYPES)
@pytest.mark.parametrize(
    "variant",
    [Variant(window=40, has_sinks=True, is_neox=True), Variant(chunk=100, cap=1.0),
     Variant(window=cache.CHUNK - 3)],
    ids=["window, sinks", "chunks, cap", "long window"],
)  # fmt: skip
def test_bits_of_variants_do_not_depend_on_batches_or_threads(
    types: str, variant: Variant, builder: KernelBuilder
) -> None:
    """A window begins for each row elsewhere: what the others of its batch see changes no bit."""
    for heads in (SHAPES[2], SHAPES[1]):  # groups of two tokens' rows, and of four's
        n = cache.CHUNK + 60
        q, k, v = random_qkv(heads, n, seed=5)
        results = []
        for n_threads, cuts in ((1, [0, n]), (2, [0, n]), (2, [0, 3, 19, 260, n]), (1, range(n))):
            layer = Layer(heads, types, n, n_threads, variant)
            with CompiledMachine(builder, layer.memory, n_threads) as machine:
                found = [
                    layer.run(machine, q[a:b], k[a:b], v[a:b], a)
                    for a, b in zip(cuts, [*cuts, n][1:], strict=False)
                    if a < b
                ]
            results.append(np.concatenate(found))
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])


@pytest.mark.slow
@pytest.mark.parametrize("types", PLAIN_TYPES)
@pytest.mark.parametrize(
    "variant", [Variant(window=40), Variant(window=250), Variant(chunk=200, cap=1.0)],
    ids=["short window", "long window", "chunks"],
)  # fmt: skip
def test_a_cache_that_is_shorter_than_the_context_changes_no_bit(
    types: str, variant: Variant, builder: KernelBuilder
) -> None:
    heads, n, n_batch = SHAPES[2], 3 * cache.CHUNK + 50, 19
    length = -(-(variant.window + variant.chunk + n_batch - 1) // cache.CHUNK) * cache.CHUNK
    assert length < n
    q, k, v = random_qkv(heads, n, seed=8)
    results = []
    for cache_length in (0, length):
        layer = Layer(heads, types, n, 2, variant, cache_length=cache_length)
        with CompiledMachine(builder, layer.memory, 2) as machine:
            cuts = range(0, n, n_batch)
            results.append([layer.run(machine, q[a : a + n_batch], k[a : a + n_batch],
                                      v[a : a + n_batch], a) for a in cuts])  # fmt: skip
    for short, whole in zip(*results, strict=True):
        np.testing.assert_array_equal(short, whole)


@pytest.mark.slow
def test_what_a_window_hides_is_not_read(builder: KernelBuilder) -> None:
    """Chunks in front of the window may hold anything: here what would make every sum NaN."""
    heads, n = SHAPES[0], 3 * cache.CHUNK
    q, k, v = random_qkv(heads, n, seed=6)
    results = []
    for poison in (0.0, np.nan):
        layer = Layer(heads, "F16.F16", n, 1, Variant(window=60))
        with CompiledMachine(builder, layer.memory, 1) as machine:
            k[: 2 * cache.CHUNK], v[: 2 * cache.CHUNK] = poison, poison
            layer.run(machine, q[:-40], k[:-40], v[:-40], 0)
            results.append(layer.run(machine, q[-40:], k[-40:], v[-40:], n - 40))
    np.testing.assert_array_equal(results[1], results[0])
    assert np.isfinite(results[1]).all()


@pytest.mark.parametrize("types", PLAIN_TYPES)
def test_very_large_scores_and_zeros_stay_finite(types: str, builder: KernelBuilder) -> None:
    heads = SHAPES[2]
    q, k, v = random_qkv(heads, 40)
    q *= 200
    k[7], v[3] = 0, 0
    layer = Layer(heads, types, 40)
    with CompiledMachine(builder, layer.memory, 1) as machine:
        found = layer.run(machine, q, k, v, 0)
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= np.abs(v).max() * 1.01


ROPES = {
    "plain": RopeConfig(n_rot=80, freq_base=1e6),
    "linear": RopeConfig(n_rot=80, freq_base=10000.0, scaling="linear", factor=4.0),
    "yarn": RopeConfig(n_rot=80, freq_base=10000.0, scaling="yarn", factor=8.0, n_ctx_orig=64),
    "yarn, long": RopeConfig(n_rot=80, freq_base=1e6, scaling="yarn", factor=4.0, n_ctx_orig=8192),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROPES)
def test_positions_equal_float64(name: str, builder: KernelBuilder) -> None:
    heads, n = SHAPES[2], 500
    q, k, v = random_qkv(heads, n, seed=2)
    layer = Layer(heads, "F16.F16", n)
    layer.rope = ROPES[name]
    with CompiledMachine(builder, layer.memory, 1) as machine:
        found = layer.run(machine, q, k, v, 0)
    assert np.abs(found - oracle(q, k, v, layer.rope)).max() < TOLERANCE["F16"]


@pytest.mark.parametrize("name", ROPES)
def test_far_positions_turn_as_in_float64(name: str, builder: KernelBuilder) -> None:
    heads, n_ctx = SHAPES[2], 32768
    q, k, v = random_qkv(heads, 3, seed=3)
    layer = Layer(heads, "F16.F16", n_ctx)
    layer.rope = ROPES[name]
    with CompiledMachine(builder, layer.memory, 1) as machine:
        layer.run(machine, q, k, v, n_ctx - 3)
        turned = layer.memory.f[layer.at["q0"] :][: q.size].reshape(q.shape)
    # cosine, sine, two products and a sum, each rounded to float32, of numbers up to 4
    np.testing.assert_allclose(turned, rotated(q, layer.rope, n_ctx - 3), atol=4 * 5 * 2**-24)


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(
    "variant",
    [PLAIN, Variant(3, 5, 1.5, has_sinks=True, is_neox=True, n_rot=6)],
    ids=["plain", "all"],
)
def test_plain_python_computes_the_same(types: str, variant: Variant) -> None:
    heads = Heads(4, 2, 8)
    q, k, v = random_qkv(heads, 6)
    layer = Layer(heads, types, 8, 1, variant)
    machine = PlainMachine(layer.memory, kernel_function)
    found = layer.run(machine, q, k, v, 0)
    worst = np.abs(found - oracle(q, k, v, layer.rope, variant)).max()
    assert worst < max(TOLERANCE[type_] for type_ in types.split("."))


def test_what_a_cache_takes() -> None:
    assert cache.padded(33) == 64
    n_ctx, d = 4096, 128
    assert cache.key_elements("F16", d, n_ctx) == cache.value_elements("F16", d, n_ctx) == n_ctx * d
    # 34 bytes for 32 numbers, as in ggml's blocks
    expected = n_ctx * d * 34 // 32 // 2
    assert cache.key_elements("Q8_0", d, n_ctx) == expected
    assert cache.value_elements("Q8_0", d, n_ctx) == expected
    floats = cache.key_elements("F32", d, n_ctx), cache.value_elements("F32", d, n_ctx)
    assert floats == (2 * n_ctx * d, 2 * n_ctx * d)
    assert HEADER == 16
