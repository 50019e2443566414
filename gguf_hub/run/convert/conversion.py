"""Planning a conversion and writing it, one chunk of a tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.format import Field, TensorSpec, count_elements
from gguf_hub.gguf.runnable import find_graph_obstacles
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.gguf.writer import plan_file, write_gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.convert.checkpoint import Checkpoint
from gguf_hub.run.convert.encode import NotEncodableError
from gguf_hub.run.convert.general import general
from gguf_hub.run.convert.keys import ModelKeys, read_keys
from gguf_hub.run.convert.lora import adapter_parts, merge, open_adapter
from gguf_hub.run.convert.stored import Matrix, open_matrices
from gguf_hub.run.convert.tensors import Layout, Part, Parts, text_name
from gguf_hub.run.convert.vocabulary import no_vocabulary, read_vocabulary

OutType = Literal["auto", "f32", "f16", "bf16", "q8_0"]
Contents = Literal["all", "weights", "vocabulary"]

_CHUNK_WEIGHTS = 1 << 18
"""Weights that are in memory at a time, in a few copies: some megabytes, as caches hold."""
_CHUNK_CODES = 1 << 20
"""The same where rows are columns of what is stored, and each reading passes over all of it."""
_MAX_LISTED = 10_000
"""Up to so many missing tensors are listed by name."""


@dataclass(frozen=True)
class Planned:
    """One tensor to write.

    Attributes:
        spec: Name, shape and type.
        source: What of the checkpoint it is made from; None for what is computed.
        values: The computed values.
    """

    spec: TensorSpec
    source: Part | None
    values: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Conversion:
    """A GGUF file that is to be written.

    Attributes:
        keys: What config.json says.
        type: Type of the matrices, or of most of them.
        fields: Metadata.
        tensors: In file order.
        notes: How the file differs from the checkpoint.
    """

    keys: ModelKeys
    type: QuantType
    fields: Mapping[str, Field]
    tensors: tuple[Planned, ...]
    notes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return plan_file(self.fields, [planned.spec for planned in self.tensors]).size_bytes

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return sum(count_elements(planned.spec.shape) for planned in self.tensors)

    def write(self, path: Path, *, progress: Progress = SILENT) -> None:
        """Write the file; it appears when it is complete.

        Args:
            path: The file; an existing one is replaced at the very end.
            progress: Shows the bytes written.

        Raises:
            CheckpointError: A weight is not finite, or does not fit the type; it is named.
            DiskFullError: Not enough space.
        """
        pairs = [(planned.spec, self._data(planned)) for planned in self.tensors]
        write_gguf(path, self.fields, pairs, progress=progress)

    def _data(self, planned: Planned) -> Any:
        """Return a tensor's values, or a function that yields its bytes chunk by chunk."""
        part, type = planned.source, planned.spec.type
        return planned.values if part is None else self._chunks(part, type)

    def _chunks(self, part: Part, type: QuantType) -> Callable[[], Iterator[NDArray[np.uint8]]]:
        def chunks() -> Iterator[NDArray[np.uint8]]:
            for matrix in part.matrices:
                yield from _encoded(matrix, type)

        return chunks


def plan_conversion(
    folder: Path,
    *,
    outtype: OutType = "auto",
    layout: Layout = "merged",
    contents: Contents = "all",
    name: str | None = None,
    pre: str | None = None,
    adapters: Sequence[Path] = (),
) -> Conversion:
    """Read a checkpoint's headers and plan its GGUF file.

    Args:
        folder: Holds config.json, safetensors files and a vocabulary (see ``vocabulary``).
        outtype: Type of matrices; ``auto`` is the one that holds the stored weights exactly.
        layout: One tensor for all experts, as llama.cpp expects, or one for each.
        contents: ``weights`` for a file that computes token ids and no text, ``vocabulary`` for
            one without weights.
        name: ``general.name``; the folder's by default.
        pre: ``tokenizer.ggml.pre`` of a byte-pair vocabulary; None to find it out.
        adapters: Folders of LoRA adapters, which are added to the weights one after another.

    Raises:
        CheckpointError: Files or tensors that are missing, misshapen or of another kind.
        GgufHubError: The packages of the extra ``convert`` are not installed.
    """
    folder = folder.resolve()
    checkpoint = Checkpoint.open(folder, with_tensors=contents != "vocabulary")
    keys = read_keys(checkpoint.config, folder / "config.json")
    # 1) which tensors, and of which type
    parts = [] if contents == "vocabulary" else _checked_parts(checkpoint, keys, layout, adapters)
    tensors = [Planned(TensorSpec(p.name, p.ne, _type_of(p, outtype)), p) for p in parts]
    type = _main_type(tensors) if outtype == "auto" else QuantType[outtype.upper()]
    for at, (tensor, factors) in enumerate(keys.factors.items() if parts else ()):
        spec = TensorSpec(tensor, (len(factors),), QuantType.F32)
        tensors.insert(at, Planned(spec, None, factors))
    # 2) the metadata
    values = general(name or folder.name, parts, keys) | dict(keys.values)
    if parts:
        values["general.file_type"] = _file_type(type)
    vocabulary, left_out = (
        (no_vocabulary(), [])
        if contents == "weights"
        else read_vocabulary(checkpoint, keys.number("vocab_size"), pre=pre)
    )
    values |= vocabulary
    values["general.quantization_version"] = 2
    fields = {key: Field.of(value) for key, value in values.items()}
    if parts:
        _check_runnable(folder, fields, tensors)
    kept = _stored_notes(parts) if outtype == "auto" else ()
    notes = (*_notes(tensors, type), *keys.notes, *kept, *left_out)
    return Conversion(keys, type, fields, tuple(tensors), notes)


def plan_adapter(
    folder: Path, base: Path, *, outtype: OutType = "auto", name: str | None = None
) -> Conversion:
    """Read a LoRA adapter's headers and plan its GGUF file.

    Args:
        folder: Holds adapter_config.json and adapter_model.safetensors.
        base: Holds config.json of the model that the adapter is for.
        outtype: Type of its matrices; ``auto`` is the stored one.
        name: ``general.name``; the folder's by default.

    Raises:
        CheckpointError: An adapter of another kind, or of another model.
    """
    folder, base = folder.resolve(), base.resolve()
    adapter = open_adapter(folder)
    keys = read_keys(Checkpoint.open(base, with_tensors=False).config, base / "config.json")
    parts = adapter_parts(adapter, keys)
    tensors = [Planned(TensorSpec(p.name, p.ne, _type_of(p, outtype)), p) for p in parts]
    type = _main_type(tensors) if outtype == "auto" else QuantType[outtype.upper()]
    values = {
        "general.architecture": keys.family.arch,
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.name": name or folder.name,
        "general.file_type": _file_type(type),
        "adapter.lora.alpha": adapter.alpha,
        "general.quantization_version": 2,
    }
    fields = {key: Field.of(value) for key, value in values.items()}
    return Conversion(keys, type, fields, tuple(tensors), tuple(_notes(tensors, type)))


def _checked_parts(
    checkpoint: Checkpoint, keys: ModelKeys, layout: Layout, adapters: Sequence[Path]
) -> list[Part]:
    """Return the tensors to write; raise for all that is wrong with the stored ones."""
    matrices = {text_name(name): m for name, m in open_matrices(checkpoint).items()}
    for adapter in adapters:
        matrices = merge(matrices, open_adapter(adapter))
    n_layer, n_expert = keys.number("block_count"), max(1, keys.number("expert_count"))
    if n_layer * n_expert > max(len(matrices), _MAX_LISTED):  # before all their names are built
        issue = (
            f"config.json says {n_layer:,} layers of {n_expert:,} experts, "
            f"but there are {len(matrices):,} tensors"
        )
        raise CheckpointError(checkpoint.folder, [issue])
    reader = Parts(keys, matrices, layout)
    parts = reader.read()
    if reader.issues:
        raise CheckpointError(checkpoint.folder, reader.issues)
    return parts


def _check_runnable(folder: Path, fields: Mapping[str, Field], tensors: Sequence[Planned]) -> None:
    """Raise where the file would not be one that is computed with here."""
    infos = plan_file(fields, [planned.spec for planned in tensors]).tensors
    obstacles = find_graph_obstacles(fields, {info.name: info for info in infos})
    if obstacles:
        raise CheckpointError(
            folder, [f"its GGUF file would not run: {obstacle}" for obstacle in obstacles]
        )


def _type_of(part: Part, outtype: OutType) -> QuantType:
    """Return the type of a tensor; ``auto`` keeps what is stored."""
    if part.is_exact:
        return QuantType.F32
    if outtype == "auto":
        type = _joint_type({matrix.type for matrix in part.matrices})
    else:
        type = QuantType[outtype.upper()]
    # blocks are filled, or it is F16, as by llama.cpp's converter
    return QuantType.F16 if part.ne[0] % type.block_size else type


def _joint_type(types: set[QuantType]) -> QuantType:
    """Return the type that holds what is stored in some types."""
    if len(types) == 1:
        return next(iter(types))
    if types <= {QuantType.Q4_0, QuantType.Q4_1}:
        return QuantType.Q4_1
    floats = {type for type in types if type.block_size == 1}
    return QuantType.F16 if floats <= {QuantType.F16} else QuantType.F32


def _main_type(tensors: Sequence[Planned]) -> QuantType:
    """Return the type that most weights have."""
    counts: dict[QuantType, int] = {}
    for planned in tensors:
        type = planned.spec.type
        counts[type] = counts.get(type, 0) + count_elements(planned.spec.shape)
    return max(counts, key=lambda type: counts[type], default=QuantType.F32)


def _file_type(type: QuantType) -> int:
    """Return ``general.file_type`` of a file whose matrices have a type."""
    return 38 if type is QuantType.MXFP4 else int(FileType[type.name])  # MOSTLY_MXFP4_MOE


def _stored_notes(parts: Sequence[Part]) -> Iterator[str]:
    """Yield what becomes of quantised matrices, each kind once."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for matrix in (matrix for part in parts for matrix in part.matrices):
        if matrix.note:
            names.setdefault((matrix.kind, matrix.note), {})[matrix.name] = None
    for (kind, note), (first, *others) in names.items():
        yield f"{1 + len(others)} matrices of {kind} {note}: `{first}`" + (" ..." if others else "")


def _notes(tensors: Sequence[Planned], type: QuantType) -> Iterator[str]:
    f16_names = [
        planned.spec.name
        for planned in tensors
        if planned.source
        and not planned.source.is_exact
        and planned.spec.type is QuantType.F16
        and planned.spec.shape[0] % type.block_size
    ]
    if f16_names:
        yield (
            f"{len(f16_names)} tensors stay F16, because their rows do not fill {type.name} blocks "
            f"of {type.block_size}: `{f16_names[0]}`" + (" ..." if len(f16_names) > 1 else "")
        )


def _encoded(matrix: Matrix, type: QuantType) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of one stored matrix, some rows at a time."""
    n_in, n_rows = matrix.n_in, math.prod(matrix.shape[:-1])
    step = max(1, (_CHUNK_CODES if matrix.is_packed else _CHUNK_WEIGHTS) // n_in)
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        try:
            yield matrix.encoded(rows, type)
        except NotEncodableError as exc:
            row, column = divmod(exc.index, n_in)
            index = [matrix.source_row(start + row), column][-len(matrix.shape) :]
            raise CheckpointError(
                matrix.path, [f"tensor `{matrix.name}` {index}: {exc}"], hint=exc.hint
            ) from exc
