"""From a kernel's name to the Python function that numba compiles.

The name is a step of ``ops``, with the weight type behind a dot where the step reads weights:
``matmul.Q4_K``. Which inner loops it gets depends on the CPU's instruction set.
"""

from __future__ import annotations

import inspect
from collections import ChainMap
from collections.abc import Callable
from functools import cache

from numba.extending import register_jitable

from gguf_hub.gguf.memory.activations import BLOCKS
from gguf_hub.run.kernels import elementwise, reading, recurrent, routing, steps
from gguf_hub.run.kernels.build.stand_ins import ROWS
from gguf_hub.run.kernels.generic import generic
from gguf_hub.run.kernels.vm import runner
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, CACHED, MEMORY, QUEUE

_PLAIN_STEPS = ChainMap(vars(steps), vars(elementwise), vars(routing), vars(recurrent))


def kernel_function(name: str, isa: str) -> Callable:
    """Return the function of a step for an instruction set.

    Args:
        name: E.g. ``matmul.Q4_K``, ``matmul.Q4_K.rows``, ``rms_norm``, or ``run_program``.
        isa: One of ``cpu.ISAS``.
    """
    if name == "run_program":
        return runner.run_program
    step, _, weight_type = name.partition(".")
    function = _make(step, weight_type, isa)
    parameters = tuple(inspect.signature(function).parameters)
    own = ARGUMENTS[step]
    assert parameters in (MEMORY + own, (*MEMORY, *own, QUEUE)), f"{name}: {parameters}"
    return function


def _make(step: str, weight_type: str, isa: str) -> Callable:
    if step == "get_rows":
        return steps.make_get_rows(generic.DEQUANTIZE[weight_type])
    if step == "get_position_rows":
        return steps.make_get_position_rows(generic.DEQUANTIZE[weight_type])
    if step in ("decode", "encode", "encode_weighted"):
        return _transcoder(step, weight_type, isa)
    if step in ("matmul", "expert_matmul", "head_matmul"):
        return _product(step, weight_type, isa)
    if step in ("quantize_q8_0", "quantize_q8_k"):
        return _quantize(step.removeprefix("quantize_"), isa)
    if step in CACHED:
        return _attention_step(step, weight_type, isa)
    if step == "prefetch_experts":
        from gguf_hub.run.kernels import paging

        return paging.prefetch_experts
    if step == "read_bytes":
        return reading.read_bytes
    return _PLAIN_STEPS[step]


def _quantize(kind: str, isa: str) -> Callable:
    block_size, n_bytes, n_floats = BLOCKS[kind]

    @register_jitable
    def row_bytes(n):
        return n // block_size * n_bytes

    @register_jitable
    def row_floats(n):
        return n // block_size * n_floats

    quantize_row = getattr(_activations(isa), f"quantize_row_{kind}")
    return steps.make_quantize(quantize_row, row_bytes, row_floats)


def _transcoder(step: str, weight_type: str, isa: str) -> Callable:
    from gguf_hub.run.kernels.quantize import encode
    from gguf_hub.run.kernels.simd import lanes

    if isa != "generic":
        from gguf_hub.run.kernels.simd import simd_lanes as lanes
    if step == "encode":
        return encode.make_encode(encode.make_encode_row(weight_type, lanes))
    if step == "encode_weighted":
        encode_row = encode.make_encode_row(weight_type, lanes, is_weighted=True)
        return encode.make_encode_weighted(encode_row)
    dequantize = getattr(lanes, f"dequantize_{weight_type.lower()}", None)
    return encode.make_decode(dequantize or generic.DEQUANTIZE[weight_type])


def _product(step: str, weight_type: str, isa: str) -> Callable:
    """Return a matrix product: by weight tiles, or tiles of floats, unless generic.

    With ``.rows`` behind the type it has the products of one row with one token alone.
    """
    weight_type, _, part = weight_type.partition(".")
    assert part in ("", ROWS), part
    share = _share_of_rows if part else _share_of_product
    return getattr(steps, f"make_{step}")(share(weight_type, isa))


@cache  # numba keeps what it made of a function: kernels of one type share most of theirs
def _share_of_product(weight_type: str, isa: str) -> Callable:
    if isa == "generic":
        return steps.make_row_product(generic_products(generic.DOT[weight_type]))
    from gguf_hub.run.kernels.matmul import (
        coded_tiles,
        float_steps,
        tile_products,
        tile_steps,
        tile_types,
        weight_tiles,
    )

    ops = tile_products.ops_of(isa)
    if weight_type in generic.CODED_TYPES:
        coded = generic.CODED_TYPES[weight_type]
        ops = coded_tiles.ops_of(coded, ops)
        tile_type = coded_tiles.tile_type_of(coded, ops)
    elif weight_type in weight_tiles.WEIGHT_TILES:
        tile_type = weight_tiles.WEIGHT_TILES[weight_type](ops)
    else:
        return float_steps.make_product(weight_type, isa)
    unpack, multiply = tile_types.lanes_of(tile_type, ops)
    return tile_steps.make_product(
        unpack, multiply, _row_products(weight_type, isa), tile_type.block, ops.tokens,
        ops.is_usual,
    )  # fmt: skip


def _share_of_rows(weight_type: str, isa: str) -> Callable:
    """Return a product of rows, with the bits of that by weight tiles."""
    return steps.make_row_product(_row_products(weight_type, isa))


@cache
def _row_products(weight_type: str, isa: str) -> Callable:
    """Return the ``products`` of ``steps.make_rows`` of a type that has weight tiles."""
    from gguf_hub.run.kernels.matmul import coded_rows, one_row, row_ops, x256_rows, x512_rows

    is_512, ops = isa == "avx512vnni", row_ops.ops_of(isa)
    if weight_type in generic.CODED_TYPES:
        lanes_of = coded_rows.lanes_512_of if is_512 else coded_rows.lanes_of
        return one_row.products_of(lanes_of(generic.CODED_TYPES[weight_type], ops))
    if is_512:
        return one_row.products_of(x512_rows.LANES_OF[weight_type])
    return one_row.products_of(x256_rows.LANES_OF[weight_type](ops))


def generic_products(dot: Callable) -> Callable:
    """Return the ``products`` of ``steps.make_rows``, made of a dot product."""

    @register_jitable
    def products(w, o, q, a, f, x, n, y, is_added):
        value = dot(w, o, q, a, f, x, n)
        f[y] = f[y] + value if is_added else value

    return products


def _activations(isa: str):
    if isa == "generic":
        return generic
    from gguf_hub.run.kernels.quantize import simd_activations

    return simd_activations


def _attention_step(step: str, cache_types: str, isa: str) -> Callable:
    """Return a step that writes or reads the cache; its types are written ``F16.Q8_0``."""
    from gguf_hub.run.kernels.attention import attention, attention_simd

    key_type, value_type = cache_types.split(".")
    make = getattr(attention, f"make_{step}")
    return make(attention_simd.keys_of(key_type, isa), attention_simd.values_of(value_type, isa))
