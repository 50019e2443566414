"""What errors of weights cost: KL divergence from the source with one group quantised alone.

Two things add to the loss of a tensor. Its weights' errors cost in proportion to their relative
error; and activations are rounded to 8 bits before they meet quantised weights, in blocks of 32 or
of 256, whatever the type. A text read with a group in a coarse type and once in fine types of
either kind gives both:

    KL = slope * error + rounding of the kind

A probe is the source with the group's tensors from a file beside it; nothing else is written.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_hub.gguf.memory.activations import ACTIVATION_OF, ActivationKind
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.shards import Gguf, GgufSet, open_gguf
from gguf_hub.gguf.types import QuantType
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.allocation.errors import Errors
from gguf_hub.run.allocation.units import Unit
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.opening import load_model
from gguf_hub.run.perplexity import LogitsReader, ModelSource, measure, write_logits
from gguf_hub.run.perplexity.measure import Chunks
from gguf_hub.run.quants.imatrix import ImportanceMatrix
from gguf_hub.run.quants.plan import QuantizePlan, retyped
from gguf_hub.run.quants.quantize import write_quantized
from gguf_hub.run.quants.recipes import FLOATS, fitting

T = QuantType

PROBES = (T.Q3_K, T.Q6_K, T.Q8_0)
"""A coarse type, and fine ones whose activations are rounded in blocks of 256 and of 32."""

MAX_GROUPS = 32
"""Groups that are measured at most; neighbouring layers of one kind share one beyond that."""


@dataclass(frozen=True)
class Text:
    """What the model reads for a measurement.

    Attributes:
        chunks: Token ids, [n_chunks, n_ctx].
        bos_id: Put in place of each chunk's first token; None to leave that.
    """

    chunks: Chunks
    bos_id: int | None


@dataclass(frozen=True)
class Sensitivity:
    """What a unit's loss depends on.

    Attributes:
        slope: KL divergence for each relative error of the weights.
        rounding: KL divergence of rounded activations, by their kind.
    """

    slope: float
    rounding: Mapping[ActivationKind, float]

    def loss(self, type: QuantType, error: float) -> float:
        """Return what a type costs."""
        return self.slope * error + self.rounding.get(ACTIVATION_OF[type], 0.0)


def group_units(units: Sequence[Unit], max_groups: int = MAX_GROUPS) -> list[list[Unit]]:
    """Return the units that are measured together: alone if there are few, else by kind and layers.

    Units that have no choice are left out.
    """
    units = [unit for unit in units if len(unit.types) > 1]
    if len(units) <= max_groups:
        return [[unit] for unit in units]
    kinds: dict[str, list[Unit]] = {}
    for unit in units:
        kinds.setdefault(_kind(unit.name), []).append(unit)
    n_alone = sum(len(kind) == 1 for kind in kinds.values())
    n_bands = max(1, (max_groups - n_alone) // max(1, len(kinds) - n_alone))
    groups = []
    for kind in kinds.values():
        size = -(-len(kind) // n_bands)
        groups += [kind[at : at + size] for at in range(0, len(kind), size)]
    return groups


def _kind(name: str) -> str:
    """Return a name without its layer."""
    return name.split(".", 2)[2] if name.startswith("blk.") and name.count(".") > 1 else name


def group_key(group: Sequence[Unit]) -> str:
    """Return what tells a group from others."""
    names = "\n".join(unit.name for unit in group)
    return f"{group[0].name} {hashlib.sha256(names.encode()).hexdigest()[:8]}"


def probe_type(unit: Unit, probe: QuantType) -> QuantType | None:
    """Return the type of a unit in a probe; None if it cannot have one of the kind.

    What is no larger than the coarse type already gets the smallest that it may have.
    """
    able = [type for type in unit.types if type not in unit.source_types]
    type = fitting(probe, unit.row_length)
    if type in able and type not in FLOATS:
        return type
    is_coarse = probe is PROBES[0]
    return min(able, key=lambda each: each.bits_per_weight) if is_coarse and able else None


class Prober:
    """Measures probes; a context manager that holds the source and its logits.

    Args:
        plan: The source's tensors, in the layout that it has.
        imatrix: What errors count for in probes; None for all alike.
        text: What is read.
        n_threads: Threads that compute; 0 for as many as help.
        progress: Shows the compiling and the source's own reading.
    """

    def __init__(
        self, plan: QuantizePlan, imatrix: ImportanceMatrix | None, text: Text, *,
        n_threads: int = 0, progress: Progress = SILENT,
    ) -> None:  # fmt: skip
        self._plan, self._imatrix, self._text = plan, imatrix, text
        self._n_threads, self._progress = n_threads, progress
        self._stack = ExitStack()
        self._builder = KernelBuilder()

    def __enter__(self) -> Prober:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gguf-hub-"))
            self._folder = Path(folder)
            self._logits = self._folder / "base.logits"
            file = open_gguf(self._plan.source)
            stack.callback(file.close)
            self._paths = [shard.path for shard in file.files]
            with self._source(file) as model:
                sink = write_logits(self._logits, self._text.chunks, model.n_vocab)
                with sink as writer:
                    measure(self._text.chunks, model, sink=writer, progress=self._progress)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def kl(self, types: Mapping[str, QuantType]) -> float:
        """Return the mean KL divergence, in nats, with some tensors in other types.

        Args:
            types: Name of a tensor -> its type.

        Raises:
            GgufError: A weight that a type cannot hold.
            DiskFullError: No space for these tensors.
        """
        parts = tuple(
            retyped(part, types[part.spec.name], self._imatrix)
            for part in self._plan.parts
            if part.spec.name in types
        )
        path = self._folder / "probe.gguf"
        write_quantized(replace(self._plan, parts=parts, shards=()), path,
                        n_threads=self._n_threads)  # fmt: skip
        files = [GgufFile.open(each) for each in (*self._paths, path)]
        with GgufSet(files) as file, self._source(file) as model, self._logits.open("rb") as raw:
            base = LogitsReader.open(raw, self._logits)
            result = measure(self._text.chunks, model, base=base)
        path.unlink()
        assert result.divergence is not None
        return result.divergence.kl.value

    @contextmanager
    def _source(self, file: Gguf) -> Iterator[ModelSource]:
        settings = ModelSettings(
            n_ctx=self._text.chunks.shape[1],
            n_threads=self._n_threads,
            n_logits=None,
            # of the weights, not of a cache: halves send a token in a thousand to another expert
            key_type="F32",
            value_type="F32",
        )
        with load_model(file, settings, builder=self._builder, progress=self._progress) as model:
            yield ModelSource(model, model.config.n_vocab, self._text.bos_id)


def measure_groups(
    groups: Sequence[Sequence[Unit]],
    open_prober: Callable[[], Prober],
    *,
    known: dict[str, dict[QuantType, float]],
    save: Callable[[], None] = lambda: None,
    progress: Progress = SILENT,
) -> None:
    """Add the KL divergences of probes that are not known.

    Args:
        groups: From ``group_units``.
        open_prober: Makes what measures, if anything has to be.
        known: Key of a group -> probe -> KL divergence.
        save: Called after each probe.
        progress: Shows the probes.
    """
    todo = [
        (group, probe)
        for group in groups
        for probe in PROBES
        if any(probe_type(unit, probe) for unit in group)
        and probe not in known.get(group_key(group), {})
    ]
    if not todo:
        return
    n_all = len(groups) * len(PROBES)
    task = progress.task("probe", n_all, unit="tensors", done=n_all - len(todo))
    with open_prober() as prober, task:
        for group, probe in todo:
            types = {
                part.spec.name: type
                for unit in group
                if (type := probe_type(unit, probe))
                for part in unit.parts
            }
            known.setdefault(group_key(group), {})[probe] = prober.kl(types)
            save()
            task.advance(1)


def sensitivities(
    groups: Sequence[Sequence[Unit]],
    probes: Mapping[str, Mapping[QuantType, float]],
    errors: Errors,
) -> dict[str, Sensitivity]:
    """Return the sensitivity of each unit; those of a group share theirs."""
    found: dict[str, Sensitivity] = {}
    for group in groups:
        own = _sensitivity(group, probes.get(group_key(group), {}), errors)
        found |= {unit.name: own for unit in group}
    return found


def _sensitivity(
    group: Sequence[Unit], probes: Mapping[QuantType, float], errors: Errors
) -> Sensitivity:
    """Solve KL = slope * error + rounding, both of no less than zero."""
    sums = {}
    for probe in probes:
        types = [(unit, probe_type(unit, probe)) for unit in group]
        sums[probe] = sum(errors[unit.name][type] for unit, type in types if type)
    coarse, fine, small = PROBES
    if not sums.get(coarse):
        return Sensitivity(0.0, {})  # all weights are zero
    same_kind = fine if group[0].row_length % coarse.block_size == 0 else small
    slope = probes[coarse] / sums[coarse]
    if same_kind in sums and sums[coarse] > sums[same_kind]:
        between = (probes[coarse] - probes[same_kind]) / (sums[coarse] - sums[same_kind])
        slope = between if between > 0 else slope
    n, rounding = len(group), {}
    for probe in (fine, small):
        if probe in sums:
            kind = ACTIVATION_OF[fitting(probe, group[0].row_length)]
            rounding[kind] = max(0.0, probes[probe] - slope * sums[probe]) / n
    return Sensitivity(slope, rounding)
