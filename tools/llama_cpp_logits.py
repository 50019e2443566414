"""Computes logits of synthetic models with llama.cpp: the archives ``logits`` and ``arch-logits``.

And the vectors of encoders, the archive ``encoder-vectors``. Run by hand where llama-cpp-python is
installed, from the root of the repository:

    python -m tools.llama_cpp_logits tests/data/logits.tar.xz tests/data/arch-logits.tar.xz \\
        tests/data/encoder-vectors.tar.xz
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.files import write_atomically
from tests.arch_models import KEPT, N_CTX, POSITIONS, TOKENS, write_arch_model
from tests.arch_recipes import RECIPES
from tests.encoder_recipes import ENCODERS, VECTOR_POSITIONS
from tests.synth import LOGITS_RECIPES, LOGITS_TOKENS, write_logits_model

F32, F16 = 0, 1
"""ggml's numbers of these types."""
_GRID = 2.0**-16
"""Logits of architectures are rounded to multiples: a fifth less to store, 8e-6 off at most."""


def main(target: Path, arch_target: Path, encoder_target: Path) -> None:
    """Write all archives."""
    write_quant_logits(target)
    write_arch_logits(arch_target)
    write_encoder_vectors(encoder_target)


def write_quant_logits(target: Path) -> None:
    """Write every quant's logits, ``float16[n_tokens, n_vocab]``, and its model's SHA-256.

    ``exact.npy`` has those of the last tokens with an F32 cache, ``float32[recipe, 2, n_vocab]``.
    """
    files, hashes, exact = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in LOGITS_RECIPES:
            path = write_logits_model(Path(folder) / f"{recipe}.gguf", recipe)
            hashes[recipe] = sha256(path)
            files[f"{recipe}.npy"] = npy(logits_of(path, LOGITS_TOKENS, F16).astype(np.float16))
            exact.append(logits_of(path, LOGITS_TOKENS, F32)[-2:])
    files["exact.npy"] = npy(np.array(exact))
    files["models.json"] = json.dumps(hashes, indent=1).encode()
    write_archive(target, "logits", files)


def write_arch_logits(target: Path) -> None:
    """Write logits of every architecture, ``float32[n_positions, n_vocab / 2]`` (``KEPT``).

    ``models.json`` has each model's SHA-256, and ``f16``: the most by which a K/V cache of halves
    changes these logits.
    """
    found, models = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in RECIPES:
            path = write_arch_model(Path(folder) / "model.gguf", name)
            exact, halves = (
                logits_of(path, TOKENS, cache)[list(POSITIONS)] for cache in (F32, F16)
            )
            found.append((np.round(exact[:, KEPT] / _GRID) * _GRID).astype(np.float32))
            difference = float(np.abs(halves - exact).max())
            models[name] = {"sha256": sha256(path), "f16": difference}
            print(f"{name:18} {exact.std():8.3f} {difference:.1e}", file=sys.stderr)
    files = {"logits.npy": npy(np.array(found)), "models.json": json.dumps(models).encode()}
    write_archive(target, "arch-logits", files)


def write_encoder_vectors(target: Path) -> None:
    """Write what every encoder makes of some tokens, ``float32[n_positions, n_embd]``.

    ``models.json`` has each model's SHA-256.
    """
    found, hashes = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ENCODERS:
            path = write_arch_model(Path(folder) / "model.gguf", name)
            found.append(vectors_of(path, TOKENS)[list(VECTOR_POSITIONS)])
            hashes[name] = sha256(path)
            print(f"{name:18} {found[-1].std():8.3f}", file=sys.stderr)
    files = {"vectors.npy": npy(np.array(found)), "models.json": json.dumps(hashes).encode()}
    write_archive(target, "encoder-vectors", files)


def write_archive(target: Path, folder: str, files: dict[str, bytes]) -> None:
    """Write an archive of a folder's files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    write_atomically(target, archive.getvalue())


def npy(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a ``.npy`` file."""
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def logits_of(
    path: Path, tokens: Sequence[int], cache_type: int, adapter: Path | None = None,
    scale: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """Return llama.cpp's logits behind each token, ``float32[n_tokens, n_vocab]``.

    One thread, no flash attention; keys and values are kept as ``cache_type`` says.

    Args:
        path: The model.
        tokens: Token ids.
        cache_type: ``F32`` or ``F16``.
        adapter: A LoRA adapter that is applied.
        scale: Of the adapter.

    Raises:
        RuntimeError: llama.cpp refuses a file.
    """
    import llama_cpp

    with computed(path, tokens, cache_type, adapter=adapter, scale=scale) as (model, context):
        n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        rows = range(len(tokens))
        return np.array([llama_cpp.llama_get_logits_ith(context, i)[:n_vocab] for i in rows],
                        np.float32)  # fmt: skip


def vectors_of(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """Return what llama.cpp's encoder makes of each token, ``float32[n_tokens, n_embd]``."""
    import llama_cpp

    with computed(path, tokens, F32, is_encoder=True) as (model, context):
        width, rows = llama_cpp.llama_model_n_embd(model), range(len(tokens))
        return np.array([llama_cpp.llama_get_embeddings_ith(context, i)[:width] for i in rows],
                        np.float32)  # fmt: skip


@contextlib.contextmanager
def computed(
    path: Path,
    tokens: Sequence[int],
    cache_type: int,
    *,
    is_encoder: bool = False,
    adapter: Path | None = None,
    scale: float = 1.0,
) -> Iterator[tuple[Any, Any]]:
    """Yield a model and a context in which llama.cpp has computed tokens.

    Raises:
        RuntimeError: llama.cpp refuses the file.
    """
    import llama_cpp

    with context_of(path, cache_type, is_encoder=is_encoder) as (model, context):
        if adapter:
            _apply(model, context, adapter, scale)
        n = len(tokens)
        batch = llama_cpp.llama_batch_init(n, 0, 1)
        batch.n_tokens = n
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError(f"llama.cpp cannot compute {path.name}")
        try:
            yield model, context
        finally:
            llama_cpp.llama_batch_free(batch)


def _apply(model: Any, context: Any, adapter: Path, scale: float) -> None:
    import llama_cpp

    loaded = llama_cpp.llama_adapter_lora_init(model, str(adapter).encode())
    if not loaded:
        raise RuntimeError(f"llama.cpp cannot load {adapter.name}")
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded)
    llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(scale))


@contextlib.contextmanager
def context_of(
    path: Path, cache_type: int, *, is_encoder: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Open a model and a context of ``N_CTX`` tokens with llama.cpp; what it logs goes nowhere."""
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path.name}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = N_CTX
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = 0
    params.type_k = params.type_v = cache_type
    if is_encoder:
        params.embeddings, params.pooling_type = True, 0
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        llama_cpp.llama_model_free(model)
        raise RuntimeError(f"llama.cpp makes no context for {path.name}")
    try:
        yield model, context
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
