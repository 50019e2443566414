"""Numbers of tensors that are not quantised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.shards import Gguf
from gguf_hub.gguf.types import QuantType

FLOAT_TYPES = (QuantType.F32, QuantType.F16, QuantType.BF16)


def float_tensor(file: Gguf, name: str) -> NDArray[np.float32]:
    """Return the numbers of a tensor of F32, F16 or BF16, one row after another."""
    raw, type_ = file.tensor_bytes(name), file.tensors[name].type
    if type_ == QuantType.F32:
        return raw.view(np.float32)
    if type_ == QuantType.BF16:
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.float16).astype(np.float32)
