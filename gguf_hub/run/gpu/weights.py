"""The weights on a GPU: sent once, and kept while another placement is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import GpuMemoryError
from gguf_hub.run.gpu import layouts
from gguf_hub.run.gpu.device import Device, Slice
from gguf_hub.run.gpu.kernels import WeightPart


class WeightStore:
    """Sends parts of a file to one GPU.

    Args:
        device: The GPU.
        file: Bytes of the model.
        release: ``(first byte, bytes)``: called for what was sent and need not stay in memory.
        on_sent: ``(bytes)``: called for what was sent.
    """

    def __init__(
        self,
        device: Device,
        file: NDArray[np.uint8],
        release: Callable[[int, int], None] = lambda first, size: None,
        on_sent: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.device = device
        self._file, self._release, self._on_sent = file, release, on_sent
        self._sent: dict[WeightPart, Slice] = {}
        self._wanted: set[WeightPart] = set()

    @property
    def size_bytes(self) -> int:
        """Bytes that the weights take there."""
        return sum(each.size for each in self._sent.values())

    def begin(self) -> None:
        """Forget what is wanted: parts that nobody asks for from now on make room when it lacks."""
        self._wanted.clear()

    def get(self, part: WeightPart) -> Slice:
        """Return where a part lies, sent if it is not there yet.

        Raises:
            GpuMemoryError: The GPU has no room for it.
        """
        self._wanted.add(part)
        if part not in self._sent:
            size = layouts.size_bytes(part)
            self._sent[part] = Slice(self._allocate(size), 0, -(-size // 16) * 16)
            self._send(part)
        return self._sent[part]

    def close(self) -> None:
        """Free the weights, and the GPU."""
        self._free(self._sent)
        self.device.close()

    def _allocate(self, size: int) -> object:
        try:
            return self.device.buffer(size)
        except GpuMemoryError:
            self._free(self._sent.keys() - self._wanted)
            return self.device.buffer(size)

    def _send(self, part: WeightPart) -> None:
        buffer = self._sent[part].buffer
        try:
            for offset, words in layouts.pack(part, self._file):
                self.device.write(buffer, offset, words)
                self._on_sent(words.nbytes)
        except BaseException:
            self._free([part])
            raise
        size = part.type.row_bytes(part.n_in) * part.n_out
        for offset in part.offsets:
            self._release(offset, size)

    def _free(self, parts: Iterable[WeightPart]) -> None:
        for part in list(parts):
            self.device.free(self._sent.pop(part).buffer)
