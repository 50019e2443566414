"""LoRA adapters of PEFT: merged into the weights that they change, or as GGUF adapters.

An adapter has two matrices for a weight W [n_out, n_in], A [rank, n_in] and B [n_out, rank]; with
it the weight is W + s B A, where s is ``lora_alpha`` / rank, or / its root (rsLoRA). GGUF stores
``NAME.lora_a``, ``NAME.lora_b`` and alpha, and programs take alpha / rank for s. Rows of B change
places as those of W do.

Source: LoraConfig and lora/layer.py of PEFT; convert_lora_to_gguf.py and src/llama-adapter.cpp of
llama.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.arch.graph import Graph
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.convert.checkpoint import StoredTensor, read_header, read_json
from gguf_hub.run.convert.keys import ModelKeys
from gguf_hub.run.convert.stored.derived import Reordered
from gguf_hub.run.convert.stored.matrix import Matrix, Plain, Rows
from gguf_hub.run.convert.tensors import Part, Parts, text_name

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PAIR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.default)?\.weight")
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "use_dora": (False, None), "fan_in_fan_out": (False, None),
    "bias": ("none", None), "lora_bias": (False, None), "alpha_pattern": ({}, None),
    "modules_to_save": ([], None), "trainable_token_indices": (None, {}, []),
    "use_qalora": (False, None), "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
}  # fmt: skip
"""Keys that change what an adapter computes, and the values with which it is as above."""


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to one weight: ``scale`` B A."""

    a: StoredTensor
    b: StoredTensor
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An opened adapter.

    Attributes:
        folder: The folder.
        alpha: As GGUF has it: what divided by the rank is the factor.
        deltas: By the names of the weights that they change.
    """

    folder: Path
    alpha: float
    deltas: Mapping[str, Delta]


@dataclass(frozen=True)
class Merged(Matrix):
    """A weight with what an adapter adds to it."""

    base: Matrix
    delta: Delta

    @property
    def type(self) -> QuantType:
        """As it was; F16 where it was codes, as what is added has none."""
        return QuantType.F16 if self.base.is_packed else self.base.type

    @property
    def note(self) -> str:
        """What the sum is rounded to."""
        return "become F16: an adapter is added to them" if self.base.is_packed else ""

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        a = Plain.of(self.delta.a).floats(slice(None)).astype(np.float64)
        b = Plain.of(self.delta.b).floats(rows).astype(np.float64)
        added = self.delta.scale * (b @ a)
        return (self.base.floats(rows) + added).astype(np.float32)


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def open_adapter(folder: Path) -> Adapter:
    """Read an adapter's configuration and the headers of its weights.

    Raises:
        CheckpointError: A file is missing or damaged, or it is an adapter of another kind.
    """
    config = read_json(folder / CONFIG)
    issues = [
        f"`{key}`: expected {values[0]}, found {config[key]!r:.60}"
        for key, values in _NEUTRAL.items() if key in config and config[key] not in values
    ]  # fmt: skip
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not alpha > 0:
        issues.append(f"`lora_alpha`: expected a positive number, found {alpha!r:.40}")
    if issues:
        raise CheckpointError(folder / CONFIG, issues)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(folder, [f"no `{WEIGHTS}`"])
    assert isinstance(alpha, (int, float))
    is_root = config.get("use_rslora") is True
    deltas = _deltas(folder, read_header(folder / WEIGHTS), float(alpha), is_root=is_root)
    ranks = {delta.a.shape[0] for delta in deltas.values()}
    if is_root and len(ranks) > 1:  # one alpha cannot say it of several ranks
        raise CheckpointError(folder / CONFIG, ["`use_rslora`: expected one rank for all weights"])
    factor = math.sqrt(ranks.pop()) if is_root else 1.0
    return Adapter(folder, float(alpha) * factor, deltas)


def _deltas(
    folder: Path, tensors: Mapping[str, StoredTensor], alpha: float, *, is_root: bool
) -> dict[str, Delta]:
    pairs: dict[str, dict[str, StoredTensor]] = {}
    issues = []
    for name, stored in tensors.items():
        match = _PAIR.fullmatch(name)
        if match is None or len(stored.shape) != 2 or stored.dtype not in ("F32", "F16", "BF16"):
            issues.append(f"tensor `{name}` is not a matrix of floats of a LoRA pair")
        else:
            pairs.setdefault(text_name(f"{match[1]}.weight"), {})[match[2]] = stored
    deltas = {}
    for name, pair in pairs.items():
        if len(pair) < 2 or pair["A"].shape[0] != pair["B"].shape[1] or not pair["A"].shape[0]:
            issues.append(f"`{name}`: expected lora_A [rank, n_in] and lora_B [n_out, rank]")
            continue
        rank = pair["A"].shape[0]
        deltas[name] = Delta(pair["A"], pair["B"], alpha / (math.sqrt(rank) if is_root else rank))
    if not deltas and not issues:
        issues.append("no LoRA pairs")
    if issues:
        raise CheckpointError(folder / WEIGHTS, issues)
    return deltas


def merge(matrices: Mapping[str, Matrix], adapter: Adapter) -> dict[str, Matrix]:
    """Return the weights of a checkpoint with an adapter's added.

    Raises:
        CheckpointError: The adapter is of another model.
    """
    merged, issues = dict(matrices), []
    for name, delta in adapter.deltas.items():
        base = matrices.get(name)
        shape = (delta.b.shape[0], delta.a.shape[1])
        if base is None:
            issues.append(f"`{name}`: the model has no such weight")
        elif base.shape != shape:
            issues.append(f"`{name}`: expected shape {list(base.shape)}, found {list(shape)}")
        else:
            merged[name] = Merged(name, base.path, base.shape, base.kind, base, delta)
    if issues:
        raise CheckpointError(adapter.folder, issues, hint="is it an adapter of another model?")
    return merged


def adapter_parts(adapter: Adapter, keys: ModelKeys) -> list[Part]:
    """Return the tensors of a GGUF adapter.

    Args:
        adapter: The adapter.
        keys: What the configuration of its model says.

    Raises:
        CheckpointError: It changes weights that no matrix of the GGUF model is.
    """
    stand_ins = {
        name: Plain.of(replace(delta.b, name=name)) for name, delta in adapter.deltas.items()
    }
    reader = Parts(keys, stand_ins, "merged")
    parts, used = [], set()
    for name, source, matrix in _changed(reader, keys, stand_ins):
        delta, rank = adapter.deltas[source], matrix.shape[-1]
        used.add(source)
        a = Plain.of(delta.a)
        parts.append(Part(f"{name}.lora_a", a.shape[::-1], (a,)))
        parts.append(Part(f"{name}.lora_b", (rank, matrix.shape[0]), (matrix,)))
    left = [name for name in adapter.deltas if name not in used]
    if left:
        raise CheckpointError(
            adapter.folder,
            [f"`{name}`: no GGUF adapter can change this weight" for name in left],
            hint="merge it into the model: gguf-hub convert HF_DIR OUT --merge-lora ADAPTER_DIR",
        )
    return parts


def _changed(
    reader: Parts, keys: ModelKeys, stand_ins: Mapping[str, Matrix]
) -> Iterator[tuple[str, str, Matrix]]:
    """Yield (name in GGUF, name in the checkpoint, B with its rows in GGUF's order)."""
    graph = Graph(ARCHITECTURES[keys.family.arch], reader.hparams)
    for name, source, stored in reader.found(graph):
        if "{e}" in source.name or not name.endswith(".weight") or name == "token_embd.weight":
            continue
        rank = stored.shape[-1]
        shape = (stored.shape[0] // source.make.share, rank)
        if source.make.expects(shape, reader.hparams) != stored.shape:
            continue
        made = source.make.build(stored, shape, reader.hparams)
        if isinstance(made, (Plain, Reordered)):
            yield name, stored.name, made
