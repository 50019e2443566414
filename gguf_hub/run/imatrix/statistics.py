"""What an importance matrix says of each tensor, in llama-imatrix's numbers.

Source: compute_statistics and compute_cossim in tools/imatrix/imatrix.cpp of llama.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from gguf_hub.run.quants.imatrix import Entry, ImportanceMatrix

_ACTIVE = 1e-5
"""Mean squares up to this are taken for none."""
_NAME = re.compile(r"blk\.(\d{1,6})\.(.+)\.weight")


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics over the mean squares of a tensor's inputs; experts nothing entered left out.

    Attributes:
        name: Of the tensor.
        layer: Its block; None for none.
        part: Its name without block and ``.weight``.
        total: Their sum.
        smallest: The least of them.
        largest: The largest.
        mean: Their mean.
        deviation: Their standard deviation.
        active_share: Share of those above 1e-5.
        n: How many there are.
        entropy: Of their distribution, in bits.
        z_share: Share of those more than a standard deviation above the mean.
        similarity: Cosine of the sums and those of the same tensor one block before; 0 for none.
    """

    name: str
    layer: int | None
    part: str
    total: float
    smallest: float
    largest: float
    mean: float
    deviation: float
    active_share: float
    n: int
    entropy: float
    z_share: float
    similarity: float

    @property
    def entropy_share(self) -> float:
        """Entropy over that of equal inputs."""
        return self.entropy / float(np.log2(self.n)) if self.n > 1 else 0.0


def statistics_of(matrix: ImportanceMatrix) -> list[TensorStatistics]:
    """Return statistics, by names without blocks, and of each name the largest total first.

    Tensors that nothing entered have none.
    """
    found = [
        _of_entry(matrix, name, entry)
        for name, entry in matrix.entries.items()
        if entry.counts.any()
    ]
    return sorted(found, key=lambda each: (each.part, -each.total))


def _of_entry(matrix: ImportanceMatrix, name: str, entry: Entry) -> TensorStatistics:
    match = _NAME.fullmatch(name)
    layer = int(match[1]) if match else None
    values = entry.means[entry.counts > 0].astype(np.float64).ravel()
    total, mean, deviation = float(values.sum()), float(values.mean()), float(values.std())
    shares = values[values > 0] / total if total > 0 else np.ones(1)
    return TensorStatistics(
        name=name,
        layer=layer,
        part=match[2] if match else name.removesuffix(".weight"),
        total=total,
        smallest=float(values.min()),
        largest=float(values.max()),
        mean=mean,
        deviation=deviation,
        active_share=float((values > _ACTIVE).mean()),
        n=values.size,
        entropy=float(-(shares * np.log2(shares)).sum()),
        z_share=float((values - mean > deviation).mean()) if deviation > 0 else 0.0,
        similarity=_similarity(matrix, entry, match),
    )


def _similarity(matrix: ImportanceMatrix, entry: Entry, match: re.Match[str] | None) -> float:
    if match is None or int(match[1]) == 0:
        return 0.0
    before = matrix.entries.get(f"blk.{int(match[1]) - 1}.{match[2]}.weight")
    if before is None or before.sums.size != entry.sums.size:
        return 0.0
    a, b = (each.sums.astype(np.float64).ravel() for each in (entry, before))
    lengths = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / lengths if lengths else 0.0
