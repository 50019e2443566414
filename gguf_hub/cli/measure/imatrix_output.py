"""Output of ``imatrix``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.run.imatrix import TensorStatistics
    from gguf_hub.run.perplexity import Perplexity
    from gguf_hub.run.quants.imatrix import ImportanceMatrix

_HEADERS = ("Layer", "Tensor", "Σ(Act²)", "Min", "Max", "μ", "σ", "% Active", "N", "Entropy",
            "E (norm)", "ZD", "CosSim")  # fmt: skip


def report(
    matrix: ImportanceMatrix,
    perplexity: Perplexity | None,
    path: Path | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Print what was made or read: the file, or with ``shows`` a table; or JSON."""
    from gguf_hub.run.imatrix import statistics_of

    statistics = statistics_of(matrix) if options["shows"] else None
    if as_json:
        console.print_json(_as_dict(matrix, perplexity, path, statistics))
        return
    if perplexity:
        value = perplexity.value
        console.note(f"perplexity: {value.value:.4f} ± {value.error:.4f}")
    for note in _notes(matrix):
        console.note(f"note: {note}")
    if statistics is not None:
        console.print_table(
            [_row(each) for each in statistics],
            list(_HEADERS),
            align=["right", "left", *["right"] * (len(_HEADERS) - 2)],
        )
    if path is not None:
        console.note(
            f"written: {len(matrix.entries):,} tensors, {matrix.n_chunks:,} chunks of "
            f"{matrix.chunk_size:,} tokens"
        )
        if statistics is None:
            console.say(str(path))


def _notes(matrix: ImportanceMatrix) -> list[str]:
    partial = [name for name, entry in matrix.entries.items() if not entry.counts.all()]
    if not partial:
        return []
    n_none = sum(int((matrix.entries[name].counts == 0).sum()) for name in partial)
    return [
        f"{len(partial):,} tensors have experts that no token chose ({n_none:,} in all, e.g. in "
        f"`{partial[0]}`): their inputs count as equal; a longer text reaches more of them"
    ]


def _row(each: TensorStatistics) -> tuple[str, ...]:
    return (
        "-" if each.layer is None else str(each.layer),
        each.part,
        f"{each.total:.2f}",
        f"{each.smallest:.4f}",
        f"{each.largest:.4f}",
        f"{each.mean:.2f}",
        f"{each.deviation:.2f}",
        f"{100 * each.active_share:.2f} %",
        str(each.n),
        f"{each.entropy:.4f}",
        f"{100 * each.entropy_share:.2f} %",
        f"{100 * each.z_share:.2f} %",
        f"{each.similarity:.4f}",
    )


def _as_dict(
    matrix: ImportanceMatrix,
    perplexity: Perplexity | None,
    path: Path | None,
    statistics: list[TensorStatistics] | None,
) -> dict[str, Any]:
    return {
        "written": str(path) if path else None,
        "datasets": list(matrix.datasets),
        "n_chunks": matrix.n_chunks,
        "chunk_size": matrix.chunk_size,
        "n_tensors": len(matrix.entries),
        "perplexity": asdict(perplexity.value) if perplexity else None,
        "notes": _notes(matrix),
        "statistics": [{**asdict(each), "entropy_share": each.entropy_share} for each in statistics]
        if statistics is not None
        else None,
    }
