"""Maps of ``tokenizer.ggml.precompiled_charsmap``, made from rules."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import count

_END, _VALUE = 1 << 8, 1 << 31


class _DoubleArray:
    """Units as ``gguf/charsmap.py`` describes them."""

    def __init__(self) -> None:
        self.units = {0: 0}
        self._bases: set[int] = set()

    def add(self, at: int, values: Mapping[bytes, int]) -> None:
        """Write what follows the unit at a place: the rest of each key, and its value."""
        labels = {key[0] for key in values if key}
        base = self._free_base({*labels, 0} if b"" in values else labels)
        self.units[at] |= (at ^ base) << 10
        if b"" in values:
            self.units[at] |= _END
            self.units[base] = _VALUE | values[b""]
        for label in sorted(labels):
            self.units[base ^ label] = label
        for label in sorted(labels):
            self.add(base ^ label, {k[1:]: v for k, v in values.items() if k[:1] == bytes([label])})

    def _free_base(self, labels: set[int]) -> int:
        """Return where no unit is in the way of these children, and no other one's children are."""
        base = next(
            base
            for base in count(1)
            if base not in self._bases and all(base ^ label not in self.units for label in labels)
        )
        self._bases.add(base)
        return base

    def data(self) -> bytes:
        size = (max(self.units) // 256 + 1) * 256  # so that no label leads out of the array
        units = [self.units.get(i, 0) for i in range(size)]
        return struct.pack(f"<{len(units)}I", *units)


def charsmap(rules: Mapping[str, str]) -> bytes:
    """Return the map that replaces each key by its value."""
    texts, values = b"", {}
    for key, value in rules.items():
        values[key.encode()] = len(texts)
        texts += value.encode() + b"\0"
    array = _DoubleArray()
    array.add(0, values)
    data = array.data()
    return struct.pack("<I", len(data)) + data + texts
