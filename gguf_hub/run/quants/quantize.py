"""Writing a model in other types: tensor by tensor, in bounded memory, atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.files import require_distinct
from gguf_hub.gguf.atomic import require_space
from gguf_hub.gguf.format import count_elements
from gguf_hub.gguf.shard_names import shard_path
from gguf_hub.gguf.shards import Gguf, open_gguf, write_together
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import FileType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.resources import limit_threads, usable_threads
from gguf_hub.run.quants.imatrix import ImportanceMatrix
from gguf_hub.run.quants.plan import (
    Conversion,
    Layout,
    QuantizePlan,
    plan_quantize,
    require_imatrix,
)
from gguf_hub.run.quants.recipes import FLOATS, NO_WISHES, Recipe, Wishes
from gguf_hub.run.quants.transcode import Job, Transcoder, kernels_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def quantize_file(
    source: Path | str,
    target: Path | str,
    file_type: FileType,
    *,
    recipe: Recipe = "llama.cpp",
    layout: Layout | None = None,
    wishes: Wishes = NO_WISHES,
    imatrix: ImportanceMatrix | None = None,
    requantize: bool = False,
    n_threads: int = 0,
    progress: Progress = SILENT,
) -> QuantizePlan:
    """Quantise a GGUF file.

    Args:
        source: A GGUF file, or any shard of a set.
        target: The new file; it appears when it is complete.
        file_type: The mix to quantise to.
        recipe: Whose mix (see ``recipes``).
        layout: How to store experts; None keeps it.
        wishes: What is to be other than the mix says.
        imatrix: What errors count for.
        requantize: Turn quantised tensors into types of no fewer bits, too.
        n_threads: Threads that compute; 0 for one for each core this process may use.
        progress: Where to report bytes written.

    Returns:
        The plan that was carried out.

    Raises:
        GgufError: Damaged, with a weight that is not finite, of fewer bits than the target, or
            without an importance matrix that it needs.
        UnsupportedGgufError: Not something that this version can quantise.
        UsageError: The recipe has no mix for such a model.
        DiskFullError: Not enough space.
        LockedError: Another process writes the same file.
    """
    plan = plan_quantize(
        source,
        file_type,
        recipe=recipe,
        layout=layout,
        wishes=wishes,
        imatrix=imatrix,
        requantize=requantize,
    )
    write_quantized(plan, target, n_threads=n_threads, progress=progress)
    return plan


def targets_of(plan: QuantizePlan, target: Path) -> tuple[Path, ...]:
    """Return the files that a plan writes: the target, or shards with its name as prefix."""
    if not plan.shards:
        return (target,)
    prefix = target.with_name(target.name.removesuffix(".gguf"))
    count = len(plan.shards)
    return tuple(shard_path(prefix, no, count) for no in range(count))


def write_quantized(
    plan: QuantizePlan, target: Path | str, *, n_threads: int = 0, progress: Progress = SILENT
) -> tuple[Path, ...]:
    """Carry out a plan.

    Args:
        plan: From ``plan_quantize``.
        target: The new file, or what shards are named after; it appears when it is complete.
        n_threads: Threads that compute; 0 for one for each core this process may use.
        progress: Where to report bytes written.

    Returns:
        The files that were written: all, or none.

    Raises:
        UsageError: A new file would replace what it is made from.
        GgufError: A weight that cannot be stored, named with its tensor; or a type that needs an
            importance matrix and has none.
        DiskFullError: Not enough space.
        LockedError: Another process writes the same file.
    """
    require_imatrix(plan)
    computed = [part for part in plan.parts if _is_computed(part)]
    row_length = max((part.spec.shape[0] for part in computed), default=1)
    targets = targets_of(plan, Path(target))
    with (
        open_gguf(plan.source) as file,
        Transcoder(
            file.data,
            row_length=row_length,
            n_threads=limit_threads(n_threads, progress) or usable_threads(),
            progress=progress,
            check_file=file.check_size,
        ) as transcoder,
    ):
        require_distinct(targets, [shard.path for shard in file.files])
        require_space(targets[0].parent, plan.size_bytes)
        transcoder.prepare(map(_job, computed))
        writes = []
        for fields, parts in plan.files:
            tensors = [(part.spec, _data(part, file, transcoder)) for part in parts]
            writes.append(partial(_write, fields=fields, tensors=tensors, progress=progress))
        write_together(targets, writes)
    return targets


def _write(path: Path, fields: Any, tensors: Any, progress: Progress) -> None:
    write_gguf(path, fields, tensors, progress=progress)


def kernel_names(plan: QuantizePlan) -> list[str]:
    """Return the kernels that a plan needs, to compile those of several plans together."""
    computed = [part for part in plan.parts if _is_computed(part)]
    return kernels_of(map(_job, computed))


def _job(part: Conversion) -> Job:
    is_weighted = part.importance is not None
    return Job(part.source_type, part.spec.type, part.spec.shape[0], is_weighted)


def _is_computed(part: Conversion) -> bool:
    """Return whether a tensor's weights are read: all floats are, to find those not finite."""
    if count_elements(part.spec.shape) == 0 or not part.spec.shape:
        return False
    return not part.is_copied or part.source_type in FLOATS


def _data(part: Conversion, file: Gguf, transcoder: Transcoder) -> Any:
    if not _is_computed(part):
        return part.ranges

    def chunks() -> Iterator[NDArray[np.uint8]]:
        starts = file.starts
        ranges = [(starts[r.path] + r.offset, r.size_bytes) for r in part.ranges]
        return transcoder.chunks(shown(part.spec.name), _job(part), ranges, part.importance)

    result: Callable[[], Iterator[NDArray[np.uint8]]] = chunks
    return result
