"""Keys and values in the cache, and attention over it, on a GPU as on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.memory import cache
from gguf_hub.run.gpu.attention import SPLIT_TOKENS
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, SEQUENCE_SIZE, SEQUENCES, step
from gguf_hub.run.kernels.vm.sequences import SequenceTokens
from tests.run.gpu.twin import TYPES, Arrays, Header, Twin, assert_same, one
from tests.run.kernels.inputs import floats

# -- positions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Heads, the cache's length, and what attention is asked for besides."""

    n_head: int
    n_head_kv: int
    head_dim: int
    value_dim: int
    n_ctx: int
    n_rot: int
    is_neox: int = 0
    window: int = 0
    chunk: int = 0
    cap: float = 0.0
    has_sinks: int = 0
    has_slopes: int = 0

    def arrays(self, t: int) -> Arrays:
        return {
            "q0": floats(t, self.n_head, self.head_dim, spread=2),
            "k0": floats(t, self.n_head_kv, self.head_dim, seed=1),
            "v0": floats(t, self.n_head_kv, self.value_dim, seed=2),
            "table": floats(t, self.n_rot, seed=3, spread=0.7),
            "y": floats(t, self.n_head, self.value_dim, seed=4),
            "scratch": floats(cache.scratch_floats(self.n_head // self.n_head_kv, self.value_dim)),
            "scale": one(self.head_dim**-0.5), "cap": one(self.cap),
            "sinks": floats(self.n_head, spread=3),
            "slopes": np.abs(floats(self.n_head, spread=0.1, seed=6)),
        }  # fmt: skip

    def caches(self, types: str) -> dict[str, int]:
        key_type, value_type = types.split(".")
        n_ctx, heads = self.n_ctx, self.n_head_kv
        return {
            "k_cache": heads * cache.key_elements(key_type, self.head_dim, n_ctx),
            "v_cache": heads * cache.value_elements(value_type, self.value_dim, n_ctx),
        }

    def steps(self, types: str, at: dict[str, int], **caches: int) -> list[Any]:
        numbers = {"n_head": self.n_head, "n_head_kv": self.n_head_kv, "head_dim": self.head_dim,
                   "value_dim": self.value_dim, "n_ctx": self.n_ctx, "n_rot": self.n_rot,
                   "is_neox": self.is_neox, "window": self.window, "chunk": self.chunk,
                   "has_sinks": self.has_sinks, "has_slopes": self.has_slopes,
                   **at, **caches}  # fmt: skip
        return [
            step(f"{name}.{types}", **{each: numbers[each] for each in ARGUMENTS[name]})
            for name in ("rope_store", "attention")
        ]


def stored(shape: Shape, types: str, device: Any, builder: KernelBuilder, t: int) -> Twin:
    """Return memory with caches of three slots, which hold finite numbers."""
    return Twin(device, builder, shape.arrays(t), caches=shape.caches(types), n_slots=3)


PLAIN = Shape(8, 2, 64, 64, 320, 64)
SHAPES = {
    "plain": PLAIN,
    "neox, part of a head": Shape(6, 3, 80, 80, 320, 34, is_neox=1),
    "no rope, values shorter": Shape(5, 1, 72, 40, 320, 0),
    "ends of tiles": Shape(2, 2, 24, 62, 320, 8),
    "ring": Shape(4, 2, 32, 32, 256, 32, window=100),
}


@pytest.mark.slow
@pytest.mark.parametrize(("t", "position"), [(1, 0), (1, 37), (2, 31), (5, 2), (33, 61), (33, 247)])
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_keys_and_values_are_stored(
    shape: Shape, types: str, t: int, position: int, device: Any, builder: KernelBuilder
) -> None:
    twin = stored(shape, types, device, builder, t)
    steps = shape.steps(types, twin.at)[:1]
    gpu = twin.run(steps, Header(t, position, slot=1))
    assert_same("rope_store", twin, gpu, 0)


@pytest.mark.parametrize("types", TYPES[:3])
def test_a_batch_may_fill_a_ring(types: str, device: Any, builder: KernelBuilder) -> None:
    """Its first and its last token then share a word of the cache."""
    shape = Shape(1, 1, 32, 32, 32, 32)
    twin = stored(shape, types, device, builder, 32)
    gpu = twin.run(shape.steps(types, twin.at)[:1], Header(32, 45))
    assert_same("rope_store", twin, gpu, 0)


ALL, HALVES, QUANTS, FLOATS = TYPES[:3], TYPES[:1], TYPES[1:2], TYPES[2:3]
VARIANTS = {
    "plain": (PLAIN, ALL),
    "a head each": (Shape(3, 3, 8, 8, 640, 8), HALVES),
    "groups of five": (Shape(5, 1, 64, 64, 640, 8), HALVES),
    "wide groups": (Shape(24, 1, 72, 40, 640, 8), QUANTS),
    "wide heads": (Shape(2, 1, 288, 256, 384, 8), HALVES),
    "latents": (Shape(16, 1, 576, 512, 384, 8), QUANTS + FLOATS),
    "ends of tiles": (Shape(2, 2, 24, 62, 640, 8), ALL),
    "three tiles": (Shape(4, 2, 96, 96, 640, 8), QUANTS),
    "window": (Shape(4, 2, 64, 64, 640, 8, window=100), ALL),
    "window of one": (Shape(4, 2, 64, 64, 640, 8, window=1, has_sinks=1), ALL),
    "ring": (Shape(4, 2, 64, 64, 256, 8, window=100), ALL),
    "chunks": (Shape(4, 2, 64, 64, 640, 8, chunk=192), HALVES),
    "cap": (Shape(4, 2, 64, 64, 640, 8, cap=1.5), HALVES),
    "sinks": (Shape(8, 2, 64, 64, 640, 8, has_sinks=1), HALVES),
    "all": (Shape(5, 1, 64, 64, 640, 8, window=100, chunk=240, cap=1.5, has_sinks=1), ALL),
    "slopes": (Shape(6, 2, 64, 64, 640, 0, has_slopes=1), HALVES),
    "slopes of groups": (Shape(5, 1, 64, 64, 640, 0, window=100, has_slopes=1), QUANTS),
    "mixed": (Shape(8, 2, 64, 64, 640, 8, has_sinks=1), TYPES[3:]),
}
CALLS = ((1, 0), (1, 301), (2, 127), (5, 250), (SPLIT_TOKENS, 3), (33, 0), (33, 261))


@pytest.mark.slow
@pytest.mark.parametrize(("t", "position"), CALLS)
@pytest.mark.parametrize(
    ("shape", "types"),
    [
        pytest.param(shape, types, id=f"{name}-{types}")
        for name, (shape, all_types) in VARIANTS.items()
        for types in all_types
    ],
)
def test_attention(
    shape: Shape, types: str, t: int, position: int, device: Any, builder: KernelBuilder
) -> None:
    attended(shape, types, t, position, device, builder)


def attended(
    shape: Shape, types: str, t: int, position: int, device: Any, builder: KernelBuilder
) -> None:
    """Attend from the tokens at a position to random keys and values of a slot."""
    twin = stored(shape, types, device, builder, t)
    fill(twin, types)
    if types in ("F16.F16", "F32.F32"):
        forget(shape, types, twin, position + t)
    before = twin.view(twin.cpu, "scratch").copy()
    gpu = twin.run(shape.steps(types, twin.at)[1:], Header(t, position, slot=2))
    np.testing.assert_array_equal(twin.view(gpu, "scratch"), before)
    assert_same("attention", twin, gpu, 1e-5, but=("scratch",))


def slots(twin: Twin) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return keys and values of each slot."""
    whole = twin.memory.kv[: twin.ends["kv"]].reshape(twin.n_slots, -1)
    return [(slot[: twin.at["v_cache"]], slot[twin.at["v_cache"] :]) for slot in whole]


def fill(twin: Twin, types: str) -> None:
    """Put numbers into the caches that are not large."""
    rng = np.random.default_rng(5)
    for parts in slots(twin):
        for type_, part in zip(types.split("."), parts, strict=True):
            if type_ == "F32":
                part[:] = rng.standard_normal(part.size // 2).astype(np.float32).view(np.uint16)
            elif type_ == "Q8_0":  # random bytes are quants, and scales are small
                part[:] = rng.integers(0, 0x2C00, part.size)


def forget(shape: Shape, types: str, twin: Twin, end: int) -> None:
    """Let the places behind the last token's hold no numbers, in floats: nothing may use them."""
    nan, dtype = (0x7FC00000, np.uint32) if types == "F32.F32" else (0x7E00, np.uint16)
    tiles = shape.n_head_kv * cache.n_tiles(shape.value_dim)
    for keys, values in slots(twin):
        keys = keys.view(dtype).reshape(shape.n_head_kv, -1, shape.head_dim, cache.LANES)
        values.view(dtype).reshape(tiles, shape.n_ctx, -1)[:, end:] = nan
        for place in range(end, shape.n_ctx):
            keys[:, place // cache.LANES, :, place % cache.LANES] = nan


@pytest.mark.slow
def test_parts_of_a_long_context(device: Any, builder: KernelBuilder) -> None:
    """More spans than parts: some parts are of several."""
    shape = Shape(2, 1, 8, 8, 20480, 8)
    for t, position in ((1, 20000), (5, 9000)):
        attended(shape, "F16.F16", t, position, device, builder)


# -- several sequences -----------------------------------------------------------------------------


@pytest.mark.parametrize("types", ["F16.Q8_0", "F32.F32"])
@pytest.mark.parametrize("n_prompt", [1, 3])
def test_each_sequence_has_its_slot(
    n_prompt: int, types: str, device: Any, builder: KernelBuilder
) -> None:
    sequences = [SequenceTokens(2, 70, 1), SequenceTokens(0, 33, 1), SequenceTokens(1, 5, n_prompt)]
    t = 2 + n_prompt
    twin = stored(PLAIN, types, device, builder, t)
    fill(twin, types)
    header = Header(t, sequences=tuple(sequences))
    gpu = twin.run(PLAIN.steps(types, twin.at), header)
    end = SEQUENCES + SEQUENCE_SIZE * t  # where a program has room for as many sequences
    gpu["n"][:end] = twin.cpu["n"][:end]  # a GPU has a header for each token
    assert_same("attention", twin, gpu, 1e-5, but=("scratch",))
