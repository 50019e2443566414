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
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.gguf.writer import plan_file, write_gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.convert.checkpoint import Checkpoint
from gguf_hub.run.convert.encode import NotEncodableError
from gguf_hub.run.convert.general import general
from gguf_hub.run.convert.hparams import HParams, read_hparams
from gguf_hub.run.convert.stored import Matrix, open_matrices
from gguf_hub.run.convert.tensors import Layout, Part, find_problems, parts_of
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
        matrices: Where the weights come from.
        hparams: Sizes of the model.
        type: Type of the matrices, or of most of them.
        fields: Metadata.
        tensors: In file order.
        notes: How the file differs from the checkpoint.
    """

    matrices: Mapping[str, Matrix]
    hparams: HParams
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
            for name in part.sources:
                yield from _encoded(self.matrices[name], part, type)

        return chunks


def plan_conversion(
    folder: Path,
    *,
    outtype: OutType = "auto",
    layout: Layout = "merged",
    contents: Contents = "all",
    name: str | None = None,
) -> Conversion:
    """Read a checkpoint's headers and plan its GGUF file.

    Args:
        folder: Holds config.json, safetensors files and tokenizer.model.
        outtype: Type of matrices; ``auto`` is the one that holds the stored weights exactly.
        layout: One tensor for all experts, as llama.cpp expects, or one for each.
        contents: ``weights`` for a file that computes token ids and no text, ``vocabulary`` for
            one without weights.
        name: ``general.name``; the folder's by default.

    Raises:
        CheckpointError: Files or tensors that are missing, misshapen or of another kind.
        GgufHubError: The packages of the extra ``convert`` are not installed.
    """
    folder = folder.resolve()
    checkpoint = Checkpoint.open(folder, with_tensors=contents != "vocabulary")
    hparams = read_hparams(checkpoint.config, folder / "config.json")
    # 1) which tensors, and of which type
    matrices = {} if contents == "vocabulary" else open_matrices(checkpoint)
    parts = [] if contents == "vocabulary" else _checked_parts(folder, matrices, hparams, layout)
    tensors = [
        Planned(TensorSpec(part.name, part.ne, _type_of(part, outtype, matrices)), part)
        for part in parts
    ]
    type = _main_type(tensors) if outtype == "auto" else QuantType[outtype.upper()]
    if parts and (factors := hparams.rope_factors()):
        spec = TensorSpec("rope_freqs.weight", (len(factors),), QuantType.F32)
        tensors.insert(0, Planned(spec, None, np.array(factors, np.float32)))
    # 2) the metadata
    values = general(name or folder.name, parts, hparams) | hparams.metadata()
    if parts:
        values["general.file_type"] = _file_type(type)
    vocabulary, left_out = (
        (no_vocabulary(), [])
        if contents == "weights"
        else read_vocabulary(checkpoint, hparams.n_vocab)
    )
    values |= vocabulary
    values["general.quantization_version"] = 2
    fields = {key: Field.of(value) for key, value in values.items()}
    notes = (*_notes(hparams, tensors, type), *_stored_notes(tensors, matrices), *left_out)
    return Conversion(matrices, hparams, type, fields, tuple(tensors), notes)


def _checked_parts(
    folder: Path, stored: Mapping[str, Matrix], hparams: HParams, layout: Layout
) -> list[Part]:
    """Return the tensors to write; raise for all that is wrong with the stored ones."""
    n_expected = hparams.n_layer * max(1, hparams.n_expert)
    if n_expected > max(len(stored), _MAX_LISTED):  # before all their names are built
        issue = (
            f"config.json says {hparams.n_layer:,} layers of {max(1, hparams.n_expert):,} experts, "
            f"but there are {len(stored):,} tensors"
        )
        raise CheckpointError(folder, [issue])
    has_output = "lm_head.weight" in stored or not hparams.has_tied_output
    parts = parts_of(hparams, layout, has_output=has_output)
    issues = find_problems(parts, stored)
    if issues:
        raise CheckpointError(folder, issues)
    return parts


def _type_of(part: Part, outtype: OutType, matrices: Mapping[str, Matrix]) -> QuantType:
    """Return the type of a tensor; ``auto`` keeps what is stored."""
    if part.is_exact:
        return QuantType.F32
    if outtype == "auto":
        type = _joint_type({matrices[name].type for name in part.sources})
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


def _stored_notes(tensors: Sequence[Planned], matrices: Mapping[str, Matrix]) -> Iterator[str]:
    """Yield what becomes of quantised matrices, each kind once."""
    names: dict[str, list[str]] = {}
    for planned in tensors:
        for name in planned.source.sources if planned.source else ():
            if note := matrices[name].note:
                names.setdefault(f"{matrices[name].kind}: {note}", []).append(name)
    for text, (first, *others) in names.items():
        kind, _, note = text.partition(": ")
        yield f"{1 + len(others)} matrices of {kind} {note}: `{first}`" + (" ..." if others else "")


def _notes(hparams: HParams, tensors: Sequence[Planned], type: QuantType) -> Iterator[str]:
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
    if hparams.window and hparams.window < hparams.n_ctx_train:
        yield (
            f"the sliding window of {hparams.window:,} tokens is not kept: programs attend to the "
            "whole context, as with every GGUF of this architecture"
        )


def _encoded(matrix: Matrix, part: Part, type: QuantType) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of one stored matrix, some rows at a time."""
    order, n_in = part.row_order(), matrix.n_in
    n_rows = math.prod(matrix.shape[:-1])
    step = max(1, (_CHUNK_CODES if matrix.is_packed else _CHUNK_WEIGHTS) // n_in)
    for start in range(0, n_rows, step):
        rows = slice(start, start + step) if order is None else order[start : start + step]
        try:
            yield matrix.encoded(rows, type)
        except NotEncodableError as exc:
            row, column = divmod(exc.index, n_in)
            row = int(np.arange(n_rows)[rows][row])
            index = [row, column] if len(matrix.shape) == 2 else [column]
            raise CheckpointError(
                matrix.path, [f"tensor `{matrix.name}` {index}: {exc}"], hint=exc.hint
            ) from exc
