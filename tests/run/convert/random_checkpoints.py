"""Checkpoints of random numbers that are the same everywhere, under transformers' names.

``tools/transformers_logits.py`` lets transformers compute logits of them; the archive
``transformers`` holds these, with each model's configuration and the shapes of its tensors.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

N_VOCAB = 64
TOKENS = tuple((7 * i * i + 3 * i + 5) % N_VOCAB for i in range(24))
POSITIONS = (9, 21, 23)
"""Where the logits are compared: far behind the start of a window of 8."""


def values(name: str, shape: Sequence[int]) -> np.ndarray:
    """Return a tensor's values, ``float32``, made of its name by exact arithmetic."""
    bits = np.random.PCG64([zlib.crc32(name.encode()), 7]).random_raw(int(np.prod(shape)))
    unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    is_norm = len(shape) == 1 and "norm" in name and name.endswith("weight")
    if is_norm or name.endswith("layer_scalar"):
        centre, half = 1.0, 0.3
    elif len(shape) == 1 or name.endswith("bias"):
        centre, half = 0.0, 0.3
    else:
        centre, half = 0.0, 0.25
    return (unit * np.float32(half) + np.float32(centre)).reshape(tuple(shape))


def write(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Path:
    """Write a checkpoint, F32 throughout."""
    folder.mkdir(parents=True, exist_ok=True)
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(values(name, shape).tobytes() for name, shape in shapes.items())
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    return folder
