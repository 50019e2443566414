"""Writes LoRA adapters in GGUF form, and the models that they make when they are merged."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from tests.arch_models import write_arch_model
from tests.arch_recipes import RECIPES

RANK, ALPHA, SCALE = 3, 6.0, 0.5
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]
"""Name of a tensor -> A and B, [E, r, n_in] and [E, n_out, r]; of embeddings A is [1, V, r]."""
EMBEDDINGS = "token_embd.weight"
FIXED = (
    "per_layer_token_embd.weight", "attn_k_b.weight", "attn_v_b.weight", "conv.weight",
    "conv1d.weight", "_norm.weight", "_coef.weight", "position_embd.weight",
    "altup_proj.weight", "altup_unembd_proj.weight",
)  # fmt: skip
"""What adapters cannot change, though it has rows and columns."""


def adaptable(file: GgufFile) -> list[str]:
    """Return the matrices of a model that an adapter can change.

    Embeddings that are the head, too, are left out: adapters change them as embeddings alone.
    """
    unused = _layers_of_drafts(file)
    return [
        name
        for name, info in file.tensors.items()
        if len(info.shape) > 1 and name.endswith(".weight") and not name.endswith(FIXED)
        and not name.startswith(unused)
        and (name != EMBEDDINGS or "output.weight" in file.tensors)
    ]  # fmt: skip


def write_pair(folder: Path, name: str) -> tuple[Path, Path, Pairs]:
    """Write the model of a row of ``RECIPES`` and an adapter of all its matrices."""
    model = write_arch_model(folder / "model.gguf", name)
    with GgufFile.open(model) as file:
        pairs = make_pairs(file, adaptable(file))
    return model, write_adapter(folder / "lora.gguf", RECIPES[name].arch, pairs), pairs


def _layers_of_drafts(file: GgufFile) -> tuple[str, ...]:
    """Return what tensors of layers that draft tokens, and that nothing here reads, begin with."""
    return tuple(
        name.partition("nextn.")[0]
        for name in file.tensors
        if name.endswith("nextn.eh_proj.weight")
    )


def make_pairs(file: GgufFile, names: Iterable[str], rank: int = RANK, seed: int = 0) -> Pairs:
    """Return random pairs, the same ones everywhere."""
    pairs = {}
    for name in names:
        n_in, n_out, *experts = file.tensors[name].shape
        n = experts[0] if experts else 1
        a_shape, b_shape = (n, rank, n_in), (n, n_out, rank)
        if name == EMBEDDINGS:
            a_shape, b_shape = (1, n_out, rank), (1, n_in, rank)
        pairs[name] = _random(name, "a", a_shape, seed), _random(name, "b", b_shape, seed)
    return pairs


def _random(name: str, part: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    bits = np.random.PCG64([zlib.crc32(f"{name} {part}".encode()), seed])
    raw = bits.random_raw(int(np.prod(shape)))
    unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return (unit * np.float32(0.1)).reshape(shape)


def write_adapter(
    path: Path, arch: str, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *, type_: QuantType = QuantType.F32, keys: Mapping[str, Any] | None = None,
    more: Iterable[str] = (),
) -> Path:  # fmt: skip
    """Write an adapter.

    Args:
        path: The file.
        arch: ``general.architecture``.
        pairs: Its pairs; those of one expert, or of none, as matrices.
        type_: Of its tensors; of types that are none of adapters', zeros are written.
        keys: Keys that are added or replaced; None for a value leaves one out.
        more: Names of tensors that are none of a pair.
    """
    values = {
        "general.architecture": arch, "general.type": "adapter", "adapter.type": "lora",
        "adapter.lora.alpha": ALPHA, **(keys or {}),
    }  # fmt: skip
    fields = {key: Field.of(value) for key, value in values.items() if value is not None}
    tensors = {
        f"{name}.lora_{suffix}": matrix
        for name, pair in pairs.items()
        for suffix, matrix in zip("ab", pair, strict=True)
    }
    tensors |= dict.fromkeys(more, np.ones(8, np.float32))
    specs, data = [], []
    for name, matrix in tensors.items():
        kept = matrix[0] if matrix.ndim == 3 and len(matrix) == 1 else matrix
        specs.append(TensorSpec(name, kept.shape[::-1], type_))
        data.append(_encoded(kept.astype(np.float32), type_))
    write_gguf(path, fields, zip(specs, data, strict=True))
    return path


def _encoded(matrix: np.ndarray, type_: QuantType) -> np.ndarray:
    if type_ in (QuantType.F32, QuantType.F16):
        return matrix.astype(np.float32 if type_ is QuantType.F32 else np.float16)
    if type_ is QuantType.BF16:
        return (matrix.view(np.uint32) >> 16).astype(np.uint16)
    if type_ is not QuantType.Q8_0:
        return np.zeros(matrix.size // type_.block_size * type_.type_size, np.uint8)
    blocks = matrix.reshape(-1, 32)
    scales = np.abs(blocks).max(-1, keepdims=True) / 127
    quants = np.rint(blocks / scales).astype(np.int8)
    return np.concatenate((scales.astype("<f2").view(np.int8), quants), 1)


def merge(model: Path, target: Path, pairs: Pairs, scale: float) -> Path:
    """Write an F32 model with scale * B A added to its weights."""
    data = bytearray(model.read_bytes())
    with GgufFile.open(model) as file:
        for name, (a, b) in pairs.items():
            info, start = file.tensors[name], file.start_of(name)
            product = a @ b.transpose(0, 2, 1) if name == EMBEDDINGS else b @ a
            weights = np.frombuffer(data, np.float32, info.n_elements, start)
            changed = weights + np.float32(scale) * product.ravel()
            data[start : start + changed.nbytes] = changed.astype(np.float32).tobytes()
    target.write_bytes(data)
    return target
