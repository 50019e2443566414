"""Looking at every block: no scale may be infinite or no number.

One such block turns all that a model says into NaN. llama.cpp looks for it only when asked
(``--check-tensors``).

Source: ggml_validate_row_data in ggml/src/ggml-quants.c and the block structures in
ggml/src/ggml-common.h of ggml at commit c2cdd2b2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguf_hub.gguf.format import TensorInfo
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.layout import TensorTable
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import QuantType
from gguf_hub.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_BYTES = 4 << 20
"""Read at a time: fits the last-level cache, and needs no memory to speak of."""


@dataclass(frozen=True)
class _Scale:
    """A number in each block.

    Attributes:
        offset: Where in the block, in bytes.
        code: Numpy type of its bits.
        exponent: The bits that are all set in an infinity or a NaN.
    """

    offset: int
    code: str
    exponent: int


def _half(offset: int) -> _Scale:
    return _Scale(offset, "u2", 0x7C00)


_FLOATS = {
    QuantType.F32: _Scale(0, "u4", 0x7F800000),
    QuantType.F16: _half(0),
    QuantType.BF16: _Scale(0, "u2", 0x7F80),
    QuantType.F64: _Scale(0, "u8", 0x7FF0000000000000),
}
_AT_START = (
    QuantType.Q4_0, QuantType.Q5_0, QuantType.Q8_0, QuantType.IQ2_XXS, QuantType.IQ2_XS,
    QuantType.IQ2_S, QuantType.IQ3_XXS, QuantType.IQ3_S, QuantType.IQ1_S, QuantType.IQ4_NL,
    QuantType.IQ4_XS, QuantType.Q1_0, QuantType.Q2_0,
)  # fmt: skip
_PAIR_AT_START = (
    QuantType.Q4_1, QuantType.Q5_1, QuantType.Q8_1, QuantType.Q4_K, QuantType.Q5_K,
)  # fmt: skip
SCALES: dict[QuantType, tuple[_Scale, ...]] = {
    **{type: (scale,) for type, scale in _FLOATS.items()},
    **{type: (_half(0),) for type in _AT_START},
    **{type: (_half(0), _half(2)) for type in _PAIR_AT_START},
    QuantType.Q2_K: (_half(80), _half(82)),
    QuantType.Q3_K: (_half(108),),
    QuantType.Q6_K: (_half(208),),
    QuantType.Q8_K: (_Scale(0, "u4", 0x7F800000),),
    QuantType.TQ1_0: (_half(52),),
    QuantType.TQ2_0: (_half(64),),
    # an exponent alone: 0xFF is the NaN of E8M0
    QuantType.MXFP4: (_Scale(0, "u1", 0xFF),),
}
"""Types without a row have no scale that could be wrong: integers, and NVFP4, where 0x7F is 0."""


def check_data(
    path: Path, header: Header, table: TensorTable, issues: Issues, progress: Progress
) -> None:
    """Look at every block of every tensor that lies inside of the file.

    Args:
        path: The file.
        header: Of the file.
        table: Its tensors.
        issues: Takes one problem for each tensor with bad blocks.
        progress: Where to report bytes.
    """
    room = header.size_bytes - header.data_offset
    complete = [t for t in table.tensors.values() if t.offset + t.size_bytes <= room]
    total = sum(info.size_bytes for info in complete)
    order = "<" if header.byte_order == "little" else ">"
    with path.open("rb", buffering=0) as file, progress.task(f"scan {path.name}", total) as task:
        for info in complete:
            file.seek(header.data_offset + info.offset)
            bad = _BadBlocks(info)
            for chunk in _read(file, info):
                bad.look(chunk, order)
                task.advance(chunk.nbytes)
            if bad.count:
                start = header.data_offset + info.offset + bad.first * info.type.type_size
                issues.add("GGUF-DATA-NAN", f"tensor `{shown(info.name)}`", bad.text(), start)


def _read(file: Any, info: TensorInfo) -> Iterator[NDArray[np.uint8]]:
    """Yield a tensor in pieces of whole blocks, always in the same buffer."""
    step = CHUNK_BYTES // info.type.type_size * info.type.type_size
    buffer = np.empty(min(step, info.size_bytes), np.uint8)
    n_left_bytes = info.size_bytes
    while n_left_bytes:
        view = buffer[: min(n_left_bytes, step)]
        got = 0
        while got < len(view):
            more = file.readinto(view[got:])
            if not more:
                # the file got shorter under our eyes; the check of bounds is for the next run
                return
            got += more
        yield view
        n_left_bytes -= len(view)


class _BadBlocks:
    """Counts the blocks of one tensor whose scales are no numbers."""

    def __init__(self, info: TensorInfo) -> None:
        self.info = info
        self.count = 0
        self.first = 0
        self.n_checked = 0

    def look(self, chunk: NDArray[np.uint8], order: str) -> None:
        """Look at a piece of whole blocks."""
        type = self.info.type
        n = len(chunk) // type.type_size
        bad = np.zeros(n, bool)
        for bits, exponent in _bits(chunk, type, n, order):
            bad |= (bits & exponent) == exponent
        n_bad = int(np.count_nonzero(bad))
        if n_bad and not self.count:
            self.first = self.n_checked + int(np.argmax(bad))
        self.count += n_bad
        self.n_checked += n

    def text(self) -> str:
        """Say what was found."""
        what = "weights" if self.info.type in _FLOATS else "blocks"
        more = f"{self.count:,} {what} are" if self.count > 1 else f"1 of its {what} is"
        return f"{more} infinite or no number, the first is {self.first:,}"


def _bits(
    chunk: NDArray[np.uint8], type: QuantType, n: int, order: str
) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield the bits of each scale of ``n`` blocks, and those set in an infinity or a NaN."""
    if type is QuantType.IQ1_M:
        yield _iq1_m_scales(chunk, n, order), 0x7C00
        return
    for scale in SCALES.get(type, ()):
        dtype = np.dtype(order + scale.code)
        bits: NDArray[Any] = np.ndarray((n,), dtype, chunk, scale.offset, (type.type_size,))
        yield bits, scale.exponent


def _iq1_m_scales(chunk: NDArray[np.uint8], n: int, order: str) -> NDArray[np.uint16]:
    """IQ1_M hides its scale in the top four bits of four 16-bit words."""
    words = np.ndarray((n, 4), np.dtype(order + "u2"), chunk, 48, (QuantType.IQ1_M.type_size, 2))
    top = words >> 12
    scales: NDArray[np.uint16] = top[:, 0] | top[:, 1] << 4 | top[:, 2] << 8 | top[:, 3] << 12
    return scales
