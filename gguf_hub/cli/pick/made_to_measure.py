"""The row of ``pick`` for a file that is not there yet: quantised to the size that fits."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gguf_hub.gguf.types import QuantType

if TYPE_CHECKING:
    from gguf_hub.cli.pick.candidates import CandidateSet, Model
    from gguf_hub.hub.fit import FileFacts, Fit, Pick

NAME = "made to measure"
SMALLEST_BITS = 2.5
"""What the files of IQ2 types have at least, embeddings and output included: below that no size is
named, as `quantize` may not reach it."""
SOURCE_BITS = 15.5
"""Floats: what was quantised before loses more when it is quantised again."""
STEP_SHARE = 1 / 1024
_FLOATS = (QuantType.F32, QuantType.F16, QuantType.BF16)


@dataclass(frozen=True)
class MadeToMeasure:
    """The largest file that fits, made of another one.

    Attributes:
        source: What it would be made of.
        fit: Where it would go; its types are not known, so neither are its loss and speed.
        command: What makes it.
    """

    source: Model
    fit: Fit
    command: str


def made_to_measure(candidates: CandidateSet, pick: Pick, *, is_this: bool) -> MadeToMeasure | None:
    """Return the largest file that fits; None without floats to make it of, or if these fit.

    Args:
        candidates: The models that were compared.
        pick: The judgement of them.
        is_this: Whether the machine is this one, as it is.
    """
    pairs = zip(candidates.models, pick.fits, strict=True)
    sources = [(m, f) for m, f in pairs if f.facts.bits_per_weight >= SOURCE_BITS]
    if not sources or any(f.verdict.is_in_memory or f.verdict.is_hopeless for _, f in sources):
        return None
    source, judged = min(sources, key=lambda pair: pair[1].facts.size_bytes)
    largest = _largest(judged.facts, pick)
    if largest is None:
        return None
    return MadeToMeasure(source, largest, _command(source, pick, is_this=is_this))


def _largest(facts: FileFacts, pick: Pick) -> Fit | None:
    """Return the largest part of a file that stays in memory; None if no quant of it does."""
    low, high = SMALLEST_BITS / facts.bits_per_weight, 1.0
    best = _judged(facts, low, pick)
    if not best.verdict.is_in_memory:
        return None
    while high - low > STEP_SHARE:
        middle = (low + high) / 2
        judged = _judged(facts, middle, pick)
        if judged.verdict.is_in_memory:
            low, best = middle, judged
        else:
            high = middle
    return best


def _judged(facts: FileFacts, share: float, pick: Pick) -> Fit:
    """Judge a file of a share of another's bytes, quantised."""
    from gguf_hub.hub import fit

    tensors = tuple(
        replace(
            tensor,
            size_bytes=round(tensor.size_bytes * share),
            type=QuantType.Q4_K if tensor.type in _FLOATS else tensor.type,
        )
        for tensor in facts.tensors
    )
    layers = tuple(
        replace(layer, **{name: round(size * share) for name, size in vars(layer).items()})
        for layer in facts.weights
    )
    size_bytes = round(facts.size_bytes * share)
    smaller = replace(facts, quant=NAME, size_bytes=size_bytes, tensors=tensors, weights=layers)
    return fit.fit_file(smaller, pick.machine, pick.constraints)


def _command(source: Model, pick: Pick, *, is_this: bool) -> str:
    from gguf_hub.units import format_size

    def size(n_bytes: int) -> str:
        """Return bytes as one word of the shell."""
        return shlex.quote(format_size(n_bytes).replace(" ", ""))

    name = str(source.path or source.file.filename)
    parts = [f"gguf-hub quantize {shlex.quote(name)}"]
    if source.path is None:
        parts.insert(0, f"gguf-hub download {shlex.quote(source.argument)} --local-dir . &&")
    parts.append("--fit auto" if is_this else f"--fit {size(pick.machine.ram_bytes)}")
    if pick.machine.vram_bytes and not is_this:
        parts.append(f"--vram {size(pick.machine.vram_bytes)}")
    parts.append(f"--ctx {pick.constraints.n_ctx}")
    parts.append(f"--for {pick.constraints.engine}")
    if pick.constraints.kv_type != "f16":
        parts.append(f"--kv-type {pick.constraints.kv_type}")
    if pick.constraints.reserve_bytes is not None:
        parts.append(f"--reserve {size(pick.constraints.reserve_bytes)}")
    return " ".join([*parts, "--imatrix FILE --text FILE"])


def as_json(made: MadeToMeasure | None) -> dict[str, Any] | None:
    """Return it as plain data."""
    if made is None:
        return None
    return {
        "source": made.source.argument,
        "size_bytes": made.fit.facts.size_bytes,
        "need_ram_bytes": made.fit.need.total_bytes,
        "verdict": made.fit.verdict.value,
        "command": made.command,
    }
