"""Computes logits of synthetic models with llama.cpp: the archive ``logits`` of the tests' data.

Run by hand where llama-cpp-python is installed, from the root of the repository:

    python -m tools.llama_cpp_logits tests/data/logits.tar.xz
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from gguf_hub.files import write_atomically
from tests.synth import LOGITS_RECIPES, LOGITS_TOKENS, write_logits_model


def main(target: Path) -> None:
    """Write every recipe's logits, ``float16[n_tokens, n_vocab]``, and its model's SHA-256."""
    archive = io.BytesIO()
    hashes = {}
    with tarfile.open(fileobj=archive, mode="w:xz") as tar, tempfile.TemporaryDirectory() as folder:
        for recipe in LOGITS_RECIPES:
            path = write_logits_model(Path(folder) / f"{recipe}.gguf", recipe)
            hashes[recipe] = hashlib.sha256(path.read_bytes()).hexdigest()
            array = io.BytesIO()
            np.save(array, logits_of(path).astype(np.float16))
            add(tar, f"{recipe}.npy", array.getvalue())
        add(tar, "models.json", json.dumps(hashes, indent=1).encode())
    write_atomically(target, archive.getvalue())


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file of the folder ``logits``."""
    entry = tarfile.TarInfo(f"logits/{name}")
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def logits_of(path: Path) -> np.ndarray:
    """Return llama.cpp's logits behind each token, ``float32[n_tokens, n_vocab]``."""
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, seed=1)
    model.eval(list(LOGITS_TOKENS))
    return np.array(model.scores[: len(LOGITS_TOKENS)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
