"""Integer products of weight tiles with two or three tokens, for CPUs with AVX2 and no more.

``vpmaddubsw`` adds two neighbouring products to 16 bits, which saturate: as many are added there as
surely fit (eight of four-bit weights: 8 x 2 x 15 x 127 = 30,480) before ``vpmaddwd`` multiplies
with their scale. Signed weights leave their sign to the activations.

The instructions are written out, as LLVM makes a tree of such sums, row by row, and to have weights
again for the next token it spills a whole block of them. Here, each is loaded once for all tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gguf_hub.run.kernels.matmul.tile_ops import TileOps, splat_sums, zeros
from gguf_hub.run.kernels.simd.simd_lookup import by_pshufb
from gguf_hub.run.kernels.simd.simd_tiles import Bytes, SumTile, sum_tile_of, vectors_of
from gguf_hub.run.kernels.simd.vectors import i16x16, i32x8, machine_code

_MAX_QUANT = 127
"""The largest activation, and the smallest less its sign."""
_ROWS = 4
"""Vectors of eight rows in a weight tile: two in each of its records."""
_N_REGISTERS = 16


# -- assembly --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """What assembly calls its operands.

    Attributes:
        sums: Registers for each token and vector of rows.
        vectors: The other registers.
        tokens: Pointers to the activations of each token.
        rows: Pointers to the weights of both records.
        scales: Such to their scales, or none.
        totals: Pointer to a vector of sums for each token and vector of rows, then one of ones.
        counter: How often groups are to be multiplied.
    """

    sums: list[list[str]]
    vectors: list[str]
    tokens: list[str]
    rows: list[str]
    scales: list[str]
    totals: str
    counter: str

    def token(self, t: int, k: int) -> str:
        """Return the address of 32 bits number ``k`` of a token."""
        return f"{4 * k}({self.tokens[t]})"

    def row(self, i: int, k: int) -> str:
        """Return the address of 32 bits number ``k`` of a vector of rows."""
        return f"{64 * k + 32 * (i % 2)}({self.rows[i // 2]})"

    def scale(self, i: int) -> str:
        """Return the address of the scales of a vector of rows: ones, if there are none."""
        if not self.scales:
            return f"{32 * _ROWS * len(self.tokens)}({self.totals})"
        return f"{32 * (i % 2)}({self.scales[i // 2]})"

    def each(self) -> Iterator[tuple[int, int, str]]:
        """Yield token, vector of rows and the register of their sums."""
        for i in range(_ROWS):
            for t, of_token in enumerate(self.sums):
                yield t, i, of_token[i]

    def total(self, t: int, i: int) -> str:
        """Return the address of the sums of a token and a vector of rows."""
        return f"{32 * (_ROWS * t + i)}({self.totals})"


_Lines = Iterator[str]
_Text = Callable[[_Names], _Lines]


class _Held:
    """Activations that stay in registers; others are loaded where they are needed."""

    def __init__(self, names: _Names, registers: list[str], into: str) -> None:
        self._names, self._free, self._into = names, registers, into
        self._held: dict[tuple[int, int], str] = {}

    def load(self, ks: range) -> _Lines:
        """Load as many of the activations ``ks`` as there are registers, token after token."""
        wanted = ((t, k) for t in range(len(self._names.tokens)) for k in ks)
        self._held = dict(zip(wanted, self._free, strict=False))
        for (t, k), register in self._held.items():
            yield f"vpbroadcastd {self._names.token(t, k)}, {register}"

    def get(self, t: int, k: int) -> tuple[list[str], str]:
        """Return what loads an activation, perhaps nothing, and its register."""
        if (t, k) in self._held:
            return [], self._held[t, k]
        return [f"vpbroadcastd {self._names.token(t, k)}, {self._into}"], self._into


def _products(
    held: _Held, k: int, weights: str, product: str, sums: list[str], is_first: bool,
    multiply: str, add: str,
) -> _Lines:  # fmt: skip
    """Yield the adding to each token's ``sums`` of its products with ``weights``."""
    for t, total in enumerate(sums):
        load, x = held.get(t, k)
        yield from load
        if is_first:
            yield f"{multiply} {x}, {weights}, {total}"
            continue
        # the last token is the last to need these weights
        into = weights if t == len(sums) - 1 else product
        yield f"{multiply} {x}, {weights}, {into}"
        yield f"{add} {into}, {total}, {total}"


def _each_row(
    names: _Names, ks: range, held: _Held, weights: str, one_row: Callable[[int, int], _Lines]
) -> _Lines:
    """Load number ``k`` of each vector of rows to ``weights``, then yield ``one_row(k, i)``."""
    for k in ks:
        yield from held.load(range(k, k + 1))
        for i in range(_ROWS):
            yield f"vmovdqa {names.row(i, k)}, {weights}"
            yield from one_row(k, i)


def _by_weights(names: _Names, ks: range, multiply: str, add: str) -> _Lines:
    """Yield what sets ``sums`` to the sums of products ``ks``, all rows' after each other."""
    weights, product, *rest = names.vectors
    held = _Held(names, rest, product)

    def one_row(k: int, i: int) -> _Lines:
        """Yield those of vector of rows ``i`` and number ``k``, added to each token's sums."""
        sums = [of_token[i] for of_token in names.sums]
        yield from _products(held, k, weights, product, sums, k == ks[0], multiply, add)

    return _each_row(names, ks, held, weights, one_row)


def _by_rows(names: _Names, ks: range, fit: int) -> _Lines:
    """Yield the adding of products ``ks``, scaled, to totals, row by row, ``fit`` in 16 bits."""
    weights, product, *rest = [*names.vectors, *chain(*names.sums)]
    parts = [ks[at : at + fit] for at in range(0, len(ks), fit)]
    sums = [[rest.pop() for _ in names.tokens] for _ in parts]
    held = _Held(names, rest, product)
    yield from held.load(ks)
    for i in range(_ROWS):
        for part, one in zip(parts, sums, strict=True):
            for k in part:
                yield f"vmovdqa {names.row(i, k)}, {weights}"
                yield from _products(
                    held, k, weights, product, one, k == part[0], "vpmaddubsw", "vpaddw"
                )
        for t, (first, *others) in enumerate(zip(*sums, strict=True)):
            yield f"vpmaddwd {names.scale(i)}, {first}, {first}"
            for other in others:
                yield f"vpmaddwd {names.scale(i)}, {other}, {other}"
                yield f"vpaddd {other}, {first}, {first}"
            yield f"vpaddd {names.total(t, i)}, {first}, {first}"
            yield f"vmovdqa {first}, {names.total(t, i)}"


def _fit_in_16_bits(largest: int) -> int:
    """Return how many times four products a row surely fit, two of them in each 16 bits."""
    return 32767 // (2 * _MAX_QUANT * largest)


def _unsigned(n: int, largest: int) -> _Text:
    """Return what sets ``sums`` to those of ``n`` products of weights from 0 to ``largest``."""
    fit = _fit_in_16_bits(largest)

    def text(names: _Names) -> _Lines:
        """Yield ``fit`` numbers at a time in 16 bits, then ``vpmaddwd`` with scales to 32 bits."""
        for first in range(0, n // 4, fit):
            last = min(first + fit, n // 4)
            yield from _by_weights(names, range(first, last), "vpmaddubsw", "vpaddw")
            for t, i, sums in names.each():
                yield f"vpmaddwd {names.scale(i)}, {sums}, {sums}"
                if first > 0:
                    yield f"vpaddd {names.total(t, i)}, {sums}, {sums}"
                if last < n // 4:
                    yield f"vmovdqa {sums}, {names.total(t, i)}"

    return text


def _signed(n: int) -> _Text:
    """Return what sets ``sums`` to those of ``n`` products of weights from -128 to 127."""

    def text(names: _Names) -> _Lines:
        """Yield each row's ``vpabsb``, and for each token ``vpsignb`` and ``vpmaddubsw``."""
        weights, magnitude, product, *rest = names.vectors
        held = _Held(names, rest, product)

        def one_row(k: int, i: int) -> _Lines:
            """Yield four products a row: magnitudes times activations with the weights' signs."""
            yield f"vpabsb {weights}, {magnitude}"
            for t, of_token in enumerate(names.sums):
                load, x = held.get(t, k)
                yield from load
                yield f"vpsignb {weights}, {x}, {product}"
                yield f"vpmaddubsw {product}, {magnitude}, {product}"
                into = product if k else of_token[i]
                yield f"vpmaddwd {names.scale(i)}, {product}, {into}"
                if k:
                    yield f"vpaddd {product}, {of_token[i]}, {of_token[i]}"

        return _each_row(names, range(n // 4), held, weights, one_row)

    return text


def _pairs(n: int) -> _Text:
    """Return what sets ``sums`` to those of ``n`` products of pairs of 16-bit numbers."""
    return lambda names: _by_weights(names, range(n), "vpmaddwd", "vpaddd")


def _to_totals(text: _Text) -> _Text:
    """Return the adding to totals of what ``text`` sets ``sums`` to."""

    def with_totals(names: _Names) -> _Lines:
        """Yield ``text``, then ``vpaddd`` of each token's sums to the totals in memory."""
        yield from text(names)
        for t, i, sums in names.each():
            yield f"vpaddd {names.total(t, i)}, {sums}, {sums}"
            yield f"vmovdqa {sums}, {names.total(t, i)}"

    return with_totals


def _unsigned_to_totals(group: int, largest: int) -> _Text:
    """Return the adding to totals of a group of ``_unsigned`` products."""
    fit = _fit_in_16_bits(largest)
    if fit >= group // 4:
        return _to_totals(_unsigned(group, largest))

    def text(names: _Names) -> _Lines:
        """Yield sixteen products a row at a time, row by row, added to totals."""
        for first in range(0, group // 4, 4):
            yield from _by_rows(names, range(first, first + 4), fit)

    return text


def _repeated(text: _Text, group: int) -> _Text:
    """Return ``text`` for ``counter`` groups of ``group`` weights, which follow each other."""

    def loop(names: _Names) -> _Lines:
        """Yield ``text`` between a label and ``jne``; pointers move on by a group each time."""
        steps = [(names.tokens, group), (names.rows, 16 * group), (names.scales, 64)]
        yield "1:"
        yield from text(names)
        for pointers, size_bytes in steps:
            yield from (f"addq $${size_bytes}, {pointer}" for pointer in pointers)
        yield f"decq {names.counter}"
        yield "jne 1b"

    return loop


def _insert(builder, text: _Text, tokens, rows, scales, totals, n_groups: int):
    """Insert assembly; return ``sums``. Pointers are as in ``_Names``."""
    n_sums = _ROWS * len(tokens)
    counter = ir.Constant(ir.IntType(64), n_groups)
    scalars = [*tokens, *rows, *scales, totals, counter]
    operands = iter([f"${i}" for i in range(_N_REGISTERS + len(scalars))])
    names = _Names(
        [[*islice(operands, _ROWS)] for _ in tokens],
        *([*islice(operands, n)] for n in (_N_REGISTERS - n_sums, len(tokens), 2, len(scales))),
        *operands,
    )
    # scalars change in place: each is an output that begins as an input
    results = [i32x8.ir()] * _N_REGISTERS + [scalar.type for scalar in scalars]
    signature = ir.FunctionType(ir.LiteralStructType(results), [scalar.type for scalar in scalars])
    constraints = ["=&x"] * _N_REGISTERS + ["=&r"] * len(scalars)
    constraints += [str(_N_REGISTERS + i) for i in range(len(scalars))] + ["~{memory}", "~{flags}"]
    found = builder.asm(signature, "\n".join(text(names)), ",".join(constraints), scalars, True)
    return [builder.extract_value(found, i) for i in range(n_sums)]


# -- operations ------------------------------------------------------------------------------------


def _room(builder, tile: SumTile):
    """Return a pointer to room for a sum tile, behind which there are ones, and one to bytes."""
    room = cgutils.alloca_once(builder, ir.ArrayType(i16x16.ir(), tile.ir().count + 1))
    room.align = 32
    last = [ir.Constant(ir.IntType(32), n) for n in (0, tile.ir().count)]
    builder.store(ir.Constant(i16x16.ir(), [1] * 16), builder.gep(room, last))
    pointers = tile.ir().as_pointer(), ir.IntType(8).as_pointer()
    return [builder.bitcast(room, pointer) for pointer in pointers]


def _adder(text: _Text):
    """Return a compiled function that adds products to a tile; see ``TileOps.products``."""
    int64 = types.int64

    @intrinsic
    def add(typingctx, total, q, packed, record, starts, offset):
        """Return ``total`` plus the products of weights at ``packed`` with tokens' activations."""

        def codegen(context, builder, sig, args):
            """Emit the assembly, then ``add`` of <8 x i32> for each token and vector of rows."""
            tile, array, packed, record, starts, offset = args
            memory = Bytes(context, builder, sig.args[1], array)
            rows = [memory.at(packed), memory.at(packed, record)]
            tokens = _tokens(builder, memory, starts, offset)
            sums = _insert(builder, text, tokens, rows, [], _room(builder, total)[1], 1)
            pairs = zip(vectors_of(builder, tile), sums, strict=True)
            return sum_tile_of(builder, [builder.add(a, b) for a, b in pairs])

        return total(total, q, int64, int64, starts, int64), codegen

    return add


def _scaled_adder(text: _Text, group: int, groups: int):
    """Return a compiled function that adds scaled products to a tile; see ``TileOps.scaled``.

    ``text`` adds those of a group to totals.
    """
    int64 = types.int64
    text = _repeated(text, group)

    @intrinsic
    def add(typingctx, total, q, packed, scales, record, starts, offset):
        """Return ``total`` plus the products of ``groups`` groups, times their scales."""

        def codegen(context, builder, sig, args):
            """Emit the assembly around a copy of the tile on the stack, which it adds to."""
            tile, array, packed, scales, record, starts, offset = args
            memory = Bytes(context, builder, sig.args[1], array)
            rows, factors = ([memory.at(at), memory.at(at, record)] for at in (packed, scales))
            tokens = _tokens(builder, memory, starts, offset)
            totals, room = _room(builder, total)
            builder.store(tile, totals)
            _insert(builder, text, tokens, rows, factors, room, groups)
            return builder.load(totals)

        return total(total, q, int64, int64, int64, starts, int64), codegen

    return add


def _tokens(builder, memory: Bytes, starts, offset):
    """Return the addresses of tokens' activations."""
    starts = [builder.extract_value(starts, t) for t in range(starts.type.count)]
    return [memory.at(start, offset) for start in starts]


def avx2_ops() -> TileOps:
    """Return the operations."""

    def products(n: int, largest: int):
        """Return ``TileOps.products``: added in 16 bits as long as ``largest`` lets them fit."""
        return _adder(_unsigned(n, largest))

    def scaled(group: int, groups: int, largest: int):
        """Return ``TileOps.scaled``: a group's 16-bit sums meet their scale in ``vpmaddwd``."""
        return _scaled_adder(_unsigned_to_totals(group, largest), group, groups)

    def signed(n: int, largest: int):
        """Return ``TileOps.signed``; any two products fit, so ``largest`` does not count."""
        return _adder(_signed(n))

    def signed_scaled(group: int, groups: int, largest: int):
        """Return ``TileOps.signed_scaled``; ``largest`` does not count, as in ``signed``."""
        return _scaled_adder(_to_totals(_signed(group)), group, groups)

    def pairs(n: int):
        """Return ``TileOps.pairs``, by ``vpmaddwd``."""
        return _adder(_pairs(n))

    @machine_code
    def is_usual(n_left):
        """Return whether two tokens pass: if an even number is left; else three do."""
        return n_left % 2 == 0  # the activations of a third one do not stay in registers

    @machine_code
    def scale(x):
        """Return the 16-bit scale of each row twice, as ``vpmaddwd`` takes it."""
        return (x & 0xFFFF) | (x << 16)

    return TileOps(
        (2, 3), is_usual, False, zeros("i32", 8), zeros("f32", 8), splat_sums(8),
        scale, products, scaled, signed, signed_scaled, by_pshufb(32), pairs,
    )  # fmt: skip
