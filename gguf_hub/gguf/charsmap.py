"""``tokenizer.ggml.precompiled_charsmap``: what SentencePiece replaces in a text before all else.

Four bytes give the size of an array of 32-bit units, a double array that leads from the bytes of a
text to an offset into what follows: replacements, each ended by a zero byte.

A unit holds its own label (bits 0 to 7), whether a text may end here (bit 8), and the distance to
its children (bits 10 to 30, times 256 where bit 9 is set); a child is at ``distance ^ label`` from
it. The unit of an end has bit 31 and the offset instead.

Source: Kanda et al. 2017, XOR-compressed compact double array; ``xcda_array_view`` and
``normalize_prefix`` in src/llama-vocab.cpp of llama.cpp.
"""

from __future__ import annotations

import numpy as np

from gguf_hub.errors import TokenizerError

_KEY = "`tokenizer.ggml.precompiled_charsmap`"
_SIZE_BYTES = 4
_VALUE, _LABEL = 0x7FFFFFFF, 0x800000FF


def charsmap_problem(data: bytes) -> str:
    """Return why a map cannot be used; empty where it can, or where there is none."""
    if not data:
        return ""
    if len(data) < _SIZE_BYTES:
        return f"expected at least {_SIZE_BYTES} bytes, found {len(data)}"
    size = _array_size(data)
    if not 0 < size < len(data) - _SIZE_BYTES or size % 4:
        most = len(data) - _SIZE_BYTES - 1
        return f"expected an array of 4 to {most:,} bytes, in fours, found {size:,}"
    return "" if data[-1] == 0 else "the last replacement does not end in a zero byte"


def _array_size(data: bytes) -> int:
    return int.from_bytes(data[:_SIZE_BYTES], "little")


class Charsmap:
    """Looks up replacements.

    Args:
        data: Without ``charsmap_problem``.
    """

    def __init__(self, data: bytes) -> None:
        end = _SIZE_BYTES + _array_size(data) if data else 0
        units = np.frombuffer(data[_SIZE_BYTES:end], "<u4")
        self._units: list[int] = units.tolist()
        self._distances: list[int] = ((units >> 10) << ((units & 0x200) >> 6)).tolist()
        self._replacements = data[end:]

    def find(self, text: bytes, start: int) -> tuple[int, bytes]:
        """Return the length of the longest key at a place of a text, and what replaces it.

        The length is 0 where there is none.

        Raises:
            TokenizerError: The map leads out of itself.
        """
        if not self._units:
            return 0, b""
        try:
            length, offset = self._walk(text, start)
            end = self._replacements.index(0, offset) if length else 0
        except (IndexError, ValueError) as exc:
            hint = "the file is damaged or badly converted; download it again"
            raise TokenizerError(f"key {_KEY} leads out of itself", hint=hint) from exc
        return length, self._replacements[offset:end]

    def _walk(self, text: bytes, start: int) -> tuple[int, int]:
        """Return the length of the longest key and the offset of its replacement."""
        units, distances = self._units, self._distances
        length, offset = 0, 0
        at = distances[0]
        for n in range(start, len(text)):
            label = text[n]
            at ^= label
            unit = units[at]
            if unit & _LABEL != label or label == 0:
                break
            at ^= distances[at]
            if unit & 0x100:
                length, offset = n - start + 1, units[at] & _VALUE
        return length, offset
