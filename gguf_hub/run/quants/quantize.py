"""Writing a model in other types: tensor by tensor, in bounded memory, atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.files import require_distinct
from gguf_hub.gguf.format import count_elements
from gguf_hub.gguf.shards import Gguf, open_gguf
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.resources import limit_threads, usable_threads
from gguf_hub.run.quants.plan import Conversion, Layout, QuantizePlan, plan_quantize
from gguf_hub.run.quants.recipes import FLOATS, Recipe
from gguf_hub.run.quants.transcode import Transcoder, kernels_of

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
    pure: bool = False,
    output_tensor_type: QuantType | None = None,
    requantize: bool = False,
    n_threads: int = 0,
    progress: Progress = SILENT,
) -> QuantizePlan:
    """Quantise a GGUF file.

    Args:
        source: A GGUF file of a llama-family model, or any shard of one.
        target: The new file; it appears when it is complete.
        file_type: The mix to quantise to.
        recipe: Whose mix (see ``recipes``).
        layout: How to store experts; None keeps it.
        pure: Give every tensor that may be quantised the same type.
        output_tensor_type: For ``output.weight`` instead of what the mix says.
        requantize: Turn quantised tensors into types of no fewer bits, too.
        n_threads: Threads that compute; 0 for one for each core this process may use.
        progress: Where to report bytes written.

    Returns:
        The plan that was carried out.

    Raises:
        GgufError: Damaged, with a weight that is not finite, or of fewer bits than the target.
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
        pure=pure,
        output_tensor_type=output_tensor_type,
        requantize=requantize,
    )
    write_quantized(plan, target, n_threads=n_threads, progress=progress)
    return plan


def write_quantized(
    plan: QuantizePlan, target: Path | str, *, n_threads: int = 0, progress: Progress = SILENT
) -> None:
    """Carry out a plan.

    Args:
        plan: From ``plan_quantize``.
        target: The new file; it appears when it is complete.
        n_threads: Threads that compute; 0 for one for each core this process may use.
        progress: Where to report bytes written.

    Raises:
        UsageError: The new file would replace what it is made from.
        GgufError: A weight that cannot be stored; names the tensor and the index.
        DiskFullError: Not enough space.
        LockedError: Another process writes the same file.
    """
    computed = [part for part in plan.parts if _is_computed(part)]
    row_length = max((part.spec.shape[0] for part in computed), default=1)
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
        require_distinct([Path(target)], [shard.path for shard in file.files])
        transcoder.prepare((part.source_type, part.spec.type) for part in computed)
        tensors = [(part.spec, _data(part, file, transcoder)) for part in plan.parts]
        write_gguf(target, plan.fields, tensors, progress=progress)


def kernel_names(plan: QuantizePlan) -> list[str]:
    """Return the kernels that a plan needs, to compile those of several plans together."""
    computed = [part for part in plan.parts if _is_computed(part)]
    return kernels_of((part.source_type, part.spec.type) for part in computed)


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
        return transcoder.chunks(
            shown(part.spec.name), part.source_type, part.spec.type, part.spec.shape[0], ranges
        )

    result: Callable[[], Iterator[NDArray[np.uint8]]] = chunks
    return result
