"""Importance matrices: how much each input of a matrix weighs in what it computes.

An entry has, for each input of a weight matrix, the sum of the squares of what entered there, and
how many rows entered. Their quotient says how much an error of the weights of that input costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import GgufError
from gguf_hub.gguf.experts import parse_split, split_name
from gguf_hub.gguf.strings import shown

_EXPERTS = re.compile(r"blk\.(\d{1,6})\.ffn_(gate|up|down|gate_up)_exps\.weight")
_MOST_NAMED = 8
_SAME_INPUT = {"gate": "gate_up", "up": "gate_up", "gate_up": "gate"}
"""Part of experts -> the part, in files with and without a fused one, that reads the same."""
_OTHER_MODEL = (
    "it is the importance matrix of another model: `gguf-hub imatrix MODEL --text FILE -o OUT` "
    "makes this model's"
)


@dataclass(frozen=True)
class Entry:
    """What entered one weight matrix, or those of all experts.

    Attributes:
        sums: Sums of squares, float32 [n_counts, n]: n inputs of each expert; of a tensor that
            has a matrix for each head, the inputs of all of them one after another.
        counts: Rows that entered, int64 [n_counts]: one number, or one for each expert.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.int64]

    @property
    def means(self) -> NDArray[np.float32]:
        """Mean squares, [n_counts, n]; 1 for experts that nothing entered."""
        counts = np.maximum(self.counts, 1).astype(np.float32)[:, None]
        means: NDArray[np.float32] = np.where(self.counts[:, None] > 0, self.sums / counts, 1)
        return means.astype(np.float32)

    def plus(self, other: Entry) -> Entry:
        """Return the entry of both texts; a single count stands for that of each expert."""
        n_counts = max(len(self.counts), len(other.counts))
        sums = self.sums.reshape(n_counts, -1) + other.sums.reshape(n_counts, -1)
        counts = np.broadcast_to(self.counts, n_counts) + np.broadcast_to(other.counts, n_counts)
        return Entry(sums, counts)


@dataclass(frozen=True)
class ImportanceMatrix:
    """The entries of a model's tensors.

    Attributes:
        entries: Name of a tensor -> what entered it.
        datasets: Texts that they are of.
        n_chunks: How many chunks of these.
        chunk_size: Tokens of a chunk; 0 in files from before GGUF, whose sums are means times the
            number of chunks.
        path: The file that it was read from.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    n_chunks: int = 0
    chunk_size: int = 0
    path: Path = field(default=Path("importance matrix"), compare=False)

    def in_tokens(self, chunk_size: int) -> ImportanceMatrix:
        """Return the same with sums over tokens, if it has those over chunks of ``chunk_size``."""
        if self.chunk_size:
            return self
        entries = {
            name: Entry(entry.sums * np.float32(chunk_size), entry.counts * chunk_size)
            for name, entry in self.entries.items()
        }
        return ImportanceMatrix(entries, self.datasets, self.n_chunks, chunk_size, self.path)

    def of_model(
        self, shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[ImportanceMatrix, tuple[str, ...]]:
        """Return the entries that tell of a model's tensors, and the names of the others.

        Args:
            shapes: Name of each tensor of the model -> its shape, GGUF's ``ne``.

        Raises:
            GgufError: No entry is left: it is the matrix of another model.
        """
        own = {entry for name, shape in shapes.items() for entry in _entry_names(name, shape)}
        foreign = tuple(sorted(self.entries.keys() - own))
        if self.entries and len(foreign) == len(self.entries):
            raise GgufError(
                f"`{self.path}` has no entry of any tensor of the model: its first one is "
                f"`{shown(foreign[0])}`",
                path=self.path,
                hint=_OTHER_MODEL,
            )
        entries = {name: entry for name, entry in self.entries.items() if name in own}
        return replace(self, entries=entries), foreign

    def weights_of(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return how much each input of a tensor counts.

        Experts are found in either layout, whatever that of the model was that was measured.

        Args:
            name: Of the tensor.
            shape: GGUF's ``ne``: inputs, outputs, matrices.

        Returns:
            float32 [matrices, inputs]; None if nothing is known of it.

        Raises:
            GgufError: The entry is of a tensor of another shape: that of another model.
        """
        found = self._means(name, shape[2] if len(shape) > 2 else 1)
        if found is None:
            return None
        n_matrices = shape[2] if len(shape) > 2 else 1
        if found.size != shape[0] * n_matrices:
            raise GgufError(
                f"`{self.path}`: the entry of tensor `{shown(name)}` has {found.size:,} numbers: "
                f"expected {shape[0]:,} inputs of {n_matrices:,} matrices",
                path=self.path,
                hint=_OTHER_MODEL,
            )
        return np.ascontiguousarray(found.reshape(n_matrices, shape[0]))

    def counts_of(self, name: str, n_matrices: int) -> NDArray[np.float64]:
        """Return how many rows entered each of a tensor's matrices, [n_matrices]; 1 if unknown."""
        if (expert := parse_split(name)) and name not in self.entries:
            merged = self.entries.get(expert.merged_name)
            found = None if merged is None else merged.counts
            if found is not None and found.size > 1:
                found = found[expert.expert :][:1]
        else:
            entry = self.entries.get(name)
            found = None if entry is None else entry.counts
        if found is None or found.size not in (1, n_matrices):
            return np.ones(n_matrices)
        return np.broadcast_to(found, n_matrices).astype(np.float64)

    def _means(self, name: str, n_matrices: int) -> NDArray[np.float32] | None:
        if name in self.entries:
            return self.entries[name].means
        if expert := parse_split(name):
            return self._expert_means(expert.merged_name, expert.expert)
        experts = _EXPERTS.fullmatch(name)
        if experts is None:
            return None
        block, part = int(experts[1]), experts[2]
        same = _SAME_INPUT.get(part)
        if same and (entry := self.entries.get(f"blk.{block}.ffn_{same}_exps.weight")):
            return entry.means
        names = [split_name(block, part, expert) for expert in range(n_matrices)]
        known = [self.entries[each].means for each in names if each in self.entries]
        is_whole = len(known) == n_matrices and len({means.size for means in known}) == 1
        return np.concatenate(known) if known and is_whole else None

    def _expert_means(self, merged_name: str, expert: int) -> NDArray[np.float32] | None:
        means = self._means(merged_name, 0)
        if means is None or len(means) < 2 or expert >= len(means):
            return None
        row: NDArray[np.float32] = means[expert]
        return row


def foreign_text(names: Sequence[str]) -> str:
    """Return how many entries are of no tensor of a model, the first few by name."""
    listed = ", ".join(f"`{shown(name)}`" for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    entries = (
        "1 entry is of a tensor" if len(names) == 1 else f"{len(names):,} entries are of tensors"
    )
    return f"{entries} that the model lacks: {listed}{more}"


def _entry_names(name: str, shape: tuple[int, ...]) -> Iterator[str]:
    """Yield the entries that can tell of a tensor, in either layout of experts."""
    yield name
    if expert := parse_split(name):
        yield (merged := expert.merged_name)
    else:
        merged = name
    experts = _EXPERTS.fullmatch(merged)
    if experts is None:
        return
    block, part = int(experts[1]), experts[2]
    if part in _SAME_INPUT:
        yield f"blk.{block}.ffn_{_SAME_INPUT[part]}_exps.weight"
    if merged == name and len(shape) > 2:
        yield from (split_name(block, part, e) for e in range(shape[2]))


def merge(matrices: Iterable[ImportanceMatrix], chunk_size: int) -> ImportanceMatrix:
    """Return the importance matrix of several texts together.

    Args:
        matrices: At least one; those of chunks are taken for chunks of ``chunk_size``.
        chunk_size: Tokens of a chunk of the result.

    Raises:
        GgufError: They are not of one model.
    """
    entries: dict[str, Entry] = {}
    datasets: list[str] = []
    for matrix in matrices:
        for name, entry in matrix.in_tokens(chunk_size).entries.items():
            entries[name] = _sum(matrix, name, entries.get(name), entry)
        datasets += matrix.datasets
    return of_entries(entries, datasets, chunk_size)


def of_entries(
    entries: Mapping[str, Entry], datasets: Iterable[str], chunk_size: int
) -> ImportanceMatrix:
    """Return the importance matrix of sums over tokens; its chunks are those of the most tokens."""
    largest = max((int(entry.counts.max()) for entry in entries.values()), default=0)
    return ImportanceMatrix(entries, tuple(datasets), largest // chunk_size, chunk_size)


def _sum(matrix: ImportanceMatrix, name: str, before: Entry | None, entry: Entry) -> Entry:
    if before is None:
        return entry
    counts = {len(before.counts), len(entry.counts)}
    if before.sums.size != entry.sums.size or len(counts - {1}) > 1:
        raise GgufError(
            f"`{matrix.path}`: the entry of tensor `{shown(name)}` has {entry.sums.size:,} numbers "
            f"of {len(entry.counts):,} matrices: expected {before.sums.size:,} of "
            f"{len(before.counts):,}, as in the others",
            path=matrix.path,
            hint="only importance matrices of one model can be merged",
        )
    return before.plus(entry)
