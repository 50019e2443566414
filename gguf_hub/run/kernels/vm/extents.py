"""What steps read and write, and the proof that all of it lies inside of their memory.

Kernels check no bound: offsets, sizes and strides are arguments, and a wrong one would read or
write whatever lies there. ``prove`` walks a program before its first run, without a kernel. For
each step a function below says which elements of which array it can touch, given the largest
numbers that a call may put into the header. All of these must lie inside of one block: an area of
the layout, or a file. What steps use as indices (token ids, expert tables, sorted pairs) must lie
where no step writes anything else.

What a call puts into the header is for the caller to hold to ``Bounds``. Prefetches and advice are
left out: they read nothing, and may point anywhere.

Plain Python. The steps between matrix products are in ``graph_extents``, those with
states in ``state_extents``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import ProgramError
from gguf_hub.gguf.memory.activations import (
    ACTIVATION_OF,
    BLOCKS,
    ActivationKind,
    activation_bytes,
    activation_floats,
)
from gguf_hub.gguf.memory.scratch import partial_floats, tile_bytes
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.quantize.encode_memory import QUANTS, SCRATCH
from gguf_hub.run.kernels.vm.bounds import (
    Block,
    Bounds,
    Call,
    Extent,
    Extents,
    Span,
    require,
)
from gguf_hub.run.kernels.vm.graph_extents import GRAPH_EXTENTS
from gguf_hub.run.kernels.vm.ops import (
    ARGUMENTS,
    CHUNK_BAD_ROW,
    CHUNK_ROWS,
    N_OUTPUTS,
    N_PAIRS,
    Step,
)
from gguf_hub.run.kernels.vm.state_extents import STATE_EXTENTS

__all__ = ["Bounds", "Call", "Extent", "Span", "extents_of", "prove"]


def prove(
    steps: Sequence[Step],
    blocks: Mapping[str, Sequence[Block]],
    files: Sequence[NDArray[np.uint8]],
    bounds: Bounds,
) -> None:
    """Return if no step of a program can leave its memory.

    Args:
        steps: The program.
        blocks: The areas of ``n``, behind the header, ``f``, ``q`` and ``kv``, in order.
        files: The bytes of each file.
        bounds: The most that a call may bring.

    Raises:
        ProgramError: Names the step, the array and the elements.
    """
    uses = set[tuple[int, int, str]]()
    blocks = dict(blocks)
    for i, step in enumerate(steps):
        try:
            require(0 <= step.file < len(files), "no file {}", step.file)
            blocks["w"] = [(0, files[step.file].size)]
            for extent in extents_of(step, Call(step.types, bounds, bounds.span)):
                array, first, size, use = extent
                if size <= 0:
                    continue
                areas = blocks.get(array, ())
                at = bisect_right(areas, first, key=itemgetter(0)) - 1
                if at < 0 or first + size > areas[at][1]:
                    raise ProgramError(_outside(extent, areas, at))
                if array == "n":
                    uses.add((first, size, use))
        except ProgramError as exc:
            raise ProgramError(f"step {i}, {step.kernel}: {exc}") from None
    _require_disjoint(uses)


def extents_of(step: Step, call: Call) -> Extents:
    """Yield all that a step can touch.

    Raises:
        ProgramError: Arguments that cannot be, whatever the memory.
    """
    name, arguments = step.name, step.arguments
    require(len(arguments) == len(ARGUMENTS[name]), "wrong number of arguments")
    require(min(arguments) >= 0, "an argument is negative: {}", arguments)
    return _EXTENTS[name](call, *arguments)


def _outside(extent: Extent, blocks: Sequence[Block], at: int) -> str:
    array, first, size, use = extent
    inside = f"the block [{blocks[at][0]}, {blocks[at][1]})" if at >= 0 else "every block"
    what = f"{array}[{first}:{first + size}]" + (f" ({use})" if use else "")
    return f"{what} is not inside of {inside}"


def _require_disjoint(uses: set[tuple[int, int, str]]) -> None:
    """Raise where elements of ``n`` mean two things: one step would overwrite another's indices."""
    end, before = 0, ""
    for first, size, use in sorted(uses):
        if first < end and use != before:
            raise ProgramError(f"n[{first}:{end}] is used as {before} and as {use}")
        if first + size > end:
            end, before = first + size, use


# -- sizes that several steps share ----------------------------------------------------------------


def _rows(count: int, stride: int, width: int) -> int:
    """Return the elements from the first of ``count`` rows to the end of the last one."""
    return stride * (count - 1) + width if count > 0 else 0


def _weight_bytes(type_: str, n_in: int) -> int:
    weight = QuantType[type_]
    require(n_in % weight.block_size == 0, "{} weights do not fill blocks of {}", n_in, type_)
    return n_in // weight.block_size * weight.type_size


def _product(
    call: Call, n_in: int, n_out: int, n_pairs: int, n_rows: int, n_sums: int,
    xq: int, xq_stride: int, xf: int, xf_stride: int, y: int, y_stride: int,
    packed: int, packed_stride: int, partial: int, partial_stride: int,
) -> Extents:  # fmt: skip
    """Yield what products touch besides the matrix.

    There are ``n_pairs`` rows of results and ``n_rows`` of activations, at most ``n_sums`` of which
    meet one matrix; the other arguments are the step's.
    """
    kind, threads = ACTIVATION_OF[QuantType[call.type]], call.bounds.n_threads
    if kind != "f32":  # products of floats leave ``q`` alone
        yield Extent("q", xq, _rows(n_rows, xq_stride, activation_bytes(kind, n_in)))
    yield Extent("f", xf, _rows(n_rows, xf_stride, activation_floats(kind, n_in)))
    yield Extent("f", y, _rows(n_pairs, y_stride, n_out))
    yield Extent("q", packed, _rows(threads, packed_stride, tile_bytes(n_in)))
    yield Extent("f", partial, _rows(threads, partial_stride, partial_floats(n_sums)))


# -- steps ----------------------------------------------------------------------------------------


def _get_rows(call: Call, w0: int, row_bytes: int, n_in: int, ids: int, y: int) -> Extents:
    tokens = call.span.n_tokens
    yield Extent("n", ids, tokens, "token ids")
    yield Extent("w", w0, _rows(call.bounds.n_vocab, row_bytes, _weight_bytes(call.type, n_in)))
    yield Extent("f", y, n_in * tokens)


def _get_position_rows(
    call: Call, w0: int, row_bytes: int, n_in: int, n_rows: int, y: int
) -> Extents:
    require(call.span.end <= n_rows, "position {} of {}", call.span.end - 1, n_rows)
    yield call.sequences()
    yield Extent("w", w0, _rows(n_rows, row_bytes, _weight_bytes(call.type, n_in)))
    yield Extent("f", y, n_in * call.span.n_tokens)


def _copy_rows(call: Call, x: int, width: int, rows: int, y: int, count: int) -> Extents:
    n_rows = call.count(count)
    yield Extent("n", rows, n_rows, "rows")
    yield Extent("f", x, width * call.span.n_tokens)
    yield Extent("f", y, width * n_rows)


def _quantize(kind: ActivationKind) -> Callable[..., Extents]:
    def extents(
        call: Call, x: int, width: int, xq: int, xf: int, count: int, per_row: int
    ) -> Extents:
        n_rows, block = call.count(count) * per_row, BLOCKS[kind][0]
        require(width % block == 0, "{} values do not fill blocks of {}", width, block)
        yield Extent("f", x, width * n_rows)
        yield Extent("q", xq, activation_bytes(kind, width) * n_rows)
        yield Extent("f", xf, activation_floats(kind, width) * n_rows)

    return extents


def _matmul(
    call: Call, w0: int, row_bytes: int, n_in: int, n_out: int, xq: int, xq_stride: int, xf: int,
    xf_stride: int, y: int, y_stride: int, is_added: int, count: int, *scratch: int,
) -> Extents:  # fmt: skip
    n_rows = call.count(count)
    yield Extent("w", w0, _rows(n_out, row_bytes, _weight_bytes(call.type, n_in)))
    yield from _product(
        call, n_in, n_out, n_rows, n_rows, n_rows, xq, xq_stride, xf, xf_stride, y, y_stride,
        *scratch,
    )  # fmt: skip


def _head_matmul(
    call: Call, w0: int, head_bytes: int, n_head: int, row_bytes: int, n_in: int, n_out: int,
    xq: int, xq_stride: int, xq_step: int, xf: int, xf_stride: int, xf_step: int,
    y: int, y_stride: int, y_step: int, count: int,
    packed: int, packed_stride: int, partial: int, partial_stride: int,
) -> Extents:  # fmt: skip
    n_rows, threads = call.count(count), call.bounds.n_threads
    kind = ACTIVATION_OF[QuantType[call.type]]
    matrix = _rows(n_out, row_bytes, _weight_bytes(call.type, n_in))

    def all_heads(step: int, size: int) -> int:
        return _rows(n_head, step, size)

    yield Extent("w", w0, all_heads(head_bytes, matrix))
    if kind != "f32":
        size = _rows(n_rows, xq_stride, activation_bytes(kind, n_in))
        yield Extent("q", xq, all_heads(xq_step, size))
    size = _rows(n_rows, xf_stride, activation_floats(kind, n_in))
    yield Extent("f", xf, all_heads(xf_step, size))
    yield Extent("f", y, all_heads(y_step, _rows(n_rows, y_stride, n_out)))
    yield Extent("q", packed, _rows(threads, packed_stride, tile_bytes(n_in)))
    yield Extent("f", partial, _rows(threads, partial_stride, partial_floats(n_rows)))


def _expert_matmul(
    call: Call, experts: int, n_expert: int, row_bytes: int, n_in: int, n_out: int,
    expert_starts: int, assignments: int, pairs_per_x: int, xq: int, xq_stride: int, xf: int,
    xf_stride: int, y: int, y_stride: int, *scratch: int,
) -> Extents:  # fmt: skip
    n_pairs = call.count(N_PAIRS)
    require(pairs_per_x > 0, "no pairs for a row of activations")
    yield from _expert_table(call, experts, n_expert, expert_starts)
    yield Extent("n", assignments, n_pairs, "assignments")
    size = _rows(n_out, row_bytes, _weight_bytes(call.type, n_in))
    for offset in call.bounds.tables[experts][:n_expert]:
        if offset:
            yield Extent("w", offset, size)
    n_sums = max(call.span.n_tokens, call.count(N_OUTPUTS))  # no token chooses an expert twice
    yield from _product(
        call, n_in, n_out, n_pairs, -(-n_pairs // pairs_per_x), n_sums, xq, xq_stride, xf,
        xf_stride, y, y_stride, *scratch,
    )  # fmt: skip


def _expert_table(call: Call, experts: int, n_expert: int, expert_starts: int) -> Extents:
    table = call.bounds.tables.get(experts, ())
    require(len(table) >= n_expert, "n[{}] is not a table of {} experts", experts, n_expert)
    yield Extent("n", experts, n_expert, "experts")
    yield Extent("n", expert_starts, n_expert + 1, "expert starts")


def _prefetch_experts(call: Call, experts: int, n_expert: int, size: int, starts: int) -> Extents:
    return _expert_table(call, experts, n_expert, starts)


def _thread_rows(call: Call, first: int, rows: int) -> int:
    """Return the most rows of a slice that a thread computes (see ``encode``)."""
    slice_ = min(rows, call.count(CHUNK_ROWS) - first)
    return max(0, -(-slice_ // call.bounds.n_threads))


def _decode(
    call: Call, first: int, rows: int, row_bytes: int, n_in: int, x: int, x_stride: int,
    largest: int,
) -> Extents:  # fmt: skip
    # the file's bytes begin at an offset in the header, which the caller holds to the file
    threads = call.bounds.n_threads
    require(_weight_bytes(call.type, n_in) <= row_bytes, "rows overlap")
    yield Extent("n", CHUNK_BAD_ROW, threads, "rows that cannot be stored")
    yield Extent("f", x, _rows(threads, x_stride, n_in * _thread_rows(call, first, rows)))


def _encode(
    call: Call, first: int, rows: int, row_bytes: int, n_in: int, x: int, x_stride: int,
    scratch: int,
) -> Extents:  # fmt: skip
    threads, end = call.bounds.n_threads, min(first + rows, call.count(CHUNK_ROWS))
    yield Extent("w", row_bytes * first, _rows(end - first, row_bytes,
                                               _weight_bytes(call.type, n_in)))  # fmt: skip
    yield Extent("f", x, _rows(threads, x_stride, n_in * _thread_rows(call, first, rows)))
    yield Extent("f", scratch, SCRATCH * threads)
    yield Extent("q", 0, QUANTS * threads)


def _encode_weighted(call: Call, *arguments: int) -> Extents:
    *shared, importance = arguments
    yield from _encode(call, *shared)
    yield Extent("f", importance, shared[3])


def _read_bytes(call: Call, first: int, size: int, results: int) -> Extents:
    yield Extent("w", first, size)
    yield Extent("n", results, call.bounds.n_threads, "checksums")


_EXTENTS: dict[str, Callable[..., Extents]] = {
    **GRAPH_EXTENTS,
    **STATE_EXTENTS,
    "get_rows": _get_rows,
    "get_position_rows": _get_position_rows,
    "copy_rows": _copy_rows,
    "quantize_q8_0": _quantize("q8_0"),
    "quantize_q8_k": _quantize("q8_k"),
    "matmul": _matmul,
    "head_matmul": _head_matmul,
    "prefetch_experts": _prefetch_experts,
    "expert_matmul": _expert_matmul,
    "decode": _decode,
    "encode": _encode,
    "encode_weighted": _encode_weighted,
    "read_bytes": _read_bytes,
}
